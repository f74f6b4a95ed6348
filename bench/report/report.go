package report

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"sallyport/bench/load"
	"sallyport/bench/workload"
)

// Report is everything one run has found out.
type Report struct {
	Title    string            `json:"title,omitempty"`
	Started  time.Time         `json:"started"`
	Baseline string            `json:"baseline"`
	Peers    []string          `json:"peers"`
	Facts    map[string]string `json:"facts"`
	Settings []Setting         `json:"settings"`
	Cells    []*Cell           `json:"cells"`
	Skipped  []Skipped         `json:"skipped,omitempty"`
	Summary  []*Summary        `json:"summary"`
	Startups []*Startup        `json:"startups,omitempty"`
	Limits   []string          `json:"limits,omitempty"`
}

// Skipped is a peer that was not measured in a setting, and why.
type Skipped struct {
	Setting
	Peer   string `json:"peer"`
	Reason string `json:"reason"`
}

// Spread is a figure over all rounds.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spreadOf(v []float64) Spread {
	s := slices.Sorted(slices.Values(v))
	if len(s) == 0 {
		return Spread{}
	}
	mid := s[len(s)/2]
	if len(s)%2 == 0 {
		mid = (s[len(s)/2-1] + mid) / 2
	}
	return Spread{Median: mid, Min: s[0], Max: s[len(s)-1]}
}

// Summary is one peer in one setting over all rounds. Ratios are to the baseline of the same round.
type Summary struct {
	Setting
	Peer    string            `json:"peer"`
	Rounds  int               `json:"rounds"`
	Figures map[string]Spread `json:"figures"`
	CPU     map[string]Spread `json:"cpu_seconds_per_1000"`
	Peak    map[string]Spread `json:"peak_bytes"`
	Growth  map[string]Spread `json:"growth_bytes"`
	Errors  int64             `json:"errors"`
	Ratios  map[string]Spread `json:"ratios,omitempty"`
}

// The figures of a cell, by their names in Figures and Ratios.
const (
	RequestsPerSecond = "requests_per_second"
	BytesPerSecond    = "bytes_per_second"
	P50               = "p50_us"
	P99               = "p99_us"
	GateCPU           = "gate_cpu_seconds_per_1000"
	FirstByteP50      = "first_byte_p50_us"
	FirstByteP99      = "first_byte_p99_us"
	GapP50            = "gap_p50_us"
	GapP99            = "gap_p99_us"
	UpstreamGapP50    = "upstream_gap_p50_us"
	UpstreamGapP99    = "upstream_gap_p99_us"
)

var figures = map[string]func(*Cell) float64{
	RequestsPerSecond: func(c *Cell) float64 { return c.RequestsPerSecond },
	BytesPerSecond:    func(c *Cell) float64 { return c.BytesPerSecond },
	GateCPU:           (*Cell).GateCPU,
	P50:               latency(func(q *Quantiles) int64 { return q.P50 }),
	P99:               latency(func(q *Quantiles) int64 { return q.P99 }),
	FirstByteP50:      stream(func(s *Stream) int64 { return s.FirstByte.P50 }),
	FirstByteP99:      stream(func(s *Stream) int64 { return s.FirstByte.P99 }),
	GapP50:            stream(func(s *Stream) int64 { return gap(s).P50 }),
	GapP99:            stream(func(s *Stream) int64 { return gap(s).P99 }),
	UpstreamGapP50:    stream(func(s *Stream) int64 { return s.UpstreamGapP50 }),
	UpstreamGapP99:    stream(func(s *Stream) int64 { return s.UpstreamGapP99 }),
}

func latency(f func(*Quantiles) int64) func(*Cell) float64 {
	return func(c *Cell) float64 {
		if c.Latency == nil {
			return 0
		}
		return float64(f(c.Latency))
	}
}

func stream(f func(*Stream) int64) func(*Cell) float64 {
	return func(c *Cell) float64 {
		if c.Stream == nil {
			return 0
		}
		return float64(f(c.Stream))
	}
}

// gap is of streams of one event nothing.
func gap(s *Stream) *Quantiles {
	if s.Gap == nil {
		return &Quantiles{}
	}
	return s.Gap
}

// Summarise fills Summary and Limits, in the order of settings and peers.
func (r *Report) Summarise() {
	r.Summary = nil
	for _, s := range r.Settings {
		for _, p := range r.Peers {
			if cells := r.find(s, p); len(cells) > 0 {
				r.Summary = append(r.Summary, r.summary(s, p, cells))
			}
		}
	}
	for _, s := range r.Startups {
		s.summarise(r.Startups[0])
	}
	r.Limits = r.limits()
}

func (r *Report) summary(s Setting, peer string, cells []*Cell) *Summary {
	out := &Summary{
		Setting: s, Peer: peer, Rounds: len(cells), Figures: map[string]Spread{}, CPU: map[string]Spread{},
		Peak: map[string]Spread{}, Growth: map[string]Spread{}, Ratios: map[string]Spread{},
	}
	over := func(f func(*Cell) float64) Spread {
		var v []float64
		for _, c := range cells {
			v = append(v, f(c))
		}
		return spreadOf(v)
	}
	base := r.find(s, r.Baseline)
	for name, f := range figures {
		if v := over(f); v.Max > 0 {
			out.Figures[name] = v
		}
		if v := ratios(cells, base, f); len(v) > 0 {
			out.Ratios[name] = spreadOf(v)
		}
	}
	for _, c := range cells {
		out.Errors += c.Errors
	}
	for g := range cells[0].CPU {
		out.CPU[g] = over(func(c *Cell) float64 { return c.CPU[g] })
	}
	for g := range cells[0].Memory {
		out.Peak[g] = over(func(c *Cell) float64 { return float64(c.Memory[g].Peak) })
		out.Growth[g] = over(func(c *Cell) float64 { return float64(c.Memory[g].Growth) })
	}
	return out
}

// ratios pairs cells with the baseline's of the same round, because a machine's speed drifts from one to the next.
func ratios(cells, base []*Cell, f func(*Cell) float64) []float64 {
	var out []float64
	for _, c := range cells {
		for _, b := range base {
			if b.Round == c.Round && f(b) > 0 {
				out = append(out, f(c)/f(b))
			}
		}
	}
	return out
}

func (r *Report) find(s Setting, peer string) []*Cell {
	var out []*Cell
	for _, c := range r.Cells {
		if c.Setting == s && c.Peer == peer {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *Cell) int { return cmp.Compare(a.Round, b.Round) })
	return out
}

// Answered is how many calls a peer let through and answered in all cells, warm-up included.
func (r *Report) Answered(peer string) int64 {
	var n int64
	for _, c := range r.Cells {
		if c.Peer == peer && !workload.IsRefused(c.Workload) {
			n += c.all()
		}
	}
	return n
}

// Failure is nil if no call failed. Figures with failed calls in them are shown, but they compare nothing.
func (r *Report) Failure() error {
	var errs []error
	for _, c := range r.Cells {
		where := fmt.Sprintf("round %d, %s, %d connections, %s", c.Round, c.Workload, c.Connections, c.Peer)
		if c.Errors > 0 {
			errs = append(errs, fmt.Errorf("%s: %d calls failed, the first with: %s", where, c.Errors, c.FirstError))
		}
		if c.Requests == 0 {
			errs = append(errs, fmt.Errorf("%s: no call was completed in the window; give it more seconds", where))
		}
	}
	return errors.Join(errs...)
}

// WriteJSON writes everything to a file.
func (r *Report) WriteJSON(file string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(raw, '\n'), 0o644)
}

// merged is one peer's latencies in one setting over all rounds.
func (r *Report) merged(s Setting, peer string) *load.Latencies {
	var out *load.Latencies
	for _, c := range r.find(s, peer) {
		if c.Histogram == nil {
			continue
		}
		if out == nil {
			out = load.NewLatencies()
		}
		out.Merge(c.Histogram)
	}
	return out
}
