package replay_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/extproc/replay"
	"sallyport/extproc/replay/replaytest"
)

// clock is a time that moves only when told.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func TestMemoryConforms(t *testing.T) {
	replaytest.Run(t, func(*testing.T) replaytest.Subject {
		c := &clock{at: time.Now()}
		m := replay.NewMemory(c.now)
		return replaytest.Subject{
			Open: func(*testing.T) replay.Store { return m }, // alone by definition
			Pass: c.pass,
		}
	})
}

func BenchmarkMemoryClaim(b *testing.B) {
	m := replay.NewMemory(nil)
	ctx := b.Context()
	var id atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := id.Add(1)
			c := replay.Claim{
				RequestID: fmt.Sprint("rcpt_", n), TokenHash: "t", Nonce: fmt.Sprint("n", n), NonceTTL: time.Millisecond,
				Mission: fmt.Sprint("m", n%1000), Binder: "run_id=r;", BindTTL: time.Hour,
			}
			if r, err := m.Claim(ctx, c); err != nil || r.Status != replay.OK {
				b.Errorf("%v %v", r, err)
			}
		}
	})
}
