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
	"sallyport/signer/receipt"
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
	// errUnknown: the signer does not know the intent, so it needs the settlement whole.
	errUnknown = errors.New("the signer does not know the intent")
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
	wait map[uint64]*waiter
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
	l := &link{conn: wire.NewConn(nc), wait: map[uint64]*waiter{}, dead: make(chan struct{})}
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
		c.heard.Store(l.conn.Heard().UnixNano())
		if err := c.take(l, f); err != nil {
			return err
		}
	}
}

func (c *Client) greeting() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := wire.Greeting{Version: wire.Version, Instance: c.cfg.Instance, Open: make([]string, 0, len(c.open))}
	for id := range c.open {
		g.Open = append(g.Open, id)
	}
	b, _ := json.Marshal(g) // strings only
	return b
}

func (c *Client) take(l *link, f wire.Frame) error {
	switch f.Type {
	case wire.Ack:
		if f.N == 0 {
			return fmt.Errorf("the signer refuses the connection: %s", f.Payload)
		}
		var err error
		if len(f.Payload) > 0 {
			err = errors.New(string(f.Payload))
		}
		l.answer(f.N, err)
	case wire.Unknown:
		l.answer(f.N, errUnknown)
	case wire.Receipt:
		l.deliver(f.N, f.Payload)
	case wire.Trust:
		var s trust.State
		if err := json.Unmarshal(f.Payload, &s); err != nil {
			return fmt.Errorf("trust state: %w", err)
		}
		c.trust.Store(newTrust(&s, &c.heard))
		c.cfg.Log.Info("trust state", "version", s.Version, "keys", len(s.Keys), "revoked_tokens", len(s.RevokedTokens), "revoked_jobs", len(s.RevokedMissions), "revoked_contracts", len(s.RevokedPolicies))
		c.raise(l)
	case wire.Heartbeat:
	case wire.Hello, wire.Intent, wire.Completion, wire.Settlement, wire.Refusal, wire.Delivery, wire.Lookup, wire.Sealed:
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
func (c *Client) Intent(ctx context.Context, i *record.Intent) error { return c.Begin(ctx, i)(ctx) }

// pending is an intent on its way to the log.
type pending struct {
	client *Client
	intent *record.Intent
	link   *link
	n      uint64
	waiter *waiter
	err    error
}

// Begin is Intent in two steps, for callers that have something else to wait for meanwhile: it sends, and what it returns
// must be called once, to wait.
func (c *Client) Begin(ctx context.Context, i *record.Intent) (wait func(context.Context) error) {
	p := &pending{client: c, intent: i}
	if p.link, p.err = c.current(ctx, patience); p.err != nil {
		return p.wait
	}
	// Claimed from the start: a connection lost between the record and its acknowledgement must not cut a call that goes on.
	c.mark(i.ID, true)
	p.n = c.next.Add(1)
	p.waiter, p.err = p.link.send(p.n, wire.Intent, i, nil)
	return p.wait
}

func (p *pending) wait(ctx context.Context) error {
	if p.link == nil {
		return fmt.Errorf("%w: %w", ErrNotRecorded, p.err)
	}
	err := p.err
	if err == nil {
		if err = p.link.await(ctx, p.n, p.waiter); err == nil {
			return nil
		}
	}
	p.client.mark(p.intent.ID, false)
	if ctx.Err() != nil {
		go p.client.disown(p.intent)
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
	return c.settle(ctx, i, done, wire.Completion, nil)
}

// Deliver is Complete for a call whose client gets its receipt with the answer. The receipt is nil where the call is recorded
// and its receipt is not at hand, as after a lost acknowledgement.
func (c *Client) Deliver(ctx context.Context, i *record.Intent, done *record.Completion) (*receipt.Delivery, error) {
	var d wire.Delivered
	if err := c.settle(ctx, i, done, wire.Delivery, &d); err != nil || d.Envelope == nil {
		return nil, err
	}
	return &receipt.Delivery{Legacy: d.Legacy, Envelope: d.Envelope}, nil
}

func (c *Client) settle(ctx context.Context, i *record.Intent, done *record.Completion, t wire.Type, d *wire.Delivered) error {
	if done.ID != i.ID {
		return fmt.Errorf("%w: the completion of %q is not of the intent %q", ErrNotRecorded, done.ID, i.ID)
	}
	for {
		l, err := c.current(ctx, time.Hour)
		if err == nil {
			err = l.call(ctx, c.next.Add(1), t, done, d)
		}
		if errors.Is(err, errUnknown) {
			err = l.call(ctx, c.next.Add(1), wire.Settlement, &record.Settlement{Intent: i, Completion: done}, nil)
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

// waiter is a call that waits for its answer. It is used again by a later call, once nothing can answer it any more.
type waiter struct {
	answer   chan error // holds one
	payload  []byte
	delivery *wire.Delivered // filled by the answer, if it is a receipt; nil where none is wanted
}

var waiters = sync.Pool{New: func() any { return &waiter{answer: make(chan error, 1)} }}

// message is a record that can travel.
type message interface{ AppendBinary(dst []byte) []byte }

// call sends a record and waits for its acknowledgement, or for a receipt.
func (l *link) call(ctx context.Context, n uint64, t wire.Type, m message, d *wire.Delivered) error {
	w, err := l.send(n, t, m, d)
	if err != nil {
		return err
	}
	return l.await(ctx, n, w)
}

func (l *link) send(n uint64, t wire.Type, m message, d *wire.Delivered) (*waiter, error) {
	w := waiters.Get().(*waiter)
	w.payload, w.delivery = m.AppendBinary(w.payload[:0]), d
	l.mu.Lock()
	l.wait[n] = w
	l.mu.Unlock()
	if err := l.conn.Send(wire.Frame{Type: t, N: n, Payload: w.payload}); err != nil {
		l.forget(n, w)
		return nil, fmt.Errorf("%w: %w", errLost, err)
	}
	return w, nil
}

func (l *link) await(ctx context.Context, n uint64, w *waiter) error {
	select {
	case err := <-w.answer:
		waiters.Put(w)
		return err
	case <-l.dead:
		l.forget(n, w)
		return errLost
	case <-ctx.Done():
		l.forget(n, w)
		return ctx.Err()
	}
}

// forget gives a call up. A waiter whose answer is on its way already is left to it.
func (l *link) forget(n uint64, w *waiter) {
	l.mu.Lock()
	_, unanswered := l.wait[n]
	delete(l.wait, n)
	l.mu.Unlock()
	if unanswered {
		waiters.Put(w)
	}
}

// answer tells the call with this number. Its caller may have given up.
func (l *link) answer(n uint64, err error) {
	l.mu.Lock()
	w := l.wait[n]
	delete(l.wait, n)
	l.mu.Unlock()
	if w != nil {
		w.answer <- err
	}
}

// deliver answers the call with this number by a receipt.
func (l *link) deliver(n uint64, payload []byte) {
	l.mu.Lock()
	w := l.wait[n]
	delete(l.wait, n)
	l.mu.Unlock()
	if w == nil {
		return
	}
	var err error
	if w.delivery != nil {
		if err = json.Unmarshal(payload, w.delivery); err != nil {
			err = fmt.Errorf("receipt: %w", err)
		}
	}
	w.answer <- err
}

// ErrNoReceipt means that no call of the job has that nonce.
var ErrNoReceipt = errors.New("no receipt")

// ErrInFlight means that the call is not settled yet.
var ErrInFlight = errors.New("the call is in flight")

// Lookup finds the receipt of a job's call by its nonce. The error wraps ErrNoReceipt or ErrInFlight where it is one of these.
func (c *Client) Lookup(ctx context.Context, job, nonce string) (*receipt.Delivery, error) {
	l, err := c.current(ctx, patience)
	if err != nil {
		return nil, err
	}
	var d wire.Delivered
	switch err := l.call(ctx, c.next.Add(1), wire.Lookup, wanted{job, nonce}, &d); {
	case err != nil:
		return nil, fmt.Errorf("receipt: %w", err)
	case d.InFlight:
		return nil, fmt.Errorf("receipt of nonce %q: %w", nonce, ErrInFlight)
	case d.Envelope == nil:
		return nil, fmt.Errorf("receipt of nonce %q: %w", nonce, ErrNoReceipt)
	}
	return &receipt.Delivery{Legacy: d.Legacy, Envelope: d.Envelope}, nil
}

// wanted is wire.Wanted as it travels.
type wanted wire.Wanted

func (w wanted) AppendBinary(dst []byte) []byte {
	b, _ := json.Marshal(wire.Wanted(w)) // strings only
	return append(dst, b...)
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
