// Package report keeps what a run measured, makes medians and ratios of it, says where the machine was the limit, and
// shows it as a table, as JSON and as what the picture needs.
package report

import (
	"fmt"
	"time"

	"sallyport/bench/host"
	"sallyport/bench/load"
)

// Process groups that every peer shares. All others are the peer's own.
const (
	GroupClient   = "client"
	GroupUpstream = "upstream"
)

// Setting is what is the same for all peers that stand beside each other.
type Setting struct {
	Part        int     `json:"part"` // in the scenario, from 0
	Workload    string  `json:"workload"`
	Connections int     `json:"connections"`
	Rate        float64 `json:"rate,omitempty"` // calls a second; 0 is a closed loop
}

// Loop says in words how the calls are timed.
func (s Setting) Loop() string {
	if s.Rate > 0 {
		return fmt.Sprintf("open loop, %g/s", s.Rate)
	}
	return "closed loop"
}

// Quantiles are of one histogram, in microseconds.
type Quantiles struct {
	P50  int64 `json:"p50_us"`
	P90  int64 `json:"p90_us"`
	P99  int64 `json:"p99_us"`
	P999 int64 `json:"p999_us"`
	Max  int64 `json:"max_us"`
}

// QuantilesOf reads a histogram; nil where it is empty.
func QuantilesOf(h *load.Latencies) *Quantiles {
	if h == nil || h.TotalCount() == 0 {
		return nil
	}
	return &Quantiles{h.ValueAtQuantile(50), h.ValueAtQuantile(90), h.ValueAtQuantile(99), h.ValueAtQuantile(99.9), h.Max()}
}

// Stream is how streamed answers came in at the client, and how the upstream itself sent them.
type Stream struct {
	FirstByte         *Quantiles `json:"first_byte"`
	Gap               *Quantiles `json:"gap"`
	UpstreamFirstP50  int64      `json:"upstream_first_byte_p50_us"`
	UpstreamFirstP99  int64      `json:"upstream_first_byte_p99_us"`
	UpstreamGapP50    int64      `json:"upstream_gap_p50_us"`
	UpstreamGapP99    int64      `json:"upstream_gap_p99_us"`
	UpstreamIsForeign bool       `json:"upstream_is_foreign,omitempty"` // then its own pacing is not known
}

// Interval is a part of a soak.
type Interval struct {
	Seconds           float64          `json:"seconds"` // from the window's begin to the interval's end
	RequestsPerSecond float64          `json:"requests_per_second"`
	Latency           *Quantiles       `json:"latency"`
	Errors            int64            `json:"errors"`
	Resident          map[string]int64 `json:"resident_bytes"`
}

// Cell is one peer measured once in one setting.
type Cell struct {
	Round int `json:"round"`
	Setting
	Peer              string                 `json:"peer"`
	Seconds           float64                `json:"seconds"` // measured
	Requests          int64                  `json:"requests"`
	RequestsPerSecond float64                `json:"requests_per_second"`
	BytesPerSecond    float64                `json:"bytes_per_second"` // of bodies, both ways
	Latency           *Quantiles             `json:"latency"`
	ByName            map[string]*Quantiles  `json:"by_name,omitempty"` // of a mix
	Stream            *Stream                `json:"stream,omitempty"`
	LateP99us         int64                  `json:"late_p99_us,omitempty"` // open loop: the client's own delay in sending
	Unsent            int64                  `json:"unsent,omitempty"`      // open loop: due, and never sent
	Exhausted         bool                   `json:"exhausted,omitempty"`   // the calls ran out before the time
	Errors            int64                  `json:"errors"`
	FirstError        string                 `json:"first_error,omitempty"`
	Answered          map[string]int64       `json:"answered"` // as they should be, warm-up and run-out included
	CPU               map[string]float64     `json:"cpu_seconds_per_1000"`
	Memory            map[string]host.Memory `json:"memory"`
	Machine           host.Machine           `json:"machine"`
	Shares            map[string]float64     `json:"busy_cores"` // by group
	Intervals         []Interval             `json:"intervals,omitempty"`
	MemorySlope       map[string]float64     `json:"memory_bytes_per_hour,omitempty"` // of a soak, by least squares

	Histogram *load.Latencies `json:"-"`
}

// NewCell puts together what the load and the machine's figures say.
func NewCell(s Setting, peer string, l *load.Result, u *host.Usage) *Cell {
	c := &Cell{
		Setting: s, Peer: peer, Seconds: l.Window.Seconds(), Requests: l.Completed, Latency: QuantilesOf(l.Latency),
		Unsent: l.Unsent, Exhausted: l.Exhausted, Errors: l.Errors, Answered: l.Answered, Memory: u.Memory, Machine: u.Machine,
		CPU: map[string]float64{}, Shares: map[string]float64{}, Histogram: l.Latency,
	}
	c.RequestsPerSecond, c.BytesPerSecond = float64(c.Requests)/c.Seconds, float64(l.Bytes)/c.Seconds
	if len(l.ByName) > 1 {
		c.ByName = map[string]*Quantiles{}
		for name, h := range l.ByName {
			c.ByName[name] = QuantilesOf(h)
		}
	}
	if l.FirstErr != nil {
		c.FirstError = l.FirstErr.Error()
	}
	if s.Rate > 0 && l.Late.TotalCount() > 0 {
		c.LateP99us = l.Late.ValueAtQuantile(99)
	}
	if l.FirstByte.TotalCount() > 0 {
		c.Stream = &Stream{FirstByte: QuantilesOf(l.FirstByte), Gap: QuantilesOf(l.Gap)}
	}
	for g, t := range u.CPU {
		c.Shares[g] = t.Seconds() / c.Seconds
		if c.Requests > 0 {
			c.CPU[g] = t.Seconds() / float64(c.Requests) * 1000
		}
	}
	return c
}

// AddIntervals notes a soak's parts and what each group held at their ends.
func (c *Cell) AddIntervals(parts []load.Interval, resident []map[string]int64) {
	var at time.Duration
	for i, p := range parts {
		at += p.Length
		iv := Interval{Seconds: at.Seconds(), RequestsPerSecond: float64(p.Latency.TotalCount()) / p.Length.Seconds(), Latency: QuantilesOf(p.Latency), Errors: p.Errors}
		if i < len(resident) {
			iv.Resident = resident[i]
		}
		c.Intervals = append(c.Intervals, iv)
	}
	c.MemorySlope = slopes(c.Intervals)
}

// slopes fits a line through each group's memory, in bytes an hour.
func slopes(all []Interval) map[string]float64 {
	if len(all) < 2 {
		return nil
	}
	out := map[string]float64{}
	for g := range all[0].Resident {
		var n, sx, sy, sxx, sxy float64
		for _, iv := range all {
			x, y := iv.Seconds, float64(iv.Resident[g])
			n, sx, sy, sxx, sxy = n+1, sx+x, sy+y, sxx+x*x, sxy+x*y
		}
		if d := n*sxx - sx*sx; d > 0 {
			out[g] = (n*sxy - sx*sy) / d * time.Hour.Seconds()
		}
	}
	return out
}

// all is how many calls were answered as they should, of whatever kind.
func (c *Cell) all() int64 {
	var n int64
	for _, a := range c.Answered {
		n += a
	}
	return n
}

// GateCPU is what the peer's own processes used, in CPU seconds for 1,000 requests.
func (c *Cell) GateCPU() float64 {
	var sum float64
	for g, s := range c.CPU {
		if g != GroupClient && g != GroupUpstream {
			sum += s
		}
	}
	return sum
}
