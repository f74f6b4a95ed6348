package gate

import (
	"context"
	"testing"
	"time"

	"sallyport/signer/code"
	"sallyport/signer/contract"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
	"sallyport/signer/token"
)

// Fifty first calls under one contract are one fetch, however they interleave.
func TestContractIsFetchedOnce(t *testing.T) {
	f := newFixture(t)
	release := make(chan struct{})
	real := f.registry.fetch
	f.registry.fetch = func(hash string) (*envelope.Envelope, error) { <-release; return real(hash) }
	hash := f.contract.PayloadHashB64u
	got := make(chan *contract.Contract, 50)
	for range cap(got) {
		go func() {
			c, _ := f.gate.contracts.get(context.Background(), hash)
			got <- c
		}()
	}
	close(release)
	first := <-got
	for range cap(got) - 1 {
		if c := <-got; c == nil || c != first {
			t.Fatal("not the same contract for all")
		}
	}
	if n := f.registry.calls.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

// A caller may find nothing, and find the contract fetched by another before it asks itself.
func TestContractFetchedMeanwhile(t *testing.T) {
	f := newFixture(t)
	hash, c := f.contract.PayloadHashB64u, f.gate.contracts
	c.bad[hash] = badContract{denial: code.Deny(code.RegistryDown, ""), until: start.Add(-time.Second)}
	meanwhile := func() { _, _ = c.get(context.Background(), hash) }
	c.now = func() time.Time { // asked between the look at the cache and the fetch
		do := meanwhile
		if meanwhile = nil; do != nil {
			do()
		}
		return start
	}
	if got, d := c.get(context.Background(), hash); got == nil {
		t.Error(d)
	}
	if n := f.registry.calls.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

// A client that goes away while it waits does not spoil the contract for the others.
func TestContractFetchOutlivesItsCaller(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if c, d := f.gate.contracts.get(ctx, f.contract.PayloadHashB64u); c == nil {
		t.Error(d)
	}
}

func TestFailedFetchIsRemembered(t *testing.T) {
	unknown := jcs.Hash([]byte("unknown"))
	for name, tc := range map[string]struct {
		err  error
		want code.Code
	}{
		"not there":     {ErrNoContract, code.WPCNotFound},
		"registry away": {errAway, code.RegistryDown},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			real := f.registry.fetch
			f.registry.fetch = func(string) (*envelope.Envelope, error) { return nil, tc.err }
			get := func(hash string, want code.Code, fetches int32) {
				t.Helper()
				c, d := f.gate.contracts.get(context.Background(), hash)
				wantCode(t, d, want)
				if (c == nil) != (want != "") {
					t.Errorf("contract %v with %q", c, want)
				}
				if n := f.registry.calls.Load(); n != fetches {
					t.Errorf("%d fetches, want %d", n, fetches)
				}
			}
			hash := f.contract.PayloadHashB64u
			get(hash, tc.want, 1)
			f.registry.fetch = real
			f.clock.forward(time.Second - 1)
			get(hash, tc.want, 1)
			get(unknown, code.WPCNotFound, 2) // another hash is not meant
			f.clock.forward(1)
			get(hash, "", 3)
			f.clock.forward(1000 * time.Hour)
			get(hash, "", 3) // what is verified never goes stale
		})
	}
}

// What a registry returns is not believed.
func TestWrongContracts(t *testing.T) {
	f := newFixture(t)
	foreign, err := contract.Sign([]byte(contractDoc), f.key, start) // the same contract, signed by nobody who may
	if err != nil {
		t.Fatal(err)
	}
	f.registry.fetch = func(string) (*envelope.Envelope, error) { return foreign, nil }
	f.open().mustRefuse(code.WPCSignerNotAllowed, chat(f.token()))
	other := f.token(func(c *token.Claims) { c.PolicyHash = jcs.Hash([]byte("other")) })
	f.registry.fetch = func(string) (*envelope.Envelope, error) { return f.contract, nil }
	f.open().mustRefuse(code.WPCHashMismatch, chat(other))
}
