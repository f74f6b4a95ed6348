package gate

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"sallyport/signer/code"
	"sallyport/signer/contract"
	"sallyport/signer/envelope"
)

// ErrNoContract is what a Fetcher returns for a hash that its registry does not have.
var ErrNoContract = errors.New("contract not in the registry")

// Fetcher gets a contract's signed envelope by its hash. What it returns is verified here; a fetcher is not believed.
type Fetcher interface {
	Fetch(ctx context.Context, hash string) (*envelope.Envelope, error)
}

const (
	// maxContracts bounds the cache; a contract is some KiB, so this is tens of MiB at most.
	maxContracts = 16384
	// refusalMemory is how long a failed fetch is remembered, so that a job pinned to a missing contract
	// does not turn each of its calls into a fetch.
	refusalMemory = time.Second
	fetchTimeout  = 2 * time.Second
)

// contracts holds the verified contracts. A contract is immutable and addressed by its hash, so an entry never goes stale.
type contracts struct {
	fetch   Fetcher
	trusted []string
	now     func() time.Time
	log     *slog.Logger

	flight singleflight.Group
	mu     sync.RWMutex
	good   map[string]*contract.Contract
	bad    map[string]badContract
}

type badContract struct {
	denial *code.Denial
	until  time.Time
}

func newContracts(f Fetcher, trusted []string, now func() time.Time, log *slog.Logger) *contracts {
	return &contracts{fetch: f, trusted: trusted, now: now, log: log, good: map[string]*contract.Contract{}, bad: map[string]badContract{}}
}

// get returns the verified contract of the given hash, fetching it at first use.
func (c *contracts) get(ctx context.Context, hash string) (*contract.Contract, *code.Denial) {
	if good, d := c.known(hash); good != nil || d != nil {
		return good, d
	}
	type result struct {
		c *contract.Contract
		d *code.Denial
	}
	// The flight outlives the caller that began it: another may be waiting for the same contract.
	v, _, _ := c.flight.Do(hash, func() (any, error) {
		// An earlier flight may have ended since this caller looked.
		if good, d := c.known(hash); good != nil || d != nil {
			return result{good, d}, nil
		}
		fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		got, d := c.load(fctx, hash)
		c.remember(hash, got, d)
		return result{got, d}, nil
	})
	r := v.(result)
	return r.c, r.d
}

// known is what is remembered of a hash: a contract, a refusal that still holds, or neither.
func (c *contracts) known(hash string) (*contract.Contract, *code.Denial) {
	c.mu.RLock()
	good, bad := c.good[hash], c.bad[hash]
	c.mu.RUnlock()
	if good == nil && bad.denial != nil && c.now().Before(bad.until) {
		return nil, bad.denial
	}
	return good, nil
}

func (c *contracts) load(ctx context.Context, hash string) (*contract.Contract, *code.Denial) {
	env, err := c.fetch.Fetch(ctx, hash)
	switch {
	case errors.Is(err, ErrNoContract):
		c.log.Warn("contract fetch", "policy_hash", hash, "verdict", code.WPCNotFound)
		return nil, code.Deny(code.WPCNotFound, "%s", hash)
	case err != nil:
		c.log.Error("contract fetch", "policy_hash", hash, "verdict", code.RegistryDown, "error", err)
		return nil, code.Deny(code.RegistryDown, "")
	}
	got, d := contract.Verify(env, hash, c.trusted)
	if d != nil {
		c.log.Warn("contract fetch", "policy_hash", hash, "signer", env.SignerDID, "verdict", d.Code, "detail", d.Detail)
		return nil, d
	}
	c.log.Info("contract fetch", "policy_hash", hash, "signer", env.SignerDID, "policy_id", got.PolicyID, "verdict", "verified")
	return got, nil
}

func (c *contracts) remember(hash string, good *contract.Contract, d *code.Denial) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d != nil {
		evictOne(c.bad, maxContracts)
		c.bad[hash] = badContract{denial: d, until: c.now().Add(refusalMemory)}
		return
	}
	delete(c.bad, hash)
	evictOne(c.good, maxContracts)
	c.good[hash] = good
}

// evictOne makes room in a full map by dropping any entry: with immutable entries the cost of a wrong guess is one fetch.
func evictOne[K comparable, V any](m map[K]V, limit int) {
	if len(m) < limit {
		return
	}
	for k := range m {
		delete(m, k)
		return
	}
}
