package chain

import (
	"strconv"
	"strings"
	"time"

	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
)

// Head is where a run's chain ends: what the next event needs to know. The zero value is that of a run without events.
type Head struct {
	Part    int    `json:"part"`    // of the last event
	Events  int    `json:"events"`  // in that part
	Last    string `json:"last"`    // hash of the last event
	LastMS  int64  `json:"last_ms"` // its time, Unix milliseconds
	Root    string `json:"root"`    // span of the part's first call
	Refused uint64 `json:"refused"` // sequence number of the last signed refusal
}

// Call is what a new event is about.
type Call struct {
	ID          string // the receipt's
	RunID       string
	Type        string
	TimeMS      int64
	PayloadHash string                        // of Payload without continues
	Continued   func(continues string) string // the hash of Payload with it; called for the first event of a later part only
}

// Next makes the link of a call at a head, and the head behind it. Times never go back within a run.
func (h Head) Next(c *Call) (*Link, Head) {
	name := strings.TrimPrefix(c.ID, "rcpt_")
	l := &Link{Part: h.Part, Index: h.Events, Span: "span_" + name, Parent: h.Root}
	last := h.Last
	e := Event{ID: "evt_" + name, RunID: c.RunID, Type: c.Type, PayloadHash: c.PayloadHash, Prev: &last}
	if h.Part == 0 || h.Events == MaxEvents {
		l.Part, l.Index, l.Parent, e.Prev = h.Part+1, 0, "", nil
		if h.Part > 0 {
			l.Continues, e.PayloadHash = h.Last, c.Continued(h.Last)
		}
		h.Root = l.Span
	}
	h.LastMS = max(h.LastMS, c.TimeMS)
	e.Timestamp = envelope.FormatTime(time.UnixMilli(h.LastMS))
	e.Hash = e.Sum()
	l.Event = e
	h.Part, h.Events, h.Last = l.Part, l.Index+1, e.Hash
	return l, h
}

// After is the head behind a link that stands in the log. Reading a log's links in order gives each run's head.
func (h Head) After(l *Link, timeMS int64) Head {
	if l.Parent == "" {
		h.Root = l.Span
	}
	h.Part, h.Events, h.Last, h.LastMS = l.Part, l.Index+1, l.Event.Hash, max(h.LastMS, timeMS)
	return h
}

// AppendJSON appends the link's JSON.
func (l *Link) AppendJSON(dst []byte) []byte {
	dst = strconv.AppendInt(append(dst, `{"part":`...), int64(l.Part), 10)
	dst = strconv.AppendInt(append(dst, `,"index":`...), int64(l.Index), 10)
	if l.Continues != "" {
		dst = jcs.AppendText(append(dst, `,"continues":`...), l.Continues)
	}
	dst = l.Event.appendHashed(append(dst, `,"event":`...))
	dst = jcs.AppendText(append(dst[:len(dst)-1], `,"event_hash_b64u":`...), l.Event.Hash)
	dst = jcs.AppendText(append(dst, `},"span_id":`...), l.Span)
	if l.Parent != "" {
		dst = jcs.AppendText(append(dst, `,"parent_span_id":`...), l.Parent)
	}
	return append(dst, '}')
}
