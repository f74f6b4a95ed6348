package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sync/errgroup"

	"sallyport/bench/load"
	"sallyport/bench/workload"
)

// credential is what Sallyport is to put in place of the token. It opens nothing.
const credential = "bench-upstream-credential-not-a-real-key"

// upstreamCounts is what the upstream has seen.
type upstreamCounts struct {
	requests   atomic.Int64
	credential atomic.Int64 // of them with the planted credential
	broken     atomic.Int64 // of them those that could not be read or answered whole
	pace       pace
}

func (c *upstreamCounts) read() map[string]int64 {
	return map[string]int64{"requests": c.requests.Load(), "credential": c.credential.Load(), "broken": c.broken.Load()}
}

// ServeHTTP answers a call after reading all of it, as a model would.
func (c *upstreamCounts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head, err := readAsk(r)
	if err != nil {
		c.broken.Add(1)
		http.Error(w, fmt.Sprintf("not the call that is measured: %s: %v", r.URL.Path, err), http.StatusBadRequest)
		return
	}
	c.requests.Add(1)
	if r.Header.Get("Authorization") == "Bearer "+credential {
		c.credential.Add(1)
	}
	if err := workload.Respond(w, r.URL.Path, head, &c.pace); err != nil {
		c.broken.Add(1) // mostly a client that is gone, which notices by itself
	}
}

// readAsk reads the whole body and keeps its beginning.
func readAsk(r *http.Request) ([]byte, error) {
	if r.URL.Path != workload.ChatPath && r.URL.Path != workload.EmbeddingsPath {
		return nil, fmt.Errorf("no such path")
	}
	head := make([]byte, workload.HeadSize)
	n, err := io.ReadFull(r.Body, head)
	if err != nil {
		return nil, err // all our bodies are longer
	}
	rest, err := io.Copy(io.Discard, r.Body)
	if err == nil && r.ContentLength >= 0 && int64(n)+rest != r.ContentLength {
		err = fmt.Errorf("%d bytes of %d", int64(n)+rest, r.ContentLength)
	}
	return head, err
}

// pace is how the upstream itself paced its streams, in microseconds. What a gate adds is on top of it.
type pace struct {
	mu         sync.Mutex
	first, gap *hdrhistogram.Histogram
}

func (p *pace) First(d time.Duration) { p.note(&p.first, d) }
func (p *pace) Gap(d time.Duration)   { p.note(&p.gap, d) }

func (p *pace) note(h **hdrhistogram.Histogram, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if *h == nil {
		*h = hdrhistogram.New(1, load.Longest.Microseconds(), 3)
	}
	_ = (*h).RecordValue(min(max(d.Microseconds(), 1), load.Longest.Microseconds())) // within bounds
}

// pacing is what pace has found, in microseconds; zero where nothing was streamed.
type pacing struct {
	FirstP50 int64 `json:"first_byte_p50_us"`
	FirstP99 int64 `json:"first_byte_p99_us"`
	GapP50   int64 `json:"gap_p50_us"`
	GapP99   int64 `json:"gap_p99_us"`
}

// take reads the figures and begins anew.
func (p *pace) take() pacing {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out pacing
	if p.first != nil {
		out.FirstP50, out.FirstP99 = p.first.ValueAtQuantile(50), p.first.ValueAtQuantile(99)
	}
	if p.gap != nil {
		out.GapP50, out.GapP99 = p.gap.ValueAtQuantile(50), p.gap.ValueAtQuantile(99)
	}
	p.first, p.gap = nil, nil
	return out
}

// runUpstream serves the same over plain HTTP and over TLS, where it offers HTTP/2 too, as providers do. It says both addresses.
func runUpstream(ctx context.Context, socket, chain, key string, stdout io.Writer) error {
	var c upstreamCounts
	s, err := serveLocal(socket, map[string]func() any{
		"/counts": func() any { return c.read() },
		"/pacing": func() any { return c.pace.take() },
	})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	secure, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return errors.Join(err, plain.Close())
	}
	conf, err := (&certificates{chain: chain, key: key}).serverTLS()
	if err != nil {
		return errors.Join(err, plain.Close(), secure.Close())
	}
	fmt.Fprintln(stdout, plain.Addr(), secure.Addr())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return serveHTTP(ctx, &http.Server{Handler: &c}, plain) })
	g.Go(func() error { return serveHTTP(ctx, &http.Server{Handler: &c, TLSConfig: conf}, secure) })
	return g.Wait()
}

// upstream is the running upstream as the comparison sees it.
type upstream struct {
	*process
	address string // host:port, plain HTTP
	secure  string // host:port, TLS for upstreamHost
	certs   *certificates
	counter *http.Client
}

// startUpstream starts it with its files in a directory; name tells them apart.
func startUpstream(ctx context.Context, dir, name string) (*upstream, error) {
	certs, err := newCertificates(dir, name)
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, name+".sock")
	p, line, err := startRole(ctx, roleUpstream, socket, certs.chain, certs.key)
	if err != nil {
		return nil, err
	}
	address, secure, ok := strings.Cut(line, " ")
	if !ok {
		p.stop()
		return nil, fmt.Errorf("the upstream says %q instead of two addresses", line)
	}
	return &upstream{process: p, address: address, secure: secure, certs: certs, counter: overSocket(socket)}, nil
}

// authority is the secure upstream's name and port.
func (u *upstream) authority() string { return net.JoinHostPort(upstreamHost, portOf(u.secure)) }

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address) // of a listener, so it has one
	return port
}

// pacing takes what the upstream measured of its own streams since the last time.
func (u *upstream) pacing(ctx context.Context) (pacing, error) {
	var p pacing
	raw, err := get(ctx, u.counter, "/pacing")
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal(raw, &p)
}

// expectForwarded sends the chat call of the target's first identity once: it must come back with the fixed answer, and
// must have reached the upstream exactly once.
func (e *environment) expectForwarded(ctx context.Context, t target) error {
	return e.during(ctx, "requests", 1, func() error {
		a, err := load.Once(ctx, t.way(), t.call(chat, t.Headers[0]))
		switch {
		case err != nil:
			return err
		case a.Status != http.StatusOK || !bytes.Equal(a.Body, workload.Answer):
			return fmt.Errorf("the call is answered with %d %.300q, not with what the upstream says", a.Status, a.Body)
		case t.Answer != "" && a.Header.Get(t.Answer) == "":
			return fmt.Errorf("the answer has no %s", t.Answer)
		}
		return nil
	})
}

// during reports whether a counter of the upstream goes up by want while do runs.
func (e *environment) during(ctx context.Context, counter string, want int64, do func() error) error {
	before, err := counts(ctx, e.upstream.counter)
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	after, err := counts(ctx, e.upstream.counter)
	if err != nil {
		return err
	}
	if got := after[counter] - before[counter]; got != want {
		return fmt.Errorf("the upstream's count %q went up by %d, want %d", counter, got, want)
	}
	return nil
}
