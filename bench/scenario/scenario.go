// Package scenario reads what is to be measured from a YAML file. Reading is strict: an unknown field, a wrong type or a
// value out of range is an error that names the line and says what to change.
package scenario

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sallyport/bench/workload"
)

// Scenario is one run.
type Scenario struct {
	Title    string   `yaml:"title"`
	Rounds   int      `yaml:"rounds"`   // how often each peer is measured in each setting; default DefaultRounds
	Seconds  float64  `yaml:"seconds"`  // measured time of one cell; default DefaultSeconds
	Evidence string   `yaml:"evidence"` // Sallyport's evidence mode; default DefaultEvidence
	Baseline string   `yaml:"baseline"` // peer that ratios are to; "" for the usual one
	Log      bool     `yaml:"log"`      // whether the evidence log is also measured alone
	Startups int      `yaml:"startups"` // how often the start of each command is measured; 0: not at all
	Peers    []string `yaml:"peers"`    // default: all that there are
	Parts    []Part   `yaml:"parts"`
}

// Part is one workload in some settings.
type Part struct {
	Workload    string         `yaml:"workload"`
	Connections []int          `yaml:"connections"` // each is a setting of its own; default DefaultConnections
	Rate        float64        `yaml:"rate"`        // calls a second in an open loop; 0 for a closed loop
	Rounds      int            `yaml:"rounds"`      // default: the scenario's
	Seconds     float64        `yaml:"seconds"`     // default: the scenario's
	Soak        time.Duration  `yaml:"soak"`        // one long measurement instead of rounds, with figures of each Every
	Every       time.Duration  `yaml:"every"`       // default DefaultEvery
	Peers       []string       `yaml:"peers"`       // default: the scenario's
	Model       string         `yaml:"model"`       // default workload.Model
	Gap         time.Duration  `yaml:"gap"`         // pause between the chunks of a stream; default workload.DefaultGap
	Tokens      int            `yaml:"tokens"`      // single-use tokens of one cell; default DefaultTokens
	Contracts   int            `yaml:"contracts"`   // of tenants; default DefaultContracts
	Skew        float64        `yaml:"skew"`        // exponent of the Zipf distribution over tenants; default DefaultSkew
	Weights     map[string]int `yaml:"weights"`     // of a mix: how often each workload is called
}

// The defaults.
const (
	DefaultRounds      = 3
	DefaultSeconds     = 3.0
	DefaultEvidence    = "sealed" // Sallyport's own default
	DefaultConnections = 16
	DefaultTokens      = 4000
	DefaultContracts   = 10_000
	DefaultSkew        = 1.1
	DefaultEvery       = time.Minute

	// MaxConnections stays below 1,024, where Envoy's default circuit breaker opens.
	MaxConnections = 1000
	maxTokens      = 1_000_000
	maxStartups    = 10_000
)

// ApplyDefaults fills in what is not said.
func (s *Scenario) ApplyDefaults(peers []string) {
	if s.Rounds == 0 {
		s.Rounds = DefaultRounds
	}
	if s.Seconds == 0 {
		s.Seconds = DefaultSeconds
	}
	if s.Evidence == "" {
		s.Evidence = DefaultEvidence
	}
	if s.Peers == nil {
		s.Peers = peers
	}
	for i := range s.Parts {
		s.Parts[i].applyDefaults(s)
	}
}

func (p *Part) applyDefaults(s *Scenario) {
	if p.Connections == nil {
		p.Connections = []int{DefaultConnections}
	}
	if p.Rounds == 0 {
		p.Rounds = s.Rounds
	}
	if p.Seconds == 0 {
		p.Seconds = s.Seconds
	}
	if p.Peers == nil {
		p.Peers = s.Peers
	}
	if p.Tokens == 0 {
		p.Tokens = DefaultTokens
	}
	if p.Contracts == 0 {
		p.Contracts = DefaultContracts
	}
	if p.Skew == 0 {
		p.Skew = DefaultSkew
	}
	if p.Soak > 0 {
		p.Rounds, p.Seconds = 1, p.Soak.Seconds()
		if p.Every == 0 {
			p.Every = DefaultEvery
		}
	}
}

// Only has every part measure this peer, whatever the file says.
func (s *Scenario) Only(peer string) {
	s.Peers, s.Baseline = []string{peer}, ""
	for i := range s.Parts {
		s.Parts[i].Peers = s.Peers
	}
}

// problem is something wrong with a field; path is as in parts[0].rate.
type problem struct {
	path, message string
}

func bad(path, format string, args ...any) problem {
	return problem{path, fmt.Sprintf(format, args...)}
}

// problems are all things wrong with a scenario whose defaults are filled in.
func (s *Scenario) problems(peers []string) []problem {
	var out []problem
	if s.Rounds < 1 {
		out = append(out, bad("rounds", "%d rounds; give at least 1", s.Rounds))
	}
	if s.Seconds <= 0 {
		out = append(out, bad("seconds", "%g seconds; give more than 0", s.Seconds))
	}
	if !slices.Contains([]string{"strict", "sealed", "async"}, s.Evidence) {
		out = append(out, bad("evidence", "%q; give strict, sealed or async", s.Evidence))
	}
	wrong := peerProblems("peers", s.Peers, peers)
	out = append(out, wrong...)
	if s.Baseline != "" && !slices.Contains(s.Peers, s.Baseline) {
		out = append(out, bad("baseline", "%q is not one of %s", s.Baseline, strings.Join(s.Peers, ", ")))
	}
	if s.Startups < 0 || s.Startups > maxStartups {
		out = append(out, bad("startups", "give 0 to %d", maxStartups))
	}
	if len(s.Parts) == 0 {
		out = append(out, bad("parts", "nothing to measure; give at least one part with a workload"))
	}
	for i, p := range s.Parts {
		at := fmt.Sprintf("parts[%d].", i)
		out = append(out, p.problems(at)...)
		if len(wrong) == 0 { // else the same would be said again of each part
			out = append(out, peerProblems(at+"peers", p.Peers, s.Peers)...)
		}
	}
	return out
}

func peerProblems(path string, given, known []string) []problem {
	var out []problem
	seen := map[string]bool{}
	for _, p := range given {
		if !slices.Contains(known, p) {
			out = append(out, bad(path, "%q is not one of %s", p, strings.Join(known, ", ")))
		}
		if seen[p] {
			out = append(out, bad(path, "%q stands there twice; remove one", p))
		}
		seen[p] = true
	}
	if len(given) == 0 {
		out = append(out, bad(path, "no peer; name at least one, or remove the field to measure all"))
	}
	return out
}

func (p *Part) problems(at string) []problem {
	var out []problem
	if p.Workload == "" {
		out = append(out, bad(at+"workload", "it is missing; give one of %s", workload.Names))
	} else if err := workload.Check(p.Workload); err != nil {
		out = append(out, bad(at+"workload", "%v", err))
	}
	for _, n := range p.Connections {
		if n < 1 || n > MaxConnections {
			out = append(out, bad(at+"connections", "%d is not between 1 and %d", n, MaxConnections))
		}
	}
	if len(p.Connections) == 0 {
		out = append(out, bad(at+"connections", "no number; give at least one, or remove the field"))
	}
	for _, b := range []struct {
		name, message string
		wrong         bool
	}{
		{"rounds", "give at least 1", p.Rounds < 1},
		{"seconds", "give more than 0", p.Seconds <= 0},
		{"rate", "give calls a second, or 0 for a closed loop", p.Rate < 0},
		{"soak", "give a duration, as 30m", p.Soak < 0},
		{"every", "give a duration from 1s up to the soak's", p.Soak > 0 && (p.Every < time.Second || p.Every > p.Soak)},
		{"every", "only a soak has intervals; remove it, or give a soak", p.Soak == 0 && p.Every != 0},
		{"gap", "give a duration from 1ms to 1m", p.Gap != 0 && (p.Gap < time.Millisecond || p.Gap > time.Minute)},
		{"tokens", fmt.Sprintf("give 1 to %d", maxTokens), p.Tokens < 1 || p.Tokens > maxTokens},
		{"contracts", fmt.Sprintf("give 1 to %d", maxTokens), p.Contracts < 1 || p.Contracts > maxTokens},
		{"skew", "give more than 1: the exponent of a Zipf distribution", p.Skew <= 1},
	} {
		if b.wrong {
			out = append(out, bad(at+b.name, "%s", b.message))
		}
	}
	return append(out, p.mixProblems(at)...)
}

func (p *Part) mixProblems(at string) []problem {
	if p.Workload != workload.Mix {
		if len(p.Weights) > 0 {
			return []problem{bad(at+"weights", "only a mix has weights; remove them, or set workload: mix")}
		}
		return nil
	}
	if len(p.Weights) == 0 {
		return []problem{bad(at+"weights", "a mix needs them, as {chat: 8, stream-50: 1}")}
	}
	var out []problem
	for _, name := range slices.Sorted(maps.Keys(p.Weights)) {
		_, err := workload.New(name, workload.Params{})
		switch {
		case err != nil:
			out = append(out, bad(at+"weights", "%v", err))
		case name == workload.SingleUse || name == workload.Tenants || workload.IsRefused(name):
			out = append(out, bad(at+"weights", "%s is about tokens and cannot be mixed; remove it", name))
		case p.Weights[name] < 1 || p.Weights[name] > 1000:
			out = append(out, bad(at+"weights", "%s: %d is not between 1 and 1000", name, p.Weights[name]))
		}
	}
	return out
}
