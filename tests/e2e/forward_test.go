package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sallyport/tests/harness"
)

// The names under which the test's own TLS server is reached. No resolver knows them but the gateway's configuration.
const (
	modelHost   = "models.example.com"
	claudeHost  = "claude.example.com"
	dataHost    = "data.example.com"
	otherHost   = "other.example.com"   // in no contract
	privateHost = "private.example.com" // allowed by name, but not at a private address
)

// outside is a system with a forward door before a TLS server of many names.
type outside struct {
	*harness.System
	site     *harness.Upstream
	contract string // hash
}

// forwardContract allows one model, and GET below /public of one host at a loopback address.
func forwardContract(port string) map[string]any {
	var c map[string]any
	text := fmt.Sprintf(`{"policy_kind":"wpc","policy_version":"v1","tools":{"allow":[],"deny":[]},
		"models":[{"provider":"openai","models":["gpt-4o-mini"]},{"provider":"anthropic","models":["claude-3-5-haiku"]}],
		"egress":{"default":"deny","rules":[
			{"host":%[2]q,"ports":[%[1]s],"methods":["GET","HEAD"],"path_prefixes":["/public"],"cidrs":["127.0.0.0/8"]},
			{"host":%[2]q,"ports":[%[1]s],"path_prefixes":["/public/mcp"],"cidrs":["127.0.0.0/8"]},
			{"host":%[3]q,"ports":[%[1]s]}]},
		"secrets":{"minting":"cst_required","allowed_secret_classes":["openai_key","anthropic_key"],"max_ttl_seconds":60},
		"auth":{"pin_policy_hash":true},"model_calls":{"must_route_via":"sallyport","receipts_required":true}}`, port, dataHost, privateHost)
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		panic(err)
	}
	return c
}

func startOutside(t *testing.T) *outside {
	t.Helper()
	dir := t.TempDir()
	o := &outside{site: harness.NewSecureUpstream(t, dir, modelHost, claudeHost, dataHost, otherHost, privateHost)}
	serve(t, o.site)
	for _, class := range []string{"openai_key", "anthropic_key"} {
		if err := os.WriteFile(filepath.Join(dir, class), []byte(harness.Credential(class)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ca := filepath.Join(dir, "ca.pem")
	o.System = harness.Start(t, harness.Options{Bare: true, Extra: fmt.Sprintf(`
loopback_model: {enabled: false}
upstreams:
  - {name: openai, dialect: openai, url: "https://%[2]s:%[1]s", secret_class: openai_key, ca_file: %[3]q}
  - {name: anthropic, dialect: anthropic, url: "https://%[8]s:%[1]s", secret_class: anthropic_key, ca_file: %[3]q}
secret_classes:
  - {name: openai_key, from: "file:%[4]s/openai_key", hosts: ["%[2]s:%[1]s"]}
  - {name: anthropic_key, from: "file:%[4]s/anthropic_key", hosts: ["%[8]s:%[1]s"]}
egress:
  ca_file: %[3]q
  hosts: {%[2]s: [127.0.0.1], %[8]s: [127.0.0.1], %[5]s: [127.0.0.1], %[6]s: [127.0.0.1], %[7]s: [127.0.0.1]}
`, o.site.Port(), modelHost, ca, dir, dataHost, otherHost, privateHost, claudeHost)})
	o.contract = o.Publish(forwardContract(o.site.Port()))
	return o
}

func (o *outside) url(host, path string) string {
	return "https://" + host + ":" + o.site.Port() + path
}

func (o *outside) issue(claims harness.Claims) string {
	c := harness.Claims{"policy_hash_b64u": o.contract}
	for k, v := range claims {
		c[k] = v
	}
	return o.Issue(c)
}

// lastCut says why calls were cut, for the log of a failed test.
func (o *outside) lastCut() string {
	var out []string
	for id, r := range o.Evidence().Receipts {
		if d := r.Payload().Metadata.Sallyport; d.Outcome == "cut" {
			out = append(out, id+" "+d.Reason)
		}
	}
	return strings.Join(out, "\n")
}

// TestForwardDoor: a client that knows only a proxy and a certificate authority reaches what the contract allows, and
// nothing else, and each call leaves its record.
func TestForwardDoor(t *testing.T) {
	t.Parallel()
	o := startOutside(t)
	token := o.issue(nil)
	client := o.Proxied(t, token, o.contract, nil)
	h1 := o.Proxied(t, token, o.contract, func(tr *http.Transport) {
		tr.ForceAttemptHTTP2, tr.TLSNextProto = false, map[string]func(string, *tls.Conn) http.RoundTripper{}
	})
	chat := harness.ChatBody("gpt-4o-mini", false)
	for _, c := range []struct {
		name         string
		client       *http.Client
		method, url  string
		body         []byte
		header       http.Header
		status       int
		code         string
		upstreamAuth string
	}{
		{"a model", client, "POST", o.url(modelHost, "/v1/chat/completions"), chat, http.Header{"Authorization": {"Bearer sk-sallyport-placeholder-0000"}}, 200, "", "Bearer " + harness.Credential("openai_key")},
		{"a model over HTTP/1.1", h1, "POST", o.url(modelHost, "/v1/chat/completions"), chat, nil, 200, "", "Bearer " + harness.Credential("openai_key")},
		{"the token as API key too", client, "POST", o.url(modelHost, "/v1/chat/completions"), chat, http.Header{"Authorization": {"Bearer " + token}}, 200, "", "Bearer " + harness.Credential("openai_key")},
		{"data", client, "GET", o.url(dataHost, "/public/a?b=c"), nil, nil, 200, "", ""},
		{"data over HTTP/1.1", h1, "GET", o.url(dataHost, "/public/a?b=c"), nil, nil, 200, "", ""},
		{"a stream", client, "POST", o.url(modelHost, "/v1/chat/completions"), harness.ChatBody("gpt-4o-mini", true), nil, 200, "", "Bearer " + harness.Credential("openai_key")},

		{"another model", client, "POST", o.url(modelHost, "/v1/chat/completions"), harness.ChatBody("gpt-5", false), nil, 451, "POLICY_MODEL_NOT_ALLOWED", ""},
		{"another endpoint", client, "GET", o.url(modelHost, "/v1/files"), nil, nil, 451, "POLICY_EGRESS_NOT_ALLOWED", ""},
		{"another path", client, "GET", o.url(dataHost, "/secret"), nil, nil, 451, "POLICY_EGRESS_NOT_ALLOWED", ""},
		{"another method", client, "POST", o.url(dataHost, "/public/a"), []byte("x"), nil, 451, "POLICY_EGRESS_NOT_ALLOWED", ""},
		{"a key of its own", client, "GET", o.url(dataHost, "/public/a"), nil, http.Header{"X-Api-Key": {"not-a-real-key"}}, 401, "CREDENTIAL_NOT_BROKERED", ""},
		{"a reserved header", client, "GET", o.url(dataHost, "/public/a"), nil, http.Header{"X-Sallyport-Scope": {o.contract}}, 400, "HEADER_RESERVED", ""},
		{"dot segments", h1, "GET", o.url(dataHost, "/public/%2e%2e/secret"), nil, nil, 451, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := o.site.Count()
			req, err := http.NewRequest(c.method, c.url, bytes.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			for k, v := range c.header {
				req.Header[k] = v
			}
			a := harness.Send(c.client, req)
			if a.Err != nil || a.Status != c.status || c.code != "" && a.Code != c.code {
				t.Fatalf("%d %s %v, want %d %s: %.300s\n%s", a.Status, a.Code, a.Err, c.status, c.code, a.Body, o.lastCut())
			}
			if reached := o.site.Count() - before; reached != map[bool]int{true: 1}[c.status == 200] {
				t.Fatalf("%d requests reached the site", reached)
			}
			if c.status != 200 {
				return
			}
			if a.Receipt() == "" {
				t.Error("no receipt")
			}
			got := o.site.Requests()[before]
			if got.Header.Get("Authorization") != c.upstreamAuth {
				t.Errorf("the site got Authorization %q", got.Header.Get("Authorization"))
			}
			for name := range got.Header {
				if strings.HasPrefix(strings.ToLower(name), "x-sallyport") || strings.HasPrefix(name, "X-Envoy") || strings.HasPrefix(name, "Proxy-") || strings.HasPrefix(name, "X-Forwarded") {
					t.Errorf("the site learns of the gateway: %s", name)
				}
			}
		})
	}
	if leaks := o.site.Leaked(token); leaks != nil {
		t.Errorf("the token reached the site: %v", leaks)
	}
	harness.Eventually(t, "every call is settled", func() bool { return len(o.Evidence().Open()) == 0 })
	for id, r := range o.Evidence().Receipts {
		if err := r.Verify(o.GatewaySignerDID); err != nil {
			t.Errorf("receipt %s: %v", id, err)
		}
	}
}

// TestForwardDoorRefuses are the ways around: nothing of them may reach the site.
func TestForwardDoorRefuses(t *testing.T) {
	t.Parallel()
	o := startOutside(t)
	token := o.issue(nil)
	get := func(client *http.Client, url string, change func(*http.Request)) harness.Answer {
		req, err := http.NewRequest(http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(req)
		}
		return harness.Send(client, req)
	}
	with := func(change func(*http.Transport)) *http.Client { return o.Proxied(t, token, o.contract, change) }
	sni := func(name string) *http.Client {
		return with(func(tr *http.Transport) {
			tr.TLSClientConfig.ServerName = name
			tr.TLSClientConfig.InsecureSkipVerify = true
		})
	}
	other := map[string]any{}
	for k, v := range forwardContract(o.site.Port()) {
		other[k] = v
	}
	delete(other, "egress")
	narrow := o.Publish(other)
	for name, c := range map[string]struct {
		answer harness.Answer
		code   string // "" where the refusal is the connection's
	}{
		"a host of no contract":        {get(with(nil), o.url(otherHost, "/public/a"), nil), ""},
		"a host of another contract":   {get(o.Proxied(t, o.Issue(harness.Claims{"policy_hash_b64u": narrow}), narrow, nil), o.url(dataHost, "/public/a"), nil), ""},
		"no token":                     {get(o.Proxied(t, "", o.contract, nil), o.url(dataHost, "/public/a"), nil), ""},
		"another port":                 {get(with(nil), "https://"+dataHost+":1/public/a", nil), ""},
		"an address":                   {get(with(nil), o.url("127.0.0.1", "/public/a"), nil), ""},
		"localhost":                    {get(with(nil), o.url("localhost", "/public/a"), nil), ""},
		"the control API":              {get(with(nil), strings.Replace(o.ControlURL, "http:", "https:", 1)+"/health", nil), ""},
		"metadata":                     {get(with(nil), "http://169.254.169.254/latest/meta-data", nil), "ADDRESS_NOT_ALLOWED"},
		"domain fronting":              {get(with(nil), o.url(dataHost, "/public/a"), func(r *http.Request) { r.Host = otherHost + ":" + o.site.Port() }), "AUTHORITY_MISMATCH"},
		"fronting an allowed host":     {get(with(nil), o.url(dataHost, "/public/a"), func(r *http.Request) { r.Host = modelHost + ":" + o.site.Port() }), "AUTHORITY_MISMATCH"},
		"another server name":          {get(sni(modelHost), o.url(dataHost, "/public/a"), nil), "AUTHORITY_MISMATCH"},
		"a server name of no contract": {get(sni(otherHost), o.url(dataHost, "/public/a"), nil), ""},
		"a private address":            {get(with(nil), o.url(privateHost, "/"), nil), "-"},
		"plain, where TLS is allowed":  {get(with(nil), "http://"+dataHost+":"+o.site.Port()+"/public/a", nil), "POLICY_EGRESS_NOT_ALLOWED"},
		"a WebSocket":                  {get(with(func(tr *http.Transport) { tr.ForceAttemptHTTP2 = false }), o.url(dataHost, "/public/a"), func(r *http.Request) { r.Header.Set("Connection", "Upgrade"); r.Header.Set("Upgrade", "websocket") }), "-"},
	} {
		switch {
		case c.answer.Err == nil && c.code == "":
			t.Errorf("%s: answered with %d %.300s", name, c.answer.Status, c.answer.Body)
		case c.code == "-" && (c.answer.Err != nil || c.answer.Status < 400), len(c.code) > 1 && c.answer.Code != c.code:
			t.Errorf("%s: %d %s %v, want %s", name, c.answer.Status, c.answer.Code, c.answer.Err, c.code)
		default:
			t.Logf("%-30s %d %s %v", name, c.answer.Status, c.answer.Code, c.answer.Err)
		}
	}
	if n := o.site.Count(); n != 0 {
		t.Errorf("%d requests reached the site: %v", n, o.site.Requests())
	}
	if a := get(with(nil), o.url(dataHost, "/public/a"), nil); a.Status != http.StatusOK {
		t.Errorf("a good call after the bad ones: %d %s %v", a.Status, a.Body, a.Err)
	}
}

// TestForwardDoorIdentity: many tunnels of two jobs at once, and each call is recorded under its own job; a token that is
// withdrawn stops working in a tunnel that is open.
func TestForwardDoorIdentity(t *testing.T) {
	t.Parallel()
	o := startOutside(t)
	const jobs, calls = 8, 25
	var wg sync.WaitGroup
	clients := make([]*http.Client, jobs)
	tokens := make([]string, jobs)
	for j := range jobs {
		tokens[j] = o.issue(harness.Claims{"mission_id": fmt.Sprintf("job-%d", j)})
		clients[j] = o.Proxied(t, tokens[j], o.contract, nil)
	}
	get := func(j, k int) harness.Answer {
		req, err := http.NewRequest(http.MethodGet, o.url(dataHost, fmt.Sprintf("/public/job-%d/%d", j, k)), http.NoBody)
		if err != nil {
			panic(err)
		}
		return harness.Send(clients[j], req)
	}
	for j := range jobs {
		for k := range calls {
			wg.Add(1)
			go func() {
				defer wg.Done()
				if a := get(j, k); a.Status != http.StatusOK {
					t.Errorf("job %d call %d: %d %v %.200s", j, k, a.Status, a.Err, a.Body)
				}
			}()
		}
	}
	wg.Wait()
	harness.Eventually(t, "every call is settled", func() bool { return len(o.Evidence().Open()) == 0 })
	seen := 0
	for id, i := range o.Evidence().Intents {
		if !strings.HasPrefix(i.Path, "/public/job-") {
			continue
		}
		seen++
		if job := strings.Split(i.Path, "/")[2]; job != i.MissionID {
			t.Errorf("%s: a call of %s is recorded under %s", id, job, i.MissionID)
		}
	}
	if seen != jobs*calls {
		t.Errorf("%d of %d calls are in the evidence", seen, jobs*calls)
	}
	if a := o.Control("POST", "/v1/tokens/revoke", map[string]any{"token": tokens[0], "reason": "test"}); a.Status != http.StatusOK {
		t.Fatalf("revoke: %d %s", a.Status, a.Body)
	}
	harness.Eventually(t, "the open tunnel of a withdrawn token is of no use", func() bool {
		return get(0, 1000).Code == "TOKEN_REVOKED"
	})
}

// TestAbandonedTunnels: clients that open tunnels and drop them, as fast as they can, disturb nobody else.
func TestAbandonedTunnels(t *testing.T) {
	t.Parallel()
	o := startOutside(t)
	token := o.issue(nil)
	address := strings.TrimPrefix(o.ForwardURL, "http://")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var dropped atomic.Int64
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				conn, err := net.Dial("tcp", address)
				if err != nil {
					continue
				}
				fmt.Fprintf(conn, "CONNECT %s:%s HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Bearer %s\r\n\r\n", dataHost, o.site.Port(), token)
				_ = conn.Close() // that is the point
				dropped.Add(1)
			}
		}()
	}
	client := o.Proxied(t, token, o.contract, func(tr *http.Transport) { tr.DisableKeepAlives = true })
	for i := range 100 {
		req, err := http.NewRequest(http.MethodGet, o.url(dataHost, fmt.Sprintf("/public/%d", i)), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if a := harness.Send(client, req); a.Err != nil || a.Status != http.StatusOK {
			t.Errorf("call %d: %d %v %.200s", i, a.Status, a.Err, a.Body)
		}
		if a := o.Do(harness.Call{Token: token}); a.Status != http.StatusOK {
			t.Errorf("call %d by the other door: %d %s %v", i, a.Status, a.Code, a.Err)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d tunnels were dropped meanwhile", dropped.Load())
	if dropped.Load() < 100 {
		t.Error("too few to mean anything")
	}
}

// TestPriorKnowledge: a proxy client that speaks HTTP/2 without being asked is judged as any other.
func TestPriorKnowledge(t *testing.T) {
	t.Parallel()
	o := startOutside(t)
	token := o.issue(nil)
	address := strings.TrimPrefix(o.ForwardURL, "http://")
	tr := &http.Transport{Protocols: new(http.Protocols), DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	ask := func(method, url, tok string) int {
		body, end := io.Pipe() // a CONNECT's body is the tunnel
		t.Cleanup(func() { _ = end.Close() })
		req, err := http.NewRequestWithContext(t.Context(), method, url, body)
		if err != nil {
			t.Fatal(err)
		}
		if method != http.MethodConnect {
			_ = end.Close()
		}
		if tok != "" {
			req.Header.Set("Proxy-Authorization", "Bearer "+tok)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatalf("%s %s: %v", method, url, err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	for _, c := range []struct {
		method, url, token string
		want               int
	}{
		{http.MethodConnect, "http://" + dataHost + ":" + o.site.Port(), token, 200},
		{http.MethodConnect, "http://" + dataHost + ":" + o.site.Port(), "", 407},
		{http.MethodConnect, "http://" + otherHost + ":" + o.site.Port(), token, 451},
		{http.MethodGet, "http://169.254.169.254/latest/meta-data", token, 451},
		{http.MethodGet, "http://" + strings.TrimPrefix(o.ControlURL, "http://") + "/health", token, 451},
	} {
		if got := ask(c.method, c.url, c.token); got != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.url, got, c.want)
		}
	}
	if n := o.site.Count(); n != 0 {
		t.Errorf("%d requests reached the site", n)
	}
}
