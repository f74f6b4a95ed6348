package service

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"sallyport/signer/chain"
	"sallyport/signer/decision"
	"sallyport/signer/evlog"
	"sallyport/signer/jcs"
	"sallyport/signer/receipt"
	"sallyport/signer/record"
)

// logged is what the log holds of one run: its parts' events in order, what their hashes cover, and its receipts.
type logged struct {
	parts    [][]chain.Event
	links    []*chain.Link
	receipts []*receipt.Receipt
	refusals []*decision.Decision
	raw      int // refusals that are not signed
}

// runs reads the log and checks what must hold of each chain.
func (r *rig) runs() map[run]*logged {
	r.t.Helper()
	out := map[run]*logged{}
	of := func(mission, token, id string) *logged {
		k := runOf(mission, token, id)
		if out[k] == nil {
			out[k] = &logged{}
		}
		return out[k]
	}
	err := evlog.Read(r.dir, func(e evlog.Entry) error {
		switch e.Kind {
		case evlog.KindIntent:
			var l record.Logged
			if err := json.Unmarshal(e.Payload, &l); err != nil {
				return err
			}
			if l.Chain != nil {
				of(l.MissionID, l.TokenHash, l.RunID).add(r.t, &l)
			}
		case evlog.KindReceipt:
			got, err := receipt.Verify(e.Payload, []string{r.key.DID()})
			if err != nil {
				return err
			}
			d := got.Metadata.Sallyport
			l := of(d.MissionID, d.TokenHash, got.Binding.RunID)
			l.receipts = append(l.receipts, got)
		case evlog.KindRefusal:
			got, err := decision.Verify(e.Payload, []string{r.key.DID()})
			if err != nil {
				of("", "", "").raw++
				return nil
			}
			l := of(got.MissionID, got.TokenHash, got.RunID)
			l.refusals = append(l.refusals, got)
		case evlog.KindControl, evlog.KindTombstone, evlog.KindSealed:
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	for k, l := range out {
		for _, p := range l.parts {
			if err := chain.Verify(p); err != nil {
				r.t.Errorf("run %v: %v", k, err)
			}
		}
	}
	return out
}

func (l *logged) add(t *testing.T, i *record.Logged) {
	t.Helper()
	k := i.Chain
	if k.Index == 0 {
		if len(l.parts) > 0 {
			before := l.parts[len(l.parts)-1]
			if k.Continues != before[len(before)-1].Hash || len(before) != chain.MaxEvents {
				t.Errorf("part %d goes on from %q after %d events", k.Part, k.Continues, len(before))
			}
		}
		l.parts = append(l.parts, nil)
	}
	at := len(l.parts) - 1
	if k.Part != at+1 || k.Index != len(l.parts[at]) {
		t.Errorf("link %d/%d where %d/%d was due", k.Part, k.Index, at+1, len(l.parts[at]))
	}
	if k.Event.PayloadHash != jcs.Hash(chain.Payload(nil, i.Intent.AppendJSON(nil), k.Continues)) {
		t.Errorf("event %d/%d does not cover its intent", k.Part, k.Index)
	}
	if n := len(l.links); n > 0 && k.Event.Timestamp < l.links[n-1].Event.Timestamp {
		t.Errorf("event %d/%d is older than the one before", k.Part, k.Index)
	}
	l.parts[at], l.links = append(l.parts[at], k.Event), append(l.links, k)
}

func callOf(mission, runID string, n int) *record.Intent {
	i := intent(fmt.Sprintf("rcpt_%s_%s_%d", mission, runID, n))
	i.MissionID, i.RunID, i.Action, i.TimeMS = mission, runID, "model:invoke", 1_760_000_000_000+int64(n%7) // times out of order
	return i
}

// call makes calls at once through several processors.
func (r *rig) call(calls []*record.Intent, processors int) {
	r.t.Helper()
	var all sync.WaitGroup
	for p := range processors {
		c, _ := r.client(fmt.Sprintf("p%d", p))
		for n := p; n < len(calls); n += processors {
			all.Go(func() {
				if err := c.Intent(r.t.Context(), calls[n]); err != nil {
					r.t.Error(err)
					return
				}
				if err := c.Complete(r.t.Context(), calls[n], completed(calls[n].ID)); err != nil {
					r.t.Error(err)
				}
			})
		}
	}
	all.Wait()
}

func TestChainOfConcurrentCallsHasNoGap(t *testing.T) {
	t.Parallel()
	r := newRig(t, Sealed, time.Minute)
	const n = 700
	for round := range 3 { // with restarts in between, and over the bound of a part
		var calls []*record.Intent
		for i := range n {
			calls = append(calls, callOf("job", "run", round*n+i))
			if i%10 == 0 {
				calls = append(calls, callOf("other", "run", round*n+i)) // the same run id in another job
			}
		}
		r.call(calls, 2)
		r.stop()
		r.start()
	}
	got := r.runs()
	l := got[run{"job", "run"}]
	if len(l.links) != 3*n || len(l.parts) != 3 || len(got[run{"other", "run"}].links) != 3*n/10 {
		t.Fatalf("%d events in %d parts, and %d of the other job", len(l.links), len(l.parts), len(got[run{"other", "run"}].links))
	}
	bound := map[string]*chain.Link{}
	for _, k := range l.links {
		bound[k.Event.Hash] = k
	}
	roots := map[int]string{}
	for _, k := range l.links {
		if k.Index == 0 {
			roots[k.Part] = k.Span
		}
	}
	for _, c := range l.receipts {
		k := bound[c.Binding.EventHash]
		if k == nil || c.Binding.SpanID != k.Span || c.Timestamp != k.Event.Timestamp || c.IssuedAt < c.Timestamp {
			t.Fatalf("receipt %s is bound to no event of its run, or to another's span: %+v", c.ReceiptID, c.Binding)
		}
		if want := roots[k.Part]; k.Index == 0 && c.Binding.ParentSpanID != "" || k.Index > 0 && c.Binding.ParentSpanID != want {
			t.Errorf("receipt %s hangs under span %q, want %q", c.ReceiptID, c.Binding.ParentSpanID, want)
		}
		delete(bound, c.Binding.EventHash)
	}
	if len(bound) != 0 {
		t.Errorf("%d events have no receipt", len(bound))
	}
}

func TestChainGoesOnAfterAWriteThatFailed(t *testing.T) {
	t.Parallel()
	r := newRig(t, Sealed, time.Minute)
	c, _ := r.client("p")
	for n := range 30 {
		r.broken.Store(n%3 == 1)
		if err := c.Intent(t.Context(), callOf("job", "run", n)); (err == nil) == (n%3 == 1) {
			t.Fatalf("call %d: %v", n, err)
		}
	}
	if got := len(r.runs()[run{"job", "run"}].links); got != 20 {
		t.Errorf("%d events", got)
	}
}

func TestClientThatRecordsItself(t *testing.T) {
	t.Parallel()
	r := newRig(t, Sealed, time.Minute)
	theirs := callOf("job", "run", 1)
	theirs.EventHash = jcs.Hash([]byte("an event of the client's"))
	r.call([]*record.Intent{theirs, callOf("job", "run", 2)}, 1)
	l := r.runs()[run{"job", "run"}]
	if len(l.links) != 1 || len(l.receipts) != 2 {
		t.Fatalf("%d events, %d receipts", len(l.links), len(l.receipts))
	}
	for _, c := range l.receipts {
		if c.ReceiptID == theirs.ID && (c.Binding.EventHash != theirs.EventHash || c.Binding.SpanID != "") {
			t.Errorf("bound to %+v", c.Binding)
		}
	}
}

func TestRefusalsAreSignedAndNumbered(t *testing.T) {
	t.Parallel()
	r := newRig(t, Sealed, time.Minute)
	const n = 40
	for round := range 2 {
		c, _ := r.client("p")
		for i := range n {
			c.Refuse(&record.Refusal{ID: fmt.Sprintf("dec_%d_%d", round, i), TimeMS: 1, Code: "POLICY_DENIED", Status: 451, RunID: "run", MissionID: "job", TokenHash: "ab"})
		}
		c.Refuse(&record.Refusal{ID: "dec_stranger", TimeMS: 1, Code: "TOKEN_MALFORMED", Status: 401})
		r.await("the refusals are recorded", func() bool {
			got := r.runs()
			return got[run{"job", "run"}] != nil && len(got[run{"job", "run"}].refusals) == (round+1)*n && got[run{}] != nil && got[run{}].raw == round+1
		})
		r.stop()
		r.start()
	}
	seen := map[uint64]bool{}
	for _, d := range r.runs()[run{"job", "run"}].refusals {
		seen[d.Sequence] = true
	}
	for i := range uint64(2 * n) {
		if !seen[i+1] {
			t.Errorf("no refusal has number %d", i+1)
		}
	}
}

// index is where chains end according to a log, as of when it was last read.
type index struct {
	mu    sync.Mutex
	known map[run]chain.Head
	asked int
	err   error
}

func (x *index) Head(job, id string) (chain.Head, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.asked++
	return x.known[run{job, id}], x.err
}

func (x *index) read(c *chains) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	for r, t := range c.heads {
		x.known[r] = t.Head
	}
}

func TestEndsOfChainsAreForgottenOnlyOnceIndexed(t *testing.T) {
	t.Parallel()
	x := &index{known: map[run]chain.Head{}}
	c := &chains{cold: x, most: 3, heads: map[run]*tip{}}
	want := map[run]int{}
	for n := range 400 {
		r := run{"job", fmt.Sprint(n * 7 % 20)}
		if err := c.expect(r); err != nil {
			t.Fatal(err)
		}
		l, before := c.link(r, eventOf(callOf(r.job, r.id, n), []byte("{}")))
		if l.Index != want[r] || before.Events != want[r] {
			t.Fatalf("event %d of run %s has index %d", want[r], r.id, l.Index)
		}
		if n%11 == 0 {
			c.takeBack(r, before)
		} else {
			want[r]++
		}
		if n%5 == 0 {
			c.forget() // behind: what is not indexed stays
		}
		c.settled(r)
		if n%3 == 0 {
			if _, err := c.refused(r); err != nil {
				t.Fatal(err)
			}
		}
		if n%13 == 0 {
			x.read(c)
			c.forget()
			if len(c.heads) > c.most {
				t.Fatalf("%d ends are kept", len(c.heads))
			}
		}
	}
	x.err = errIndex
	if err := c.expect(run{"job", "new"}); err == nil {
		t.Error("a chain begins while nobody knows whether it did before")
	}
}

func TestExpectedEndIsNotForgotten(t *testing.T) {
	t.Parallel()
	x := &index{known: map[run]chain.Head{}}
	c := &chains{cold: x, heads: map[run]*tip{}}
	r := run{"job", "run"}
	if err := c.expect(r); err != nil {
		t.Fatal(err)
	}
	x.read(c)
	c.forget()
	if l, _ := c.link(r, eventOf(callOf("job", "run", 1), []byte("{}"))); l.Index != 0 {
		t.Errorf("index %d", l.Index)
	}
	c.settled(r)
}
