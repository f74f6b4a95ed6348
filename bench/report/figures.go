package report

import (
	"fmt"
	"maps"
	"slices"

	"sallyport/bench/picture"
)

// percentiles are the points of a latency curve, as fractions.
var percentiles = []float64{0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999}

// Figures are what the picture shows: the first workload of the run, in a closed loop where there is one.
func (r *Report) Figures() picture.Figures {
	r.Summarise()
	f := picture.Figures{Title: r.Title, Startup: r.startupBars()}
	var same []Setting // of the workload shown, by connections
	for _, s := range r.Settings {
		if first := r.Settings[0]; s.Workload == first.Workload && s.Rate == first.Rate && s.Part == first.Part {
			same = append(same, s)
		}
	}
	if len(same) == 0 {
		return f
	}
	middle := same[len(same)/2]
	f.Subtitle = fmt.Sprintf("%s, %s, %s cores", middle.Workload, middle.Loop(), r.Facts["cores"])
	f.LatencyNote = fmt.Sprintf("%d connections", middle.Connections)
	for _, p := range r.Peers {
		if h := r.merged(middle, p); h != nil && h.TotalCount() > 0 {
			s := picture.Series{Name: p}
			for _, x := range percentiles {
				s.Points = append(s.Points, picture.Point{X: x, Y: float64(h.ValueAtQuantile(x*100)) / 1000})
			}
			f.Latency = append(f.Latency, s)
		}
		if s := r.series(same, p); len(s.Points) > 0 {
			f.Throughput = append(f.Throughput, s)
		}
		if s := r.of(middle, p); s != nil {
			f.Cost = append(f.Cost, stack(s))
		}
	}
	return f
}

func (r *Report) series(settings []Setting, peer string) picture.Series {
	out := picture.Series{Name: peer}
	for _, s := range settings {
		if sum := r.of(s, peer); sum != nil {
			v := sum.Figures[RequestsPerSecond]
			out.Points = append(out.Points, picture.Point{X: float64(s.Connections), Y: v.Median})
			out.Low, out.High = append(out.Low, v.Min), append(out.High, v.Max)
		}
	}
	return out
}

// stack has CPU seconds for 1,000 requests, which are milliseconds a request.
func stack(s *Summary) picture.Stack {
	out := picture.Stack{Name: s.Peer}
	for _, g := range slices.Sorted(maps.Keys(s.CPU)) {
		out.Parts = append(out.Parts, picture.Part{Name: g, Value: s.CPU[g].Median})
	}
	return out
}
