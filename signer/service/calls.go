package service

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"sallyport/signer/chain"
	"sallyport/signer/decision"
	"sallyport/signer/evlog"
	"sallyport/signer/receipt"
	"sallyport/signer/record"
)

// call is one intent that has no receipt yet.
type call struct {
	intent   *record.Logged
	writing  bool           // its intent is on its way to the log
	logged   bool           // its intent stands in the log, and its link is known
	happened bool           // its intent was acknowledged before, so the call must not be forgotten if it cannot be written now
	held     *job           // a settlement that came before the intent was logged
	owner    *conn          // nil: its process went away
	orphaned time.Time      // since when
	reason   string         // why it will be cut if nobody settles it; "" for reasonGone
	settling record.Outcome // the outcome that is being recorded; "" if none
	waiting  []func(error)  // told when the settlement under way ends
}

// job is one thing to be signed on its way to the log: a settlement, or a refusal.
type job struct {
	intent     *record.Logged
	completion *record.Completion
	refusal    []byte // a record.Refusal as JSON
	delivery   *delivery
}

// delivery is a receipt that its client gets: nil in a job whose client does not. It is filled when the receipt is signed.
type delivery struct{ envelope []byte }

// maxSettled is how many settled calls are remembered, so that a settlement that is sent again after a lost
// acknowledgement is acknowledged and not written twice.
const maxSettled = 1 << 17

// recent remembers the newest ids of a bounded number.
type recent struct {
	cut  map[name]bool // by id: whether the call was cut
	ring []name
	at   int
}

// name stands for an id: half of its SHA-256. Without pointers, so that the collector need not look through all of them.
type name [16]byte

func nameOf(id string) name {
	sum := sha256.Sum256([]byte(id))
	return name(sum[:16])
}

func newRecent(n int) *recent {
	return &recent{cut: make(map[name]bool), ring: make([]name, n)}
}

// has says whether the call is settled, and whether as cut.
func (r *recent) has(id string) (settled, cut bool) {
	cut, settled = r.cut[nameOf(id)]
	return settled, cut
}

func (r *recent) add(id string, o record.Outcome) {
	n := nameOf(id)
	delete(r.cut, r.ring[r.at])
	r.ring[r.at], r.cut[n] = n, o == record.Cut
	r.at = (r.at + 1) % len(r.ring)
}

var (
	errUnknown = errors.New("the intent is not known here")
	errTwice   = errors.New("the intent's id was used before")
	errIsCut   = errors.New("the call is already recorded as cut, so its answer must not be released")
	errTooBig  = errors.New("the intent is too large for a receipt")
)

// maxIntent bounds an intent, in bytes of JSON: what is in it must fit the 16 KiB of a receipt's metadata, and a call
// whose receipt could not be made must not leave.
const maxIntent = 12 << 10

// begin writes an intent, then tells done.
func (s *Service) begin(c *conn, i *record.Intent, done func(error)) {
	c.json = i.AppendJSON(c.json[:0])
	if len(c.json) > maxIntent {
		done(errTooBig)
		return
	}
	s.mu.Lock()
	_, open := s.open[i.ID]
	if settled, _ := s.settled.has(i.ID); open || settled {
		s.mu.Unlock()
		done(errTwice)
		return
	}
	o := &call{intent: &record.Logged{Intent: *i}, writing: true, owner: c}
	s.open[i.ID] = o
	s.mu.Unlock()
	s.write(o, c.json, s.level(evlog.KindIntent), done)
}

// write appends a call's intent, given as JSON, with its place in its run's chain, and then goes on with a settlement that
// came meanwhile.
func (s *Service) write(o *call, json []byte, level evlog.Durability, done func(error)) {
	s.writes.Add(1)
	written := func(err error) {
		s.written(o, err)
		done(err)
	}
	i := &o.intent.Intent
	if recordsItself(i) {
		s.cfg.Log.Append(evlog.KindIntent, json, level, written)
		return
	}
	r, event := runOf(i.MissionID, i.TokenHash, i.RunID), eventOf(i, json)
	if err := s.chains.expect(r); err != nil {
		written(err)
		return
	}
	var before chain.Head
	finish := func(dst, json []byte) []byte {
		o.intent.Chain, before = s.chains.link(r, event)
		return o.intent.AppendJSON(dst, json)
	}
	s.cfg.Log.AppendFinished(evlog.KindIntent, json, level, finish, func(err error) {
		if err != nil && o.intent.Chain != nil {
			s.chains.takeBack(r, before)
			o.intent.Chain = nil
		}
		s.chains.settled(r)
		written(err)
	})
}

// written notes that an intent is in the log, or that it is not.
func (s *Service) written(o *call, err error) {
	id := o.intent.ID
	s.mu.Lock()
	held := o.held
	o.held, o.writing, o.logged = nil, false, err == nil
	var dropped []func(error)
	if err != nil && !o.happened {
		delete(s.open, id) // there is nothing to settle: the call will not leave
		dropped = o.waiting
	}
	s.mu.Unlock()
	if err != nil {
		s.metrics.failed.Inc()
		s.cfg.Slog.Error("intent not recorded", "receipt", id, "error", err)
	}
	switch {
	case held == nil:
	case err == nil:
		// The log's writer is not to wait for those who append to it.
		go func() {
			s.work <- *held
			s.writes.Done()
		}()
		return
	case o.happened:
		s.settledWith(*held, err)
	default:
		for _, done := range dropped {
			done(unless(held.completion.Outcome == record.Completed, errUnknown))
		}
	}
	s.writes.Done()
}

// finish settles a call; without its intent, only one whose intent is known here, else done is told errUnknown. Settling
// it again is acknowledged; completing what is recorded as cut is an error, since the answer may only be released if the log
// says so.
func (s *Service) finish(i *record.Intent, completion *record.Completion, d *delivery, done func(error)) {
	id, outcome := completion.ID, completion.Outcome
	s.mu.Lock()
	if settled, cut := s.settled.has(id); settled {
		s.mu.Unlock()
		done(unless(cut && outcome == record.Completed, errIsCut))
		return
	}
	o := s.open[id]
	if o == nil && outcome == record.Cut {
		s.mu.Unlock()
		done(nil) // nothing is in the log of it, and it did not leave
		return
	}
	if o == nil && i == nil {
		s.mu.Unlock()
		done(errUnknown)
		return
	}
	if o == nil {
		// Its intent was acknowledged and is gone from the log all the same: it is written again, so that none is missing.
		o = &call{intent: &record.Logged{Intent: *i}, happened: true}
		s.open[id] = o
	}
	if o.settling == record.Cut && outcome == record.Completed {
		s.mu.Unlock()
		done(errIsCut)
		return
	}
	o.waiting = append(o.waiting, done)
	if o.settling != "" {
		s.mu.Unlock()
		return
	}
	o.settling = outcome
	j := job{intent: o.intent, completion: completion, delivery: d}
	if o.logged {
		s.mu.Unlock()
		s.work <- j
		return
	}
	again := !o.writing
	o.held, o.writing = &j, true
	s.mu.Unlock()
	if again {
		s.write(o, o.intent.Intent.AppendJSON(nil), evlog.Written, func(error) {})
	}
}

func unless(bad bool, err error) error {
	if bad {
		return err
	}
	return nil
}

// sign makes the receipt and appends it. It returns the buffer that it was made in, to be used again.
func (s *Service) sign(j job, buf []byte) []byte {
	if j.refusal != nil {
		s.refuse(j.refusal)
		return buf
	}
	at := s.cfg.Now()
	if l := j.intent.Chain; l != nil {
		at = notBefore(at, l.Event.Timestamp)
	}
	raw, err := receipt.Append(buf[:0], j.intent, j.completion, s.cfg.GatewayID, s.cfg.Gateway, at)
	if err != nil {
		s.settledWith(j, err)
		return buf
	}
	if j.delivery != nil {
		j.delivery.envelope = bytes.Clone(raw)
	}
	s.cfg.Log.Append(evlog.KindReceipt, raw, s.level(evlog.KindReceipt), func(err error) { s.settledWith(j, err) })
	return raw
}

func (s *Service) settledWith(j job, err error) {
	s.mu.Lock()
	o := s.open[j.intent.ID]
	waiting := o.waiting
	o.waiting, o.settling = nil, ""
	if err != nil {
		// The answer is withheld on this. If its process does not try again, the sweep does, until there is room.
		o.owner, o.orphaned, o.reason = nil, s.cfg.Now(), reasonFailed
	}
	if err == nil {
		delete(s.open, j.intent.ID)
		s.settled.add(j.intent.ID, j.completion.Outcome)
	}
	s.mu.Unlock()
	if err != nil {
		s.metrics.failed.Inc()
		s.cfg.Slog.Error("receipt not recorded", "receipt", j.intent.ID, "error", err)
	} else {
		s.metrics.settled(j.completion.Outcome).Inc()
	}
	for _, done := range waiting {
		done(err)
	}
}

// orphan marks what a connection left open.
func (s *Service) orphan(c *conn) {
	now := s.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.open {
		if o.owner == c {
			o.owner, o.orphaned = nil, now
		}
	}
}

// claim gives a connection the open calls that its greeting names.
func (s *Service) claim(c *conn, ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if o := s.open[id]; o != nil {
			o.owner = c
		}
	}
}

// sweep settles as cut what nobody claimed in time.
func (s *Service) sweep(ctx context.Context) {
	tick := time.NewTicker(max(s.cfg.Grace/10, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, a := range s.abandoned() {
				s.cut(a)
			}
			s.chains.forget()
		}
	}
}

// abandonment is a call to be cut, and why.
type abandonment struct {
	intent *record.Intent
	reason string
}

func (s *Service) abandoned() []abandonment {
	now := s.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []abandonment
	for _, o := range s.open {
		if o.owner == nil && o.settling == "" && now.Sub(o.orphaned) >= s.cfg.Grace {
			reason := o.reason
			if reason == "" {
				reason = reasonGone
			}
			out = append(out, abandonment{&o.intent.Intent, reason})
		}
	}
	return out
}

// cut settles a call of which only the intent is known: whether it reached the upstream, and how far the answer got,
// nobody can say.
func (s *Service) cut(a abandonment) {
	now, i := s.cfg.Now(), a.intent
	s.cfg.Slog.Warn("call marked as cut", "receipt", i.ID, "reason", a.reason)
	s.finish(i, &record.Completion{
		ID: i.ID, TimeMS: now.UnixMilli(), Outcome: record.Cut, Reason: a.reason, ResponseHash: record.EmptyHash,
		LatencyMS: max(0, now.UnixMilli()-i.TimeMS),
	}, nil, func(error) {})
}

const (
	reasonGone   = "the processor went away; whether the call reached the upstream is unknown"
	reasonFailed = "the receipt could not be recorded when the answer came, so the answer was withheld"
)

// Recover reads the log: it takes up the calls that were left open, whose processes may claim them within the grace before
// they are settled as cut, and where each run's chain ends. It returns how many calls there are.
func (s *Service) Recover(dir string) (int, error) {
	now := s.cfg.Now()
	err := evlog.Read(dir, func(e evlog.Entry) error {
		if err := s.recover(e, now); err != nil {
			return fmt.Errorf("segment %s, offset %d: %w", e.Segment, e.Offset, err)
		}
		return nil
	})
	return len(s.open), err
}

func (s *Service) recover(e evlog.Entry, now time.Time) error {
	switch e.Kind {
	case evlog.KindIntent:
		var l record.Logged
		if err := json.Unmarshal(e.Payload, &l); err != nil {
			return err
		}
		s.open[l.ID] = &call{intent: &l, logged: true, orphaned: now}
		if l.Chain != nil {
			return s.chains.read(runOf(l.MissionID, l.TokenHash, l.RunID), l.Chain, l.TimeMS)
		}
	case evlog.KindReceipt:
		var r struct{ Payload receipt.Payload }
		if err := json.Unmarshal(e.Payload, &r); err != nil || r.Payload.ReceiptID == "" {
			return fmt.Errorf("no receipt: %w", err)
		}
		delete(s.open, r.Payload.ReceiptID)
		s.settled.add(r.Payload.ReceiptID, r.Payload.Metadata.Sallyport.Outcome)
	case evlog.KindRefusal:
		var d struct{ Payload *decision.Payload }
		if err := json.Unmarshal(e.Payload, &d); err != nil {
			return err
		}
		if p := d.Payload; p != nil {
			return s.chains.readRefusal(runOf(p.MissionID, p.TokenHash, p.RunID), p.Sequence)
		}
	case evlog.KindControl, evlog.KindTombstone, evlog.KindSealed:
	}
	return nil
}
