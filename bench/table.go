package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// writeTable shows the summary: figures as medians over the rounds, ratios with the span from the least to the greatest.
func (r *report) writeTable(w io.Writer) error {
	r.summarise()
	fmt.Fprintf(w, "%d rounds of %g s, closed loop, %d bytes asked, %d bytes answered", r.Rounds, r.Seconds, r.Request, r.Answer)
	for _, k := range slices.Sorted(maps.Keys(r.Facts)) {
		if r.Facts[k] != "" {
			fmt.Fprintf(w, "; %s %s", k, r.Facts[k])
		}
	}
	fmt.Fprintf(w, "\nmedians over rounds; × is the ratio to %s of the same round, as median (min–max)\n\n", r.Baseline)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "conns\tpeer\treq/s\tp50 ms\tp99 ms\tgate CPU s/1000\terrors\t× req/s\t× p50\t× p99\t× gate CPU\t")
	for _, s := range r.Summary {
		fmt.Fprintf(t, "%d\t%s\t%.0f\t%.2f\t%.2f\t%.3f\t%d\t%s\t%s\t%s\t%s\t\n", s.Connections, s.Peer,
			s.RequestsPerSecond.Median, s.P50us.Median/1000, s.P99us.Median/1000, s.GateCPU.Median, s.Errors,
			s.ratio("requests_per_second"), s.ratio("p50_us"), s.ratio("p99_us"), s.ratio("gate_cpu_seconds_per_1000"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nCPU seconds per 1,000 requests, by process group\n\n")
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "conns\tpeer\tgroups\t")
	for _, s := range r.Summary {
		var parts []string
		for _, g := range slices.Sorted(maps.Keys(s.CPU)) {
			parts = append(parts, fmt.Sprintf("%s %.3f", g, s.CPU[g].Median))
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t\n", s.Connections, s.Peer, strings.Join(parts, ", "))
	}
	return t.Flush()
}

func (s *summary) ratio(metric string) string {
	v, ok := s.Ratios[metric]
	if !ok || s.Peer == baseline {
		return "-"
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", v.Median, v.Min, v.Max)
}
