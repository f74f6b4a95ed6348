package xds_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"sallyport/signer/code"
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

func (w *world) accessLog() string {
	b, err := os.ReadFile(w.access)
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return string(b)
}
