package clawverify

import (
	"encoding/json"
	"strings"
	"time"

	"sallyport/signer/jcs"
)

// The phases, and which may follow which from a parent span to its child (WIRE 8.4).
var phaseAfter = map[string]string{
	"setup":       "setup planning",
	"planning":    "planning reasoning execution",
	"reasoning":   "reasoning execution observation",
	"execution":   "execution observation reflection teardown",
	"observation": "observation reflection teardown",
	"reflection":  "reflection teardown",
	"teardown":    "teardown",
}

// span is one node of the graph: all receipts that name it must agree on it.
type span struct {
	id, parent, tool, phase string
	conf                    *float64
	at                      time.Time
	field                   string
}

// causal checks the spans that a bundle's gateway receipts form, and that what is reported beside them hangs on one.
func (p *payload) causal(receipts []*boundReceipt) *Error {
	if bad := replayed(receipts); bad != nil {
		return bad
	}
	spans, used, bad := collectSpans(receipts)
	if bad != nil {
		return bad
	}
	if used {
		for _, check := range []func(map[string]*span, []*boundReceipt) *Error{references, cycles, order, confidences, connected} {
			if bad := check(spans, receipts); bad != nil {
				return bad
			}
		}
	}
	if bad := anchored("side_effect_receipts", CausalSideEffectOrphaned, p.SideEffects, spans); bad != nil {
		return bad
	}
	return anchored("human_approval_receipts", CausalApprovalOrphaned, p.Approvals, spans)
}

// replayed finds a receipt id that two different receipts have.
func replayed(receipts []*boundReceipt) *Error {
	seen := map[string]string{}
	for i, r := range receipts {
		h, err := jcs.HashCanonical(r.payload)
		if err != nil {
			return under(item("receipts", i), err)
		}
		if before, ok := seen[r.ReceiptID]; ok && before != h {
			return fault(CausalReplay, item("receipts", i)+".payload.receipt_id", "another receipt of the bundle has this id")
		}
		seen[r.ReceiptID] = h
	}
	return nil
}

// collectSpans reads the causal members of every receipt. used says whether there are any.
func collectSpans(receipts []*boundReceipt) (spans map[string]*span, used bool, bad *Error) {
	spans = map[string]*span{}
	for i, r := range receipts {
		b := r.Binding
		if b == nil {
			continue
		}
		at := item("receipts", i) + ".payload.binding"
		if bad := b.resolve(at); bad != nil {
			return nil, false, bad
		}
		if b.resolved.span == "" && b.resolved.parent == "" && b.resolved.tool == "" && b.Phase == nil && b.conf == nil {
			continue
		}
		used = true
		stamp, ok1 := parseTime(r.Timestamp)
		issued, ok2 := parseTime(r.issuedAt)
		if !ok1 || !ok2 || stamp.After(issued) {
			return nil, false, fault(CausalClock, item("receipts", i)+".payload.timestamp", "is after the receipt was issued")
		}
		if b.resolved.span == "" {
			continue
		}
		s := &span{id: b.resolved.span, parent: b.resolved.parent, tool: b.resolved.tool, conf: b.conf, at: stamp, field: at}
		if b.Phase != nil {
			s.phase = *b.Phase
		}
		before, again := spans[s.id]
		switch {
		case !again:
			spans[s.id] = s
		case !before.at.Equal(s.at):
			return nil, false, fault(CausalClock, at+".span_id", "the span has another time in another receipt")
		case before.parent != s.parent || before.tool != s.tool || before.phase != s.phase || !sameNumber(before.conf, s.conf):
			return nil, false, fault(CausalSpanReuse, at+".span_id", "the span is described differently in another receipt")
		}
	}
	return spans, used, nil
}

func sameNumber(a, b *float64) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }

// resolve brings the two spellings of the causal members together.
func (b *binding) resolve(at string) *Error {
	for _, m := range []struct {
		name string
		a, b *string
		to   *string
	}{
		{"span_id", b.SpanID, b.Span2, &b.resolved.span},
		{"parent_span_id", b.Parent, b.Parent2, &b.resolved.parent},
		{"tool_span_id", b.Tool, b.Tool2, &b.resolved.tool},
	} {
		for _, v := range []*string{m.a, m.b} {
			if v == nil {
				continue
			}
			text := strings.TrimSpace(*v)
			if text == "" {
				return fault(CausalNormalization, at+"."+m.name, "is blank")
			}
			if *m.to != "" && *m.to != text {
				return fault(CausalFieldConflict, at+"."+m.name, "its two spellings differ")
			}
			*m.to = text
		}
	}
	b.conf = b.Conf
	if b.conf == nil {
		b.conf = b.Conf2
	} else if b.Conf2 != nil && *b.Conf2 != *b.conf {
		return fault(CausalFieldConflict, at+".attribution_confidence", "its two spellings differ")
	}
	return nil
}

// references finds parents and tools that no receipt names as its span.
func references(spans map[string]*span, receipts []*boundReceipt) *Error {
	for i, r := range receipts {
		if r.Binding == nil {
			continue
		}
		at := item("receipts", i) + ".payload.binding"
		for _, ref := range []struct{ name, id string }{{"parent_span_id", r.Binding.resolved.parent}, {"tool_span_id", r.Binding.resolved.tool}} {
			if ref.id == "" {
				continue
			}
			if spans[ref.id] == nil {
				return fault(CausalDangling, at+"."+ref.name, "no receipt of the bundle has this span")
			}
		}
	}
	return nil
}

func (s *span) above() []string {
	var out []string
	for _, id := range []string{s.parent, s.tool} {
		if id != "" {
			out = append(out, id)
		}
	}
	return out
}

// cycles walks up from each span, each only once.
func cycles(spans map[string]*span, receipts []*boundReceipt) *Error {
	const walking, done = 1, 2
	state := make(map[string]int, len(spans))
	var visit func(s *span) *Error
	visit = func(s *span) *Error {
		switch state[s.id] {
		case walking:
			return fault(CausalCycle, s.field, "the span is its own ancestor")
		case done:
			return nil
		}
		state[s.id] = walking
		for _, id := range s.above() {
			if bad := visit(spans[id]); bad != nil {
				return bad
			}
		}
		state[s.id] = done
		return nil
	}
	return inOrder(spans, receipts, visit)
}

// inOrder visits the spans in the order of the receipts, so that the same bundle has the same first fault.
func inOrder(spans map[string]*span, receipts []*boundReceipt, visit func(*span) *Error) *Error {
	for _, r := range receipts {
		if r.Binding == nil || r.Binding.resolved.span == "" {
			continue
		}
		if bad := visit(spans[r.Binding.resolved.span]); bad != nil {
			return bad
		}
	}
	return nil
}

// order: no child before its parent, and only phases that may follow.
func order(spans map[string]*span, receipts []*boundReceipt) *Error {
	return inOrder(spans, receipts, func(s *span) *Error {
		for _, id := range s.above() {
			if s.at.Before(spans[id].at) {
				return fault(CausalClock, s.field, "the call is before the one that it came from")
			}
		}
		if s.parent == "" {
			return nil
		}
		if from := spans[s.parent].phase; from != "" && s.phase != "" && !strings.Contains(" "+phaseAfter[from]+" ", " "+s.phase+" ") {
			return fault(CausalPhaseTransition, s.field+".phase", "%s does not follow %s", s.phase, from)
		}
		return nil
	})
}

// confidences: how sure an attribution may be depends on what it stands on.
func confidences(_ map[string]*span, receipts []*boundReceipt) *Error {
	referred := map[string]bool{}
	for _, r := range receipts {
		if r.Binding != nil {
			referred[r.Binding.resolved.parent], referred[r.Binding.resolved.tool] = true, true
		}
	}
	for i, r := range receipts {
		b := r.Binding
		if b == nil || b.conf == nil {
			continue
		}
		most := 0.0
		switch {
		case b.resolved.parent != "" || b.resolved.tool != "" || b.resolved.span != "" && referred[b.resolved.span]:
			most = 1
		case b.resolved.span != "":
			most = 0.5
		}
		if *b.conf > most {
			return fault(CausalConfidence, item("receipts", i)+".payload.binding.attribution_confidence", "is above %v, which is all that its links bear", most)
		}
	}
	return nil
}

// connected: all spans are in one piece, and one of them has nothing above it.
func connected(spans map[string]*span, receipts []*boundReceipt) *Error {
	if len(spans) == 0 {
		return nil
	}
	piece := make(map[string]string, len(spans)) // a span's representative
	var find func(id string) string
	find = func(id string) string {
		if piece[id] == "" || piece[id] == id {
			return id
		}
		piece[id] = find(piece[id])
		return piece[id]
	}
	pieces := len(spans)
	for _, s := range spans {
		for _, id := range s.above() {
			if a, b := find(s.id), find(id); a != b {
				piece[a] = b
				pieces--
			}
		}
	}
	if pieces == 1 {
		return nil
	}
	first := ""
	return inOrder(spans, receipts, func(s *span) *Error {
		if first == "" {
			first = find(s.id)
		}
		if find(s.id) != first {
			return fault(CausalDisconnected, s.field+".span_id", "the spans are in %d pieces; this one has no link to the first", pieces)
		}
		return nil
	})
}

// anchored: what the agent reports itself must hang on a span of a gateway receipt.
func anchored(list string, orphan Code, items []json.RawMessage, spans map[string]*span) *Error {
	for i, raw := range items {
		var r struct {
			Binding *binding `json:"binding"`
		}
		at := item(list, i) + ".binding"
		if err := json.Unmarshal(raw, &r); err != nil {
			return fault(SchemaValidationFailed, at, "%v", err)
		}
		if r.Binding == nil {
			return fault(orphan, at, "missing: it hangs on no gateway receipt")
		}
		if bad := r.Binding.resolve(at); bad != nil {
			return bad
		}
		anchor := r.Binding.resolved.tool
		if anchor == "" {
			anchor = r.Binding.resolved.parent
		}
		if anchor == "" {
			anchor = r.Binding.resolved.span
		}
		if anchor == "" || spans[anchor] == nil {
			return fault(orphan, at, "names no span of a gateway receipt")
		}
	}
	return nil
}
