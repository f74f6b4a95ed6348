package dialect

import (
	"encoding/json"
	"math"
	"mime"
	"strings"
)

// usageNames are the members of a provider's usage object. The first of a list that is there counts; what is listed
// under more is added to it.
type usageNames struct {
	input, output         []string
	inputMore, outputMore []string
}

// meter is a Meter over whatever reader the answer's type needs.
type meter struct {
	names *usageNames
	write func([]byte)
	seen  map[string]int64 // counts by member, the latest report of each
	model string
	named string // the model as the answer spelt it last; every event of a stream repeats it
}

func (d *dialect) NewMeter(contentType string) Meter {
	m := &meter{names: &d.usage}
	t := &tap{emit: m.take}
	t.reset()
	media, _, _ := mime.ParseMediaType(contentType)
	switch {
	case media == "text/event-stream":
		m.write = newSSE(t).write
	case media == "application/json" || strings.HasSuffix(media, "+json"):
		m.write = t.write
	default:
		m.write = func([]byte) {}
	}
	return m
}

func (m *meter) Write(chunk []byte) { m.write(chunk) }

// take is what the tap found. A stream reports more than once, each time the whole so far, so the latest counts.
func (m *meter) take(key string, value []byte) {
	if key == "model" {
		if string(value) == m.named {
			return
		}
		m.named = string(value)
		var s string
		if json.Unmarshal(value, &s) == nil && s != "" && len(s) <= maxModel {
			m.model = s
		}
		return
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(value, &members) != nil {
		return
	}
	n := m.names
	for _, names := range [...][]string{n.input, n.inputMore, n.output, n.outputMore} {
		for _, name := range names {
			if v, ok := count(members[name]); ok {
				if m.seen == nil {
					m.seen = make(map[string]int64, 4)
				}
				m.seen[name] = v
			}
		}
	}
}

// count reads a count of tokens; what is no non-negative number is none.
func count(raw json.RawMessage) (int64, bool) {
	var f *float64
	if len(raw) == 0 || json.Unmarshal(raw, &f) != nil || f == nil || *f < 0 || *f > 1<<53 {
		return 0, false
	}
	return int64(math.Trunc(*f)), true
}

func (m *meter) Usage() Usage {
	u := Usage{Model: m.model}
	in, hasIn := m.first(m.names.input)
	out, hasOut := m.first(m.names.output)
	if !hasIn && !hasOut {
		return u
	}
	u.Reported = true
	u.Input = in + m.sum(m.names.inputMore)
	u.Output = out + m.sum(m.names.outputMore)
	return u
}

func (m *meter) first(names []string) (int64, bool) {
	for _, n := range names {
		if v, ok := m.seen[n]; ok {
			return v, true
		}
	}
	return 0, false
}

func (m *meter) sum(names []string) int64 {
	var s int64
	for _, n := range names {
		s += m.seen[n]
	}
	return s
}
