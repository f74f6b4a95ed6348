package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"
)

// report is everything one run has found out.
type report struct {
	Started     time.Time         `json:"started"`
	Rounds      int               `json:"rounds"`
	Seconds     float64           `json:"seconds"`
	Connections []int             `json:"connections"`
	Peers       []string          `json:"peers"`
	Baseline    string            `json:"baseline"`
	Request     int               `json:"request_body_bytes"`
	Answer      int               `json:"answer_body_bytes"`
	Facts       map[string]string `json:"facts"`
	Cells       []*cell           `json:"cells"`
	Summary     []*summary        `json:"summary"`
}

func newReport(o options, e *environment) *report {
	e.facts["cores"] = fmt.Sprint(runtime.NumCPU())
	e.facts["go"] = runtime.Version()
	e.facts["platform"] = runtime.GOOS + "/" + runtime.GOARCH
	e.facts["cpu"] = cpuModel()
	if inMemory(e.dir) {
		e.facts["evidence_disk"] = "none: the run's directory is in memory, so that syncs are free (set TMPDIR)"
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" || s.Key == "vcs.modified" {
				e.facts[s.Key] = s.Value
			}
		}
	}
	return &report{
		Started: time.Now().UTC(), Rounds: o.Rounds, Seconds: o.Seconds, Connections: o.Connections, Peers: o.Peers,
		Baseline: baseline, Request: len(prompt), Answer: answerSize, Facts: e.facts,
	}
}

// inMemory says whether a directory is on no disk, where syncing costs nothing.
func inMemory(dir string) bool {
	const tmpfs, ramfs = 0x01021994, 0x858458f6 // statfs(2)
	var s syscall.Statfs_t
	return syscall.Statfs(dir, &s) == nil && (s.Type == tmpfs || s.Type == ramfs)
}

// cpuModel is the processor's name as Linux tells it, "" where it does not.
func cpuModel() string {
	raw, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// spread is a figure over all rounds.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spreadOf(v []float64) spread {
	s := slices.Sorted(slices.Values(v))
	if len(s) == 0 {
		return spread{}
	}
	mid := s[len(s)/2]
	if len(s)%2 == 0 {
		mid = (s[len(s)/2-1] + mid) / 2
	}
	return spread{Median: mid, Min: s[0], Max: s[len(s)-1]}
}

// summary is one peer at one number of connections over all rounds. Ratios are to the baseline of the same round.
type summary struct {
	Connections       int               `json:"connections"`
	Peer              string            `json:"peer"`
	RequestsPerSecond spread            `json:"requests_per_second"`
	P50us             spread            `json:"p50_us"`
	P99us             spread            `json:"p99_us"`
	GateCPU           spread            `json:"gate_cpu_seconds_per_1000"`
	CPU               map[string]spread `json:"cpu_seconds_per_1000"`
	Errors            int64             `json:"errors"`
	Ratios            map[string]spread `json:"ratios,omitempty"`
}

// metrics are the figures of a cell that are compared.
var metrics = map[string]func(*cell) float64{
	"requests_per_second":       func(c *cell) float64 { return c.RequestsPerSecond },
	"p50_us":                    func(c *cell) float64 { return float64(c.P50us) },
	"p99_us":                    func(c *cell) float64 { return float64(c.P99us) },
	"gate_cpu_seconds_per_1000": (*cell).gateCPU,
}

// summarise fills Summary, in the order of connections and peers.
func (r *report) summarise() {
	r.Summary = nil
	for _, n := range r.Connections {
		for _, p := range r.Peers {
			r.Summary = append(r.Summary, r.summary(n, p))
		}
	}
}

func (r *report) summary(n int, peer string) *summary {
	cells := r.find(n, peer)
	s := &summary{Connections: n, Peer: peer, CPU: map[string]spread{}, Ratios: map[string]spread{}}
	over := func(f func(*cell) float64) spread {
		var v []float64
		for _, c := range cells {
			v = append(v, f(c))
		}
		return spreadOf(v)
	}
	s.RequestsPerSecond, s.P50us = over(metrics["requests_per_second"]), over(metrics["p50_us"])
	s.P99us, s.GateCPU = over(metrics["p99_us"]), over(metrics["gate_cpu_seconds_per_1000"])
	groups := map[string]bool{}
	for _, c := range cells {
		s.Errors += c.Errors
		for g := range c.CPU {
			groups[g] = true
		}
	}
	for g := range groups {
		s.CPU[g] = over(func(c *cell) float64 { return c.CPU[g] })
	}
	for name, f := range metrics {
		if v := ratios(cells, r.find(n, r.Baseline), f); len(v) > 0 {
			s.Ratios[name] = spreadOf(v)
		}
	}
	return s
}

// ratios pairs cells with the baseline's of the same round, because a machine's speed drifts from one to the next.
func ratios(cells, base []*cell, f func(*cell) float64) []float64 {
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

func (r *report) find(n int, peer string) []*cell {
	var out []*cell
	for _, c := range r.Cells {
		if c.Connections == n && c.Peer == peer {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *cell) int { return cmp.Compare(a.Round, b.Round) })
	return out
}

// answered is how many calls a peer answered in all cells, warm-up included.
func (r *report) answered(peer string) int64 {
	var n int64
	for _, c := range r.Cells {
		if c.Peer == peer {
			n += c.Answered
		}
	}
	return n
}

// failure is nil if no call failed. Figures with failed calls in them are shown, but they compare nothing.
func (r *report) failure() error {
	var errs []error
	for _, c := range r.Cells {
		if c.Errors > 0 {
			errs = append(errs, fmt.Errorf("round %d, %d connections, %s: %d calls failed, the first with: %s", c.Round, c.Connections, c.Peer, c.Errors, c.FirstError))
		}
		if c.Requests == 0 {
			errs = append(errs, fmt.Errorf("round %d, %d connections, %s: no call was completed in the window", c.Round, c.Connections, c.Peer))
		}
	}
	return errors.Join(errs...)
}

func (r *report) writeJSON(file string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(raw, '\n'), 0o644)
}
