package report

import (
	"fmt"
	"strings"

	"sallyport/bench/workload"
)

const (
	// saturated is the share of all cores from which the machine, not the target, is taken for the limit.
	saturated = 0.95
	// stranger is how many cores something else may use before a cell is called disturbed.
	stranger = 0.15
	// nearDirect is the share of the way without a gate from which client and upstream are taken for the limit.
	nearDirect = 0.8
	// lateLimit is how late an open loop's client may send, as a share of the median latency.
	lateLimit = 0.5
	// behind is the share of an open loop's rate below which the target does not keep up.
	behind = 0.98
)

// DirectName is the peer without a gate.
const DirectName = "direct"

// limits says of each peer in each setting where something else than the target was the limit, and by how much.
func (r *Report) limits() []string {
	var out []string
	for _, s := range r.Settings {
		for _, p := range r.Peers {
			cells := r.find(s, p)
			if len(cells) == 0 {
				continue
			}
			where := fmt.Sprintf("%s, %d connections, %s, %s", s.Workload, s.Connections, s.Loop(), p)
			if found := r.limitsOf(s, p, cells); len(found) > 0 {
				out = append(out, where+": "+strings.Join(found, "; "))
			}
		}
	}
	return out
}

func (r *Report) limitsOf(s Setting, peer string, cells []*Cell) []string {
	var out []string
	mean := func(f func(*Cell) float64) float64 {
		var sum float64
		for _, c := range cells {
			sum += f(c)
		}
		return sum / float64(len(cells))
	}
	cores := float64(cells[0].Machine.Cores)
	busy, other := mean(func(c *Cell) float64 { return c.Machine.Busy }), mean(func(c *Cell) float64 { return c.Machine.Other })
	client, up := mean(func(c *Cell) float64 { return c.Shares[GroupClient] }), mean(func(c *Cell) float64 { return c.Shares[GroupUpstream] })
	switch {
	case cores > 0 && busy >= saturated*cores:
		out = append(out, fmt.Sprintf("the whole machine was the limit: %.2f of %.0f cores busy (client %.2f, upstream %.2f, the peer's processes %.2f, others %.2f)",
			busy, cores, client, up, max(0, busy-client-up-other), other))
	case other > stranger:
		out = append(out, fmt.Sprintf("something else used %.2f cores meanwhile, so measure again on a quiet machine", other))
	}
	out = append(out, r.nearDirect(s, peer, cells)...)
	if s.Rate > 0 {
		out = append(out, openLimits(s, mean)...)
	}
	if cells[0].Exhausted {
		out = append(out, fmt.Sprintf("the prepared tokens ran out after %.2f s, and the figures are of that time", cells[0].Seconds))
	}
	return out
}

func (r *Report) nearDirect(s Setting, peer string, cells []*Cell) []string {
	v := ratios(cells, r.find(s, DirectName), figures[RequestsPerSecond])
	if len(v) == 0 || peer == DirectName || s.Rate > 0 || workload.Streams(s.Workload) { // streams have the upstream's pace
		return nil
	}
	if share := spreadOf(v).Median; share >= nearDirect {
		return []string{fmt.Sprintf("client and upstream were the limit: %.0f%% of what they do without a gate", share*100)}
	}
	return nil
}

func openLimits(s Setting, mean func(func(*Cell) float64) float64) []string {
	var out []string
	late, p50 := mean(func(c *Cell) float64 { return float64(c.LateP99us) }), mean(figures[P50])
	if late > lateLimit*p50 {
		out = append(out, fmt.Sprintf("the client was late: 99%% of its calls left within %.2f ms of their time, and the median latency is %.2f ms", late/1000, p50/1000))
	}
	if done := mean(figures[RequestsPerSecond]); done < behind*s.Rate {
		out = append(out, fmt.Sprintf("it did not keep up: %.0f of %.0f calls a second were answered, %.0f were never sent", done, s.Rate, mean(func(c *Cell) float64 { return float64(c.Unsent) })))
	}
	return out
}
