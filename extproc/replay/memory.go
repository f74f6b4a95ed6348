package replay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// MaxMemoryEntries bounds the memory store at some 1 GB. A full store refuses; it never forgets to make room.
	MaxMemoryEntries = 4 << 20
	// sweepPerClaim is how many expired entries one claim clears away at most: more than it can add, so that a place
	// in use never grows beyond what is alive.
	sweepPerClaim = 8
)

var errClosed = fmt.Errorf("%w: closed", ErrUnavailable)

// Memory is the store of a gateway that is alone: it is gone with the process.
type Memory struct {
	now    func() time.Time
	since  int64 // second from which on every used nonce is known
	max    int64 // entries
	live   atomic.Int64
	closed atomic.Bool
	places [tags]place
}

var _ Store = (*Memory)(nil)

// place is one lock and what lies behind it.
type place struct {
	mu      sync.Mutex
	entries map[string]*entry
	expiry  expiryHeap
}

// entry is a binding, a used nonce or an idempotency key, by its key's first letter.
type entry struct {
	expires     time.Time
	holder      string // request that took it; for a binding, the binder's digest
	fingerprint string // idempotency keys only, as the rest
	done        bool
	status      int
	receipt     string
}

// NewMemory makes a store that tells the time by now; nil means time.Now.
func NewMemory(now func() time.Time) *Memory {
	if now == nil {
		now = time.Now
	}
	m := &Memory{now: now, since: now().Unix(), max: MaxMemoryEntries}
	for i := range m.places {
		m.places[i].entries = map[string]*entry{}
	}
	return m
}

// Name is "memory".
func (m *Memory) Name() string { return "memory" }

// Ready fails once the store is closed or full.
func (m *Memory) Ready(context.Context) error {
	if m.closed.Load() {
		return errClosed
	}
	if m.live.Load() < m.max {
		return nil
	}
	m.sweepAll() // places that nobody uses keep what has expired
	if m.live.Load() < m.max {
		return nil
	}
	return fmt.Errorf("%w: %d entries are alive, which is the limit", ErrUnavailable, m.max)
}

func (m *Memory) sweepAll() {
	now := m.now()
	for i := range m.places {
		p := &m.places[i]
		p.mu.Lock()
		m.live.Add(-int64(p.sweep(now, len(p.expiry))))
		p.mu.Unlock()
	}
}

// Close makes every later claim fail.
func (m *Memory) Close() error {
	m.closed.Store(true)
	return nil
}

// Claim implements Store.
func (m *Memory) Claim(ctx context.Context, c Claim) (Result, error) {
	if err := errors.Join(c.Validate(), m.Ready(ctx), ctx.Err()); err != nil {
		return Result{}, err
	}
	n := c.names()
	p := &m.places[n.tag]
	p.mu.Lock()
	defer p.mu.Unlock()
	now := m.now()
	m.live.Add(-int64(p.sweep(now, sweepPerClaim)))
	if r := p.refusal(&c, &n, now, m.since); r.Status != OK {
		return r, nil
	}
	before := len(p.entries)
	p.take(&c, &n, now)
	m.live.Add(int64(len(p.entries) - before))
	return Result{Status: OK}, nil
}

// Settle implements Store.
func (m *Memory) Settle(ctx context.Context, c Claim, o Outcome) error {
	if err := errors.Join(c.validateSettle(o), ctx.Err()); err != nil {
		return err
	}
	if m.closed.Load() {
		return errClosed
	}
	n := c.names()
	p := &m.places[n.tag]
	p.mu.Lock()
	defer p.mu.Unlock()
	now := m.now()
	before := len(p.entries)
	p.settle(&c, &n, o, now)
	m.live.Add(int64(len(p.entries) - before))
	return nil
}

// get finds an entry that is still alive.
func (p *place) get(key string, now time.Time) *entry {
	if e := p.entries[key]; e != nil && now.Before(e.expires) {
		return e
	}
	return nil
}

// refusal is the rules, in the order of the script.
func (p *place) refusal(c *Claim, n *names, now time.Time, since int64) Result {
	if n.binding != "" {
		if e := p.get(n.binding, now); e != nil && e.holder != n.binder {
			return Result{Status: BindingMismatch}
		}
	}
	if n.nonce != "" {
		e := p.get(n.nonce, now)
		switch {
		case e != nil && e.holder != c.RequestID:
			return Result{Status: NonceUsed, Holder: e.holder}
		case e == nil && !c.IssuedAt.IsZero() && c.IssuedAt.Unix() < since:
			return Result{Status: NonceUsed}
		}
	}
	if n.idem != "" {
		if e := p.get(n.idem, now); e != nil {
			switch {
			case e.fingerprint != n.fingerprint:
				return Result{Status: IdemMismatch, Holder: e.holder}
			case e.done:
				return Result{Status: IdemDone, Holder: e.holder, ReceiptID: e.receipt, UpstreamStatus: e.status}
			case e.holder != c.RequestID:
				return Result{Status: IdemInFlight, Holder: e.holder}
			}
		}
	}
	return Result{Status: OK}
}

func (p *place) take(c *Claim, n *names, now time.Time) {
	if n.binding != "" {
		expires := now.Add(c.BindTTL)
		if e := p.get(n.binding, now); e == nil {
			p.put(n.binding, &entry{holder: n.binder, expires: expires})
		} else if e.expires.Before(expires) {
			e.expires = expires // its place in the heap is corrected when it comes up
		}
	}
	if n.nonce != "" {
		p.put(n.nonce, &entry{holder: c.RequestID, expires: now.Add(c.NonceTTL)})
	}
	if n.idem != "" {
		p.put(n.idem, &entry{holder: c.RequestID, fingerprint: n.fingerprint, expires: now.Add(c.IdemTTL)})
	}
}

func (p *place) settle(c *Claim, n *names, o Outcome, now time.Time) {
	e := p.get(n.idem, now)
	switch {
	case e != nil && (e.holder != c.RequestID || e.done): // another's by now, or settled already
	case o.Released:
		delete(p.entries, n.idem)
	default:
		p.put(n.idem, &entry{
			holder: c.RequestID, fingerprint: n.fingerprint, expires: now.Add(c.IdemTTL),
			done: true, status: o.Status, receipt: o.ReceiptID,
		})
	}
}
