package service

import (
	"encoding/json"
	"errors"
	"fmt"

	"sallyport/signer/internal/wire"
	"sallyport/signer/receipt"
)

var errNoReceipts = errors.New("receipts cannot be looked up here")

// deliver answers a settlement with the receipt that it made, or as acknowledge does where it made none. The log's writer does
// not wait for that: it takes another signature.
func (s *Service) deliver(c *conn, n uint64, d *delivery) func(error) {
	ack := c.acknowledge(n)
	return func(err error) {
		if err != nil || d.envelope == nil {
			ack(err)
			return
		}
		go func() {
			if err := s.send(c, n, d.envelope); err != nil {
				s.cfg.Slog.Error("receipt not delivered; the call is recorded", "error", err)
				ack(nil)
			}
		}()
	}
}

// lookup answers a question for a receipt.
func (s *Service) lookup(c *conn, n uint64, w wire.Wanted) {
	err := s.find(c, n, w)
	if err != nil {
		_ = c.wire.Send(wire.Frame{Type: wire.Ack, N: n, Payload: []byte(err.Error())})
	}
}

func (s *Service) find(c *conn, n uint64, w wire.Wanted) error {
	if s.cfg.Receipts == nil {
		return errNoReceipts
	}
	// Before the log is asked, so that a call that settles in between is in one of the two.
	open := s.inFlight(w)
	envelope, err := s.cfg.Receipts.ByNonce(w.Job, w.Nonce)
	switch {
	case err != nil:
		return err
	case envelope != nil:
		return s.send(c, n, envelope)
	}
	return c.receipt(n, wire.Delivered{InFlight: open})
}

func (s *Service) inFlight(w wire.Wanted) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.open {
		i := &o.intent.Intent
		if i.Nonce == w.Nonce && runOf(i.MissionID, i.TokenHash, "").job == w.Job {
			return true
		}
	}
	return false
}

// send sends a receipt in both its forms.
func (s *Service) send(c *conn, n uint64, envelope []byte) error {
	var e struct{ Payload receipt.Payload }
	if err := json.Unmarshal(envelope, &e); err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	legacy, err := receipt.AppendLegacy(nil, &e.Payload, s.cfg.KID, s.cfg.Gateway)
	if err != nil {
		return fmt.Errorf("receipt in the older form: %w", err)
	}
	return c.receipt(n, wire.Delivered{Legacy: legacy, Envelope: envelope})
}

func (c *conn) receipt(n uint64, d wire.Delivered) error {
	payload := []byte(`{}`)
	switch {
	case d.Envelope != nil: // byte for byte as it was signed
		payload = append(append(append(append([]byte(`{"receipt":`), d.Legacy...), `,"receipt_envelope":`...), d.Envelope...), '}')
	case d.InFlight:
		payload = []byte(`{"in_flight":true}`)
	}
	return c.wire.Send(wire.Frame{Type: wire.Receipt, N: n, Payload: payload})
}
