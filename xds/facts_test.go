package xds_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"golang.org/x/net/http2"

	"sallyport/envoy"
	"sallyport/signer/code"
	"sallyport/xds/compile"
)

// answer is what a client saw, and what of it reached the processor and the upstream.
type answer struct {
	status    int
	code      code.Code
	body      string
	header    http.Header
	processed int // requests the processor was shown
	upstream  []*http.Request
	details   []string // "status code_details" of the answers the processor was shown
}

type call struct {
	method, path string // path as the client sends it; default POST /openai/v1/chat/completions
	body         io.Reader
	to           string // upstream path that the processor writes; default that of chat completions
	authority    string // that the processor writes; default the upstream's
	scope        string // that the processor writes
	do           string // what the processor shall do instead
	header       map[string]string
	client       *http.Client
}

func (w *world) call(c call) answer {
	w.t.Helper()
	if c.method == "" {
		c.method = http.MethodPost
	}
	if c.path == "" {
		c.path = "/openai/v1/chat/completions"
	}
	if c.body == nil && c.method == http.MethodPost {
		c.body = strings.NewReader("{}")
	}
	if c.to == "" {
		c.to = "/base/v1/chat/completions"
	}
	if c.authority == "" {
		c.authority = strings.TrimPrefix(w.upstream.srv.URL, "http://")
	}
	if c.client == nil {
		c.client = http.DefaultClient
	}
	req, err := http.NewRequest(c.method, w.url+c.path, c.body)
	if err != nil {
		w.t.Fatal(err)
	}
	for k, v := range map[string]string{"x-test-path": c.to, "x-test-authority": c.authority, "x-test-scope": c.scope, "x-test-do": c.do} {
		if v != "" {
			req.Header.Set(k, v)
		}
	}
	for k, v := range c.header {
		req.Header.Set(k, v)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	a := w.read(resp)
	a.processed, a.upstream = len(w.proc.seen()), w.upstream.take()
	return a
}

func (w *world) read(resp *http.Response) answer {
	w.t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		w.t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, body: string(body), header: resp.Header, details: w.proc.answers()}
	var denial struct {
		Type  string
		Error struct{ Code code.Code }
	}
	if json.Unmarshal(body, &denial) == nil && denial.Type == "error" {
		a.code = denial.Error.Code
	}
	return a
}

// refused requires a refusal with this code that no SDK retries and of which nothing reached the upstream.
func (a answer) refused(t *testing.T, want code.Code) {
	t.Helper()
	if a.code != want || a.status != code.Lookup(want).Status {
		t.Fatalf("got %d %q, want %d %s", a.status, a.body, code.Lookup(want).Status, want)
	}
	if got := a.header.Get("x-should-retry"); got != "false" {
		t.Errorf("x-should-retry = %q", got)
	}
	if got := a.header.Get("content-type"); got != "application/json" {
		t.Errorf("content-type = %q", got)
	}
	if len(a.upstream) != 0 {
		t.Errorf("reached the upstream: %v", a.upstream)
	}
}

func (a answer) passed(t *testing.T, path string) {
	t.Helper()
	if a.status != http.StatusOK || len(a.upstream) != 1 {
		t.Fatalf("got %d %q, %d calls upstream", a.status, a.body, len(a.upstream))
	}
	if got := a.upstream[0].URL.Path; got != path {
		t.Errorf("upstream path = %q, want %q", got, path)
	}
	if a.processed != 1 {
		t.Errorf("the processor was asked %d times", a.processed)
	}
}

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

// Without the guard a processor that closes its stream cleanly lets the call through; here only the routes stop it.
func TestGuardIsNeeded(t *testing.T) {
	w := newWorld(t, func(d *compile.Door, _ *envoy.Config) {
		d.Weaken = func(what string) bool { return what == "guard" }
	})
	w.put(hashOf(1), "openai")
	w.call(call{scope: hashOf(1), do: "no-verdict"}).passed(t, "/base/v1/chat/completions")
	w.call(call{scope: hashOf(1), do: "close"}).refused(t, code.RouteNotAllowed)
}

func h2client() *http.Client {
	return &http.Client{Transport: &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}}
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

// raw sends text as it stands and reads one answer; closed says that none came.
func (w *world) raw(text string) (a answer, closed bool) {
	w.t.Helper()
	a, closed = w.rawSeen(text)
	a.processed, a.upstream = len(w.proc.seen()), w.upstream.take()
	return a, closed
}

// rawSeen is raw, but leaves what the processor was shown for lastSeen.
func (w *world) rawSeen(text string) (a answer, closed bool) {
	w.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, text); err != nil {
		w.t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		return answer{}, true
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return w.read(resp), false
}

func (w *world) lastSeen() *corev3.HeaderMap {
	w.t.Helper()
	all := w.proc.seen()
	if len(all) != 1 {
		w.t.Fatalf("the processor was asked %d times", len(all))
	}
	return all[0]
}

// Paths reach the processor as they came, so that it can refuse them; Envoy refuses escaped slashes itself.
func TestPathTricks(t *testing.T) {
	w := newWorld(t)
	w.put(hashOf(1), "openai")
	for _, path := range []string{"/a/%2e%2e/b", "/a//b", "/a;x/b", "/a/../b", "/a/./b", "/a%00b", `/a\b`, "/%61"} {
		t.Run(path, func(t *testing.T) {
			if _, closed := w.rawSeen("GET " + path + " HTTP/1.1\r\nHost: x\r\nx-test-do: immediate\r\n\r\n"); closed {
				t.Fatal("no answer")
			}
			if got := value(w.lastSeen(), ":path"); got != path {
				t.Errorf("the processor saw %q", got)
			}
		})
	}
	for _, path := range []string{"/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb"} {
		t.Run(path, func(t *testing.T) {
			a, _ := w.raw("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
			a.refused(t, code.PathNotCanonical)
			if a.processed != 0 {
				t.Error("the processor was asked")
			}
		})
	}
}

// Repeated headers arrive as separate entries, except those that Envoy keeps in fixed places: their values are joined with
// a comma into one entry. Whoever refuses repeated credentials must look for both.
func TestRepeatedHeaders(t *testing.T) {
	w := newWorld(t)
	joined := []string{"authorization", "content-type", "content-encoding", "user-agent", "accept", "x-request-id"}
	separate := []string{"x-api-key", "x-goog-api-key", "api-key", "x-cst", "x-scoped-token", "proxy-authorization", "x-run-id", "x-idempotency-key", "x-sallyport-scope", "cookie"}
	var text strings.Builder
	text.WriteString("POST /x HTTP/1.1\r\nHost: h1\r\nHost: h2\r\nx-test-do: immediate\r\ncontent-length: 0\r\n")
	for _, h := range slices.Concat(joined, separate) {
		text.WriteString(h + ": a\r\n" + h + ": b\r\n")
	}
	w.rawSeen(text.String() + "\r\n")
	got := map[string][]string{}
	for _, e := range w.lastSeen().GetHeaders() {
		got[e.GetKey()] = append(got[e.GetKey()], string(e.GetRawValue()))
	}
	for _, h := range joined {
		if !slices.Equal(got[h], []string{"a,b"}) {
			t.Errorf("%s = %q", h, got[h])
		}
	}
	for _, h := range separate {
		if !slices.Equal(got[h], []string{"a", "b"}) {
			t.Errorf("%s = %q", h, got[h])
		}
	}
	if !slices.Equal(got[":authority"], []string{"h1,h2"}) {
		t.Errorf(":authority = %q", got[":authority"])
	}
}

// What is not HTTP/1.1 is not answered at all: Envoy resets the stream before the processor, which is asked about the
// answer's headers, has replied (1.40.0). Nothing passes, and the access log has the reason.
func TestMalformedRequestsCloseTheConnection(t *testing.T) {
	w := newWorld(t)
	for details, text := range map[string]string{
		"http1.codec_error": "GARBAGE\r\n\r\n",
		"low_version":       "GET / HTTP/1.0\r\n\r\n",
		"http1.content_length_and_chunked_not_allowed": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"http1.headers_too_large":                      "GET / HTTP/1.1\r\nHost: x\r\nx-big: " + strings.Repeat("a", 120<<10) + "\r\n\r\n",
	} {
		t.Run(details, func(t *testing.T) {
			a, closed := w.raw(text)
			if !closed || a.processed != 0 || len(a.upstream) != 0 {
				t.Fatalf("got %+v", a)
			}
			w.until("the access log", func() bool { return strings.Contains(w.accessLog(), `"`+details+`"`) })
		})
	}
}

// Upgrades and CONNECT reach the processor, which can refuse them natively; Envoy alone answers 403.
func TestUpgradesReachTheProcessor(t *testing.T) {
	w := newWorld(t)
	for name, text := range map[string]string{
		"websocket": "GET /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGVzdGtleQ==\r\nx-test-do: immediate\r\n\r\n",
		"other":     "GET /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: other\r\nx-test-do: immediate\r\n\r\n",
		"connect":   "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\nx-test-do: immediate\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := w.raw(text)
			if a.processed != 1 || a.status != 413 || a.body != "from processor" {
				t.Fatalf("got %+v", a)
			}
		})
	}
}

// The access log names no query and no header that carries a credential, and has the receipt's id.
func TestAccessLogHoldsNoSecrets(t *testing.T) {
	w := newWorld(t)
	w.put(hashOf(1), "openai")
	const secret = "not-a-real-key"
	w.call(call{scope: hashOf(1), to: "/base/v1/chat/completions?key=" + secret, header: map[string]string{"authorization": secret, "x-api-key": secret}}).passed(t, "/base/v1/chat/completions")
	w.call(call{path: "/x?key=" + secret, do: "immediate", header: map[string]string{"cookie": secret}})
	w.until("the access log", func() bool { return strings.Count(w.accessLog(), "\n") == 2 })
	log := w.accessLog()
	if strings.Contains(log, secret) {
		t.Errorf("the secret is in the log: %s", log)
	}
	for _, want := range []string{`"receipt":"rcpt_test"`, `"path":"/base/v1/chat/completions"`, `"details":"via_upstream"`} {
		if !strings.Contains(log, want) {
			t.Errorf("no %s in %s", want, log)
		}
	}
}

func (w *world) accessLog() string {
	b, err := os.ReadFile(w.access)
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return string(b)
}
