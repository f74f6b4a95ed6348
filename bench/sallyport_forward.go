package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"sallyport/bench/workload"
)

// foreignModel is one that Sallyport's example contract does not allow.
const foreignModel = "another-model"

// forwardDoor is Sallyport's other way in: clients know a proxy and a certificate authority, and call the provider's own
// host, as programs do that were not made for a gateway. Each connection is one tunnel with the token of a job of its own.
type forwardDoor struct {
	s    *sallyport
	door string // host:port
	site *site
}

func newForward(ctx context.Context, e *environment) (peer, error) {
	s, err := startSallyport(ctx, e, &sallyport{name: forwardName, tls: true})
	if err != nil {
		return nil, err
	}
	f, err := s.forwardDoor(ctx)
	if err != nil {
		s.Stop()
		return nil, err
	}
	return f, nil
}

// forwardDoor asks the running system for what a client of that door needs.
func (s *sallyport) forwardDoor(ctx context.Context) (*forwardDoor, error) {
	u, err := url.Parse(s.ready.ForwardURL)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("forward_url: %q is no URL (%w)", s.ready.ForwardURL, err)
	}
	authority, err := s.tokens.authority(ctx, s.ready.ContractHash)
	if err != nil {
		return nil, err
	}
	conf, err := trusting(authority)
	if err != nil {
		return nil, err
	}
	return &forwardDoor{s: s, door: u.Host, site: &site{authority: s.e.upstream.authority(), tls: conf}}, nil
}

func (f *forwardDoor) Name() string { return f.s.Name() }

// target is the way of clients with these tokens.
func (f *forwardDoor) target(tokens ...string) target {
	t := f.site.proxied(f.door, tokens...)
	t.Answer = receiptHeader
	return t
}

// Check shows what the other door's check does, and what is a tunnel's own: it opens for a good token and an allowed host,
// and what is inside is decided call by call.
func (f *forwardDoor) Check(ctx context.Context) error {
	tokens, err := f.tokens(ctx, 1)
	if err != nil {
		return err
	}
	good := f.target(tokens...)
	other, err := workload.New(workload.Chat, workload.Params{Model: foreignModel})
	if err != nil {
		return err
	}
	for _, p := range []struct {
		what   string
		target target
		call   *workload.Call
		code   string
	}{
		{"a tunnel without a token", f.target(""), chat, "TOKEN_REQUIRED"},
		{"a tunnel with a token that was changed", f.target(forged(tokens[0])), chat, "TOKEN_SIGNATURE_INVALID"},
		{"a tunnel to another host", good.at(otherHost), chat, "POLICY_EGRESS_NOT_ALLOWED"},
		{"another model", good, other, "POLICY_MODEL_NOT_ALLOWED"},
	} {
		if err := f.s.refusesCall(ctx, p.target, p.call, p.code); err != nil {
			return fmt.Errorf("%s: %w", p.what, err)
		}
	}
	if err := f.s.e.during(ctx, "credential", 1, func() error { return f.s.e.expectForwarded(ctx, good) }); err != nil {
		return fmt.Errorf("an allowed call: %w", err)
	}
	stolen := f.target(tokens...)
	stolen.Headers[0].Set(runIDHeader, "another-run")
	if err := f.s.refuses(ctx, stolen, "JOB_BINDING_MISMATCH"); err != nil {
		return fmt.Errorf("the token of another job: %w", err)
	}
	return f.s.bindingInRedis(ctx)
}

// tokens are those of n new jobs.
func (f *forwardDoor) tokens(ctx context.Context, n int) ([]string, error) {
	jobs, err := f.s.tokens.jobs(ctx, n)
	var out []string
	for _, h := range jobs {
		out = append(out, strings.TrimPrefix(h.Get("Authorization"), "Bearer "))
	}
	return out, err
}

// Target gives each connection a job of its own, as agents have.
func (f *forwardDoor) Target(ctx context.Context, n int) (target, error) {
	tokens, err := f.tokens(ctx, n)
	return f.target(tokens...), err
}

// Swaps makes it a swapper.
func (f *forwardDoor) Swaps() {}

// Carries refuses what a connection with one token cannot do, and what the other door refuses.
func (f *forwardDoor) Carries(name string) error {
	if aboutTokens(name) {
		return errors.New("a tunnel has the token with which it was opened")
	}
	return f.s.Carries(name)
}

// Lasts is how long the token of a tunnel is good.
func (f *forwardDoor) Lasts() time.Duration { return tokenTTL }

func (f *forwardDoor) Groups() map[string][]int { return f.s.Groups() }

// Verify wants every answered call to have left a receipt that verifies offline.
func (f *forwardDoor) Verify(ctx context.Context, answered int64) error {
	return f.s.Verify(ctx, answered)
}

// Profile is that of the system.
func (f *forwardDoor) Profile(ctx context.Context, length time.Duration, dir string) error {
	return f.s.Profile(ctx, length, dir)
}

func (f *forwardDoor) Stop() { f.s.Stop() }
