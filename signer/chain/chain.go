// Package chain is the event chain of a run: the Claw ecosystem's hash-linked events (WIRE 8.2), which the signer keeps for
// programs that record nothing themselves. It is data and hashing only; who appends to a chain is package service.
package chain

import (
	"fmt"

	"sallyport/signer/jcs"
)

// MaxEvents is how many events the ecosystem's verifiers accept in one bundle. A longer run goes on in another part, whose
// chain begins anew and whose first event's payload names the last event of the part before.
const MaxEvents = 1000

// The event types that this gateway writes.
const (
	ModelCall = "llm_call"  // a call to a model provider
	ToolCall  = "tool_call" // any other call to an upstream
)

// Event is one event. Its members stand in the order that its hash covers.
type Event struct {
	ID          string  `json:"event_id"`
	RunID       string  `json:"run_id"`
	Type        string  `json:"event_type"`
	Timestamp   string  `json:"timestamp"` // UTC with milliseconds; never before that of the event before
	PayloadHash string  `json:"payload_hash_b64u"`
	Prev        *string `json:"prev_hash_b64u"` // the hash of the event before; nil in the first
	Hash        string  `json:"event_hash_b64u"`
}

// Sum is the hash that the event should have: SHA-256 over its members but the last, as JSON.stringify writes them.
func (e *Event) Sum() string {
	var room [512]byte
	return jcs.Hash(e.appendHashed(room[:0]))
}

func (e *Event) appendHashed(dst []byte) []byte {
	for _, m := range []struct{ name, value string }{
		{`{"event_id":`, e.ID}, {`,"run_id":`, e.RunID}, {`,"event_type":`, e.Type},
		{`,"timestamp":`, e.Timestamp}, {`,"payload_hash_b64u":`, e.PayloadHash},
	} {
		dst = jcs.AppendText(append(dst, m.name...), m.value)
	}
	dst = append(dst, `,"prev_hash_b64u":`...)
	if e.Prev == nil {
		return append(dst, `null}`...)
	}
	return append(jcs.AppendText(dst, *e.Prev), '}')
}

// Link says where a call stands in its run's chain. It is stored with the call's intent.
type Link struct {
	Part      int    `json:"part"`                // from 1
	Index     int    `json:"index"`               // of the event in its part, from 0
	Continues string `json:"continues,omitempty"` // in the first event of a later part: the hash of the last event of the part before
	Event     Event  `json:"event"`
	Span      string `json:"span_id"`
	Parent    string `json:"parent_span_id,omitempty"` // the span of the part's first call; "" in that call
}

// Payload is what an event's payload_hash covers: the call's intent as it stands in the log and, in the first event of a
// later part, which event that part goes on from.
func Payload(dst, intent []byte, continues string) []byte {
	dst = append(dst, '{')
	if continues != "" {
		dst = append(jcs.AppendText(append(dst, `"continues":`...), continues), ',')
	}
	dst = append(append(dst, `"intent":`...), intent...)
	return append(dst, '}')
}

// PayloadHash is the hash of Payload.
func PayloadHash(intent []byte, continues string) string {
	var room [2048]byte
	return jcs.Hash(Payload(room[:0], intent, continues))
}

// Code is a public verifiers' reason for which a chain is not accepted.
type Code string

// The codes.
const (
	Malformed    Code = "MALFORMED_ENVELOPE"
	HashMismatch Code = "HASH_MISMATCH"
)

// Error says which event of a chain is wrong, and how.
type Error struct {
	Code  Code
	Field string // e.g. event_chain[3].prev_hash_b64u
	Text  string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Field, e.Text) }

// Verify checks a chain as the ecosystem's verifiers do: one run, unique ids, each event linked to the one before, each hash
// right. The error is an *Error about the first fault. An empty chain is sound.
func Verify(events []Event) error {
	seen := make(map[string]bool, len(events))
	for i := range events {
		e := &events[i]
		fault := func(c Code, member, text string) error {
			return &Error{c, fmt.Sprintf("event_chain[%d].%s", i, member), text}
		}
		switch {
		case e.ID == "" || seen[e.ID]:
			return fault(Malformed, "event_id", "is missing or was used before")
		case e.RunID == "" || e.RunID != events[0].RunID:
			return fault(Malformed, "run_id", "is not that of the first event")
		case e.Type == "":
			return fault(Malformed, "event_type", "is missing")
		case i == 0 && e.Prev != nil && *e.Prev != "":
			return fault(Malformed, "prev_hash_b64u", "the first event has none before it")
		case i > 0 && (e.Prev == nil || *e.Prev != events[i-1].Hash):
			return fault(Malformed, "prev_hash_b64u", "is not the hash of the event before")
		case e.Sum() != e.Hash:
			return fault(HashMismatch, "event_hash_b64u", "is not the hash of the event")
		}
		seen[e.ID] = true
	}
	return nil
}
