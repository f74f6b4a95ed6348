package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	longest     = 30 * time.Second // no call may take longer; it also bounds the histograms
	figures     = 3                // significant digits of latencies
	settleAfter = 100 * time.Millisecond
)

// load is what one closed loop measured: n connections, each of which sends its next call when the answer to the last
// is complete.
type load struct {
	latency  *hdrhistogram.Histogram // microseconds, of calls completed within the window
	sent     int64                   // calls answered as they should, warm-up and run-out included
	errors   int64                   // other answers, and broken connections
	firstErr error
	window   time.Duration
}

// drive runs the loop: warm-up, then the window, with begin and end called at the window's edges.
func drive(ctx context.Context, t target, warmUp, window time.Duration, begin, end func() error) (*load, error) {
	connections, err := dialAll(ctx, t)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, c := range connections {
			c.close()
		}
	}()
	from := time.Now().Add(warmUp)
	to := from.Add(window)
	var wg sync.WaitGroup
	for _, c := range connections {
		wg.Go(func() { c.loop(ctx, from, to) })
	}
	edges := errors.Join(at(ctx, from, begin), at(ctx, to, end))
	wg.Wait()
	l := &load{latency: newHistogram(), window: window}
	for _, c := range connections {
		l.latency.Merge(c.latency)
		l.sent += c.sent
		l.errors += c.errors
		if l.firstErr == nil {
			l.firstErr = c.firstErr
		}
	}
	return l, errors.Join(edges, ctx.Err())
}

func at(ctx context.Context, t time.Time, do func() error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Until(t)):
		return do()
	}
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, longest.Microseconds(), figures)
}

// connection is one client connection. It writes prepared bytes and reads with net/http's parser, without the standard
// client's pool and goroutines, so that less of the machine goes into asking.
type connection struct {
	address  string
	request  []byte
	header   string
	conn     net.Conn
	in       *bufio.Reader
	latency  *hdrhistogram.Histogram
	sent     int64
	errors   int64
	firstErr error
}

func dialAll(ctx context.Context, t target) ([]*connection, error) {
	var out []*connection
	for _, r := range t.Requests {
		c := &connection{address: t.Address, request: r, header: t.Header, latency: newHistogram()}
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
	d := net.Dialer{Timeout: longest}
	conn, err := d.DialContext(ctx, "tcp", c.address)
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

// loop calls until the window is over. After an error it connects anew, not at once, so that a peer that refuses
// everything does not look fast.
func (c *connection) loop(ctx context.Context, from, to time.Time) {
	for ctx.Err() == nil {
		begin := time.Now()
		if !begin.Before(to) {
			return
		}
		err := c.call(ctx)
		end := time.Now()
		if err != nil {
			c.errors++
			if c.firstErr == nil {
				c.firstErr = err
			}
			c.close()
			time.Sleep(settleAfter)
			continue
		}
		c.sent++
		// Completions count, wherever they began: of long calls, those cut off at one edge stand for those at the other.
		if !end.Before(from) && !end.After(to) {
			_ = c.latency.RecordValue(end.Sub(begin).Microseconds()) // within bounds: the connection's deadline is the longest
		}
	}
}

func (c *connection) call(ctx context.Context) error {
	if c.conn == nil {
		if err := c.dial(ctx); err != nil {
			return err
		}
	}
	if err := c.conn.SetDeadline(time.Now().Add(longest)); err != nil {
		return err
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 500)) // only for the message
		return fmt.Errorf("status %d: %s", resp.StatusCode, body)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	switch {
	case err != nil:
		return err
	case n != answerSize:
		return fmt.Errorf("an answer of %d bytes, want %d", n, answerSize)
	case c.header != "" && resp.Header.Get(c.header) == "":
		return fmt.Errorf("an answer without %s", c.header)
	}
	return nil
}

// reply is one answer, kept whole.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// once sends one call over a connection of its own.
func once(ctx context.Context, address string, request []byte) (*reply, error) {
	c := &connection{address: address}
	if err := c.dial(ctx); err != nil {
		return nil, err
	}
	defer c.close()
	if err := c.conn.SetDeadline(time.Now().Add(longest)); err != nil {
		return nil, err
	}
	if _, err := c.conn.Write(request); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return &reply{status: resp.StatusCode, header: resp.Header, body: body}, err
}
