// Package client is ext_proc's end of the stream to the signer. It tells "recorded" from "not recorded" strictly: a call
// returns nil only after the signer's acknowledgement, and whatever the connection does in between is an error.
package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/signer/internal/wire"
	"sallyport/signer/record"
	"sallyport/signer/trust"
)

const (
	dialTimeout = time.Second
	backoffMin  = 20 * time.Millisecond
	backoffMax  = time.Second
	// patience is how long a new call waits for a signer that is away: the time a supervisor needs to restart one.
	patience = 300 * time.Millisecond
	// flushTime bounds the hand-over of queued refusals at the end.
	flushTime = time.Second
	// disownTimeout bounds the effort to settle an intent that nobody waits for.
	disownTimeout = 30 * time.Second
)

// ErrNotRecorded is wrapped by every error of Intent and Complete: the record may not be in the log.
var ErrNotRecorded = errors.New("not recorded")

var (
	errAway = errors.New("the signer is not connected")
	errLost = errors.New("the connection to the signer was lost")
)

// Config of a client.
type Config struct {
	Network, Address string      // "unix" and a path, or "tcp" and host:port
	TLS              *tls.Config // required for tcp
	Instance         string      // names this process; a restarted one has another name
	Log              *slog.Logger
}

// Validate joins everything that is wrong.
func (c *Config) Validate() error {
	var errs []error
	if c.Network != "unix" && c.Network != "tcp" {
		errs = append(errs, fmt.Errorf("signer client: network %q is neither unix nor tcp", c.Network))
	}
	if c.Network == "tcp" && c.TLS == nil {
		errs = append(errs, errors.New("signer client: a signer over TCP needs mutual TLS"))
	}
	if c.Address == "" || c.Instance == "" || c.Log == nil {
		errs = append(errs, errors.New("signer client: address, instance and log are needed"))
	}
	return errors.Join(errs...)
}

// Client is one process's stream. Run must be running for anything to be recorded.
type Client struct {
	cfg   Config
	trust atomic.Pointer[Trust]
	heard atomic.Int64 // when the signer last said anything, Unix nanoseconds
	next  atomic.Uint64
	lost  atomic.Uint64 // refusals that could not be handed over

	mu   sync.Mutex
	link *link
	up   chan struct{}       // closed while a link is up, replaced when it goes
	open map[string]struct{} // calls whose intent is recorded and which are not settled
}

// link is one connection that the signer has answered on.
type link struct {
	conn *wire.Conn
	mu   sync.Mutex
	wait map[uint64]chan error
	dead chan struct{}
}

// New makes a client; it connects in Run.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Client{cfg: cfg, up: make(chan struct{}), open: map[string]struct{}{}}, nil
}

// Run keeps the stream up until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	backoff := backoffMin
	for ctx.Err() == nil {
		began := time.Now()
		err := c.session(ctx)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > backoffMax {
			backoff = backoffMin
		}
		c.cfg.Log.Warn("signer stream ended; calls are refused until it is back", "error", err, "retry_in", backoff)
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, backoffMax)
	}
	return nil
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if c.cfg.TLS != nil {
		return (&tls.Dialer{Config: c.cfg.TLS}).DialContext(ctx, c.cfg.Network, c.cfg.Address)
	}
	return (&net.Dialer{}).DialContext(ctx, c.cfg.Network, c.cfg.Address)
}

// session is one connection from dial to loss.
func (c *Client) session(ctx context.Context) error {
	nc, err := c.dial(ctx)
	if err != nil {
		return err
	}
	l := &link{conn: wire.NewConn(nc), wait: map[uint64]chan error{}, dead: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { l.conn.Flush(flushTime); l.conn.Close() })
	defer stop()
	defer c.down(l)
	if err := l.conn.Send(wire.Frame{Type: wire.Hello, Payload: c.greeting()}); err != nil {
		return err
	}
	beat := time.NewTicker(wire.Beat)
	defer beat.Stop()
	go func() {
		for {
			select {
			case <-beat.C:
				_ = l.conn.Send(wire.Frame{Type: wire.Heartbeat})
			case <-l.dead:
				return
			}
		}
	}()
	for {
		f, err := l.conn.Receive()
		if err != nil {
			return err
		}
		c.heard.Store(time.Now().UnixNano())
		if err := c.take(l, f); err != nil {
			return err
		}
	}
}

func (c *Client) greeting() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := wire.Greeting{Instance: c.cfg.Instance, Open: make([]string, 0, len(c.open))}
	for id := range c.open {
		g.Open = append(g.Open, id)
	}
	b, _ := json.Marshal(g) // strings only
	return b
}

func (c *Client) take(l *link, f wire.Frame) error {
	switch f.Type {
	case wire.Ack:
		l.acknowledge(f)
	case wire.Trust:
		var s trust.State
		if err := json.Unmarshal(f.Payload, &s); err != nil {
			return fmt.Errorf("trust state: %w", err)
		}
		c.trust.Store(newTrust(&s, &c.heard))
		c.cfg.Log.Info("trust state", "version", s.Version, "keys", len(s.Keys), "revoked_tokens", len(s.RevokedTokens), "revoked_jobs", len(s.RevokedMissions), "revoked_contracts", len(s.RevokedPolicies))
		c.raise(l)
	case wire.Heartbeat:
	case wire.Hello, wire.Intent, wire.Completion, wire.Refusal:
		return fmt.Errorf("%w: type %d from the signer", wire.ErrFrame, f.Type)
	}
	return nil
}

// raise makes a link usable, once the signer has said what to trust.
func (c *Client) raise(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == l {
		return
	}
	c.link = l
	close(c.up)
}

func (c *Client) down(l *link) {
	l.conn.Close()
	c.mu.Lock()
	if c.link == l {
		c.link = nil
		c.up = make(chan struct{})
	}
	c.mu.Unlock()
	close(l.dead)
}

// current waits for a usable link.
func (c *Client) current(ctx context.Context, most time.Duration) (*link, error) {
	c.mu.Lock()
	l, up := c.link, c.up
	c.mu.Unlock()
	if l != nil {
		return l, nil
	}
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-up:
		return c.current(ctx, most)
	case <-timer.C:
		return nil, errAway
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Intent records that a call is about to leave. nil means that the record survives the death of any process (and of the
// machine, in strict mode).
func (c *Client) Intent(ctx context.Context, i *record.Intent) error {
	payload, err := json.Marshal(i)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotRecorded, err)
	}
	l, err := c.current(ctx, patience)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotRecorded, err)
	}
	// Claimed from the start: a connection lost between the record and its acknowledgement must not cut a call that goes on.
	c.mark(i.ID, true)
	if err = l.call(ctx, c.next.Add(1), wire.Intent, payload); err == nil {
		return nil
	}
	c.mark(i.ID, false)
	if ctx.Err() != nil {
		go c.disown(i)
	}
	return fmt.Errorf("%w: %w", ErrNotRecorded, err)
}

// mark notes whether this process carries the call.
func (c *Client) mark(id string, open bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if open {
		c.open[id] = struct{}{}
		return
	}
	delete(c.open, id)
}

// disown settles an intent whose acknowledgement came too late: it may be in the log, and its call does not leave.
func (c *Client) disown(i *record.Intent) {
	ctx, cancel := context.WithTimeout(context.Background(), disownTimeout)
	defer cancel()
	_ = c.Complete(ctx, i, &record.Completion{
		ID: i.ID, TimeMS: i.TimeMS, Outcome: record.Cut, ResponseHash: record.EmptyHash,
		Reason: "the intent was acknowledged too late; the call did not leave",
	}) // if it cannot be said, the signer settles the call when this connection ends
}

// Complete settles a call, waiting over a loss of the signer as long as ctx allows. nil means that the signed receipt is
// as durable as the evidence mode promises.
func (c *Client) Complete(ctx context.Context, i *record.Intent, done *record.Completion) error {
	payload, err := json.Marshal(record.Settlement{Intent: i, Completion: done})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotRecorded, err)
	}
	for {
		l, err := c.current(ctx, time.Hour)
		if err == nil {
			err = l.call(ctx, c.next.Add(1), wire.Completion, payload)
		}
		switch {
		case err == nil:
			c.mark(i.ID, false)
			return nil
		case !errors.Is(err, errLost):
			// Given up: not claimed any more, so that the signer settles it.
			c.mark(i.ID, false)
			return fmt.Errorf("%w: %w", ErrNotRecorded, err)
		}
	}
}

// call sends a frame and waits for its acknowledgement.
func (l *link) call(ctx context.Context, n uint64, t wire.Type, payload []byte) error {
	ch := make(chan error, 1)
	l.mu.Lock()
	l.wait[n] = ch
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.wait, n)
		l.mu.Unlock()
	}()
	if err := l.conn.Send(wire.Frame{Type: t, N: n, Payload: payload}); err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	select {
	case err := <-ch:
		return err
	case <-l.dead:
		return errLost
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *link) acknowledge(f wire.Frame) {
	l.mu.Lock()
	ch := l.wait[f.N]
	l.mu.Unlock()
	if ch == nil {
		return // its caller gave up
	}
	if len(f.Payload) == 0 {
		ch <- nil
		return
	}
	ch <- errors.New(string(f.Payload))
}

// Refuse hands a refusal over without waiting for the log. A refusal that cannot be handed over is in the process's own
// log and counted; the call was refused all the same.
func (c *Client) Refuse(r *record.Refusal) {
	payload, err := json.Marshal(r)
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	if err == nil && l != nil {
		err = l.conn.Send(wire.Frame{Type: wire.Refusal, Payload: payload})
	}
	if err != nil || l == nil {
		c.lost.Add(1)
		c.cfg.Log.Error("refusal not in the evidence", "decision", r.ID, "code", r.Code, "refusal", string(payload), "error", err)
	}
}

// LostRefusals counts the refusals that could not be handed over since the start.
func (c *Client) LostRefusals() uint64 { return c.lost.Load() }

// Ready says why nothing can be recorded now, or nil.
func (c *Client) Ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		return errAway
	}
	return nil
}
