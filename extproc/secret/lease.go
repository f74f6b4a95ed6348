package secret

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of fetching.
const (
	// DefaultFetchTimeout is the longest that a fetch may take, and so the longest that a call waits for one.
	DefaultFetchTimeout = 10 * time.Second
	// renewBefore is how long before its end a credential is no longer given without asking for another, so that none
	// ends on its way; of short lives it is a quarter.
	renewBefore = 5 * time.Second
	// renewFrom and renewSpread say at which part of its life a credential in use is renewed in the background: somewhere
	// from 60 to 80 percent, so that replicas that began together do not ask together.
	renewFrom, renewSpread = 0.6, 0.2
	// firstRest and longestRest are how long a source that failed is left alone while a credential is at hand.
	firstRest, longestRest = time.Second, 30 * time.Second
	// givenUpAfter is how long calls that have a credential which was replaced may take to send it, before it is revoked.
	givenUpAfter = time.Minute
)

// ErrWithdrawn is in the error of a source that answered, and has no credential any more: what is at hand is dropped.
var ErrWithdrawn = errors.New("the source has no such credential")

// errClosed is what a broker gives that was closed.
var errClosed = errors.New("the gateway is ending")

// Lessor is a source whose credentials can be prolonged and given back. Both take Credential.Lease.
type Lessor interface {
	Source
	// Renew says until when the credential may be used from now on. An error leaves its end as it was.
	Renew(ctx context.Context, lease string) (time.Time, error)
	// Revoke ends the credential at the source.
	Revoke(ctx context.Context, lease string) error
}

// closer is a source that has something of its own to give back, such as a login.
type closer interface {
	Close(ctx context.Context) error
}

// held is a class and the credential that is at hand.
type held struct {
	Class
	b    *Broker
	kept atomic.Pointer[lease]

	mu       sync.Mutex
	flying   *flight
	restTill time.Time // the source failed, and is left alone until then while a credential is at hand
	rest     time.Duration
	replaced []replaced
	over     bool // what a flight still brings is given back

	jobs *jobs // of the class itself
}

// lease is a credential with an end of its own.
type lease struct {
	cred    Credential
	fetched time.Time // when it was made; the TTLs count from here
	renewed time.Time // when it was fetched or last renewed
	part    float64   // of its life, after which it is renewed
}

// replaced is a lease that stands at the source still, and since when it is given to no call.
type replaced struct {
	cred Credential
	at   time.Time
}

// flight is a fetch on its way, for all who wait.
type flight struct {
	done  chan struct{}
	lease *lease
	err   error
}

// credential is the one at hand while it is good, else a fresh one. Local sources are asked every time: they keep what
// they know, and notice what changed.
func (h *held) credential(ctx context.Context, maxTTL time.Duration) (Credential, error) {
	if _, ok := h.Source.(local); ok {
		l, err := h.fetch(ctx)
		if err != nil {
			return Credential{}, err
		}
		return h.bounded(l.cred, l.fetched, maxTTL), nil
	}
	at, seen := h.b.now(), h.kept.Load()
	last, renewAt, waitAt := h.atHand(maxTTL)
	if at.Before(waitAt) {
		if !at.Before(renewAt) && !h.resting(at) {
			h.fly(maxTTL, seen)
		}
		return last, nil
	}
	if at.Before(last.Expires) && h.resting(at) {
		return last, nil
	}
	for range 2 { // the fetch that was on its way may have prolonged what this contract holds for too old
		f := h.fly(maxTTL, seen)
		select {
		case <-f.done:
		case <-ctx.Done():
			return Credential{}, ctx.Err()
		}
		if f.err != nil {
			if last, _, _ := h.atHand(maxTTL); h.b.now().Before(last.Expires) {
				return last, nil // its last seconds are as good as the others
			}
			return Credential{}, f.err
		}
		seen = f.lease
		if c := h.bounded(f.lease.cred, f.lease.fetched, maxTTL); c.Expires.IsZero() || h.b.now().Before(c.Expires) {
			return c, nil
		}
	}
	return Credential{}, errors.New("the source gives none that is young enough")
}

// atHand is the kept credential, from when on it is renewed while calls go on, and from when on calls wait for that.
// Without one all are zero.
func (h *held) atHand(maxTTL time.Duration) (cred Credential, renewAt, waitAt time.Time) {
	k := h.kept.Load()
	if k == nil {
		return Credential{}, time.Time{}, time.Time{}
	}
	cred = h.bounded(k.cred, k.fetched, maxTTL)
	end := cred.Expires
	if look := k.renewed.Add(2 * k.cred.Refresh); k.cred.Refresh > 0 && (end.IsZero() || look.Before(end)) {
		end = look
	}
	if cred.Expires.IsZero() {
		cred.Expires = end // nothing that is kept is kept for ever
	}
	life := end.Sub(k.renewed)
	return cred, k.renewed.Add(time.Duration(float64(life) * k.part)), end.Add(-min(renewBefore, life/4))
}

func (h *held) resting(at time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return at.Before(h.restTill)
}

// fly joins the fetch that is on its way, or starts one. It does not end with the call that began it. Where another lease is at
// hand than the caller has seen, a fetch has landed meanwhile, and what it brought is as good as another.
func (h *held) fly(maxTTL time.Duration, seen *lease) *flight {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.flying != nil {
		return h.flying
	}
	f := &flight{done: make(chan struct{})}
	if k := h.kept.Load(); k != nil && k != seen {
		f.lease = k
		close(f.done)
		return f
	}
	if !h.b.begin() {
		f.err = errClosed
		close(f.done)
		return f
	}
	h.flying = f
	go func() {
		defer h.b.flights.Done()
		ctx, cancel := context.WithTimeout(h.b.life, h.b.timeout)
		defer cancel()
		l, err := h.obtain(ctx, maxTTL)
		h.land(ctx, f, l, err)
	}()
	return f
}

// obtain prolongs the lease at hand where that gives it more life, or fetches a new credential.
func (h *held) obtain(ctx context.Context, maxTTL time.Duration) (l *lease, err error) {
	defer func() {
		if p := recover(); p != nil { // what it says may quote the credential
			l, err = nil, errors.New("the source failed in an unforeseen way")
		}
	}()
	if l := h.prolong(ctx, maxTTL); l != nil {
		return l, nil
	}
	return h.fetch(ctx)
}

// prolong is nil where there is no lease to renew, or where another credential would live longer.
func (h *held) prolong(ctx context.Context, maxTTL time.Duration) *lease {
	lessor, ok := h.Source.(Lessor)
	k := h.kept.Load()
	now := h.b.now()
	if !ok || k == nil || !k.cred.Renewable || !now.Before(k.cred.Expires) {
		return nil
	}
	if h.bounded(k.cred, k.fetched, maxTTL).Expires.Before(k.cred.Expires) {
		return nil // it is the TTL that ends it
	}
	end, err := lessor.Renew(ctx, k.cred.Lease)
	if err != nil {
		return nil
	}
	next := *k
	next.cred.Expires, next.renewed, next.part = end, now, h.b.part()
	if h.bounded(next.cred, next.fetched, maxTTL).Expires.Sub(now) < k.cred.Expires.Sub(k.renewed)/2 {
		return nil // the source no longer gives it a whole term
	}
	return &next
}

func (h *held) fetch(ctx context.Context) (*lease, error) {
	at := h.b.now()
	cred, err := h.Source.Fetch(ctx)
	if err != nil {
		return nil, err
	}
	if err := usable(cred.Value); err != nil {
		return nil, errors.Join(err, h.revoke(ctx, cred))
	}
	if !cred.Expires.IsZero() && !h.b.now().Before(cred.Expires) {
		return nil, errors.New("the source gave a credential that has expired")
	}
	return &lease{cred: cred, fetched: at, renewed: at, part: h.b.part()}, nil
}

// land keeps what a flight brought, and tells those who wait.
func (h *held) land(ctx context.Context, f *flight, l *lease, err error) {
	now := h.b.now()
	h.mu.Lock()
	var ended []replaced
	if err == nil {
		if old := h.kept.Load(); old != nil && old.cred.Lease != "" && old.cred.Lease != l.cred.Lease {
			h.replaced = append(h.replaced, replaced{old.cred, now})
		}
		h.restTill, h.rest = time.Time{}, 0
		if !l.cred.Expires.IsZero() || l.cred.Refresh > 0 {
			h.kept.Store(l)
		}
		ended = h.takeReplaced(now.Add(-givenUpAfter))
		if h.over {
			h.kept.Store(nil)
			ended = append(ended, replaced{l.cred, now})
		}
	} else {
		h.rest = min(max(2*h.rest, firstRest), longestRest)
		h.restTill = now.Add(time.Duration(float64(h.rest) * (h.b.part() + renewSpread)))
		if errors.Is(err, ErrWithdrawn) {
			h.kept.Store(nil)
		}
	}
	f.lease, f.err = l, err
	h.flying = nil
	close(f.done)
	h.mu.Unlock()
	if err != nil {
		h.b.log.WarnContext(ctx, "secret class could not be renewed; what is at hand is used to its end",
			slog.String("class", h.Name), slog.String("source", h.Source.String()), slog.Any("error", err))
	}
	for _, r := range ended {
		if err := h.revoke(ctx, r.cred); err != nil {
			h.b.log.WarnContext(ctx, "a lease could not be revoked and ends by itself", slog.String("class", h.Name), slog.Any("error", err))
		}
	}
}

// takeReplaced removes what was replaced before the given time, and returns what of it has not ended by itself.
func (h *held) takeReplaced(before time.Time) []replaced {
	var stay, ended []replaced
	for _, r := range h.replaced {
		switch {
		case r.at.After(before):
			stay = append(stay, r)
		case r.cred.Expires.IsZero() || h.b.now().Before(r.cred.Expires):
			ended = append(ended, r)
		}
	}
	h.replaced = stay
	return ended
}

func (h *held) revoke(ctx context.Context, c Credential) error {
	lessor, ok := h.Source.(Lessor)
	if !ok || c.Lease == "" {
		return nil
	}
	return lessor.Revoke(ctx, c.Lease)
}

// take removes what is at hand, for good, and returns what of it stands at the source.
func (h *held) take() []replaced {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	all := h.takeReplaced(h.b.now())
	if k := h.kept.Swap(nil); k != nil && k.cred.Lease != "" && (k.cred.Expires.IsZero() || h.b.now().Before(k.cred.Expires)) {
		all = append(all, replaced{k.cred, h.b.now()})
	}
	return all
}

// revokeAll returns what could not be revoked, with the reasons.
func (h *held) revokeAll(ctx context.Context, all []replaced) (left []replaced, err error) {
	var errs []error
	for _, r := range all {
		if err := h.revoke(ctx, r.cred); err != nil {
			left, errs = append(left, r), append(errs, err)
		}
	}
	return left, errors.Join(errs...)
}

// close gives back what the class holds at its source, and the jobs that have their own of it.
func (h *held) close(ctx context.Context) error {
	all := h.take()
	for _, job := range h.jobs.takeOver(h.b.now(), true) {
		all = append(all, job.take()...)
	}
	_, err := h.revokeAll(ctx, all)
	errs := []error{err}
	if c, ok := h.Source.(closer); ok {
		errs = append(errs, c.Close(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("secret class %q (%s): %w", h.Name, h.Source, err)
	}
	return nil
}

// bounded ends a credential at the least of its lease, the class's TTL and the contract's.
func (h *held) bounded(cred Credential, fetched time.Time, maxTTL time.Duration) Credential {
	for _, ttl := range []time.Duration{h.TTL, maxTTL} {
		if end := fetched.Add(ttl); ttl > 0 && (cred.Expires.IsZero() || end.Before(cred.Expires)) {
			cred.Expires = end
		}
	}
	return cred
}

// part is the part of a credential's life after which it is renewed.
func (b *Broker) part() float64 { return renewFrom + renewSpread*rand.Float64() }

// begin counts a flight, unless the broker was closed.
func (b *Broker) begin() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.flights.Add(1)
	return true
}
