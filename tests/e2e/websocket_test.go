package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/http2"

	"sallyport/signer/record"
	"sallyport/tests/harness"
)

// live is a system before a site that speaks WebSocket below /live, which its contract allows, and below /public, where the
// contract allows calls only.
type live struct {
	*outside
	open atomic.Int32 // WebSockets of the site
	sunk atomic.Int64 // bytes that came to /live/sink
	// early is what came to /live/late behind a request that was not answered yet.
	early chan string
}

func startLive(t *testing.T) *live {
	t.Helper()
	l := &live{outside: startOutside(t), early: make(chan string, 1)}
	l.site.Handle = l.serve
	doc := forwardContract(l.site.Port())
	rules := doc["egress"].(map[string]any)
	rules["rules"] = append(rules["rules"].([]any), map[string]any{
		"host": dataHost, "path_prefixes": []string{"/live"}, "cidrs": []string{"127.0.0.0/8"}, "websocket": true,
	})
	rules["rules"].([]any)[3].(map[string]any)["ports"] = rules["rules"].([]any)[0].(map[string]any)["ports"]
	l.contract = l.Publish(doc)
	return l
}

func (l *live) serve(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/live/refused":
		http.Error(w, "not today", http.StatusForbidden)
		return
	case "/live/late":
		l.early <- early(w)
		return
	case "/live/ignored":
		fmt.Fprint(w, "an answer as to any GET")
		return
	}
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	c.SetReadLimit(1 << 20)
	l.open.Add(1)
	defer l.open.Add(-1)
	defer func() { _ = c.CloseNow() }()
	for {
		kind, message, err := c.Read(context.Background())
		if err != nil {
			return
		}
		if r.URL.Path == "/live/sink" {
			l.sunk.Add(int64(len(message)))
			continue
		}
		if err := c.Write(context.Background(), kind, message); err != nil {
			return
		}
	}
}

// early takes the connection from the server, and returns what else comes by it before there is an answer, which is then that
// of a host that knows no upgrade.
func early(w http.ResponseWriter) string {
	conn, in, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(time.Second))
	got, _ := io.ReadAll(in)
	fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	return string(got)
}

// dial opens a WebSocket as a program does that has a proxy.
func (l *live) dial(t *testing.T, token, host, path string) (*websocket.Conn, harness.Answer) {
	t.Helper()
	client := l.Proxied(t, token, l.contract, func(tr *http.Transport) {
		tr.ForceAttemptHTTP2, tr.TLSNextProto = false, map[string]func(string, *tls.Conn) http.RoundTripper{}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, strings.Replace(l.url(host, path), "https:", "wss:", 1), &websocket.DialOptions{HTTPClient: client})
	a := harness.Answer{Err: err}
	if resp != nil {
		a.Status, a.Header = resp.StatusCode, resp.Header
	}
	if err == nil {
		t.Cleanup(func() { _ = c.CloseNow() })
		c.SetReadLimit(1 << 20)
	} else if resp != nil {
		a.Body, _ = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
	}
	return c, a
}

// echo sends a message and wants it back.
func echo(t *testing.T, c *websocket.Conn, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.Read(ctx); err != nil || string(got) != text {
		t.Fatalf("came back: %.80q, %v", got, err)
	}
}

// only makes sure that the evidence has one call of the job, and returns how it ended; open is how many others are not over.
func (l *live) only(t *testing.T, job, path string, open int) (outcome record.Outcome, reason string, status int, bytes int64) {
	t.Helper()
	var ids []string
	harness.Eventually(t, "the call is settled", func() bool {
		ids = nil
		ev := l.Evidence()
		for id, i := range ev.Intents {
			if _, done := ev.Receipts[id]; i.MissionID == job && done {
				ids = append(ids, id)
			}
		}
		return len(ids) > 0 && len(ev.Open()) == open
	})
	ev := l.Evidence()
	i, r := ev.Intents[ids[0]], ev.Receipts[ids[0]]
	if err := r.Verify(l.GatewaySignerDID); err != nil || len(ids) != 1 {
		t.Errorf("%d calls, receipt %v", len(ids), err)
	}
	if i.Method != http.MethodGet || i.Path != path || i.RequestHash != record.EmptyHash {
		t.Errorf("intent %+v", i)
	}
	d := r.Payload().Metadata.Sallyport
	return d.Outcome, d.Reason, d.Status, d.ResponseBytes
}

// TestWebSocket: a WebSocket opens where the contract says so, is decided as a GET, and leaves one record, which says that its
// frames were not read.
func TestWebSocket(t *testing.T) {
	t.Parallel()
	l := startLive(t)
	t.Run("echo", func(t *testing.T) {
		c, a := l.dial(t, l.issue(harness.Claims{"mission_id": "echo"}), dataHost, "/live/echo?x=1")
		if a.Err != nil {
			t.Fatal(a.Err)
		}
		if a.Receipt() == "" {
			t.Error("no receipt is named")
		}
		echo(t, c, "hello")
		echo(t, c, strings.Repeat("x", 512<<10))
		if n := len(l.Evidence().Open()); n != 1 {
			t.Errorf("%d calls are open while the WebSocket is", n)
		}
		if err := c.Close(websocket.StatusNormalClosure, "done"); err != nil {
			t.Error(err)
		}
		if outcome, reason, status, bytes := l.only(t, "echo", "/live/echo", 0); outcome != record.Completed || !strings.Contains(reason, "neither read nor counted") || status != http.StatusSwitchingProtocols || bytes != 0 {
			t.Errorf("%s %q %d, %d bytes", outcome, reason, status, bytes)
		}
	})
	t.Run("more than a body may hold", func(t *testing.T) {
		c, a := l.dial(t, l.issue(harness.Claims{"mission_id": "large"}), dataHost, "/live/sink")
		if a.Err != nil {
			t.Fatal(a.Err)
		}
		chunk := make([]byte, 1<<20)
		const chunks = 40
		for range chunks {
			if err := c.Write(t.Context(), websocket.MessageBinary, chunk); err != nil {
				t.Fatal(err)
			}
		}
		harness.Eventually(t, "all of it is there", func() bool { return l.sunk.Load() == chunks<<20 })
		_ = c.CloseNow()
		if outcome, _, _, _ := l.only(t, "large", "/live/sink", 0); outcome != record.Completed {
			t.Errorf("%s", outcome)
		}
	})
	t.Run("the host refuses", func(t *testing.T) {
		if _, a := l.dial(t, l.issue(harness.Claims{"mission_id": "refused"}), dataHost, "/live/refused"); a.Err == nil || a.Status != http.StatusForbidden {
			t.Fatalf("%d %v", a.Status, a.Err)
		}
		if outcome, reason, status, bytes := l.only(t, "refused", "/live/refused", 0); outcome != record.Completed || reason != "" || status != http.StatusForbidden || bytes != int64(len("not today\n")) {
			t.Errorf("%s %q %d, %d bytes", outcome, reason, status, bytes)
		}
	})
	for name, c := range map[string]struct {
		host, path string
		status     int // 0: the connection is refused
		code       string
	}{
		"a path where calls alone are allowed": {dataHost, "/public/a", http.StatusUpgradeRequired, "UPGRADE_NOT_SUPPORTED"},
		"a forbidden path":                     {dataHost, "/secret", http.StatusUnavailableForLegalReasons, "POLICY_EGRESS_NOT_ALLOWED"},
		"a path that begins alike":             {dataHost, "/lively", http.StatusUnavailableForLegalReasons, "POLICY_EGRESS_NOT_ALLOWED"},
		"a forbidden host":                     {otherHost, "/live/echo", 0, ""},
		"a model":                              {modelHost, "/v1/responses", http.StatusUpgradeRequired, "UPGRADE_NOT_SUPPORTED"},
	} {
		t.Run(name, func(t *testing.T) {
			before := l.site.Count()
			_, a := l.dial(t, l.issue(nil), c.host, c.path)
			if a.Err == nil {
				t.Fatal("it opened")
			}
			if c.status != 0 && (a.Status != c.status || !strings.Contains(string(a.Body), c.code)) {
				t.Errorf("%d %s", a.Status, a.Body)
			}
			if n := l.site.Count() - before; n != 0 {
				t.Errorf("%d requests reached the site", n)
			}
		})
	}
}

// TestWebSocketEnds: a WebSocket in which nothing moves ends with its token, and with the processor that watches it.
func TestWebSocketEnds(t *testing.T) {
	t.Parallel()
	l := startLive(t)
	for name, end := range map[string]func(token string){
		"the token is withdrawn": func(token string) {
			if a := l.Control("POST", "/v1/tokens/revoke", map[string]any{"token": token, "reason": "test"}); a.Status != http.StatusOK {
				t.Errorf("revoke: %d %s", a.Status, a.Body)
			}
		},
		"the processor dies": func(string) { l.Signal("extproc", syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			job := strings.ReplaceAll(name, " ", "-")
			token := l.issue(harness.Claims{"mission_id": job})
			var c *websocket.Conn
			harness.Eventually(t, "a WebSocket opens", func() bool {
				var a harness.Answer
				c, a = l.dial(t, token, dataHost, "/live/echo")
				return a.Err == nil
			})
			echo(t, c, "hello")
			end(token)
			if _, _, err := c.Read(t.Context()); err == nil {
				t.Fatal("a message came")
			}
			harness.Eventually(t, "the host's side is cut too", func() bool { return l.open.Load() == 0 })
			if outcome, reason, _, _ := l.only(t, job, "/live/echo", 0); outcome != record.Cut {
				t.Errorf("%s %q", outcome, reason)
			}
		})
	}
}

// tunnel opens one to the data host, and speaks TLS in it.
func (l *live) tunnel(t *testing.T, token, protocol string) *tls.Conn {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(l.Authority(l.contract))
	at := dataHost + ":" + l.site.Port()
	conn, err := net.Dial("tcp", strings.TrimPrefix(l.ForwardURL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Bearer %s\r\n\r\n", at, at, token)
	connected, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect})
	if err != nil || connected.StatusCode != http.StatusOK {
		t.Fatalf("CONNECT: %v %v", connected, err)
	}
	_ = connected.Body.Close()
	return tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: dataHost, NextProtos: []string{protocol}, MinVersion: tls.VersionTLS12})
}

// TestPlainWebSocket: ws:// is for port 80, as plain HTTP is, by the proxy and under `sallyport run`.
func TestPlainWebSocket(t *testing.T) {
	py := harness.PythonPackages(t, "programs/requirements.txt")
	if !ownNetwork(t) {
		return
	}
	const host = "plain.example.com"
	l := &live{outside: &outside{}}
	site, err := net.Listen("tcp", "127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(l.serve), ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(site) }() // always an error: the end
	t.Cleanup(func() { _ = srv.Close() })
	l.System = harness.Start(t, harness.Options{BuiltIn: true, Extra: "egress: {hosts: {" + host + ": [127.0.0.1]}}\n"})
	doc := forwardContract("80")
	doc["egress"] = map[string]any{"default": "deny", "rules": []any{
		map[string]any{"host": host, "ports": []int{80}, "path_prefixes": []string{"/live"}, "cidrs": []string{"127.0.0.0/8"}, "websocket": true},
		map[string]any{"host": host, "ports": []int{80}, "path_prefixes": []string{"/public"}, "cidrs": []string{"127.0.0.0/8"}},
	}}
	l.contract = l.Publish(doc)
	client := l.Proxied(t, l.issue(harness.Claims{"mission_id": "plain"}), l.contract, nil)
	c, _, err := websocket.Dial(t.Context(), "ws://"+host+"/live/echo", &websocket.DialOptions{HTTPClient: client}) //nolint:bodyclose // the library says that it is never to be closed
	if err != nil {
		t.Fatal(err)
	}
	echo(t, c, "hello")
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	if outcome, reason, status, _ := l.only(t, "plain", "/live/echo", 0); outcome != record.Completed || status != http.StatusSwitchingProtocols {
		t.Errorf("%s %q %d", outcome, reason, status)
	}
	const inNode = `const w = new WebSocket(process.argv[1]); w.onopen = () => w.send("hello");
w.onmessage = m => { console.log("got " + m.data); w.close(1000) }; w.onclose = e => process.exit(e.code === 1000 ? 0 : 1);`
	node := func(path string) []string { return []string{py.Bin("node"), "-e", inNode, "ws://" + host + path} } // asks the proxy for a CONNECT
	around := func(path string) []string { return append([]string{"env", "-u", "NODE_USE_ENV_PROXY"}, node(path)...) }
	for job, command := range map[string][]string{"plain-run": node("/live/echo"), "plain-around": around("/live/echo")} {
		if out, err := l.runProgram(t, py, command, isolated, job, t.TempDir()); err != nil || !strings.Contains(out, "got hello") {
			t.Errorf("%s: %v\n%s", job, err, out)
		}
		if outcome, reason, status, _ := l.only(t, job, "/live/echo", 0); outcome != record.Completed || status != http.StatusSwitchingProtocols {
			t.Errorf("%s: %s %q %d", job, outcome, reason, status)
		}
	}
	if out, err := l.runProgram(t, py, node("/public/echo"), isolated, "plain-refused", t.TempDir()); err == nil {
		t.Errorf("where calls alone are allowed: %s", out)
	}
	if n := l.RefusalCodes()["UPGRADE_NOT_SUPPORTED"]; n != 1 {
		t.Errorf("%d refusals", n)
	}
}

// TestWebSocketHTTP2: a client that speaks HTTP/2 asks for a WebSocket by an extended CONNECT (RFC 8441), which is the same ask.
func TestWebSocketHTTP2(t *testing.T) {
	t.Parallel()
	l := startLive(t)
	ask := func(job, path string) (status int, out io.ReadCloser, in *io.PipeWriter) {
		tr := &http2.Transport{DialTLSContext: func(context.Context, string, string, *tls.Config) (net.Conn, error) { //nolint:staticcheck // net/http's own takes no :protocol
			c := l.tunnel(t, l.issue(harness.Claims{"mission_id": job}), "h2")
			return c, c.Handshake()
		}}
		t.Cleanup(tr.CloseIdleConnections) //nolint:staticcheck // as above
		body, pipe := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodConnect, l.url(dataHost, path), body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(":protocol", "websocket")
		req.Header.Set("Sec-WebSocket-Version", "13")
		resp, err := tr.RoundTrip(req) //nolint:staticcheck // as above
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = pipe.Close(), resp.Body.Close() })
		return resp.StatusCode, resp.Body, pipe
	}
	got, out, in := ask("http2", "/live/echo")
	if got != http.StatusOK {
		t.Fatalf("%d", got)
	}
	if _, err := in.Write([]byte{0x81, 0x82, 0, 0, 0, 0, 'h', 'i'}); err != nil { // a text of two letters, its mask of zeros
		t.Fatal(err)
	}
	frame := make([]byte, 4)
	if _, err := io.ReadFull(out, frame); err != nil || string(frame) != "\x81\x02hi" {
		t.Fatalf("came back: %q %v", frame, err)
	}
	_, _ = in.Close(), out.Close()
	if outcome, reason, status, _ := l.only(t, "http2", "/live/echo", 0); outcome != record.Completed || status != http.StatusSwitchingProtocols {
		t.Errorf("%s %q %d", outcome, reason, status)
	}
	for path, want := range map[string]int{"/public/a": http.StatusUpgradeRequired, "/secret": http.StatusUnavailableForLegalReasons, "/live/refused": http.StatusForbidden} {
		if got, _, _ := ask("http2-refused", path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
}

// TestWebSocketSmuggling: a host that does not take the upgrade goes on reading requests. What a client sends behind its own is
// not to be taken for one.
func TestWebSocketSmuggling(t *testing.T) {
	t.Parallel()
	l := startLive(t)
	token := l.issue(nil)
	at := dataHost + ":" + l.site.Port()
	hidden := "GET /secret HTTP/1.1\r\nHost: " + at + "\r\n\r\n"
	upgrade := func(path, more string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: " + at + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + more + "\r\n"
	}
	for name, c := range map[string]struct {
		first  string
		later  string // once an answer is there
		status int
	}{
		"at once":            {first: upgrade("/live/ignored", "") + hidden, status: 503},
		"before the answer":  {first: upgrade("/live/late", "") + hidden, status: 503},
		"after the answer":   {first: upgrade("/live/ignored", ""), later: hidden, status: 503},
		"after a refusal":    {first: upgrade("/live/refused", ""), later: hidden, status: 403},
		"as a body":          {first: upgrade("/live/ignored", fmt.Sprintf("Content-Length: %d\r\n", len(hidden))) + hidden, status: 400},
		"as a chunked body":  {first: upgrade("/live/ignored", "Transfer-Encoding: chunked\r\n") + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(hidden), hidden), status: 0},
		"without the option": {first: strings.Replace(upgrade("/live/ignored", ""), "Connection: Upgrade", "Connection: close", 1) + hidden, status: 0},
		"another protocol":   {first: strings.Replace(upgrade("/live/ignored", ""), "Upgrade: websocket", "Upgrade: tcp", 1) + hidden, status: 0},
		"two protocols":      {first: strings.Replace(upgrade("/live/ignored", ""), "Upgrade: websocket", "Upgrade: websocket, tcp", 1) + hidden, status: 0},
		"another spelling":   {first: strings.Replace(upgrade("/live/ignored", ""), "Upgrade: websocket", "Upgrade: WebSocket", 1) + hidden, status: 426},
		"two headers":        {first: upgrade("/live/ignored", "Upgrade: websocket\r\n") + hidden, status: 0},
		"by another method":  {first: strings.Replace(upgrade("/live/ignored", ""), "GET", "POST", 1) + hidden, status: 0},
	} {
		t.Run(name, func(t *testing.T) {
			secure := l.tunnel(t, token, "http/1.1")
			if _, err := io.WriteString(secure, c.first); err != nil {
				t.Fatal(err)
			}
			out := bufio.NewReader(secure)
			resp, err := http.ReadResponse(out, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			t.Logf("%d", resp.StatusCode)
			if c.status != 0 && resp.StatusCode != c.status || resp.StatusCode == http.StatusSwitchingProtocols {
				t.Errorf("%d, want %d", resp.StatusCode, c.status)
			}
			if c.later != "" {
				_, _ = io.WriteString(secure, c.later) // it may be closed by now
			}
			rest, err := io.ReadAll(out)
			t.Logf("then: %.200q %v", rest, err)
			if name == "before the answer" {
				if got := <-l.early; got != "" {
					t.Errorf("before it had answered the site got %q", got)
				}
			}
			for _, r := range l.site.Requests() {
				if r.Path == "/secret" {
					t.Fatal("the hidden request was answered by the site")
				}
			}
		})
	}
}

// TestWebSocketPrograms: libraries that know nothing of the gate open WebSockets under `sallyport run`. Node's own takes no
// proxy, so that only the network of the program leads it to the gate.
func TestWebSocketPrograms(t *testing.T) {
	t.Parallel()
	py := harness.PythonPackages(t, "programs/requirements.txt")
	l := startLive(t)
	const inNode = `const w = new WebSocket(process.argv[1]); w.onopen = () => w.send("hello");
w.onmessage = m => { console.log("got " + m.data); w.close(1000) }; w.onclose = e => { console.log("closed " + e.code); process.exit(e.code === 1000 ? 0 : 1) };`
	const inPython = `import sys, websockets.sync.client as c
with c.connect(sys.argv[1]) as w:
    w.send("hello"); print("got", w.recv()); w.close(1000)
print("closed", w.close_code)`
	for name, command := range map[string][]string{
		"Node":              {py.Bin("node"), "-e", inNode},
		"Python-websockets": {py.Bin("python3"), "-c", inPython},
	} {
		t.Run(name, func(t *testing.T) {
			to := func(path string) []string {
				return append(command[:len(command):len(command)], strings.Replace(l.url(dataHost, path), "https:", "wss:", 1))
			}
			out, err := l.runProgram(t, py, to("/live/echo"), isolated, name, t.TempDir())
			if err != nil || !strings.Contains(out, "got hello") || !strings.Contains(out, "closed 1000") {
				t.Fatalf("%v\n%s", err, out)
			}
			if outcome, reason, status, _ := l.only(t, name, "/live/echo", 0); outcome != record.Completed || status != http.StatusSwitchingProtocols {
				t.Errorf("%s %q %d", outcome, reason, status)
			}
			before := l.site.Count()
			if out, err := l.runProgram(t, py, to("/secret"), isolated, name+"-forbidden", t.TempDir()); err == nil || l.site.Count() != before {
				t.Errorf("what is forbidden opened, %d requests reached the site\n%s", l.site.Count()-before, out)
			}
		})
	}
}

// TestWebSocketExpires: a WebSocket ends with its token, leeway included, though nothing asks for it. One whose job has shown a
// newer token goes on.
func TestWebSocketExpires(t *testing.T) {
	t.Parallel()
	l := startLive(t)
	open := func(job string) *websocket.Conn {
		c, a := l.dial(t, l.issue(harness.Claims{"mission_id": job, "ttl_sec": 1}), dataHost, "/live/echo")
		if a.Err != nil {
			t.Fatal(a.Err)
		}
		echo(t, c, "hello")
		return c
	}
	renewed := open("renewed")
	newer := l.issue(harness.Claims{"mission_id": "renewed"})
	if a := l.Do(harness.Call{Method: http.MethodGet, Path: "/.sallyport/token", Token: newer}); a.Status != http.StatusNoContent {
		t.Fatalf("the newer token is shown: %d %s %v", a.Status, a.Body, a.Err)
	}
	brief := open("brief")
	if _, _, err := brief.Read(t.Context()); err == nil {
		t.Fatal("a message came")
	}
	if outcome, reason, _, _ := l.only(t, "brief", "/live/echo", 1); outcome != record.Cut || !strings.Contains(reason, "expired") {
		t.Errorf("%s %q", outcome, reason)
	}
	echo(t, renewed, "hello again")
	if err := renewed.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	if outcome, reason, _, _ := l.only(t, "renewed", "/live/echo", 0); outcome != record.Completed {
		t.Errorf("%s %q", outcome, reason)
	}
}
