package load

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// connection is one client connection and what it recorded. Only its own goroutine touches it, but for the interval.
type connection struct {
	*run
	way      Way
	next     Sequence
	conn     net.Conn
	in       *bufio.Reader
	begin    time.Time // of the call under way
	lastSeen time.Time // of its last event

	latency        map[string]*Latencies
	firstByte, gap *Latencies // nil until a stream was read
	late           *Latencies // nil in a closed loop
	answered       map[string]int64
	completed      int64
	bytes          int64
	errors         int64
	firstErr       error

	mu             sync.Mutex
	interval       *Latencies // nil without intervals
	intervalErrors int64
}

func dialAll(ctx context.Context, p Plan) ([]*connection, error) {
	var out []*connection
	for i, s := range p.Connections {
		c := &connection{way: p.way(i), next: s, latency: map[string]*Latencies{}, answered: map[string]int64{}}
		if p.Rate > 0 {
			c.late = NewLatencies()
		}
		if p.Every > 0 {
			c.interval = NewLatencies()
		}
		if err := c.dial(ctx); err != nil {
			for _, c := range out {
				c.close()
			}
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func (c *connection) dial(ctx context.Context) error {
	conn, err := c.way.dial(ctx)
	if err != nil {
		return err
	}
	c.conn, c.in = conn, bufio.NewReader(conn)
	return nil
}

func (c *connection) close() {
	if c.conn != nil {
		c.conn.Close()
	}
	c.conn = nil
}

// loop calls until the window is over.
func (c *connection) loop(ctx context.Context) {
	for ctx.Err() == nil {
		if !c.wait(ctx) {
			return
		}
		call := c.next()
		if call == nil {
			c.exhausted()
			return
		}
		c.once(ctx, call)
	}
}

// wait sets the moment from which the next call counts: now, or when the schedule says. It says false when the window is over.
func (c *connection) wait(ctx context.Context) bool {
	now := time.Now()
	if c.Rate <= 0 {
		c.begin = now
		return now.Before(c.to) && !c.stopped()
	}
	if !now.Before(c.to.Add(c.grace())) {
		return false
	}
	c.begin = c.due()
	if !c.begin.Before(c.to) {
		return false
	}
	if now.Before(c.begin) {
		if !c.sleepExactly(ctx, c.begin) {
			return false
		}
		if !c.begin.Before(c.from) {
			record(c.late, time.Since(c.begin))
		}
	}
	return true
}

// once makes one call and notes how it went. After an error it connects anew, and not at once.
func (c *connection) once(ctx context.Context, call *Call) {
	n, err := c.call(ctx, call)
	end := time.Now()
	if err != nil {
		c.failed(err)
		c.close()
		time.Sleep(settleAfter)
		return
	}
	c.answered[call.Name]++
	// Completions count, wherever they began: of long calls, those cut off at one edge stand for those at the other.
	within := !end.Before(c.from) && !end.After(c.to) && !c.stopped()
	if within {
		c.completed++
		c.bytes += n + call.Body.Size()
	}
	// In an open loop every call that was due in the window counts, however late its answer: leaving out the late ones
	// would leave out just what a queue does.
	if (c.Rate > 0 && !c.begin.Before(c.from)) || (c.Rate <= 0 && within) {
		c.note(call.Name, end.Sub(c.begin))
	}
}

func (c *connection) note(name string, took time.Duration) {
	h := c.latency[name]
	if h == nil {
		h = NewLatencies()
		c.latency[name] = h
	}
	record(h, took)
	if c.interval != nil {
		c.mu.Lock()
		record(c.interval, took)
		c.mu.Unlock()
	}
}

func (c *connection) failed(err error) {
	c.errors++
	if c.firstErr == nil {
		c.firstErr = err
	}
	if c.interval != nil {
		c.mu.Lock()
		c.intervalErrors++
		c.mu.Unlock()
	}
}

func (c *connection) call(ctx context.Context, call *Call) (int64, error) {
	if c.conn == nil {
		if err := c.dial(ctx); err != nil {
			return 0, err
		}
	}
	if err := c.conn.SetDeadline(time.Now().Add(Longest)); err != nil {
		return 0, err
	}
	if err := call.write(c.conn); err != nil {
		return 0, err
	}
	var seen func(time.Time, int)
	if call.Want.Events != 0 {
		c.lastSeen = time.Time{}
		seen = c.seen
	}
	again, n, err := call.receive(c.in, seen)
	if err == nil && !again {
		c.close() // the target said so; that is no error
	}
	return n, err
}

// seen notes the arrival of events.
func (c *connection) seen(now time.Time, events int) {
	if c.firstByte == nil {
		c.firstByte, c.gap = NewLatencies(), NewLatencies()
	}
	counts := !now.Before(c.from) && !now.After(c.to)
	if c.lastSeen.IsZero() {
		c.lastSeen = now
		if counts {
			record(c.firstByte, now.Sub(c.begin))
		}
		events--
	}
	for range events {
		if counts {
			record(c.gap, now.Sub(c.lastSeen))
		}
		c.lastSeen = now
	}
}

// Reply is one answer, kept whole.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// maxReply is how much of an answer Once keeps, in bytes.
const maxReply = 1 << 20

// Once sends one call over a connection of its own and gives back what came, whatever the call wants. Where a proxy refuses
// the tunnel, its answer is what came.
func Once(ctx context.Context, way Way, call *Call) (*Reply, error) {
	c := &connection{way: way}
	var no *NoTunnel
	if err := c.dial(ctx); errors.As(err, &no) {
		return no.Reply, nil
	} else if err != nil {
		return nil, err
	}
	defer c.close()
	if err := c.conn.SetDeadline(time.Now().Add(Longest)); err != nil {
		return nil, err
	}
	if err := call.write(c.conn); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return keep(resp)
}

func keep(resp *http.Response) (*Reply, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	return &Reply{Status: resp.StatusCode, Header: resp.Header, Body: body}, err
}
