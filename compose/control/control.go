// Package control is the administrator's HTTP interface: contracts, tokens, keys, health, readiness and metrics on one
// address. Its paths are the public ecosystem's own; contracts are answered by the registry, tokens and keys by the
// issuer in the signer process, which alone holds the private keys.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"
)

const (
	// maxRequestBytes is above the largest contract (64 KiB) with its envelope, and far below what could hurt.
	maxRequestBytes = 1 << 20
	issuerTimeout   = 15 * time.Second
	headerTimeout   = 5 * time.Second
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 3 * time.Second
)

// Config is what the control API needs.
type Config struct {
	Registry     http.Handler      // /v1/wpc and below
	IssuerSocket string            // Unix socket of the issuer
	Authority    http.Handler      // /v1/ca.pem, the authority that programs under a contract trust; nil: there is none
	Status       *Status           // health, readiness and metrics of this process
	Peers        map[string]string // status sockets of the other processes, by the name that /metrics/NAME shows
	Log          *slog.Logger
}

// Validate names everything that is missing, at once.
func (c Config) Validate() error {
	var errs []error
	for what, missing := range map[string]bool{
		"registry": c.Registry == nil, "issuer socket": c.IssuerSocket == "", "status": c.Status == nil, "log": c.Log == nil,
	} {
		if missing {
			errs = append(errs, fmt.Errorf("control: no %s", what))
		}
	}
	return errors.Join(errs...)
}

// New makes the control API's handler.
func New(c Config) (http.Handler, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/wpc", c.Registry)
	mux.Handle("/v1/wpc/", c.Registry)
	if c.Authority != nil {
		mux.Handle("GET /v1/ca.pem", c.Authority)
	}
	issuer := issuerProxy(c.IssuerSocket, c.Log)
	for _, path := range []string{"/v1/tokens/", "/v1/jwks", "/v1/did", "/v1/revocations/", "/v1/contracts/", "/v1/keys/", "/v1/runs", "/v1/runs/"} {
		mux.Handle(path, issuer)
	}
	mux.Handle("/health", c.Status.Handler())
	mux.Handle("/ready", c.Status.Handler())
	mux.Handle("/metrics", c.Status.Handler())
	mux.Handle("GET /metrics/{peer}", peerMetrics(c.Peers, c.Log))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, http.StatusNotFound, "NOT_FOUND", "no such path in the control API: "+r.URL.Path)
	})
	return http.MaxBytesHandler(mux, maxRequestBytes), nil
}

// issuerProxy passes requests on to the issuer. The caller's own authentication goes with them; nothing is added.
func issuerProxy(socket string, log *slog.Logger) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "issuer"})
			r.SetXForwarded()
		},
		Transport: unixTransport(socket),
		ErrorLog:  slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			log.Error("issuer unreachable", "path", r.URL.Path, "error", err)
			writeError(w, http.StatusServiceUnavailable, "SIGNER_UNREACHABLE", "the signer process does not answer; see the log of this gateway")
		},
	}
}

func unixTransport(socket string) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		ResponseHeaderTimeout: issuerTimeout,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       idleTimeout,
		DisableCompression:    true,
	}
}

// UnixClient is an HTTP client for a server on a Unix socket; the host of its URLs is of no account. It keeps no connection:
// to dial one costs next to nothing, and whoever makes a client for one call would leave one open at both ends.
func UnixClient(socket string, timeout time.Duration) *http.Client {
	t := unixTransport(socket)
	t.DisableKeepAlives = true
	return &http.Client{Transport: t, Timeout: timeout}
}

// peerMetrics shows the metrics of the other processes, which listen on Unix sockets only, on this one port.
func peerMetrics(peers map[string]string, log *slog.Logger) http.Handler {
	clients := make(map[string]*http.Client, len(peers))
	for name, socket := range peers {
		clients[name] = UnixClient(socket, issuerTimeout)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("peer")
		client, ok := clients[name]
		if !ok {
			writeError(w, http.StatusNotFound, "NOT_FOUND", "no process of that name")
			return
		}
		path := "/metrics"
		if name == "envoy" {
			path = "/stats/prometheus"
		}
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://"+name+path, nil)
		if err != nil {
			writeError(w, http.StatusNotFound, "NOT_FOUND", "no process of that name")
			return
		}
		resp, err := client.Do(req)
		if err != nil {
			log.Warn("metrics of a process cannot be read", "process", name, "error", err)
			writeError(w, http.StatusBadGateway, "PROCESS_UNREACHABLE", "the process does not answer")
			return
		}
		defer resp.Body.Close()
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body) // the reader left; nothing to do about it
	})
}

func writeError(w http.ResponseWriter, status int, code, message string) {
	writeJSON(w, status, map[string]string{"error": code, "message": message})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the reader left; nothing to do about it
}

// Serve answers on the listener until ctx ends, then finishes what is open.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("http on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil {
		_ = srv.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("http on %s: %w", l.Addr(), err)
	}
	return nil
}
