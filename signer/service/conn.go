package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"sallyport/signer/internal/wire"
	"sallyport/signer/record"
)

// conn is one ext_proc process's stream.
type conn struct {
	wire     *wire.Conn
	instance string
	json     []byte // of the last intent, to be used again
}

func (s *Service) serveConn(ctx context.Context, nc net.Conn) {
	c := &conn{wire: wire.NewConn(nc)}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, c.wire.Close)
	defer stop()
	err := s.converse(ctx, c)
	c.wire.Close()
	s.orphan(c)
	if c.instance != "" {
		s.cfg.Slog.Info("processor disconnected", "instance", c.instance, "reason", err)
	}
}

func (s *Service) converse(ctx context.Context, c *conn) error {
	f, err := c.wire.Receive()
	if err != nil {
		return err
	}
	var g wire.Greeting
	if f.Type != wire.Hello || json.Unmarshal(f.Payload, &g) != nil || g.Instance == "" {
		return fmt.Errorf("%w: the first frame is no greeting", wire.ErrFrame)
	}
	if err := g.Check(); err != nil {
		// Said to both logs: nothing is recorded until the two are of one build again.
		_ = c.wire.Send(wire.Frame{Type: wire.Ack, Payload: []byte(err.Error())})
		c.wire.Flush(wire.Beat)
		s.cfg.Slog.Error("processor refused", "instance", g.Instance, "error", err)
		return err
	}
	c.instance = g.Instance
	s.claim(c, g.Open)
	s.cfg.Slog.Info("processor connected", "instance", g.Instance, "open_calls", len(g.Open))
	go s.inform(ctx, c)
	for {
		f, err := c.wire.Receive()
		if err != nil {
			return err
		}
		if err := s.take(c, f); err != nil {
			return err
		}
	}
}

// inform pushes every change of trust at once, and in between says that there was none.
func (s *Service) inform(ctx context.Context, c *conn) {
	beat := time.NewTicker(wire.Beat)
	defer beat.Stop()
	for {
		// The channel before the snapshot, so that no change falls between the two.
		changed := s.cfg.Trust.Changed()
		payload, err := json.Marshal(s.cfg.Trust.Snapshot())
		if err != nil {
			s.cfg.Slog.Error("trust state", "error", err)
			c.wire.Close()
			return
		}
		if c.wire.Send(wire.Frame{Type: wire.Trust, Payload: payload}) != nil {
			return
		}
		for same := true; same; {
			select {
			case <-changed:
				same = false
			case <-beat.C:
				if c.wire.Send(wire.Frame{Type: wire.Heartbeat}) != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

func (s *Service) take(c *conn, f wire.Frame) error {
	switch f.Type {
	case wire.Intent:
		i, err := record.DecodeIntent(f.Payload)
		if err = named(err, i.ID); err != nil {
			return fmt.Errorf("%w: intent: %w", wire.ErrFrame, err)
		}
		s.begin(c, i, c.acknowledge(f.N))
	case wire.Completion:
		done, err := record.DecodeCompletion(f.Payload)
		if err = named(err, done.ID); err != nil {
			return fmt.Errorf("%w: completion: %w", wire.ErrFrame, err)
		}
		s.finish(nil, done, nil, c.acknowledge(f.N))
	case wire.Delivery:
		done, err := record.DecodeCompletion(f.Payload)
		if err = named(err, done.ID); err != nil {
			return fmt.Errorf("%w: delivery: %w", wire.ErrFrame, err)
		}
		d := &delivery{}
		s.finish(nil, done, d, s.deliver(c, f.N, d))
	case wire.Lookup:
		var w wire.Wanted
		if err := json.Unmarshal(f.Payload, &w); err != nil {
			return fmt.Errorf("%w: lookup: %w", wire.ErrFrame, err)
		}
		go s.lookup(c, f.N, w)
	case wire.Settlement:
		set, err := record.DecodeSettlement(f.Payload)
		if err = named(err, set.Intent.ID); err == nil && set.Completion.ID != set.Intent.ID {
			err = errors.New("its parts are of two calls")
		}
		if err != nil {
			return fmt.Errorf("%w: settlement: %w", wire.ErrFrame, err)
		}
		s.finish(set.Intent, set.Completion, nil, c.acknowledge(f.N))
	case wire.Refusal:
		s.work <- job{refusal: slices.Clone(f.Payload)}
	case wire.Sealed:
		return s.sealed(c, f)
	case wire.Heartbeat:
	case wire.Hello, wire.Ack, wire.Trust, wire.Unknown, wire.Receipt:
		return fmt.Errorf("%w: type %d from a processor", wire.ErrFrame, f.Type)
	}
	return nil
}

// named is the error of a record that was read: its own, or that it has no id.
func named(err error, id string) error {
	if err == nil && id == "" {
		return errors.New("it has no id")
	}
	return err
}

func (c *conn) acknowledge(n uint64) func(error) {
	return func(err error) {
		f := wire.Frame{Type: wire.Ack, N: n}
		switch {
		case errors.Is(err, errUnknown):
			f.Type = wire.Unknown
		case err != nil:
			f.Payload = []byte(err.Error())
		}
		_ = c.wire.Send(f) // a lost acknowledgement is asked for again
	}
}
