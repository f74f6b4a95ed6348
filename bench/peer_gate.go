package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"slices"
	"sync"
)

// A model that no peer may pass on; as long as the one in the prompt, so that a call needs no other length.
const (
	allowedModel = "gpt-4o-mini"
	otherModel   = "gpt-4o-maxi"
)

// gate is what a peer that swaps the client's token for the real credential has to show.
type gate struct {
	e       *environment
	address string
	token   string // the client's, of the call that is measured
	refused []probe
	// rewritten is set where the peer writes the answer's JSON anew, so that only its content and length are the same.
	rewritten bool
}

// probe is a call that must be refused, and must not reach the upstream.
type probe struct {
	name     string
	token    string // "" for none
	model    string // "" for the allowed one
	statuses []int  // with one of which it is refused
}

// target repeats the allowed call on n connections.
func (g *gate) target(n int) target {
	return target{Address: g.address, Requests: slices.Repeat([][]byte{g.call(g.token, "")}, n)}
}

func (g *gate) call(token, model string) []byte {
	raw := request(g.address, chatPath, token, nil)
	if model != "" {
		raw = bytes.ReplaceAll(raw, []byte(allowedModel), []byte(model))
	}
	return raw
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
		a, err := once(ctx, g.address, g.call(p.token, p.model))
		if err != nil {
			return err
		}
		if !slices.Contains(p.statuses, a.status) {
			return fmt.Errorf("is answered with %d %.300q, want %v", a.status, a.body, p.statuses)
		}
		return nil
	})
}

func (g *gate) forwards(ctx context.Context) error {
	if !g.rewritten {
		return g.e.expectForwarded(ctx, g.target(1))
	}
	return g.e.during(ctx, "requests", 1, func() error {
		a, err := once(ctx, g.address, g.call(g.token, ""))
		if err != nil {
			return err
		}
		if a.status != http.StatusOK || !sameJSON(a.body, answer) {
			return fmt.Errorf("the call is answered with %d %.300q, not with what the upstream says", a.status, a.body)
		}
		if len(a.body) != len(answer) {
			return fmt.Errorf("the answer has %d bytes instead of %d", len(a.body), len(answer))
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
		if _, err := once(ctx, g.address, g.call(g.token, "")); err != nil {
			return fmt.Errorf("warming up: %w", err)
		}
	}
	return nil
}

// verify repeats the check after everything was measured, and wants as many calls with the real credential at the
// upstream as this peer alone has had answered. Other peers may have added to these.
func (g *gate) verify(ctx context.Context, answered int64) error {
	seen, err := counts(ctx, g.e.upstream.counter)
	if err != nil {
		return err
	}
	if seen["credential"] < answered {
		return fmt.Errorf("of %d calls at most %d left with the real credential", answered, seen["credential"])
	}
	return g.check(ctx)
}

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

func startWitness() (*witness, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &witness{address: l.Addr().String()}
	w.server = &http.Server{Handler: w}
	go func() { _ = w.server.Serve(l) }() // ends with stop
	return w, nil
}

func (w *witness) stop() { _ = w.server.Close() }

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
	_, _ = rw.Write(answer) // a client that is gone notices by itself
}

// expectSwapped sends one call through a gate before the witness: it must arrive once, with the credential as its only
// authorization, and without the token anywhere.
func (w *witness) expectSwapped(ctx context.Context, address string, call []byte, token string) error {
	before := w.sightings()
	a, err := once(ctx, address, call)
	if err != nil {
		return err
	}
	seen := w.sightings()[len(before):]
	if a.status != http.StatusOK || len(seen) != 1 {
		return fmt.Errorf("the witness has seen %d calls, and the client %d %.300q", len(seen), a.status, a.body)
	}
	if got := seen[0].header.Values("Authorization"); !slices.Equal(got, []string{"Bearer " + credential}) {
		return fmt.Errorf("%d headers of authorization arrive, and they are not the credential alone", len(got))
	}
	if bytes.Contains(seen[0].body, []byte(token)) {
		return fmt.Errorf("the client's token arrives in the body")
	}
	for name, values := range seen[0].header {
		for _, v := range values {
			if bytes.Contains([]byte(v), []byte(token)) {
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
