package report

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sallyport/bench/host"
	"sallyport/bench/load"
	"sallyport/bench/workload"
)

func TestSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SliceOfN(rapid.Float64Range(0, 1e9), 1, 20).Draw(t, "v")
		given := slices.Clone(v)
		s := spreadOf(v)
		if s.Min != slices.Min(v) || s.Max != slices.Max(v) {
			t.Fatalf("%v: least and greatest are %v and %v", v, s.Min, s.Max)
		}
		var below, above int
		for _, x := range v {
			if x < s.Median {
				below++
			}
			if x > s.Median {
				above++
			}
		}
		if below > len(v)/2 || above > len(v)/2 {
			t.Fatalf("%v is no median of %v: %d below, %d above", s.Median, v, below, above)
		}
		if !slices.Equal(v, given) {
			t.Fatal("the argument was sorted in place")
		}
	})
	if got := spreadOf(nil); got != (Spread{}) {
		t.Errorf("of nothing: %v", got)
	}
}

const (
	base = "noop-bodies"
	gate = "sallyport"
)

var setting = Setting{Workload: workload.Chat, Connections: 1}

// TestRatiosStayInTheirRound has a machine that is ten times slower in the second round: the ratio must not notice.
func TestRatiosStayInTheirRound(t *testing.T) {
	r := &Report{Settings: []Setting{setting}, Peers: []string{base, gate}, Baseline: base}
	for round, speed := range []float64{1000, 100} {
		r.Cells = append(r.Cells,
			&Cell{Round: round + 1, Setting: setting, Peer: base, Requests: 1, RequestsPerSecond: speed, CPU: map[string]float64{"envoy": 1, "client": 5}},
			&Cell{Round: round + 1, Setting: setting, Peer: gate, Requests: 1, RequestsPerSecond: speed / 2, CPU: map[string]float64{"envoy": 2, "signer": 1, "upstream": 7}})
	}
	r.Summarise()
	s := r.Summary[1]
	if got := s.Ratios[RequestsPerSecond]; got != (Spread{0.5, 0.5, 0.5}) {
		t.Errorf("requests: %v", got)
	}
	if got := s.Ratios[GateCPU]; got != (Spread{3, 3, 3}) {
		t.Errorf("CPU of the gate, without client and upstream: %v", got)
	}
	if got := s.Figures[RequestsPerSecond]; got != (Spread{275, 50, 500}) {
		t.Errorf("spread: %v", got)
	}
	var out bytes.Buffer
	if err := r.WriteTable(&out); err != nil || !strings.Contains(out.String(), "0.50 (0.50–0.50)") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestFailure(t *testing.T) {
	for name, tc := range map[string]struct {
		cell Cell
		want string // "" for no failure
	}{
		"good":            {Cell{Requests: 10}, ""},
		"a call failed":   {Cell{Requests: 10, Errors: 1, FirstError: "status 503"}, "status 503"},
		"nothing at all":  {Cell{}, "no call was completed"},
		"only bad answer": {Cell{Errors: 3, FirstError: "reset"}, "reset"},
	} {
		t.Run(name, func(t *testing.T) {
			err := (&Report{Cells: []*Cell{&tc.cell}}).Failure()
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

// TestLimits has one cause in each case, and wants it named, and nothing else.
func TestLimits(t *testing.T) {
	quiet := host.Machine{Cores: 4, Busy: 1}
	open := Setting{Workload: workload.Chat, Connections: 1, Rate: 100}
	for name, tc := range map[string]struct {
		cell Cell
		want string // "" for no limit
	}{
		"the target":       {Cell{Setting: setting, Machine: quiet, RequestsPerSecond: 10}, ""},
		"the machine":      {Cell{Setting: setting, Machine: host.Machine{Cores: 4, Busy: 3.9}, RequestsPerSecond: 10, Shares: map[string]float64{"client": 1.5}}, "the whole machine"},
		"something else":   {Cell{Setting: setting, Machine: host.Machine{Cores: 4, Busy: 2, Other: 1}, RequestsPerSecond: 10}, "something else used 1.00 cores"},
		"client, upstream": {Cell{Setting: setting, Machine: quiet, RequestsPerSecond: 95}, "95% of what they do without a gate"},
		"no more tokens":   {Cell{Setting: setting, Machine: quiet, RequestsPerSecond: 10, Exhausted: true, Seconds: 1}, "tokens ran out after 1.00 s"},
		"in time":          {Cell{Setting: open, Machine: quiet, RequestsPerSecond: 100, Latency: &Quantiles{P50: 1000}, LateP99us: 100}, ""},
		"a late client":    {Cell{Setting: open, Machine: quiet, RequestsPerSecond: 100, Latency: &Quantiles{P50: 1000}, LateP99us: 900}, "the client was late"},
		"too slow":         {Cell{Setting: open, Machine: quiet, RequestsPerSecond: 80, Latency: &Quantiles{P50: 1000}}, "did not keep up"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.cell.Peer, tc.cell.Round = gate, 1
			direct := &Cell{Setting: tc.cell.Setting, Peer: DirectName, Round: 1, Machine: quiet, RequestsPerSecond: 100, Latency: &Quantiles{P50: 1000}}
			r := &Report{Settings: []Setting{tc.cell.Setting}, Peers: []string{DirectName, gate}, Cells: []*Cell{direct, &tc.cell}}
			r.Summarise()
			if tc.want == "" && len(r.Limits) > 0 || tc.want != "" && (len(r.Limits) != 1 || !strings.Contains(r.Limits[0], tc.want)) {
				t.Errorf("%q, want %q", r.Limits, tc.want)
			}
		})
	}
}

func TestSlopeOfAGrowingProcess(t *testing.T) {
	c := &Cell{}
	var parts []load.Interval
	var held []map[string]int64
	for i := range 5 {
		parts = append(parts, load.Interval{Length: time.Minute, Latency: load.NewLatencies()})
		held = append(held, map[string]int64{"leaks": int64(i) << 20, "stays": 7 << 20})
	}
	c.AddIntervals(parts, held)
	if got := c.MemorySlope["leaks"] / (1 << 20); got < 59.9 || got > 60.1 {
		t.Errorf("1 MiB a minute is %.2f MiB an hour", got)
	}
	if got := c.MemorySlope["stays"]; got < -1 || got > 1 {
		t.Errorf("what stays grows by %.2f", got)
	}
}

// TestRefusedCallsStandBesideAllowedOnes wants the ratio of the same round.
func TestRefusedCallsStandBesideAllowedOnes(t *testing.T) {
	refused := setting
	refused.Workload = workload.RefusedExpired
	r := &Report{Settings: []Setting{setting, refused}, Peers: []string{gate}, Baseline: base, Cells: []*Cell{
		{Round: 1, Setting: setting, Peer: gate, Requests: 1, CPU: map[string]float64{"envoy": 4}, Answered: map[string]int64{workload.Chat: 10}},
		{Round: 1, Setting: refused, Peer: gate, Requests: 1, CPU: map[string]float64{"envoy": 1}, Answered: map[string]int64{workload.RefusedExpired: 99}},
	}}
	var out bytes.Buffer
	if err := r.WriteTable(&out); err != nil || !strings.Contains(out.String(), "0.25 (0.25–0.25)") {
		t.Errorf("%v\n%s", err, out.String())
	}
	if got := r.Answered(gate); got != 10 {
		t.Errorf("%d calls were answered; the refused ones do not count", got)
	}
}
