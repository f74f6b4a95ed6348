package replay

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestMemoryIsBoundedByWhatIsAlive(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	m := NewMemory(func() time.Time { return at })
	for i := range 20_000 {
		c := Claim{RequestID: fmt.Sprint("r", i), Nonce: fmt.Sprint("n", i), NonceTTL: time.Second, Mission: "m", Binder: "b", BindTTL: time.Minute}
		if r, err := m.Claim(t.Context(), c); err != nil || r.Status != OK {
			t.Fatalf("claim %d: %v %v", i, r, err)
		}
		at = at.Add(10 * time.Millisecond)
	}
	// 100 nonces a second live for a second each; with them the one binding.
	if n := m.live.Load(); n < 100 || n > 120 {
		t.Errorf("%d entries are held, want about 101", n)
	}
	if n := m.entries(); n != m.live.Load() {
		t.Errorf("%d entries are counted and %d held", m.live.Load(), n)
	}
}

func (m *Memory) entries() (n int64) {
	for i := range m.places {
		n += int64(len(m.places[i].entries))
	}
	return n
}

func TestMemoryFullRefusesAndForgetsNothing(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	m := NewMemory(func() time.Time { return at })
	m.max = 10
	claim := func(i int) (Result, error) {
		return m.Claim(t.Context(), Claim{RequestID: fmt.Sprint("r", i), Nonce: fmt.Sprint("n", i%1000), NonceTTL: time.Minute})
	}
	for i := range 10 {
		if r, err := claim(i); err != nil || r.Status != OK {
			t.Fatalf("claim %d: %v %v", i, r, err)
		}
	}
	if r, err := claim(10); !errors.Is(err, ErrUnavailable) || r.Status == OK {
		t.Fatalf("a full store answered %v %v", r, err)
	}
	at = at.Add(time.Minute)
	if r, err := claim(1003); err != nil || r.Status != OK {
		t.Errorf("after everything expired: %v %v", r, err)
	}
}

// The count of entries stays true under any order of claims, settlements and time.
func TestMemoryCountsTrue(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		at := time.Unix(1_700_000_000, 0)
		m := NewMemory(func() time.Time { return at })
		ttl := rapid.SampledFrom([]time.Duration{time.Second, 3 * time.Second, time.Minute})
		few := rapid.IntRange(0, 3)
		for i := range rapid.IntRange(1, 60).Draw(rt, "steps") {
			c := Claim{
				RequestID: fmt.Sprint("r", i-few.Draw(rt, "back")), TokenHash: "t", Mission: fmt.Sprint("m", few.Draw(rt, "mission")),
				Nonce: fmt.Sprint("n", few.Draw(rt, "nonce")), NonceTTL: ttl.Draw(rt, "nonce ttl"),
				Binder: fmt.Sprint("b", few.Draw(rt, "binder")/3), BindTTL: ttl.Draw(rt, "bind ttl"),
				IdemKey: fmt.Sprint("k", few.Draw(rt, "key")), IdemFingerprint: "f", IdemTTL: ttl.Draw(rt, "idem ttl"),
			}
			if c.RequestID[1] == '-' {
				c.RequestID = "r0"
			}
			if _, err := m.Claim(t.Context(), c); err != nil {
				rt.Fatal(err)
			}
			if rapid.Bool().Draw(rt, "settle") {
				if err := m.Settle(t.Context(), c, Outcome{Released: rapid.Bool().Draw(rt, "released")}); err != nil {
					rt.Fatal(err)
				}
			}
			at = at.Add(time.Duration(few.Draw(rt, "seconds")) * time.Second)
			if m.entries() != m.live.Load() {
				rt.Fatalf("%d entries are counted and %d held", m.live.Load(), m.entries())
			}
		}
		at = at.Add(time.Hour)
		m.sweepAll()
		if m.live.Load() != 0 {
			rt.Fatalf("%d entries never expire", m.live.Load())
		}
	})
}

func TestPartsDoNotRunTogether(t *testing.T) {
	if digest("a", "bc") == digest("ab", "c") {
		t.Error("two lists of parts have one digest")
	}
	a := Claim{Mission: "m", Nonce: "n", NonceTTL: 1}
	b := Claim{Mission: "mn", Nonce: "", NonceTTL: 1}
	if a.names().nonce == b.names().nonce {
		t.Error("two nonces have one name")
	}
}

func TestStatusNames(t *testing.T) {
	for s := OK; s <= IdemMismatch; s++ {
		if s.String() == fmt.Sprintf("status(%d)", int(s)) {
			t.Errorf("status %d has no name", int(s))
		}
	}
	if Status(0).String() != "status(0)" {
		t.Error("the zero status has a name")
	}
}
