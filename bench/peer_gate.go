package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"

	"sallyport/bench/load"
	"sallyport/bench/workload"
)

// A model that no peer may pass on; as long as the one in the prompt, so that a call needs no other length.
const (
	allowedModel = "gpt-4o-mini"
	otherModel   = "gpt-4o-maxi"
)

// otherHost is one to which no proxy may open a tunnel.
const otherHost = "other.example.com"

// gate is what a peer that swaps the client's token for the real credential has to show.
type gate struct {
	e       *environment
	address string
	token   string // the client's, of the call that is measured
	refused []probe
	inside  *site // nil for a gate that clients speak to themselves; else it is their proxy, and the token opens the tunnel
	// rewritten is set where the peer writes the answer's JSON anew, so that only its content and length are the same.
	rewritten bool
}

// probe is a call that must be refused, and must not reach the upstream.
type probe struct {
	name     string
	token    string // "" for none
	model    string // "" for the allowed one
	host     string // of the tunnel, "" for the upstream's
	statuses []int  // with one of which it is refused
}

// Target has the same token on n connections.
func (g *gate) Target(_ context.Context, n int) (target, error) {
	return g.target(slices.Repeat([]string{g.token}, n)...), nil
}

// target is the way of clients with these tokens, "" for none.
func (g *gate) target(tokens ...string) target {
	if g.inside != nil {
		return g.inside.proxied(g.address, tokens...)
	}
	t := target{Address: g.address}
	for _, token := range tokens {
		h := http.Header{}
		if token != "" {
			h = bearer(token)
		}
		t.Headers = append(t.Headers, h)
	}
	return t
}

// Swaps makes it a swapper.
func (g *gate) Swaps() {}

// Carries: such a peer lets one path pass, with whole bodies and whole answers, for the holder of one token.
func (g *gate) Carries(name string) error {
	if name != workload.Chat {
		return errors.New("it is set up for small chat completions with one token")
	}
	return nil
}

// send makes the chat completion with a token, "" for none, for a model, "" for the allowed one, at a host, "" for the upstream.
func (g *gate) send(ctx context.Context, token, model, host string) (*load.Reply, error) {
	c, err := workload.New(workload.Chat, workload.Params{Model: model})
	if err != nil {
		return nil, err
	}
	t := g.target(token).at(host)
	return load.Once(ctx, t.way(), t.call(c, t.Headers[0]))
}

// check sends each call that must be refused, and then the allowed one, which must arrive with the real credential.
func (g *gate) check(ctx context.Context) error {
	for _, p := range g.refused {
		if err := g.refuses(ctx, p); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	if err := g.e.during(ctx, "credential", 1, func() error { return g.forwards(ctx) }); err != nil {
		return fmt.Errorf("an allowed call: %w", err)
	}
	return nil
}

func (g *gate) refuses(ctx context.Context, p probe) error {
	return g.e.during(ctx, "requests", 0, func() error {
		a, err := g.send(ctx, p.token, p.model, p.host)
		if err != nil {
			return err
		}
		if !slices.Contains(p.statuses, a.Status) {
			return fmt.Errorf("is answered with %d %.300q, want %v", a.Status, a.Body, p.statuses)
		}
		return nil
	})
}

func (g *gate) forwards(ctx context.Context) error {
	if !g.rewritten {
		t, err := g.Target(ctx, 1)
		if err != nil {
			return err
		}
		return g.e.expectForwarded(ctx, t)
	}
	return g.e.during(ctx, "requests", 1, func() error {
		a, err := g.send(ctx, g.token, "", "")
		if err != nil {
			return err
		}
		if a.Status != http.StatusOK || !sameJSON(a.Body, workload.Answer) {
			return fmt.Errorf("the call is answered with %d %.300q, not with what the upstream says", a.Status, a.Body)
		}
		if len(a.Body) != len(workload.Answer) {
			return fmt.Errorf("the answer has %d bytes instead of %d", len(a.Body), len(workload.Answer))
		}
		return nil
	})
}

func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// warm sends n calls, each over a connection of its own, so that every worker has had some: what has just started loads
// and compiles things on its first calls, for longer than a cell's warm-up lasts. What is answered is for check to judge.
func (g *gate) warm(ctx context.Context, n int) error {
	for range n {
		if _, err := g.send(ctx, g.token, "", ""); err != nil {
			return fmt.Errorf("warming up: %w", err)
		}
	}
	return nil
}

// Verify repeats the check after everything was measured. That every call left with the credential was counted at the
// upstream, cell by cell.
func (g *gate) Verify(ctx context.Context, _ int64) error { return g.check(ctx) }

// witness is an upstream that keeps what it is sent, to see what the counters of the real one do not tell.
type witness struct {
	address string
	server  *http.Server
	mu      sync.Mutex
	seen    []sighting
}

// sighting is one call as an upstream gets it.
type sighting struct {
	header http.Header
	body   []byte
}

// startWitness starts one over plain HTTP, or over TLS with a configuration.
func startWitness(conf *tls.Config) (*witness, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &witness{address: l.Addr().String()}
	w.server = &http.Server{Handler: w, TLSConfig: conf}
	go func() { _ = serveHTTP(context.Background(), w.server, l) }() // ends with stop
	return w, nil
}

func (w *witness) stop() { _ = w.server.Close() }

// witnessed starts a twin of the gate before a witness and has it show what leaves it.
func (g *gate) witnessed(ctx context.Context, twin func(upstream string) (*process, string, error)) error {
	var conf *tls.Config
	if g.inside != nil {
		var err error
		if conf, err = g.e.upstream.certs.serverTLS(); err != nil {
			return err
		}
	}
	w, err := startWitness(conf)
	if err != nil {
		return err
	}
	defer w.stop()
	p, address, err := twin(w.address)
	if err != nil {
		return err
	}
	defer p.stop()
	return w.expectSwapped(ctx, g, address, "")
}

// ServeHTTP answers as the real upstream does.
func (w *witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	w.mu.Lock()
	w.seen = append(w.seen, sighting{r.Header.Clone(), body})
	w.mu.Unlock()
	rw.Header().Set("Content-Type", "application/json")
	_, _ = rw.Write(workload.Answer) // a client that is gone notices by itself
}

// expectSwapped sends one call through a gate before the witness: it must arrive once, with the credential as its only
// authorization, and without the token anywhere.
func (w *witness) expectSwapped(ctx context.Context, g *gate, address, model string) error {
	before := w.sightings()
	at := gate{address: address, inside: g.inside}
	a, err := at.send(ctx, g.token, model, "")
	if err != nil {
		return err
	}
	seen := w.sightings()[len(before):]
	if a.Status != http.StatusOK || len(seen) != 1 {
		return fmt.Errorf("the witness has seen %d calls, and the client %d %.300q", len(seen), a.Status, a.Body)
	}
	if got := seen[0].header.Values("Authorization"); !slices.Equal(got, []string{"Bearer " + credential}) {
		return fmt.Errorf("%d headers of authorization arrive, and they are not the credential alone", len(got))
	}
	if bytes.Contains(seen[0].body, []byte(g.token)) {
		return fmt.Errorf("the client's token arrives in the body")
	}
	for name, values := range seen[0].header {
		for _, v := range values {
			if strings.Contains(v, g.token) || strings.Contains(v, proxyAuthorization(g.token)) {
				return fmt.Errorf("the client's token arrives as %s", name)
			}
		}
	}
	return nil
}

func (w *witness) sightings() []sighting {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}
