package load

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

const (
	// Longest is how long any call may take; it also bounds the histograms.
	Longest = 2 * time.Minute
	figures = 3 // significant digits of latencies
	// settleAfter is the pause after an error, so that a target that refuses everything does not look fast.
	settleAfter = 100 * time.Millisecond
)

// Sequence gives a connection's next call; nil says that there is none left, which ends the measurement.
type Sequence func() *Call

// Same repeats one call for ever.
func Same(c *Call) Sequence { return func() *Call { return c } }

// Plan is one measurement.
type Plan struct {
	Address     string        // host:port
	TLS         *tls.Config   // nil for plain HTTP
	Tunnels     []*Tunnel     // nil, or one for each connection
	Connections []Sequence    // one for each connection
	Rate        float64       // calls a second over all connections, on a fixed schedule; 0 for a closed loop
	WarmUp      time.Duration // before the window; nothing in it is recorded
	Window      time.Duration
	Every       time.Duration // length of one interval of the window's record; 0 for no intervals
	Begin, End  func() error  // called at the window's edges
	Edge        func() error  // called at the end of each interval; may be nil
}

// way is how a connection is made.
func (p Plan) way(i int) Way {
	w := Way{Address: p.Address, TLS: p.TLS}
	if p.Tunnels != nil {
		w.Tunnel = p.Tunnels[i]
	}
	return w
}

// Latencies are histograms in microseconds.
type Latencies = hdrhistogram.Histogram

// Interval is a part of the window.
type Interval struct {
	Length  time.Duration
	Latency *Latencies
	Errors  int64
}

// Result is what a measurement found.
type Result struct {
	Window    time.Duration // shorter than planned where the calls ran out
	Latency   *Latencies    // closed loop: from sending, of calls completed in the window; open: from the intended time, of calls due in it
	FirstByte *Latencies    // of streams: from the same moment to the first byte of the body
	Gap       *Latencies    // of streams: between one event and the next; 1 µs where they came together
	Late      *Latencies    // open loop: how long after its time a free connection sent a call, which is the client's own delay
	ByName    map[string]*Latencies
	Completed int64 // calls completed within the window
	Bytes     int64 // of bodies, both ways, of those
	Answered  map[string]int64
	Errors    int64 // other answers, and broken connections, at any time
	FirstErr  error
	Unsent    int64 // open loop: calls that were due in the window and that no connection was free for until long after it
	Exhausted bool  // the calls ran out before the window's end
	Intervals []Interval
}

// NewLatencies is an empty histogram with the bounds of all of them.
func NewLatencies() *Latencies { return hdrhistogram.New(1, Longest.Microseconds(), figures) }

// record notes a duration. Durations beyond the longest cannot occur with a deadline, but an open loop's wait may add up.
func record(h *Latencies, d time.Duration) {
	_ = h.RecordValue(min(max(d.Microseconds(), 1), Longest.Microseconds()))
}

// run is the state that the connections of one measurement share.
type run struct {
	Plan
	start, from, to time.Time
	ticket          atomic.Int64
	stop            chan struct{} // closed when calls have run out
	once            sync.Once
}

// Run measures. The error is of the plan's hooks or of connections that could not be made at all; failed calls are in the
// result.
func Run(ctx context.Context, p Plan) (*Result, error) {
	connections, err := dialAll(ctx, p)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, c := range connections {
			c.close()
		}
	}()
	r := &run{Plan: p, start: time.Now(), stop: make(chan struct{})}
	r.from = r.start.Add(p.WarmUp)
	r.to = r.from.Add(p.Window)
	var wg sync.WaitGroup
	for _, c := range connections {
		c.run = r
		wg.Go(func() { c.loop(ctx) })
	}
	intervals, end, err := r.watch(ctx, connections)
	wg.Wait()
	out := gather(connections)
	out.Intervals, out.Window, out.Unsent, out.Exhausted = intervals, end.Sub(r.from), r.unsent(), r.stopped()
	return out, errors.Join(err, ctx.Err())
}

// watch calls the hooks at their times, and returns when the window is over.
func (r *run) watch(ctx context.Context, all []*connection) ([]Interval, time.Time, error) {
	if !r.sleep(ctx, r.from) {
		return nil, r.from.Add(1), errors.New("the calls ran out during the warm-up: give it more of them")
	}
	var errs []error
	errs = append(errs, r.Begin())
	var intervals []Interval
	if r.Every > 0 {
		for at := r.from.Add(r.Every); !at.After(r.to); at = at.Add(r.Every) {
			if !r.sleep(ctx, at) {
				break
			}
			intervals = append(intervals, snapshot(all, r.Every))
			if r.Edge != nil {
				errs = append(errs, r.Edge())
			}
		}
	}
	end := r.to
	if !r.sleep(ctx, r.to) {
		end = time.Now()
	}
	return intervals, end, errors.Join(append(errs, r.End())...)
}

// sleep waits for a moment, and says false where the calls ran out or the run was ended before.
func (r *run) sleep(ctx context.Context, until time.Time) bool {
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.stop:
		return false
	case <-ctx.Done():
		return false
	}
}

// coarse is how early Go's timers are to wake up: on an idle processor they are late by up to a millisecond.
const coarse = 1500 * time.Microsecond

// sleepExactly waits like sleep, the last part of it in the kernel's own sleep, which is late by some 60 µs. Few
// connections are that near to their call at a time, so few threads are blocked.
func (r *run) sleepExactly(ctx context.Context, until time.Time) bool {
	if time.Until(until) > coarse && !r.sleep(ctx, until.Add(-coarse)) {
		return false
	}
	for left := time.Until(until); left > 0; left = time.Until(until) {
		rest := unix.NsecToTimespec(left.Nanoseconds())
		_ = unix.Nanosleep(&rest, nil) // a signal ends it early, and then it goes on
	}
	return true
}

// stopped says whether the calls ran out, which ends the window.
func (r *run) stopped() bool {
	select {
	case <-r.stop:
		return true
	default:
		return false
	}
}

func (r *run) exhausted() { r.once.Do(func() { close(r.stop) }) }

// due is when the next call of an open loop is to be sent. All connections draw from one schedule, so a slow answer holds
// up its own connection only.
func (r *run) due() time.Time {
	n := r.ticket.Add(1) - 1
	return r.start.Add(time.Duration(float64(n) / r.Rate * float64(time.Second)))
}

// grace is how long after the window calls that were due in it are still sent.
func (r *run) grace() time.Duration { return min(r.Window, 5*time.Second) }

// unsent is how many calls were due before the window's end and were never sent.
func (r *run) unsent() int64 {
	if r.Rate <= 0 {
		return 0
	}
	due := int64(r.to.Sub(r.start).Seconds() * r.Rate)
	return max(0, due-r.ticket.Load())
}

func gather(all []*connection) *Result {
	out := &Result{Latency: NewLatencies(), FirstByte: NewLatencies(), Gap: NewLatencies(), Late: NewLatencies(), ByName: map[string]*Latencies{}, Answered: map[string]int64{}}
	for _, c := range all {
		for name, h := range c.latency {
			out.Latency.Merge(h)
			if out.ByName[name] == nil {
				out.ByName[name] = NewLatencies()
			}
			out.ByName[name].Merge(h)
		}
		if c.firstByte != nil {
			out.FirstByte.Merge(c.firstByte)
			out.Gap.Merge(c.gap)
		}
		if c.late != nil {
			out.Late.Merge(c.late)
		}
		for name, n := range c.answered {
			out.Answered[name] += n
		}
		out.Completed += c.completed
		out.Bytes += c.bytes
		out.Errors += c.errors
		if out.FirstErr == nil {
			out.FirstErr = c.firstErr
		}
	}
	return out
}

// snapshot takes what the connections recorded since the last one.
func snapshot(all []*connection, length time.Duration) Interval {
	i := Interval{Length: length, Latency: NewLatencies()}
	for _, c := range all {
		c.mu.Lock()
		i.Latency.Merge(c.interval)
		c.interval.Reset()
		i.Errors += c.intervalErrors
		c.intervalErrors = 0
		c.mu.Unlock()
	}
	return i
}
