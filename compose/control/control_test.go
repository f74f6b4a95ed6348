package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// onSocket serves h on a Unix socket until the test ends.
func onSocket(t *testing.T, name string, h http.Handler) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, name)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, h, quiet()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

func newAPI(t *testing.T, issuer string, peers map[string]string, status *Status) http.Handler {
	t.Helper()
	registry := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "registry "+r.Method+" "+r.URL.Path)
	})
	h, err := New(Config{Registry: registry, IssuerSocket: issuer, Status: status, Peers: peers, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func ask(h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer not-a-real-key")
	h.ServeHTTP(w, r)
	return w
}

func TestPathsGoToTheirOwners(t *testing.T) {
	issuer := onSocket(t, "issuer.sock", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, "issuer "+r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization")+" "+string(raw))
	}))
	h := newAPI(t, issuer, nil, NewStatus("xds", "test"))
	for _, c := range []struct{ method, path, want string }{
		{"POST", "/v1/wpc", "registry POST /v1/wpc"},
		{"GET", "/v1/wpc/abc", "registry GET /v1/wpc/abc"},
		{"POST", "/v1/tokens/issue", "issuer POST /v1/tokens/issue Bearer not-a-real-key body"},
		{"GET", "/v1/jwks", "issuer GET /v1/jwks Bearer not-a-real-key body"},
		{"GET", "/v1/did", "issuer GET /v1/did Bearer not-a-real-key body"},
		{"GET", "/v1/revocations/events", "issuer GET /v1/revocations/events Bearer not-a-real-key body"},
		{"POST", "/v1/contracts/sign", "issuer POST /v1/contracts/sign Bearer not-a-real-key body"},
	} {
		t.Run(c.path, func(t *testing.T) {
			if got := ask(h, c.method, c.path, "body").Body.String(); got != c.want {
				t.Errorf("answer %q, want %q", got, c.want)
			}
		})
	}
	if w := ask(h, "GET", "/v2", ""); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "NOT_FOUND") {
		t.Errorf("unknown path: %d %s", w.Code, w.Body)
	}
}

func TestIssuerGone(t *testing.T) {
	h := newAPI(t, filepath.Join(t.TempDir(), "none.sock"), nil, NewStatus("xds", "test"))
	w := ask(h, "POST", "/v1/tokens/issue", "{}")
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "SIGNER_UNREACHABLE") {
		t.Errorf("answer %d %s", w.Code, w.Body)
	}
}

func TestTooLargeABodyIsNotPassedOn(t *testing.T) {
	issuer := onSocket(t, "issuer.sock", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err == nil {
			_, _ = io.WriteString(w, "whole")
		}
	}))
	h := newAPI(t, issuer, nil, NewStatus("xds", "test"))
	if w := ask(h, "POST", "/v1/tokens/issue", strings.Repeat("x", maxRequestBytes+1)); w.Body.String() == "whole" {
		t.Error("the whole body arrived")
	}
}

func TestReadiness(t *testing.T) {
	signer := NewStatus("signer", "test")
	broken := errors.New("disk full")
	var now error
	signer.Add("evidence", func(context.Context) error { return now })
	socket := onSocket(t, "signer.sock", signer.Handler())

	own := NewStatus("xds", "test")
	own.Add("signer", PeerReady(socket, "/ready"))
	own.Add("gone", PeerReady(filepath.Join(t.TempDir(), "none.sock"), "/ready"))
	got := own.Readiness(t.Context())
	if got.Ready || got.Checks["signer"] != "ok" || !strings.Contains(got.Checks["gone"], "does not answer") {
		t.Errorf("%+v", got)
	}
	now = broken
	w := ask(newAPI(t, socket, nil, own), "GET", "/ready", "")
	var r Readiness
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if w.Code != http.StatusServiceUnavailable || r.Checks["signer"] != "evidence: disk full" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := ask(own.Handler(), "GET", "/health", ""); w.Code != http.StatusOK {
		t.Errorf("health is not readiness, yet answers %d", w.Code)
	}
}

func TestMetricsOfPeers(t *testing.T) {
	peer := onSocket(t, "extproc-0.sock", NewStatus("extproc", "test").Handler())
	envoy := onSocket(t, "admin.sock", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "envoy "+r.URL.Path)
	}))
	h := newAPI(t, peer, map[string]string{"extproc-0": peer, "envoy": envoy, "gone": peer + "x"}, NewStatus("xds", "test"))
	for path, want := range map[string]string{
		"/metrics": "go_goroutines", "/metrics/extproc-0": "go_goroutines", "/metrics/envoy": "envoy /stats/prometheus",
		"/metrics/nobody": "NOT_FOUND", "/metrics/gone": "PROCESS_UNREACHABLE",
	} {
		if got := ask(h, "GET", path, "").Body.String(); !strings.Contains(got, want) {
			t.Errorf("%s answers %.80q, want %s", path, got, want)
		}
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, NewStatus("x", "test").Handler(), quiet()) }()
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Get("http://" + l.Addr().String() + "/health")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNewNamesAllThatIsMissing(t *testing.T) {
	_, err := New(Config{})
	for _, what := range []string{"registry", "issuer socket", "status", "log"} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s is not named: %v", what, err)
		}
	}
}

// A client made for one call leaves no connection behind.
func TestUnixClientKeepsNoConnection(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{}, 10)
	srv := &http.Server{
		Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				closed <- struct{}{}
			}
		},
	}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	for range cap(closed) {
		resp, err := UnixClient(socket, time.Minute).Get("http://x/")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	for range cap(closed) {
		select {
		case <-closed:
		case <-time.After(20 * time.Second):
			t.Fatal("a connection stays open")
		}
	}
}

// The certificate authority signs for this machine's own processes, over the issuer's socket. No path of the control API
// leads there, however it is written.
func TestCertificateAuthorityIsNotExposed(t *testing.T) {
	var signed atomic.Int32
	mux := http.NewServeMux() // as the issuer's, which reads a path without decoding it
	mux.HandleFunc("POST /v1/ca/", func(http.ResponseWriter, *http.Request) { signed.Add(1) })
	mux.HandleFunc("POST /v1/tokens/issue", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "issuer "+r.URL.Path) })
	issuer := onSocket(t, "issuer.sock", mux)
	h := newAPI(t, issuer, nil, NewStatus("xds", "test"))
	if w := ask(h, "POST", "/v1/tokens/issue", ""); w.Body.String() != "issuer /v1/tokens/issue" {
		t.Fatalf("the issuer is not reached at all: %d %s", w.Code, w.Body)
	}
	for _, path := range []string{
		"/v1/ca/leaf", "/v1/ca/certificate", "/v1/ca/", "/v1/CA/leaf", "//v1/ca/leaf", "/v1/tokens/../ca/leaf", "/v1/tokens/%2e%2e/ca/leaf",
		"/v1/keys/..%2fca/leaf", "/v1/keys/./../ca/leaf",
	} {
		if w := ask(h, "POST", path, "{}"); w.Code == http.StatusOK || signed.Load() > 0 {
			t.Errorf("%s: %d %s, reached the authority %d times", path, w.Code, w.Body, signed.Load())
		}
	}
}
