package dialect

import (
	"encoding/json"
	"math"
	"mime"
	"strconv"
	"strings"

	"sallyport/signer/jcs"
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
	found []reported       // scratch
	model string
	named string // the model as the answer spelt it last; every event of a stream repeats it
}

func (d *dialect) NewMeter(contentType string) Meter {
	m := &meter{names: &d.usage}
	t := &tap{emit: m.take}
	t.reset()
	media := contentType
	if media != "application/json" && media != "text/event-stream" { // nearly all are just that
		media, _, _ = mime.ParseMediaType(contentType)
	}
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
	found := m.found[:0]
	take := func(key, value []byte) error {
		for _, names := range [...][]string{m.names.input, m.names.inputMore, m.names.output, m.names.outputMore} {
			for _, name := range names {
				if v, ok := count(key, name, value); ok {
					found = append(found, reported{name, v})
				}
			}
		}
		return nil
	}
	if jcs.Scan(value, take) != nil {
		// Strict reading may have stopped at a number that only others could round; what counts is not to be lost for it.
		var members map[string]json.RawMessage
		if found = found[:0]; json.Unmarshal(value, &members) != nil {
			return // broken: nothing of it counts
		}
		for key, v := range members {
			_ = take([]byte(key), v) // never fails
		}
	}
	m.found = found
	for _, f := range found {
		if m.seen == nil {
			m.seen = make(map[string]int64, 4)
		}
		m.seen[f.name] = f.count
	}
}

// reported is a count as one report has it.
type reported struct {
	name  string
	count int64
}

// count reads a count of tokens, if the member is the one of that name; what is no non-negative number is none.
func count(key []byte, name string, raw []byte) (int64, bool) {
	if string(key) != name {
		return 0, false
	}
	if n, err := strconv.ParseUint(string(raw), 10, 53); err == nil {
		return int64(n), true //nolint:gosec // 53 bits
	}
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
