package harness

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Seen is one request as it reached the upstream.
type Seen struct {
	Time     time.Time
	Method   string
	Path     string // with query
	Host     string
	Header   http.Header
	BodyHash string // base64url SHA-256
}

// Upstream is the test's own model provider: it notes every request that reaches it, and answers a chat completion,
// streamed where asked. Chunks and Gap shape the stream.
type Upstream struct {
	Chunks int           // chunks of a streamed answer
	Gap    time.Duration // between them
	// Handle, if set, answers instead; set it before the first call.
	Handle http.HandlerFunc

	srv  *httptest.Server
	mu   sync.Mutex
	seen []Seen
}

// NewUpstream starts one; the test's end stops it.
func NewUpstream(t testing.TB) *Upstream {
	u := &Upstream{Chunks: 5}
	u.srv = httptest.NewServer(u)
	t.Cleanup(u.Close)
	return u
}

// NewSecureUpstream starts one that speaks TLS (HTTP/1.1 and HTTP/2) under the given names; dir gets its ca.pem.
func NewSecureUpstream(t testing.TB, dir string, names ...string) *Upstream {
	WriteCertificates(t, dir, names...)
	return SecureUpstream(t, dir)
}

// SecureUpstream is a further one with the certificate in dir.
func SecureUpstream(t testing.TB, dir string) *Upstream {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	must(t, err)
	u := &Upstream{Chunks: 5}
	u.srv = httptest.NewUnstartedServer(u)
	u.srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	u.srv.EnableHTTP2 = true
	u.srv.StartTLS()
	t.Cleanup(u.Close)
	return u
}

// Port is where it listens on 127.0.0.1.
func (u *Upstream) Port() string { return u.srv.URL[strings.LastIndexByte(u.srv.URL, ':')+1:] }

// Close stops it before the test's end.
func (u *Upstream) Close() { u.srv.CloseClientConnections(); u.srv.Close() }

// URL is the base URL for an upstream of the given name. OpenRouter's has a host and a path of its own, as the real one.
func (u *Upstream) URL(name string) string {
	if name == "openrouter" {
		return strings.Replace(u.srv.URL, "127.0.0.1", "localhost", 1) + "/api/v1"
	}
	return u.srv.URL
}

// Hosts are its authorities.
func (u *Upstream) Hosts() []string {
	host := strings.TrimPrefix(u.srv.URL, "http://")
	return []string{host, strings.Replace(host, "127.0.0.1", "localhost", 1)}
}

// Requests is what has been seen so far.
func (u *Upstream) Requests() []Seen {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]Seen(nil), u.seen...)
}

// Count is the number of requests seen.
func (u *Upstream) Count() int { return len(u.Requests()) }

func (u *Upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	sum := sha256.Sum256(body)
	u.mu.Lock()
	u.seen = append(u.seen, Seen{time.Now(), r.Method, r.URL.RequestURI(), r.Host, r.Header.Clone(), base64.RawURLEncoding.EncodeToString(sum[:])})
	u.mu.Unlock()
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if u.Handle != nil {
		u.Handle(w, r)
		return
	}
	u.Chat(w, r)
}

// Chat answers a chat completion.
func (u *Upstream) Chat(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // read from memory: ServeHTTP has it already
	var req struct {
		Model  string
		Stream bool
	}
	_ = json.Unmarshal(body, &req)
	if !req.Stream {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":%q,"choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}`, req.Model)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for i := range u.Chunks {
		fmt.Fprintf(w, "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":%q,\"choices\":[{\"index\":0,\"delta\":{\"content\":\"part %d \"}}]}\n\n", req.Model, i)
		w.(http.Flusher).Flush()
		time.Sleep(u.Gap)
	}
	fmt.Fprintf(w, "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":%q,\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":%d,\"total_tokens\":12}}\n\ndata: [DONE]\n\n", req.Model, u.Chunks)
}

// Leaked lists the requests in which any of the values stands in a header or in the path.
func (u *Upstream) Leaked(values ...string) []string {
	var out []string
	for _, s := range u.Requests() {
		for name, vs := range s.Header {
			for _, v := range append(vs, s.Path) {
				for _, secret := range values {
					if strings.Contains(v, secret) {
						out = append(out, s.Method+" "+s.Path+": "+name)
					}
				}
			}
		}
	}
	return out
}
