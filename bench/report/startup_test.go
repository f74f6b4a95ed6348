package report

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// TestStartupsStayInTheirTurn has a machine on which everything takes 100 ms longer in the second turn: what is added must not
// notice.
func TestStartupsStayInTheirTurn(t *testing.T) {
	alone, run := &Startup{Command: "true"}, &Startup{Command: "run"}
	for _, slow := range []time.Duration{0, 100 * time.Millisecond, 0} {
		alone.Add(time.Millisecond+slow, time.Millisecond)
		run.Add(51*time.Millisecond+slow, 30*time.Millisecond)
	}
	r := &Report{Startups: []*Startup{alone, run}}
	var out bytes.Buffer
	if err := r.WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	if alone.Added != nil || run.Added == nil || *run.Added != (Quarter{50_000, 50_000, 50_000}) {
		t.Errorf("added: %v and %v", alone.Added, run.Added)
	}
	if run.Median != 51_000 || run.P10 != 51_000 || run.P90 != 151_000 {
		t.Errorf("%+v", run)
	}
	for _, want := range []string{"Start-up of `true`", "| 51.0 ", "| 151.0 ", "50.0 (50.0–50.0)", "| 30.0 "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in the table:\n%s", want, out.String())
		}
	}
	bars := r.Figures().Startup
	if len(bars) != 2 || bars[1].Value != 51 || bars[1].Low != 51 || bars[1].High != 151 {
		t.Errorf("%+v", bars)
	}
	out.Reset()
	if err := (&Report{}).WriteTable(&out); err != nil || strings.Contains(out.String(), "Start-up") {
		t.Errorf("%v, a table of starts that were not measured:\n%s", err, out.String())
	}
}

func TestRank(t *testing.T) {
	v := []int64{50, 10, 40, 20, 30}
	for percent, want := range map[int]int64{10: 10, 25: 20, 50: 30, 75: 40, 90: 50, 100: 50} {
		if got := rank(v, percent); got != want {
			t.Errorf("%d%% of %v is %d, want %d", percent, v, got, want)
		}
	}
	if v[0] != 50 || rank(nil, 50) != 0 {
		t.Error("sorted in place, or something of nothing")
	}
}
