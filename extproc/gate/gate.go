// Package gate is the ext_proc server: for each request that Envoy carries it finds the token, the contract and the
// question, decides, swaps the credential and leaves the record. What Envoy really does at each step, and why a stream
// is never closed cleanly before a verdict, was measured on Envoy 1.40.0 and is noted where it matters.
package gate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sallyport/extproc/replay"
	"sallyport/extproc/secret"
	"sallyport/extproc/server"
	"sallyport/signer/client"
	"sallyport/signer/privacy"
	"sallyport/signer/privacy/seal"
	"sallyport/signer/receipt"
	"sallyport/signer/record"
)

// Defaults of Config.
const (
	// DefaultMaxBodyBytes fits the largest prompts that models take today, and is what Envoy's own limit is set to.
	DefaultMaxBodyBytes = 32 << 20
	// DefaultStaleness is how old the last word on keys and revocations may be before everything is refused.
	DefaultStaleness = 5 * time.Second
	// DefaultAdmitTimeout bounds all waiting before a verdict. Envoy's message_timeout must be larger.
	DefaultAdmitTimeout = 3 * time.Second
	// DefaultSettleTimeout bounds the wait for a receipt before the last byte is withheld for good.
	DefaultSettleTimeout = 5 * time.Second
	// cutTimeout bounds the effort to record a call that nobody waits for any more.
	cutTimeout = 30 * time.Second
	// messageOverhead is what a body message carries besides the body.
	messageOverhead = 1 << 20
)

// What a token may be bound to at its first use, for Config.Binding.
const (
	BindRunID       = "run_id"       // X-Run-Id
	BindPeerAddress = "peer_address" // the client's address, without port
)

// Recorder is the signer as the gate sees it.
type Recorder interface {
	// Begin sends an intent; wait, called once, returns nil only when the intent will survive the death of any process.
	Begin(ctx context.Context, i *record.Intent) (wait func(context.Context) error)
	// Complete returns nil only when the receipt is as durable as the evidence mode promises.
	Complete(ctx context.Context, i *record.Intent, c *record.Completion) error
	// Seal returns nil only when a sealed part of a body is in the log, before what is recorded later.
	Seal(ctx context.Context, c *seal.Chunk) error
	// Deliver is Complete for a call whose client gets the receipt with the answer: nil where it is recorded and not at hand.
	Deliver(ctx context.Context, i *record.Intent, c *record.Completion) (*receipt.Delivery, error)
	// Lookup finds the receipt of a job's call by its nonce (client.ErrNoReceipt, client.ErrInFlight).
	Lookup(ctx context.Context, job, nonce string) (*receipt.Delivery, error)
	// Refuse hands over a refusal; it does not wait.
	Refuse(r *record.Refusal)
	// Trust is the newest word on keys and revocations; nil before the first.
	Trust() *client.Trust
	// Ready says why nothing can be recorded now, or nil.
	Ready() error
}

// Config is what a gate needs. Zero durations and sizes mean the defaults.
type Config struct {
	Upstreams              []Upstream
	Audience               []string // audiences that a token may name, any of
	TrustedContractSigners []string // did:key; empty means that no contract is trusted
	Registry               Fetcher
	Replay                 replay.Store
	Secrets                *secret.Broker
	Signer                 Recorder
	Binding                []string // BindRunID, BindPeerAddress
	// RedactionSecret is what contracts' hash rules are carried out with; nil refuses the calls under such a contract.
	RedactionSecret *privacy.Secret
	// AuditorKeys are whom bodies are sealed to, all of them; empty refuses the calls whose bodies are to be sealed.
	AuditorKeys []*seal.PublicKey
	// AddressAllowed says whether an address may be reached for which a contract names these prefixes; nil: none may.
	AddressAllowed func(netip.Addr, []netip.Prefix) bool
	MaxBodyBytes   int64
	Staleness      time.Duration
	AdmitTimeout   time.Duration
	SettleTimeout  time.Duration
	Log            *slog.Logger
	Metrics        prometheus.Registerer
	Now            func() time.Time // nil means time.Now
}

// Validate names everything that is missing, at once.
func (c *Config) Validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("gate: "+what))
		}
	}
	need(len(c.Upstreams) > 0, "no upstream is configured")
	need(len(c.Audience) > 0, "no audience is configured: set the name that tokens are issued for")
	need(len(c.TrustedContractSigners) > 0, "no contract signer is trusted, so no contract could be")
	need(c.Registry != nil, "no contract registry")
	need(c.Replay != nil, "no replay store")
	need(c.Secrets != nil, "no secret classes")
	need(c.Signer != nil, "no signer")
	need(c.Log != nil, "no log")
	need(c.Metrics != nil, "no metrics registry")
	for _, b := range c.Binding {
		need(b == BindRunID || b == BindPeerAddress, fmt.Sprintf("unknown job binding %q: use %s, %s", b, BindRunID, BindPeerAddress))
	}
	return errors.Join(errs...)
}

func (c *Config) defaults() {
	if c.MaxBodyBytes == 0 {
		c.MaxBodyBytes = DefaultMaxBodyBytes
	}
	if c.Staleness == 0 {
		c.Staleness = DefaultStaleness
	}
	if c.AdmitTimeout == 0 {
		c.AdmitTimeout = DefaultAdmitTimeout
	}
	if c.SettleTimeout == 0 {
		c.SettleTimeout = DefaultSettleTimeout
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// Gate serves Envoy's external processing protocol.
type Gate struct {
	cfg       Config
	doors     *doors
	contracts *contracts
	tokens    *tokens
	metrics   *metrics
	workers   *workers
	bindings  *bindings
	outside   *door // of the hosts that are no provider's
	lines     *lines
	settling  *deadlines // waits for a receipt
	watch     *watch
}

// New makes a gate; it holds no goroutine until a call has to wait for something.
func New(cfg Config) (*Gate, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.defaults()
	d, err := newDoors(cfg.Upstreams)
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	for _, dr := range d.inTurn {
		dr.observed = m.of(dr.Provider)
	}
	g := &Gate{
		cfg:       cfg,
		doors:     d,
		contracts: newContracts(cfg.Registry, cfg.TrustedContractSigners, cfg.Now, cfg.Log),
		tokens:    newTokens(cfg.Audience),
		metrics:   m,
		workers:   newWorkers(),
		bindings:  newBindings(),
		outside:   newOutside(m),
		lines:     &lines{},
		settling:  &deadlines{after: cfg.SettleTimeout},
	}
	g.watch = newWatch(cfg.Signer.Trust, cfg.Now, g.tokens.renewed)
	return g, nil
}

// Serve answers on the listener until ctx ends, then lets open exchanges finish for a moment and returns.
func (g *Gate) Serve(ctx context.Context, lis net.Listener) error {
	return server.New(server.Config{
		Open:       g.Open,
		MaxMessage: int(g.cfg.MaxBodyBytes) + messageOverhead,
		Grace:      g.cfg.SettleTimeout,
		Log:        g.cfg.Log,
	}).Serve(ctx, lis)
}

// Ready says why a call could not pass now, or nil.
func (g *Gate) Ready(ctx context.Context) error {
	errs := []error{g.cfg.Signer.Ready(), g.cfg.Replay.Ready(ctx)}
	if t := g.cfg.Signer.Trust(); t == nil || t.Age(g.cfg.Now()) > g.cfg.Staleness {
		errs = append(errs, errors.New("no recent word on keys and revocations from the signer"))
	}
	return errors.Join(errs...)
}
