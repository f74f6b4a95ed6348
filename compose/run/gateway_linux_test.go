package run

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const testToken = "eyJhbGciOiJFZERTQSJ9.the-secret-of-this-test.c2lnbmF0dXJl"

// TestMain is also the init process and the hostile program of the tests.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case InitCommand:
			syscall.Exit(Init()) // not os.Exit, which waits a second under the race detector
		case "attempt":
			syscall.Exit(attempt(os.Args[2:]))
		case "owner":
			os.Exit(ownerProcess(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

// gateway stands for the gate: one door that takes CONNECT, absolute-form requests and base URLs. A host with "refused"
// in its name is refused, all others lead to the test's own upstreams.
type gateway struct {
	*httptest.Server
	echo net.Listener     // speaks no HTTP
	tls  *httptest.Server // what a TLS host is

	mu   sync.Mutex
	seen []string // "METHOD authority-or-url credential"
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{}
	var err error
	if g.echo, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.echo.Close() })
	go func() {
		for {
			c, err := g.echo.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	g.tls = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := ""
		if r.TLS != nil {
			name = r.TLS.ServerName
		}
		n, _ := io.Copy(io.Discard, r.Body)
		_ = json.NewEncoder(w).Encode(map[string]any{"sni": name, "host": r.Host, "path": r.URL.Path, "bytes": n})
	}))
	t.Cleanup(g.tls.Close)
	g.Server = httptest.NewServer(g)
	t.Cleanup(g.Close)
	return g
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	credential := r.Header.Get("Proxy-Authorization")
	if r.URL.Host == "" && r.Method != http.MethodConnect {
		credential = r.Header.Get("Authorization")
	}
	g.mu.Lock()
	g.seen = append(g.seen, r.Method+" "+r.Host+" "+r.RequestURI+" "+credential)
	g.mu.Unlock()
	switch {
	case credential != "Bearer "+testToken:
		w.WriteHeader(http.StatusProxyAuthRequired)
	case strings.Contains(r.Host, "refused"):
		w.Header().Set(decisionHeader, "dec_1")
		w.WriteHeader(http.StatusUnavailableForLegalReasons)
		_, _ = io.WriteString(w, `{"type":"error","error":{"code":"EGRESS_DENIED","message":"no"}}`)
	case r.Method == http.MethodConnect:
		g.connect(w, r)
	default:
		w.Header().Set(receiptHeader, "rcpt_2")
		body, _ := io.ReadAll(r.Body)
		r.Header.Del("Authorization") // the program must not see the token, so a gate never sends it back
		r.Header.Del("Proxy-Authorization")
		_ = json.NewEncoder(w).Encode(map[string]any{"uri": r.RequestURI, "host": r.Host, "headers": r.Header, "bytes": len(body)})
	}
}

func (g *gateway) connect(w http.ResponseWriter, r *http.Request) {
	to := g.echo.Addr().String()
	if strings.HasSuffix(r.Host, ":443") {
		to = g.tls.Listener.Addr().String()
	}
	up, err := net.Dial("tcp", to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer up.Close()
	client, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n"+receiptHeader+": rcpt_1\r\n\r\n")
	early := make([]byte, buf.Reader.Buffered())
	_, _ = io.ReadFull(buf, early)
	splice(client, up, early)
}

func (g *gateway) asked(part string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.seen {
		if strings.Contains(s, part) {
			return true
		}
	}
	return false
}

func (g *gateway) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.tls.Certificate().Raw})
}

// job runs a program and keeps what it wrote.
type job struct {
	Config
	stdin string
}

func newJob(t *testing.T, g *gateway, program ...string) *job {
	t.Helper()
	return &job{Config: Config{
		ForwardAddress: g.Listener.Addr().String(), Token: func() Token { return testToken }, CA: g.ca(),
		Doors:   []Door{{"openai", "openai"}, {"anthropic", "anthropic"}},
		Names:   func(name string) bool { return strings.HasSuffix(name, ".example.com") || name == "example.com" },
		Program: program, Environ: os.Environ(), Notes: io.Discard,
	}}
}

func (j *job) run(t *testing.T) (r *Result, stdout, stderr string) {
	t.Helper()
	r, stdout, stderr, err := j.try(t)
	if err != nil {
		needNamespaces(t, err)
		t.Fatal(err)
	}
	return r, stdout, stderr
}

func (j *job) try(t *testing.T) (*Result, string, string, error) {
	t.Helper()
	dir := t.TempDir()
	files := map[string]*os.File{}
	for _, name := range []string{"stdin", "stdout", "stderr"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(map[string]string{"stdin": j.stdin}[name]), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[name] = f
	}
	j.Stdin, j.Stdout, j.Stderr = files["stdin"], files["stdout"], files["stderr"]
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	r, err := Run(ctx, j.Config)
	out, _ := os.ReadFile(filepath.Join(dir, "stdout"))
	errs, _ := os.ReadFile(filepath.Join(dir, "stderr"))
	return r, string(out), string(errs), err
}

// needNamespaces skips where no user namespace can be made at all; in CI that is a failure.
func needNamespaces(t *testing.T, err error) {
	t.Helper()
	if strings.Contains(err.Error(), "namespaces:") && os.Getenv("CI") == "" {
		t.Skipf("no user namespaces here: %v", err)
	}
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// doorWithTLS puts a TLS listener with a required client certificate before the gateway.
func doorWithTLS(t *testing.T, g *gateway) (address string, roots *x509.CertPool, seen func() []byte) {
	t.Helper()
	var mu sync.Mutex
	var der []byte
	l, err := tls.Listen("tcp4", "127.0.0.1:0", &tls.Config{
		Certificates: g.tls.TLS.Certificates, ClientAuth: tls.RequireAnyClientCert,
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			mu.Lock()
			defer mu.Unlock()
			der = bytes.Clone(raw[0])
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: g, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	roots = x509.NewCertPool()
	roots.AddCert(g.tls.Certificate())
	return l.Addr().String(), roots, func() []byte { mu.Lock(); defer mu.Unlock(); return der }
}

func clientTLS(roots *x509.CertPool, cert tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, ServerName: "example.com"} // httptest's name
}

func thumb(der []byte) string {
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
