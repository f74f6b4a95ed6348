package xds_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/envoy"
	"sallyport/signer/code"
	"sallyport/xds/compile"
)

// The processor's mutation chooses the contract's routes again, whether it comes with the answer to the headers (no body)
// or to the body; the verdict in the same message reaches the guard (Envoy 1.40.0). A scope's first call loads its routes
// and goes on without the processor being asked a second time.
func TestScopeIsChosenByTheProcessor(t *testing.T) {
	w := newWorld(t)
	w.put(hashOf(1), "openai")
	w.put(hashOf(2), "openai")
	w.put(hashOf(3), "anthropic")
	for _, tc := range []struct {
		name string
		call call
		path string // "" refused
		want code.Code
	}{
		{"cold scope, no body", call{method: "GET", to: "/base/v1/models", scope: hashOf(1)}, "/base/v1/models", ""},
		{"cold scope, body", call{scope: hashOf(2)}, "/base/v1/chat/completions", ""},
		{"warm scope", call{scope: hashOf(2)}, "/base/v1/chat/completions", ""},
		{"query is not matched", call{scope: hashOf(2), to: "/base/v1/chat/completions?beta=true"}, "/base/v1/chat/completions", ""},
		{"regex", call{scope: hashOf(2), to: "/base/v1beta/models/m-1:generateContent"}, "/base/v1beta/models/m-1:generateContent", ""},
		{"prefix", call{method: "GET", scope: hashOf(2), to: "/base/files/a/b"}, "/base/files/a/b", ""},
		{"prefix ends at a segment", call{method: "GET", scope: hashOf(2), to: "/base/filesx"}, "", code.RouteNotAllowed},
		{"regex is anchored", call{scope: hashOf(2), to: "/x/base/v1beta/models/m:generateContent"}, "", code.RouteNotAllowed},
		{"other path", call{scope: hashOf(2), to: "/base/v1/embeddings"}, "", code.RouteNotAllowed},
		{"other method", call{method: "GET", scope: hashOf(2)}, "", code.RouteNotAllowed},
		{"other host", call{scope: hashOf(2), authority: "evil.example"}, "", code.RouteNotAllowed},
		{"contract without this provider", call{scope: hashOf(3)}, "", code.RouteNotAllowed},
		{"unknown scope", call{scope: hashOf(9)}, "", code.RouteNotAllowed},
		{"no scope", call{}, "", code.RouteNotAllowed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := w.call(tc.call)
			if tc.path == "" {
				a.refused(t, tc.want)
				if !slices.Contains(a.details, "451 route_not_found") {
					t.Errorf("the processor was told %q; it needs to know that nothing left", a.details)
				}
				return
			}
			a.passed(t, tc.path)
			for _, h := range []string{compile.ScopeHeader, "x-forwarded-for", "x-forwarded-proto", "x-envoy-external-address"} {
				if v := a.upstream[0].Header.Get(h); v != "" {
					t.Errorf("%s: %s reached the upstream", h, v)
				}
			}
			if got := a.upstream[0].Header.Get("authorization"); got != "swapped" {
				t.Errorf("authorization = %q", got)
			}
			if !slices.Equal(a.details, []string{"200 via_upstream"}) {
				t.Errorf("the processor was told %q", a.details)
			}
		})
	}
}

// What the processor does wrong never becomes a call. A clean close is the one that Envoy alone would let through.
func TestProcessorFaults(t *testing.T) {
	w := newWorld(t, func(d *compile.Door, _ *envoy.Config) { d.MessageTimeout = 500 * time.Millisecond })
	w.put(hashOf(1), "openai")
	for _, do := range []string{"close", "close-at-body", "fail", "hang", "no-verdict"} {
		t.Run(do, func(t *testing.T) { w.call(call{scope: hashOf(1), do: do}).refused(t, code.GateUnavailable) })
	}
	t.Run("its own refusal keeps its shape", func(t *testing.T) {
		a := w.call(call{scope: hashOf(1), do: "immediate"})
		if a.status != 413 || a.body != "from processor" || a.header.Get("content-type") != "text/x-own" || a.header.Get("x-own") != "1" || len(a.upstream) != 0 {
			t.Fatalf("got %+v", a)
		}
	})
	t.Run("gone and back", func(t *testing.T) {
		w.proc.grpc.Stop()
		w.call(call{scope: hashOf(1)}).refused(t, code.GateUnavailable)
		w.proc.start(t)
		w.call(call{scope: hashOf(1)}).passed(t, "/base/v1/chat/completions")
	})
}

// With two processors, one that is gone is left out; with both gone nothing passes; either comes back by itself.
func TestTwoProcessors(t *testing.T) {
	w := newWorld(t, func(_ *compile.Door, c *envoy.Config) {
		c.ExtProc = append(c.ExtProc, envoy.Endpoint{Socket: strings.TrimSuffix(c.AdminSocket, "a.sock") + "q.sock"})
	})
	second := newProcessor(t, filepath.Join(w.dir, "q.sock"))
	w.put(hashOf(1), "openai")
	passes := func() bool { return w.call(call{scope: hashOf(1)}).status == http.StatusOK }
	steady := func() bool { // Envoy's workers learn of a dead processor one after the other
		for range 20 {
			if !passes() {
				return false
			}
		}
		return true
	}
	w.until("both", func() bool { return steady() && len(second.seen()) > 0 })
	w.proc.grpc.Stop()
	w.until("the second alone", steady)
	second.grpc.Stop()
	w.until("none", func() bool { return !passes() })
	w.call(call{scope: hashOf(1)}).refused(t, code.GateUnavailable)
	w.proc.start(t)
	w.until("the first alone", steady)
}

func h2client() *http.Client {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: &p}}
}

// A body up to the limit passes and one over it gets 413, on both protocols, with and without a length said beforehand.
func TestBodyLimit(t *testing.T) {
	w := newWorld(t)
	w.put(hashOf(1), "openai")
	big := bytes.Repeat([]byte("x"), 64<<20)
	for name, client := range map[string]*http.Client{"HTTP/1.1": {Transport: &http.Transport{}}, "HTTP/2": h2client()} {
		for _, tc := range []struct {
			name string
			body io.Reader
			ok   bool
		}{
			{"at the limit", bytes.NewReader(big[:compile.DefaultMaxBody]), true},
			{"one over", bytes.NewReader(big[:compile.DefaultMaxBody+1]), false},
			{"64 MiB", bytes.NewReader(big), false},
			{"64 MiB of unsaid length", struct{ io.Reader }{bytes.NewReader(big)}, false},
		} {
			t.Run(name+" "+tc.name, func(t *testing.T) {
				a := w.call(call{scope: hashOf(1), body: tc.body, client: client})
				if tc.ok {
					a.passed(t, "/base/v1/chat/completions")
					return
				}
				a.refused(t, code.PayloadTooLarge)
			})
		}
	}
}

// An upstream that fails gives a code that says whose fault it is.
func TestUpstreamFaults(t *testing.T) {
	w := newWorld(t)
	cut, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cut.Close() })
	go func() {
		for {
			c, err := cut.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1))
			_ = c.Close()
		}
	}()
	ups := w.upstream.list()
	for name, target := range map[string]string{"dead": "http://127.0.0.1:1", "cut": "http://" + cut.Addr().String(), "nameless": "http://nothing.invalid", "plain": "https" + strings.TrimPrefix(w.upstream.srv.URL, "http")} {
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		if name == "plain" { // TLS to a server that speaks none
			u.Host = strings.Replace(u.Host, "127.0.0.1", "localhost", 1)
		}
		ups = append(ups, compile.Upstream{Name: name, Provider: "openai", URL: u, Endpoints: []compile.Endpoint{{Method: "POST", Path: "/v1/x"}}})
	}
	if err := w.server.SetUpstreams(ups); err != nil {
		t.Fatal(err)
	}
	w.put(hashOf(1), "openai")
	for _, u := range ups[1:] {
		t.Run(u.Name, func(t *testing.T) {
			a := w.call(call{scope: hashOf(1), authority: u.Authority(), to: "/v1/x"})
			a.refused(t, code.UpstreamUnreachable)
		})
	}
}

// The peer's own word about where it comes from and how it is to be routed counts for nothing.
func TestClientCannotSteerEnvoy(t *testing.T) {
	w := newWorld(t)
	w.put(hashOf(1), "openai")
	a := w.call(call{scope: hashOf(1), header: map[string]string{
		"x-forwarded-for": "8.8.8.8", "x-forwarded-proto": "https", "forwarded": "for=8.8.8.8",
		"x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-retry-on": "5xx", "x-envoy-original-path": "/x",
		"x-envoy-decorator-operation": "z", "x_api_key": "not-a-real-key", "x-request-id": "mine",
	}})
	a.passed(t, "/base/v1/chat/completions")
	for name := range a.upstream[0].Header {
		n := strings.ToLower(name)
		if strings.HasPrefix(n, "x-envoy") || strings.Contains(n, "forwarded") || strings.Contains(n, "_") {
			t.Errorf("%s reached the upstream", n)
		}
	}
	if got := a.upstream[0].Header.Get("x-request-id"); got != "mine" {
		t.Errorf("x-request-id = %q: Envoy must neither make nor replace it", got)
	}
}
