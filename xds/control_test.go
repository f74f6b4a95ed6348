package xds_test

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/signer/code"
	"sallyport/xds/compile"
)

// Envoy accepts every kind of upstream and route that we generate.
func TestEveryGeneratedResourceIsAccepted(t *testing.T) {
	w := newWorld(t)
	ca := filepath.Join(w.dir, "ca.pem")
	w.until("a bundle", func() bool { // Envoy refuses a bundle without certificates, so take the system's
		pem, err := os.ReadFile(systemCA)
		return err == nil && os.WriteFile(ca, pem, 0o600) == nil
	})
	endpoints := []compile.Endpoint{
		{Method: "POST", Path: "/v1/chat/completions"}, {Method: "GET", Path: "/v1/models", Prefix: true},
		{Method: "POST", Regex: `/v1(beta)?/models/[A-Za-z0-9._-]+:(generateContent|streamGenerateContent|countTokens)`},
	}
	var ups []compile.Upstream
	for name, target := range map[string]string{
		"dns": "https://api.example.com", "base": "https://openrouter.example/api", "port": "https://api.example.com:8443/x/",
		"v4": "http://127.0.0.1:9/v", "v6": "http://[::1]:9", "v4tls": "https://127.0.0.1:10", "v6tls": "https://[::1]:8443", "upper": "https://API.Example.NET",
	} {
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		up := compile.Upstream{Name: name, Provider: "p-" + name, URL: u, Endpoints: endpoints}
		if strings.HasPrefix(name, "v") {
			up.CAFile = ca
		}
		ups = append(ups, up)
	}
	if err := w.server.SetUpstreams(ups); err != nil {
		t.Fatal(err)
	}
	w.put(hashOf(1), "*")
	w.put(hashOf(2))
	w.put(hashOf(3), "p-dns", "p-v6")
	// Routes are loaded on demand, so ask each scope once.
	for i := 1; i <= 3; i++ {
		w.call(call{scope: hashOf(i), authority: "nowhere.example"}).refused(t, code.RouteNotAllowed)
	}
	for _, stat := range []string{"update_rejected: 0", "warming"} {
		if !strings.Contains(w.adminGet("/stats"), stat) {
			t.Errorf("no %q in the statistics", stat)
		}
	}
	for line := range strings.Lines(w.adminGet("/stats?filter=update_rejected")) {
		if !strings.HasSuffix(strings.TrimSpace(line), ": 0") {
			t.Error(line)
		}
	}
}

// Envoy goes on with what it has while the control plane is away, and gets what it missed when it is back.
func TestControlPlaneAway(t *testing.T) {
	w := newWorld(t)
	w.put(hashOf(1), "openai")
	w.call(call{scope: hashOf(1)}).passed(t, "/base/v1/chat/completions")
	w.stopXDS()
	w.call(call{scope: hashOf(1)}).passed(t, "/base/v1/chat/completions")
	for i := 2; i < 20; i++ {
		if err := w.server.PutContract(compile.Allow{Hash: hashOf(i), Providers: []string{"openai"}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.server.RemoveContract(hashOf(1)); err != nil {
		t.Fatal(err)
	}
	w.serveXDS()
	w.until("envoy to come back", func() bool { return w.server.Connected() == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	w.until("what was missed", func() bool {
		return w.server.WaitApplied(ctx) == nil && w.call(call{scope: hashOf(19)}).status == 200
	})
	w.call(call{scope: hashOf(1)}).refused(t, code.RouteNotAllowed)
}

// A contract that is taken away stops being served, and one that changes serves its new routes, on connections that are open.
func TestContractsChangeUnderTraffic(t *testing.T) {
	w := newWorld(t)
	w.put(hashOf(1), "openai")
	w.put(hashOf(2), "openai")
	for i := 1; i <= 2; i++ {
		w.call(call{scope: hashOf(i)}).passed(t, "/base/v1/chat/completions")
	}
	if err := w.server.PutContract(compile.Allow{Hash: "not a hash", Providers: []string{"openai"}}); err == nil {
		t.Fatal("a bad contract was accepted")
	}
	if err := w.server.RemoveContract(hashOf(2)); err != nil {
		t.Fatal(err)
	}
	w.until("the removal", func() bool { return w.call(call{scope: hashOf(2)}).code == code.RouteNotAllowed })
	w.call(call{scope: hashOf(1)}).passed(t, "/base/v1/chat/completions")
	w.put(hashOf(1), "anthropic")
	w.until("the change", func() bool { return w.call(call{scope: hashOf(1)}).code == code.RouteNotAllowed })
}
