package report

import (
	"fmt"
	"slices"
	"time"

	"sallyport/bench/picture"
)

// Startup is how long one command took from its start to its end, in each turn. All commands of a report had the same turns;
// the first is the program by itself.
type Startup struct {
	Command string   `json:"command"`
	Wall    []int64  `json:"wall_us"`
	CPU     []int64  `json:"cpu_us"` // of its own processes, without the gate's
	Median  int64    `json:"median_us"`
	P10     int64    `json:"p10_us"`
	P90     int64    `json:"p90_us"`
	Added   *Quarter `json:"added,omitempty"` // to the first of the same turn; nil of the first itself
}

// Quarter is a figure's median with its quartiles, in microseconds.
type Quarter struct {
	Median int64 `json:"median_us"`
	P25    int64 `json:"p25_us"`
	P75    int64 `json:"p75_us"`
}

// Add notes one turn.
func (s *Startup) Add(wall, cpu time.Duration) {
	s.Wall, s.CPU = append(s.Wall, wall.Microseconds()), append(s.CPU, cpu.Microseconds())
}

// rank is the nearest-rank percentile; 0 of nothing.
func rank(v []int64, percent int) int64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return s[max(0, (len(s)*percent+99)/100-1)]
}

// summarise fills in what is reckoned from the turns.
func (s *Startup) summarise(first *Startup) {
	s.Median, s.P10, s.P90, s.Added = rank(s.Wall, 50), rank(s.Wall, 10), rank(s.Wall, 90), nil
	if s == first {
		return
	}
	added := make([]int64, 0, len(s.Wall))
	for i := range min(len(s.Wall), len(first.Wall)) {
		added = append(added, s.Wall[i]-first.Wall[i])
	}
	s.Added = &Quarter{rank(added, 50), rank(added, 25), rank(added, 75)}
}

func (r *Report) startups(out *sheet) {
	var rows [][]string
	for _, s := range r.Startups {
		added := "–"
		if a := s.Added; a != nil {
			added = fmt.Sprintf("%s (%s–%s)", millis(a.Median), millis(a.P25), millis(a.P75))
		}
		rows = append(rows, []string{s.Command, fmt.Sprint(len(s.Wall)), millis(s.Median), millis(s.P10), millis(s.P90), added, millis(rank(s.CPU, 50))})
	}
	if len(rows) == 0 {
		return
	}
	first := r.Startups[0].Command
	out.table(fmt.Sprintf("Start-up of `%s`: until it has ended, in each way in turn, in milliseconds", first),
		[]string{"command", "starts", "median", "p10", "p90", "over `" + first + "` of the same turn (quartiles)", "CPU of its own processes"}, rows)
}

func millis(us int64) string { return fmt.Sprintf("%.1f", float64(us)/1000) }

func (r *Report) startupBars() []picture.Bar {
	var out []picture.Bar
	for _, s := range r.Startups {
		out = append(out, picture.Bar{Name: s.Command, Value: float64(s.Median) / 1000, Low: float64(s.P10) / 1000, High: float64(s.P90) / 1000})
	}
	return out
}
