package chain

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"sallyport/signer/jcs"
)

func of(n int) *Call {
	return &Call{
		ID: fmt.Sprintf("rcpt_%d", n), RunID: "run \"<é\u2028>", Type: ModelCall, TimeMS: int64(1_760_000_000_000 + n), PayloadHash: PayloadHash([]byte("{}"), ""),
		Continued: func(c string) string { return PayloadHash([]byte("{}"), c) },
	}
}

func events(n int) (out []Event, links []*Link) {
	var h Head
	for i := range n {
		var l *Link
		l, h = h.Next(of(i))
		out, links = append(out, l.Event), append(links, l)
	}
	return out, links
}

func TestHashIsTheJSONOrderHash(t *testing.T) {
	t.Parallel()
	es, _ := events(3)
	for _, e := range es {
		raw, err := json.Marshal(struct {
			ID        string  `json:"event_id"`
			RunID     string  `json:"run_id"`
			Type      string  `json:"event_type"`
			Timestamp string  `json:"timestamp"`
			Payload   string  `json:"payload_hash_b64u"`
			Prev      *string `json:"prev_hash_b64u"`
		}{e.ID, e.RunID, e.Type, e.Timestamp, e.PayloadHash, e.Prev})
		if err != nil {
			t.Fatal(err)
		}
		if want, err := jcs.HashJSONOrder(raw); err != nil || e.Hash != want {
			t.Errorf("%s, want %s (%v)", e.Hash, want, err)
		}
	}
}

func TestLinkJSON(t *testing.T) {
	t.Parallel()
	_, links := events(MaxEvents + 2)
	for _, l := range []*Link{links[0], links[1], links[MaxEvents-1], links[MaxEvents], links[MaxEvents+1]} {
		var got Link
		if err := json.Unmarshal(l.AppendJSON(nil), &got); err != nil || !reflect.DeepEqual(&got, l) {
			t.Errorf("%s reads as %+v (%v)", l.AppendJSON(nil), got, err)
		}
	}
}

func TestPartsGoOn(t *testing.T) {
	t.Parallel()
	es, links := events(2*MaxEvents + 5)
	for _, part := range [][]Event{es[:MaxEvents], es[MaxEvents : 2*MaxEvents], es[2*MaxEvents:]} {
		if err := Verify(part); err != nil {
			t.Error(err)
		}
	}
	second := links[MaxEvents]
	if second.Part != 2 || second.Index != 0 || second.Continues != es[MaxEvents-1].Hash || second.Parent != "" || second.Event.Prev != nil {
		t.Errorf("the second part begins with %+v", second)
	}
	if second.Event.PayloadHash != PayloadHash([]byte("{}"), second.Continues) {
		t.Error("its payload does not name the event that it goes on from")
	}
	if l := links[MaxEvents+1]; l.Parent != second.Span {
		t.Errorf("the span of the second part's second call hangs under %q", l.Parent)
	}
	var h Head
	for i, l := range links {
		h = h.After(l, of(i).TimeMS)
	}
	a, _ := h.Next(of(9))
	_, after := events(2*MaxEvents + 5)
	if b := after[len(after)-1]; *a.Event.Prev != b.Event.Hash || a.Event.Timestamp != b.Event.Timestamp || a.Parent != b.Parent {
		t.Errorf("read back, the chain goes on with %+v", a)
	}
}

func TestVerifyNamesTheFault(t *testing.T) {
	t.Parallel()
	other := "x"
	for field, c := range map[string]struct {
		code  Code
		spoil func(es []Event) []Event
	}{
		"event_chain[1].event_id":         {Malformed, func(es []Event) []Event { es[1].ID = es[0].ID; return es }},
		"event_chain[2].run_id":           {Malformed, func(es []Event) []Event { es[2].RunID = other; return es }},
		"event_chain[2].event_type":       {Malformed, func(es []Event) []Event { es[2].Type = ""; return es }},
		"event_chain[0].prev_hash_b64u":   {Malformed, func(es []Event) []Event { return es[1:] }},
		"event_chain[1].prev_hash_b64u":   {Malformed, func(es []Event) []Event { return append(es[:1], es[2:]...) }},
		"event_chain[3].prev_hash_b64u":   {Malformed, func(es []Event) []Event { es[3].Prev = nil; return es }},
		"event_chain[3].event_hash_b64u":  {HashMismatch, func(es []Event) []Event { es[3].Timestamp = other; return es }},
		"event_chain[0].event_hash_b64u":  {HashMismatch, func(es []Event) []Event { es[0].PayloadHash = other; return es }},
		"event_chain[2].event_hash_b64u":  {HashMismatch, func(es []Event) []Event { es[2].Type = ToolCall; return es }},
		"event_chain[0].event_hash_b64u ": {HashMismatch, func(es []Event) []Event { es[0].Hash = other; return es }},
	} {
		es, _ := events(4)
		var e *Error
		if err := Verify(c.spoil(es)); !errors.As(err, &e) || e.Code != c.code || e.Field != field && e.Field+" " != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
	es, _ := events(4)
	if err := errors.Join(Verify(es), Verify(nil)); err != nil {
		t.Error(err)
	}
}
