package harness

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Answer is what a client got.
type Answer struct {
	Status  int
	Header  http.Header
	Body    []byte
	Code    string // error.code of a refusal
	Message string
	Err     error // the transport's, e.g. an answer that was cut
}

// Receipt is the id of the receipt, "" where the call was refused.
func (a Answer) Receipt() string { return a.Header.Get("X-Sallyport-Receipt") }

// Claims are token claims; Issue fills what a plain call needs.
type Claims map[string]any

// Issue gets a token from the control API, pinned to the example contract unless the claims say otherwise.
func (s *System) Issue(c Claims) string {
	s.t.Helper()
	body := Claims{"sub": "did:key:z6MktwupdmLXVVqTzCw4i46r4uGyosGXRnR3XjN4Zq7oMMsw", "aud": "sallyport", "scope": []string{"proxy:call"}, "ttl_sec": 600, "policy_hash_b64u": s.ContractHash}
	for k, v := range c {
		if body[k] = v; v == nil {
			delete(body, k)
		}
	}
	a := s.Control("POST", "/v1/tokens/issue", body)
	var out struct{ Token string }
	if err := json.Unmarshal(a.Body, &out); err != nil || out.Token == "" {
		s.t.Fatalf("issue: %d %s", a.Status, a.Body)
	}
	return out.Token
}

// Control calls the control API as the administrator.
func (s *System) Control(method, path string, body any) Answer {
	s.t.Helper()
	raw, err := json.Marshal(body)
	must(s.t, err)
	admin, err := os.ReadFile(s.AdminTokenFile)
	must(s.t, err)
	req, err := http.NewRequest(method, s.ControlURL+path, bytes.NewReader(raw))
	must(s.t, err)
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(admin)))
	req.Header.Set("Content-Type", "application/json")
	return do(http.DefaultClient, req)
}

// Publish puts a contract in the registry and returns its hash.
func (s *System) Publish(payload any) string {
	s.t.Helper()
	a := s.Control("POST", "/v1/wpc", map[string]any{"wpc": payload})
	var out struct {
		Hash string `json:"policy_hash_b64u"`
	}
	if err := json.Unmarshal(a.Body, &out); err != nil || out.Hash == "" {
		s.t.Fatalf("publish: %d %s", a.Status, a.Body)
	}
	return out.Hash
}

// Call is one request to the gateway. The zero value is a small chat completion.
type Call struct {
	Method, Path string
	Token        string      // as Authorization: Bearer; "" for none
	Header       http.Header // further headers
	Model        string
	Body         []byte // overrides Model
	Client       *http.Client
}

// Do makes the call.
func (s *System) Do(c Call) Answer {
	s.t.Helper()
	req := s.Request(c)
	client := c.Client
	if client == nil {
		client = plain
	}
	return do(client, req)
}

// plain does not follow redirects, ask for compression or use a proxy, so that what is sent is what the test says.
var plain = &http.Client{
	Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 256},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       60 * time.Second,
}

// Request builds the call's request.
func (s *System) Request(c Call) *http.Request {
	s.t.Helper()
	if c.Method == "" {
		c.Method = http.MethodPost
	}
	if c.Path == "" {
		c.Path = "/openai/v1/chat/completions"
	}
	if c.Body == nil && c.Method == http.MethodPost {
		if c.Model == "" {
			c.Model = "gpt-4o-mini"
		}
		c.Body = ChatBody(c.Model, false)
	}
	req, err := http.NewRequest(c.Method, s.GatewayURL+c.Path, bytes.NewReader(c.Body))
	must(s.t, err)
	if i := strings.IndexByte(c.Path, '?'); i < 0 {
		req.URL.Opaque = c.Path // keep the spelling of tricky paths
	} else {
		req.URL.Opaque = c.Path[:i]
	}
	req.URL.Opaque = "//" + req.URL.Host + req.URL.Opaque
	req.Header.Set("Content-Type", "application/json")
	for k, vs := range c.Header {
		req.Header[k] = vs
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	return req
}

// ChatBody is a chat completion request.
func ChatBody(model string, stream bool) []byte {
	return fmt.Appendf(nil, `{"model":%q,"messages":[{"role":"user","content":"Say hello."}],"stream":%v,"stream_options":{"include_usage":true}}`, model, stream)
}

func do(client *http.Client, req *http.Request) Answer {
	resp, err := client.Do(req)
	if err != nil {
		return Answer{Err: err, Header: http.Header{}}
	}
	defer resp.Body.Close()
	a := Answer{Status: resp.StatusCode, Header: resp.Header}
	a.Body, a.Err = io.ReadAll(resp.Body)
	var e struct {
		Error struct{ Code, Message string }
	}
	if json.Unmarshal(a.Body, &e) == nil {
		a.Code, a.Message = e.Error.Code, e.Error.Message
	}
	return a
}

// UniqueBody is a chat completion request like no other, so that its hash finds it again.
func UniqueBody(model string, stream bool) []byte {
	return fmt.Appendf(nil, `{"model":%q,"messages":[{"role":"user","content":"Say hello, call %d."}],"stream":%v}`, model, serial.Add(1), stream)
}

var serial atomic.Int64

// Eventually waits until the condition holds, and fails the test if it never does. It is generous: it bounds a hang, it
// times nothing.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("waited in vain: %s", what)
}
