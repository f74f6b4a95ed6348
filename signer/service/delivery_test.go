package service

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/signer/client"
	"sallyport/signer/receipt"
)

// found is a list of receipts by nonce.
type found struct {
	by   map[string][]byte
	fail atomic.Bool
}

var errIndex = errors.New("the test's index is away")

func (f *found) ByNonce(job, nonce string) ([]byte, error) {
	if f.fail.Load() {
		return nil, errIndex
	}
	return f.by[job+"/"+nonce], nil
}

func TestReceiptIsDelivered(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Strict, Sealed, Async} {
		r := newRig(t, mode, time.Minute)
		c, _ := r.client("p")
		i := callOf("job", "run", 1)
		if err := c.Intent(t.Context(), i); err != nil {
			t.Fatal(err)
		}
		d, err := c.Deliver(t.Context(), i, completed(i.ID))
		if err != nil || d == nil {
			t.Fatalf("%s: %v, %v", mode, d, err)
		}
		got, err := receipt.Verify(d.Envelope, []string{r.key.DID()})
		if err != nil || got.ReceiptID != i.ID || len(d.Legacy) == 0 {
			t.Errorf("%s: %+v, %v", mode, got, err)
		}
		if _, recorded := r.outcomes()[i.ID]; !recorded {
			t.Errorf("%s: delivered and not recorded", mode)
		}
		// A second time, as after a lost acknowledgement: it is recorded, and the receipt is not at hand.
		if d, err := c.Deliver(t.Context(), i, completed(i.ID)); err != nil || d != nil {
			t.Errorf("%s: again: %v, %v", mode, d, err)
		}
		r.broken.Store(true)
		j := callOf("job", "run", 2)
		r.broken.Store(false)
		if err := c.Intent(t.Context(), j); err != nil {
			t.Fatal(err)
		}
		r.broken.Store(true)
		if d, err := c.Deliver(t.Context(), j, completed(j.ID)); !errors.Is(err, client.ErrNotRecorded) || d != nil {
			t.Errorf("%s: not recorded, and yet %v, %v", mode, d, err)
		}
	}
}

func TestReceiptIsFoundByNonce(t *testing.T) {
	t.Parallel()
	index := &found{by: map[string][]byte{}}
	r := newRig(t, Sealed, time.Minute)
	r.stop()
	r.receipts = index
	r.start()
	c, _ := r.client("p")
	i := callOf("job", "run", 1)
	i.Nonce = "n1"
	if _, err := c.Lookup(t.Context(), "job", "n1"); !errors.Is(err, client.ErrNoReceipt) {
		t.Errorf("before: %v", err)
	}
	if err := c.Intent(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Lookup(t.Context(), "job", "n1"); !errors.Is(err, client.ErrInFlight) {
		t.Errorf("in flight: %v", err)
	}
	if _, err := c.Lookup(t.Context(), "another", "n1"); !errors.Is(err, client.ErrNoReceipt) {
		t.Errorf("another job's: %v", err)
	}
	d, err := c.Deliver(t.Context(), i, completed(i.ID))
	if err != nil {
		t.Fatal(err)
	}
	index.by["job/n1"] = d.Envelope
	got, err := c.Lookup(t.Context(), "job", "n1")
	if err != nil || string(got.Envelope) != string(d.Envelope) || string(got.Legacy) != string(d.Legacy) {
		t.Errorf("got %v, %v", got, err)
	}
	index.fail.Store(true)
	if _, err := c.Lookup(t.Context(), "job", "n1"); err == nil || errors.Is(err, client.ErrNoReceipt) {
		t.Errorf("with the index away: %v", err)
	}
}
