package gate

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sallyport/extproc/replay"
	"sallyport/extproc/secret"
	"sallyport/signer/client"
	"sallyport/signer/contract"
	"sallyport/signer/envelope"
	"sallyport/signer/keyring"
	"sallyport/signer/privacy/seal"
	"sallyport/signer/receipt"
	"sallyport/signer/record"
	"sallyport/signer/token"
	"sallyport/signer/trust"
)

const (
	realKey = "not-a-real-key"
	// patience is when a test gives up on what must happen; nothing is asserted about how long it takes.
	patience = 20 * time.Second
)

var start = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// clock is a time that tests move.
type clock struct{ past atomic.Int64 }

func (c *clock) Now() time.Time          { return start.Add(time.Duration(c.past.Load())) }
func (c *clock) forward(d time.Duration) { c.past.Add(int64(d)) }

// journal is what happened, in its order.
type journal struct {
	mu     sync.Mutex
	events []string
}

func (j *journal) add(event string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, event)
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.events)
}

// recorder is a signer in memory. Its functions, where set, run before anything is noted.
type recorder struct {
	journal    *journal
	trust      atomic.Pointer[client.Trust]
	onIntent   func() error
	onComplete func() error
	onRefuse   func()
	onSeal     func(*seal.Chunk) error
	delivery   *receipt.Delivery // of calls whose clients get it
	lookup     func(job, nonce string) (*receipt.Delivery, error)

	mu       sync.Mutex
	intents  []*record.Intent
	refusals []*record.Refusal
	sealed   []*seal.Chunk
	done     chan *record.Completion
}

func (r *recorder) Begin(_ context.Context, i *record.Intent) func(context.Context) error {
	return func(context.Context) error { return r.intent(i) }
}

func (r *recorder) intent(i *record.Intent) error {
	if r.onIntent != nil {
		if err := r.onIntent(); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.intents = append(r.intents, i)
	r.mu.Unlock()
	r.journal.add("intent")
	return nil
}

func (r *recorder) Complete(ctx context.Context, i *record.Intent, c *record.Completion) error {
	if r.onComplete != nil {
		if err := r.onComplete(); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if i.ID != c.ID {
		return errors.New("the completion is of another intent")
	}
	r.journal.add("complete")
	r.done <- c
	return nil
}

func (r *recorder) Seal(_ context.Context, c *seal.Chunk) error {
	if r.onSeal != nil {
		if err := r.onSeal(c); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sealed = append(r.sealed, c)
	r.journal.add("sealed " + c.Direction.String())
	return nil
}

func (r *recorder) Deliver(ctx context.Context, i *record.Intent, c *record.Completion) (*receipt.Delivery, error) {
	if err := r.Complete(ctx, i, c); err != nil {
		return nil, err
	}
	return r.delivery, nil
}

func (r *recorder) Lookup(_ context.Context, job, nonce string) (*receipt.Delivery, error) {
	return r.lookup(job, nonce)
}

func (r *recorder) Refuse(f *record.Refusal) {
	if r.onRefuse != nil {
		r.onRefuse()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refusals = append(r.refusals, f)
}

func (r *recorder) Trust() *client.Trust { return r.trust.Load() }
func (r *recorder) Ready() error         { return nil }

func (r *recorder) left() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.intents)
}

// completion waits for the next completion.
func (r *recorder) completion(t *testing.T) *record.Completion {
	t.Helper()
	select {
	case c := <-r.done:
		return c
	case <-time.After(patience):
		t.Fatal("no completion was recorded")
		return nil
	}
}

// registry serves envelopes by hash.
type registry struct {
	calls atomic.Int32
	fetch func(hash string) (*envelope.Envelope, error)
}

func (r *registry) Fetch(_ context.Context, hash string) (*envelope.Envelope, error) {
	r.calls.Add(1)
	return r.fetch(hash)
}

// fixture is a gate with everything it needs, real where it decides and fake where it records.
type fixture struct {
	t        testing.TB
	gate     *Gate
	clock    *clock
	journal  *journal
	recorder *recorder
	registry *registry
	metrics  *prometheus.Registry
	key      *keyring.Key // signs tokens
	author   *keyring.Key // signs contracts
	contract *envelope.Envelope
	setTrust func(s trust.State)
}

const contractDoc = `{"policy_kind":"wpc","policy_version":"v1","policy_id":"gate-test","intent":"One small model",
 "agent_runtime":"test","tools":{"allow":["provider:sallyport/openai"],"deny":["tool:shell.exec"]},
 "models":[{"provider":"openai","models":["gpt-small"]}],"egress":{"default":"deny"},
 "secrets":{"minting":"cst_required","allowed_secret_classes":["openai_key"],"max_ttl_seconds":900},
 "auth":{"pin_policy_hash":true},"model_calls":{"must_route_via":"sallyport","receipts_required":true}}`

func newFixture(t testing.TB, change ...func(*Config)) *fixture {
	t.Helper()
	key, err := keyring.Generate(strings.NewReader(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	author, err := keyring.Generate(strings.NewReader(strings.Repeat("a", 32)))
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, clock: &clock{}, journal: &journal{}, metrics: prometheus.NewRegistry(), key: key, author: author}
	f.publish(contractDoc)
	f.recorder = &recorder{journal: f.journal, done: make(chan *record.Completion, 64)}
	f.registry = &registry{fetch: func(hash string) (*envelope.Envelope, error) {
		if hash != f.contract.PayloadHashB64u {
			return nil, ErrNoContract
		}
		return f.contract, nil
	}}
	version := uint64(0)
	f.setTrust = func(s trust.State) {
		version++
		s.Version, s.Keys = version, []keyring.VerifyKey{{KID: key.KID(), Public: key.Public()}}
		f.recorder.trust.Store(client.NewTrust(s, f.clock.Now()))
	}
	f.setTrust(trust.State{})
	secrets, err := secret.New([]secret.Class{{Name: "openai_key", Source: secret.Static(realKey), Hosts: []string{"api.example"}}}, secret.WithClock(f.clock.Now))
	if err != nil {
		t.Fatal(err)
	}
	open := up(t, "openai", "openai", "openai", "https://api.example")
	open.SecretClass = "openai_key"
	cfg := Config{
		Upstreams: []Upstream{open}, Audience: []string{"gate.example"}, TrustedContractSigners: []string{author.DID()},
		Registry: f.registry, Replay: replay.NewMemory(f.clock.Now), Secrets: secrets, Signer: f.recorder,
		Log: slog.New(slog.DiscardHandler), Metrics: f.metrics, Now: f.clock.Now,
	}
	for _, c := range change {
		c(&cfg)
	}
	if f.gate, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	return f
}

// publish makes doc the contract of the registry and of further tokens.
func (f *fixture) publish(doc string) {
	f.t.Helper()
	env, err := contract.Sign(json.RawMessage(doc), f.author, start)
	if err != nil {
		f.t.Fatal(err)
	}
	f.contract = env
}

// token is good for the contract, unless change makes it otherwise.
func (f *fixture) token(change ...func(*token.Claims)) string {
	f.t.Helper()
	c := token.Claims{
		Sub: "did:web:agent.example", Aud: token.Audience{"gate.example"}, Scope: []string{"proxy:call"},
		Iat: start.Unix(), Exp: start.Add(time.Hour).Unix(), PolicyHash: f.contract.PayloadHashB64u,
	}
	for _, ch := range change {
		ch(&c)
	}
	raw, err := token.Issue(f.key, c)
	if err != nil {
		f.t.Fatal(err)
	}
	return raw
}

// metric sums the samples of a counter that have all the given label values.
func (f *fixture) metric(name string, labels ...string) float64 {
	f.t.Helper()
	families, err := f.metrics.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	sum := 0.0
	for _, fam := range families {
		if fam.GetName() != name {
			continue
		}
		for _, m := range fam.GetMetric() {
			values := []string{}
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(values, l) }) {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}
