package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseStat(t *testing.T) {
	line := func(command string) string {
		return fmt.Sprintf("7 (%s) S 1 7 7 0 -1 4194560 100 0 0 0 150 25 9 9 20 0 4 0 100 1000 10\n", command)
	}
	for name, tc := range map[string]struct {
		in   string
		want time.Duration
		err  string
	}{
		"plain":                {in: line("envoy"), want: 1750 * time.Millisecond},
		"parenthesis in name":  {in: line("a) S 1 (b"), want: 1750 * time.Millisecond},
		"no command":           {in: "7 envoy S", err: "no command"},
		"too short":            {in: "7 (envoy) S 1 2 3", err: "too short"},
		"utime is no number":   {in: strings.Replace(line("envoy"), " 150 ", " x ", 1), err: "utime"},
		"stime is no number":   {in: strings.Replace(line("envoy"), " 25 ", " x ", 1), err: "stime"},
		"empty":                {in: "", err: "no command"},
		"nothing behind names": {in: "7 (envoy)", err: "too short"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat([]byte(tc.in))
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil || got != tc.want {
				t.Errorf("%v, %v, want %v", got, err, tc.want)
			}
		})
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("7 (envoy) S 1 7 7 0 -1 4194560 100 0 0 0 150 25 9 9 20"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if d, err := parseStat(raw); err != nil && d != 0 {
			t.Errorf("%v beside the error %v", d, err)
		}
	})
}

func TestCPUTimeOfAGoneProcessIsAnError(t *testing.T) {
	if _, err := cpuTime([]int{0}); err == nil {
		t.Error("there is no process 0, and it has used CPU time")
	}
}

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
	if got := spreadOf(nil); got != (spread{}) {
		t.Errorf("of nothing: %v", got)
	}
}

// TestRatiosStayInTheirRound has a machine that is ten times slower in the second round: the ratio must not notice.
func TestRatiosStayInTheirRound(t *testing.T) {
	r := &report{Connections: []int{1}, Peers: []string{noopName, sallyportName}, Baseline: baseline}
	for round, speed := range []float64{1000, 100} {
		r.Cells = append(r.Cells,
			&cell{Round: round + 1, Connections: 1, Peer: noopName, Requests: 1, RequestsPerSecond: speed, CPU: map[string]float64{"envoy": 1, "client": 5}},
			&cell{Round: round + 1, Connections: 1, Peer: sallyportName, Requests: 1, RequestsPerSecond: speed / 2, CPU: map[string]float64{"envoy": 2, "signer": 1, "upstream": 7}})
	}
	r.summarise()
	s := r.Summary[1]
	if got := s.Ratios["requests_per_second"]; got != (spread{0.5, 0.5, 0.5}) {
		t.Errorf("requests: %v", got)
	}
	if got := s.Ratios["gate_cpu_seconds_per_1000"]; got != (spread{3, 3, 3}) {
		t.Errorf("CPU of the gate, without client and upstream: %v", got)
	}
	if s.RequestsPerSecond != (spread{275, 50, 500}) {
		t.Errorf("spread: %v", s.RequestsPerSecond)
	}
	var out bytes.Buffer
	if err := r.writeTable(&out); err != nil || !strings.Contains(out.String(), "0.50 (0.50–0.50)") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestFailure(t *testing.T) {
	for name, tc := range map[string]struct {
		cell cell
		want string // "" for no failure
	}{
		"good":            {cell{Requests: 10}, ""},
		"a call failed":   {cell{Requests: 10, Errors: 1, FirstError: "status 503"}, "status 503"},
		"nothing at all":  {cell{}, "no call was completed"},
		"only bad answer": {cell{Errors: 3, FirstError: "reset"}, "reset"},
	} {
		t.Run(name, func(t *testing.T) {
			err := (&report{Cells: []*cell{&tc.cell}}).failure()
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		args string
		want string // in the error, "" for none
	}{
		"none":             {"", ""},
		"all":              {"--rounds 1 --seconds 0.5 --connections 1,2 --evidence strict --peers noop,direct --json f", ""},
		"no rounds":        {"--rounds 0", "--rounds"},
		"no time":          {"--seconds 0", "--seconds"},
		"connections text": {"--connections 1,x", "no number"},
		"no connections":   {"--connections 0", "between"},
		"too many":         {"--connections 1001", "between"},
		"unknown evidence": {"--evidence none", "--evidence"},
		"unknown peer":     {"--peers nginx", "not one of"},
		"peer twice":       {"--peers noop,noop", "twice"},
		"argument":         {"now", "unexpected"},
		"several problems": {"--rounds 0 --evidence none --peers nginx", "--evidence"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseOptions(strings.Fields(tc.args), io.Discard)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

func TestAnswerHasItsSize(t *testing.T) {
	if len(answer) != answerSize {
		t.Errorf("%d bytes, want %d", len(answer), answerSize)
	}
}
