package replaytest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/extproc/replay"
)

// Subject is a store under test.
type Subject struct {
	// Open gives another instance over the same memory, as another replica would have.
	Open func(t *testing.T) replay.Store
	// Pass lets the given time go by for the store.
	Pass func(d time.Duration)
}

const (
	short  = 40 * time.Millisecond // a life that a test waits out
	long   = time.Hour
	tokenA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	tokenB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

var requests atomic.Int64

// request makes a claim of a new request.
func request(change func(c *replay.Claim)) replay.Claim {
	c := replay.Claim{RequestID: fmt.Sprintf("rcpt_%d", requests.Add(1)), TokenHash: tokenA}
	change(&c)
	return c
}

func nonce(n string) replay.Claim {
	return request(func(c *replay.Claim) { c.Nonce, c.NonceTTL = n, long })
}

func bound(mission, binder string) replay.Claim {
	return request(func(c *replay.Claim) { c.Mission, c.Binder, c.BindTTL = mission, binder, long })
}

func idem(token, key, fingerprint string) replay.Claim {
	return request(func(c *replay.Claim) {
		c.TokenHash, c.IdemKey, c.IdemFingerprint, c.IdemTTL = token, key, fingerprint, long
	})
}

func with(c replay.Claim, change func(c *replay.Claim)) replay.Claim {
	change(&c)
	return c
}

// want claims and compares the status.
func want(t *testing.T, s replay.Store, c replay.Claim, status replay.Status) replay.Result {
	t.Helper()
	r, err := s.Claim(t.Context(), c)
	if err != nil {
		t.Fatalf("claim %+v: %v", c, err)
	}
	if r.Status != status {
		t.Fatalf("claim %+v: %v, want %v", c, r.Status, status)
	}
	return r
}

// Run holds a kind of store to the rules. subject gives an empty one for each test.
func Run(t *testing.T, subject func(t *testing.T) Subject) {
	tests := map[string]func(t *testing.T, s Subject){
		"a nonce passes once":                        nonceOnce,
		"1000 uses of 100 nonces, 100 pass":          nonceRace,
		"a nonce is free again after its life":       nonceExpires,
		"a nonce is scoped to its mission":           nonceScope,
		"a nonce from before the memory is used":     nonceForgotten,
		"the same request may claim again":           sameRequest,
		"a mission belongs to its first binder":      binding,
		"a binding outlives its last use":            bindingRenewed,
		"two binders race, one wins":                 bindingRace,
		"a refused claim takes nothing":              refusedTakesNothing,
		"an idempotency key in flight, done, reused": idempotency,
		"an idempotency key given back":              idempotencyReleased,
		"an idempotency key is its token's":          idempotencyScope,
		"only the holder settles":                    settleHolder,
		"a settled key is remembered anew":           settleExpired,
		"a claim without anything passes":            emptyClaim,
		"an invalid claim is an error":               invalidClaims,
		"an ended context is an error":               endedContext,
		"a closed store is an error":                 closedStore,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, subject(t)) })
	}
}

func nonceOnce(t *testing.T, s Subject) {
	a, b := s.Open(t), s.Open(t)
	first := nonce("n")
	want(t, a, first, replay.OK)
	if r := want(t, b, nonce("n"), replay.NonceUsed); r.Holder != first.RequestID {
		t.Errorf("holder %q, want the request that used it, %q", r.Holder, first.RequestID)
	}
	want(t, a, nonce("n"), replay.NonceUsed)
	want(t, a, nonce("m"), replay.OK)
}

func nonceRace(t *testing.T, s Subject) {
	const nonces, uses = 100, 10
	stores := []replay.Store{s.Open(t), s.Open(t)}
	var ok, used atomic.Int64
	passed := make([]atomic.Int64, nonces)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range nonces * uses {
		wg.Go(func() {
			c := nonce(fmt.Sprint("n", i%nonces))
			<-start
			r, err := stores[(i/nonces)%2].Claim(t.Context(), c)
			switch {
			case err != nil:
				t.Error(err)
			case r.Status == replay.OK:
				ok.Add(1)
				passed[i%nonces].Add(1)
			case r.Status == replay.NonceUsed:
				used.Add(1)
			}
		})
	}
	close(start)
	wg.Wait()
	if ok.Load() != nonces || used.Load() != nonces*(uses-1) {
		t.Errorf("%d passed and %d were refused as used, want %d and %d", ok.Load(), used.Load(), nonces, nonces*(uses-1))
	}
	for i := range passed {
		if n := passed[i].Load(); n != 1 {
			t.Errorf("nonce %d passed %d times", i, n)
		}
	}
}

func nonceExpires(t *testing.T, s Subject) {
	store := s.Open(t)
	brief := func() replay.Claim { return with(nonce("n"), func(c *replay.Claim) { c.NonceTTL = short }) }
	want(t, store, brief(), replay.OK)
	s.Pass(short)
	Await(t, "the nonce to be free", func(ctx context.Context) error {
		return is(ctx, store, brief(), replay.OK)
	})
}

func is(ctx context.Context, s replay.Store, c replay.Claim, status replay.Status) error {
	r, err := s.Claim(ctx, c)
	if err == nil && r.Status != status {
		err = fmt.Errorf("%v, want %v", r.Status, status)
	}
	return err
}

func nonceScope(t *testing.T, s Subject) {
	store := s.Open(t)
	of := func(mission, token string) replay.Claim {
		return with(nonce("n"), func(c *replay.Claim) { c.Mission, c.TokenHash = mission, token })
	}
	want(t, store, of("m1", tokenA), replay.OK)
	want(t, store, of("m2", tokenA), replay.OK)
	want(t, store, of("m1", tokenB), replay.NonceUsed) // another spelling of the token is no other token
}

func nonceForgotten(t *testing.T, s Subject) {
	store := s.Open(t)
	if err := store.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := with(nonce("n"), func(c *replay.Claim) { c.IssuedAt = time.Now().Add(-time.Minute) })
	if r := want(t, store, old, replay.NonceUsed); r.Holder != "" {
		t.Errorf("holder %q, want none: nobody knows", r.Holder)
	}
	want(t, store, with(nonce("n"), func(c *replay.Claim) { c.IssuedAt = time.Now().Add(time.Minute) }), replay.OK)
}

func sameRequest(t *testing.T, s Subject) {
	store := s.Open(t)
	c := with(nonce("n"), func(c *replay.Claim) {
		c.Mission, c.Binder, c.BindTTL = "m", "b", long
		c.IdemKey, c.IdemFingerprint, c.IdemTTL = "k", "f", long
	})
	want(t, store, c, replay.OK)
	want(t, store, c, replay.OK)
	want(t, store, with(c, func(c *replay.Claim) { c.RequestID += "x" }), replay.NonceUsed)
}

func binding(t *testing.T, s Subject) {
	a, b := s.Open(t), s.Open(t)
	want(t, a, bound("m", "run=1"), replay.OK)
	want(t, b, bound("m", "run=1"), replay.OK)
	want(t, b, bound("m", "run=2"), replay.BindingMismatch)
	want(t, b, bound("n", "run=2"), replay.OK)
	want(t, a, request(func(c *replay.Claim) { c.Mission = "m" }), replay.OK) // nothing to bind: not looked at
}

func bindingRenewed(t *testing.T, s Subject) {
	store := s.Open(t)
	brief := func(binder string, life time.Duration) replay.Claim {
		return with(bound("m", binder), func(c *replay.Claim) { c.BindTTL = life })
	}
	want(t, store, brief("b", short), replay.OK)
	want(t, store, brief("b", long), replay.OK)  // prolonged
	want(t, store, brief("b", short), replay.OK) // not shortened
	s.Pass(2 * short)
	want(t, store, brief("c", short), replay.BindingMismatch)

	want(t, store, with(brief("b", short), func(c *replay.Claim) { c.Mission = "n" }), replay.OK)
	s.Pass(short)
	Await(t, "the binding to end", func(ctx context.Context) error {
		return is(ctx, store, with(brief("c", short), func(c *replay.Claim) { c.Mission = "n" }), replay.OK)
	})
}

func bindingRace(t *testing.T, s Subject) {
	stores := []replay.Store{s.Open(t), s.Open(t)}
	var winners [2]atomic.Int64
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			r, err := stores[i%2].Claim(t.Context(), bound("m", fmt.Sprint("binder", i%2)))
			if err != nil {
				t.Error(err)
			} else if r.Status == replay.OK {
				winners[i%2].Add(1)
			}
		})
	}
	wg.Wait()
	if a, b := winners[0].Load(), winners[1].Load(); a+b != 100 || a*b != 0 {
		t.Errorf("binder 0 passed %d times and binder 1 %d times, want 100 of one and none of the other", a, b)
	}
}

func refusedTakesNothing(t *testing.T, s Subject) {
	store := s.Open(t)
	all := func(mission, binder, n, key, fingerprint string) replay.Claim {
		return with(nonce(n), func(c *replay.Claim) {
			c.Mission, c.Binder, c.BindTTL = mission, binder, long
			c.IdemKey, c.IdemFingerprint, c.IdemTTL = key, fingerprint, long
		})
	}
	want(t, store, all("m", "b", "n", "k", "f"), replay.OK)

	want(t, store, all("m", "thief", "n2", "k2", "f"), replay.BindingMismatch)
	want(t, store, all("m", "b", "n", "k3", "f"), replay.NonceUsed)
	want(t, store, all("m", "b", "n3", "k", "other"), replay.IdemMismatch)
	want(t, store, all("m", "b", "n4", "k", "f"), replay.IdemInFlight)

	for i, n := range []string{"n2", "n3", "n4"} {
		want(t, store, all("m", "b", n, fmt.Sprint("free", i), "f"), replay.OK)
	}
	for _, k := range []string{"k2", "k3"} {
		want(t, store, with(idem(tokenA, k, "f"), func(c *replay.Claim) { c.Mission = "m" }), replay.OK)
	}

	// Nor is a binding made by a claim that its nonce refuses.
	want(t, store, with(nonce("p"), func(c *replay.Claim) { c.Mission = "m5" }), replay.OK)
	want(t, store, all("m5", "late", "p", "k5", "f"), replay.NonceUsed)
	want(t, store, bound("m5", "owner"), replay.OK)
}

func idempotency(t *testing.T, s Subject) {
	a, b := s.Open(t), s.Open(t)
	first := idem(tokenA, "k", "f")
	want(t, a, first, replay.OK)
	if r := want(t, b, idem(tokenA, "k", "f"), replay.IdemInFlight); r.Holder != first.RequestID {
		t.Errorf("holder %q, want %q", r.Holder, first.RequestID)
	}
	want(t, b, idem(tokenA, "k", "g"), replay.IdemMismatch)
	settle(t, a, first, replay.Outcome{Status: 201, ReceiptID: first.RequestID})
	r := want(t, b, idem(tokenA, "k", "f"), replay.IdemDone)
	if r.ReceiptID != first.RequestID || r.UpstreamStatus != 201 {
		t.Errorf("receipt %q and status %d, want %q and 201", r.ReceiptID, r.UpstreamStatus, first.RequestID)
	}
	want(t, b, idem(tokenA, "k", "g"), replay.IdemMismatch)
}

func settle(t *testing.T, s replay.Store, c replay.Claim, o replay.Outcome) {
	t.Helper()
	if err := s.Settle(t.Context(), c, o); err != nil {
		t.Fatalf("settle %+v: %v", c, err)
	}
}

func idempotencyReleased(t *testing.T, s Subject) {
	a, b := s.Open(t), s.Open(t)
	first := idem(tokenA, "k", "f")
	want(t, a, first, replay.OK)
	settle(t, a, first, replay.Outcome{Released: true})
	want(t, b, idem(tokenA, "k", "g"), replay.OK)
}

func idempotencyScope(t *testing.T, s Subject) {
	store := s.Open(t)
	want(t, store, idem(tokenA, "k", "f"), replay.OK)
	want(t, store, idem(tokenB, "k", "f"), replay.OK)
}

func settleHolder(t *testing.T, s Subject) {
	store := s.Open(t)
	first := idem(tokenA, "k", "f")
	want(t, store, first, replay.OK)
	stranger := idem(tokenA, "k", "f")
	settle(t, store, stranger, replay.Outcome{Released: true})
	settle(t, store, stranger, replay.Outcome{Status: 200, ReceiptID: stranger.RequestID})
	want(t, store, idem(tokenA, "k", "f"), replay.IdemInFlight)
	settle(t, store, first, replay.Outcome{Status: 200, ReceiptID: first.RequestID})
	settle(t, store, first, replay.Outcome{Released: true}) // too late
	want(t, store, idem(tokenA, "k", "f"), replay.IdemDone)
}

func settleExpired(t *testing.T, s Subject) {
	store := s.Open(t)
	first := idem(tokenA, "k", "f")
	first.IdemTTL = short
	want(t, store, first, replay.OK)
	s.Pass(short)
	first.IdemTTL = long
	settle(t, store, first, replay.Outcome{Status: 200, ReceiptID: first.RequestID})
	want(t, store, idem(tokenA, "k", "f"), replay.IdemDone)
}

func emptyClaim(t *testing.T, s Subject) {
	want(t, s.Open(t), request(func(*replay.Claim) {}), replay.OK)
}

func invalidClaims(t *testing.T, s Subject) {
	store := s.Open(t)
	invalid := map[string]func(c *replay.Claim){
		"no request id":             func(c *replay.Claim) { c.RequestID = "" },
		"a request id with a space": func(c *replay.Claim) { c.RequestID = "a b" },
		"a nonce without life":      func(c *replay.Claim) { c.Nonce = "n" },
		"a binder without mission":  func(c *replay.Claim) { c.Binder, c.BindTTL = "b", long },
		"a binding without life":    func(c *replay.Claim) { c.Binder, c.Mission = "b", "m" },
		"a key without token":       func(c *replay.Claim) { *c = idem("", "k", "f"); c.TokenHash = "" },
		"a key without fingerprint": func(c *replay.Claim) { *c = idem(tokenA, "k", "") },
		"a key without life":        func(c *replay.Claim) { *c = idem(tokenA, "k", "f"); c.IdemTTL = 0 },
	}
	for name, change := range invalid {
		r, err := store.Claim(t.Context(), request(change))
		if !errors.Is(err, replay.ErrInvalidClaim) || r.Status == replay.OK {
			t.Errorf("%s: %v and %v, want ErrInvalidClaim", name, r.Status, err)
		}
	}
	if err := store.Settle(t.Context(), nonce("n"), replay.Outcome{}); !errors.Is(err, replay.ErrInvalidClaim) {
		t.Errorf("settle without a key: %v, want ErrInvalidClaim", err)
	}
	if err := store.Settle(t.Context(), idem(tokenA, "k", "f"), replay.Outcome{ReceiptID: "a b"}); !errors.Is(err, replay.ErrInvalidClaim) {
		t.Errorf("settle with a receipt id with a space: %v, want ErrInvalidClaim", err)
	}
}

func endedContext(t *testing.T, s Subject) {
	store := s.Open(t)
	want(t, store, nonce("before"), replay.OK)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := store.Claim(ctx, nonce("n")); !errors.Is(err, context.Canceled) || r.Status == replay.OK {
		t.Errorf("%v and %v, want context.Canceled", r.Status, err)
	}
}

func closedStore(t *testing.T, s Subject) {
	store := s.Open(t)
	want(t, store, nonce("before"), replay.OK)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := store.Claim(t.Context(), nonce("n")); !errors.Is(err, replay.ErrUnavailable) || r.Status == replay.OK {
		t.Errorf("claim: %v and %v, want ErrUnavailable", r.Status, err)
	}
	if err := store.Settle(t.Context(), idem(tokenA, "k", "f"), replay.Outcome{}); !errors.Is(err, replay.ErrUnavailable) {
		t.Errorf("settle: %v, want ErrUnavailable", err)
	}
	if err := store.Ready(t.Context()); !errors.Is(err, replay.ErrUnavailable) {
		t.Errorf("ready: %v, want ErrUnavailable", err)
	}
}
