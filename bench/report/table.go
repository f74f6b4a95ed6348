package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"sallyport/bench/workload"
)

// WriteTable shows the summary as Markdown: figures as medians over the rounds, ratios with the span from the least to the
// greatest.
func (r *Report) WriteTable(w io.Writer) error {
	r.Summarise()
	out := &sheet{w: w}
	if r.Title != "" {
		out.line("# %s\n", r.Title)
	}
	for _, k := range slices.Sorted(maps.Keys(r.Facts)) {
		if r.Facts[k] != "" {
			out.line("- %s: %s", strings.ReplaceAll(k, "_", " "), r.Facts[k])
		}
	}
	out.line("\nMedians over rounds; × is the ratio to %s of the same round, as median (min–max).", r.Baseline)
	r.throughput(out)
	r.streams(out)
	r.refusals(out)
	r.costs(out)
	r.soaks(out)
	r.startups(out)
	r.limitLines(out)
	return out.err
}

// sheet writes and keeps the first error.
type sheet struct {
	w   io.Writer
	err error
}

func (s *sheet) line(format string, args ...any) {
	if s.err == nil {
		_, s.err = fmt.Fprintf(s.w, format+"\n", args...)
	}
}

// table writes rows with columns of equal width, which Markdown takes too. Nothing is written for no rows.
func (s *sheet) table(title string, head []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	width := make([]int, len(head))
	for _, row := range append([][]string{head}, rows...) {
		for i, cell := range row {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	s.line("\n## %s\n", title)
	rule := make([]string, len(head))
	for i := range rule {
		rule[i] = strings.Repeat("-", width[i])
	}
	for _, row := range append([][]string{head, rule}, rows...) {
		var b strings.Builder
		for i, cell := range row {
			b.WriteString("| " + cell + strings.Repeat(" ", width[i]-len([]rune(cell))+1))
		}
		s.line("%s|", b.String())
	}
}

func (r *Report) throughput(out *sheet) {
	var rows [][]string
	for _, s := range r.Settings {
		for _, p := range r.Peers {
			if row := r.row(s, p); row != nil {
				rows = append(rows, row)
			}
		}
	}
	out.table("Throughput and latency", []string{"workload", "conns", "peer", "req/s", "MB/s", "p50 ms", "p99 ms", "gate CPU s/1000", "errors", "× req/s", "× p50", "× p99", "× gate CPU"}, rows)
	for _, s := range r.Skipped {
		out.line("\n%s does not carry %s: %s", s.Peer, s.Workload, s.Reason)
	}
}

func (r *Report) row(s Setting, peer string) []string {
	name := s.Workload
	if r.besideRefused(s) {
		name += " (beside refused)"
	}
	if s.Rate > 0 {
		name = fmt.Sprintf("%s @ %g/s", name, s.Rate)
	}
	begin := []string{name, fmt.Sprint(s.Connections), peer}
	sum := r.of(s, peer)
	if sum == nil {
		if !slices.ContainsFunc(r.Skipped, func(k Skipped) bool { return k.Setting == s && k.Peer == peer }) {
			return nil
		}
		return append(begin, slices.Repeat([]string{"–"}, 10)...)
	}
	f := sum.Figures
	return append(begin,
		rate(f[RequestsPerSecond].Median), fmt.Sprintf("%.1f", f[BytesPerSecond].Median/1e6),
		ms(f[P50]), ms(f[P99]), fmt.Sprintf("%.3f", f[GateCPU].Median), fmt.Sprint(sum.Errors),
		r.ratio(sum, RequestsPerSecond), r.ratio(sum, P50), r.ratio(sum, P99), r.ratio(sum, GateCPU))
}

// besideRefused says whether a setting is the allowed calls of a part about refusals.
func (r *Report) besideRefused(s Setting) bool {
	return s.Workload == workload.Chat && slices.ContainsFunc(r.Settings, func(o Setting) bool { return o.Part == s.Part && workload.IsRefused(o.Workload) })
}

// rate has decimals where there are few calls.
func rate(v float64) string {
	if v < 10 {
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func ms(s Spread) string { return fmt.Sprintf("%.2f", s.Median/1000) }

// known is a dash for what was not measured, as the pace of an upstream that is not ours.
func known(f map[string]Spread, name string) string {
	if v, ok := f[name]; ok {
		return ms(v)
	}
	return "–"
}

func (r *Report) of(s Setting, peer string) *Summary {
	i := slices.IndexFunc(r.Summary, func(x *Summary) bool { return x.Setting == s && x.Peer == peer })
	if i < 0 {
		return nil
	}
	return r.Summary[i]
}

func (r *Report) ratio(s *Summary, figure string) string {
	v, ok := s.Ratios[figure]
	if !ok || s.Peer == r.Baseline {
		return "–"
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", v.Median, v.Min, v.Max)
}

func (r *Report) streams(out *sheet) {
	var rows [][]string
	for _, s := range r.Summary {
		f := s.Figures
		if _, ok := f[FirstByteP50]; !ok {
			continue
		}
		rows = append(rows, []string{
			s.Workload, fmt.Sprint(s.Connections), s.Peer, ms(f[FirstByteP50]), ms(f[FirstByteP99]), ms(f[GapP50]), ms(f[GapP99]),
			known(f, UpstreamGapP50), known(f, UpstreamGapP99),
		})
	}
	out.table("Streams: time to the first byte, and gap between events, at the client and as the upstream sent them",
		[]string{"workload", "conns", "peer", "first p50 ms", "first p99 ms", "gap p50 ms", "gap p99 ms", "sent p50 ms", "sent p99 ms"}, rows)
}

// refusals sets the cost of a refused call against that of an allowed one of the same rounds.
func (r *Report) refusals(out *sheet) {
	var rows [][]string
	for _, s := range r.Summary {
		if !workload.IsRefused(s.Workload) {
			continue
		}
		allowed := s.Setting
		allowed.Workload = workload.Chat
		against := "–"
		if v := ratios(r.find(s.Setting, s.Peer), r.find(allowed, s.Peer), figures[GateCPU]); len(v) > 0 {
			x := spreadOf(v)
			against = fmt.Sprintf("%.2f (%.2f–%.2f)", x.Median, x.Min, x.Max)
		}
		rows = append(rows, []string{s.Workload, fmt.Sprint(s.Connections), s.Peer, fmt.Sprintf("%.0f", s.Figures[RequestsPerSecond].Median),
			fmt.Sprintf("%.3f", s.Figures[GateCPU].Median), against})
	}
	out.table("Refused calls", []string{"kind", "conns", "peer", "refused/s", "gate CPU s/1000", "× an allowed call's"}, rows)
}

func (r *Report) costs(out *sheet) {
	var rows [][]string
	for _, s := range r.Summary {
		var cpu, memory []string
		for _, g := range slices.Sorted(maps.Keys(s.CPU)) {
			cpu = append(cpu, fmt.Sprintf("%s %.3f", g, s.CPU[g].Median))
		}
		for _, g := range slices.Sorted(maps.Keys(s.Peak)) {
			memory = append(memory, fmt.Sprintf("%s %.0f (+%.0f)", g, s.Peak[g].Median/(1<<20), s.Growth[g].Median/(1<<20)))
		}
		rows = append(rows, []string{s.Workload, fmt.Sprint(s.Connections), s.Peer, strings.Join(cpu, ", "), strings.Join(memory, ", ")})
	}
	out.table("CPU seconds for 1,000 requests and peak memory in MiB (and growth to it), by process group", []string{"workload", "conns", "peer", "CPU", "memory"}, rows)
}

func (r *Report) soaks(out *sheet) {
	for _, c := range r.Cells {
		if len(c.Intervals) == 0 {
			continue
		}
		var rows [][]string
		for _, i := range c.Intervals {
			q := i.Latency
			if q == nil {
				q = &Quantiles{}
			}
			rows = append(rows, []string{fmt.Sprintf("%.0f", i.Seconds), fmt.Sprintf("%.0f", i.RequestsPerSecond),
				fmt.Sprintf("%.2f", float64(q.P50)/1000), fmt.Sprintf("%.2f", float64(q.P99)/1000), fmt.Sprint(i.Errors), mebibytes(i.Resident)})
		}
		out.table(fmt.Sprintf("Soak: %s, %d connections, %s", c.Workload, c.Connections, c.Peer),
			[]string{"until s", "req/s", "p50 ms", "p99 ms", "errors", "memory MiB"}, rows)
		for _, g := range slices.Sorted(maps.Keys(c.MemorySlope)) {
			out.line("\nmemory of %s: %+.1f MiB an hour", g, c.MemorySlope[g]/(1<<20))
		}
	}
}

func mebibytes(m map[string]int64) string {
	var out []string
	for _, g := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%s %.0f", g, float64(m[g])/(1<<20)))
	}
	return strings.Join(out, ", ")
}

func (r *Report) limitLines(out *sheet) {
	if len(r.Limits) == 0 {
		return
	}
	out.line("\n## Where the target was not the limit\n")
	for _, l := range r.Limits {
		out.line("- %s", l)
	}
}
