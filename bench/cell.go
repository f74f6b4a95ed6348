package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"sallyport/bench/host"
	"sallyport/bench/load"
	"sallyport/bench/report"
	"sallyport/bench/scenario"
	"sallyport/bench/workload"
)

// setting is what every peer is measured in, with all that the scenario says about it.
type setting struct {
	report.Setting
	part  scenario.Part
	peers []string
	// readersOnly leaves out peers that read no tokens: the allowed calls beside refused ones.
	readersOnly bool
}

// settings unrolls a scenario's parts.
func settings(s *scenario.Scenario) []setting {
	var out []setting
	for i, p := range s.Parts {
		names := []string{p.Workload}
		if p.Workload == workload.Refusals {
			names = append([]string{workload.Chat}, workload.Refused...)
		}
		for _, n := range p.Connections {
			for _, name := range names {
				out = append(out, setting{
					Setting: report.Setting{Part: i, Workload: name, Connections: n, Rate: p.Rate},
					part:    p, peers: p.Peers, readersOnly: p.Workload == workload.Refusals,
				})
			}
		}
	}
	return out
}

// warmUp is long enough for connections, caches and just-started goroutines to settle, as the figures no longer change
// with a longer one.
func (s setting) warmUp() time.Duration { return min(s.window()/4, time.Second) }

func (s setting) window() time.Duration { return time.Duration(s.part.Seconds * float64(time.Second)) }

// carries says why a peer is not measured in a setting, or nil.
func carries(p peer, s setting) error {
	if c, ok := p.(carrier); ok {
		for _, name := range s.names() {
			if err := c.Carries(name); err != nil {
				return err
			}
		}
	}
	if l, ok := p.(limited); ok && s.part.Soak >= l.Lasts() {
		return fmt.Errorf("its connections are good for %v only; give a shorter soak", l.Lasts())
	}
	if _, ok := p.(identifier); !ok && (workload.IsRefused(s.Workload) || s.readersOnly) {
		return errors.New("it reads no tokens, so it refuses none")
	}
	return nil
}

// names are the workloads that are called, several only in a mix.
func (s setting) names() []string {
	if s.Workload == workload.Mix {
		return slices.Sorted(maps.Keys(s.part.Weights))
	}
	return []string{s.Workload}
}

// measureCell measures p in one setting, and has the upstream confirm that each answer came from it.
func measureCell(ctx context.Context, e *environment, p peer, s setting) (*report.Cell, error) {
	t, err := p.Target(ctx, s.Connections)
	if err != nil {
		return nil, err
	}
	calls, err := sequences(ctx, e, p, t, s)
	if err != nil {
		return nil, err
	}
	if s.part.Soak > renewAfter {
		again, stop := renewing(ctx, e, p, s, calls)
		defer stop()
		calls = again
	}
	before, err := e.reached(ctx)
	if err != nil {
		return nil, err
	}
	u := &host.Usage{Groups: e.groups(p)}
	var resident []map[string]int64
	plan := load.Plan{
		Address: t.Address, TLS: t.TLS, Tunnels: t.Tunnels, Connections: calls, Rate: s.Rate, WarmUp: s.warmUp(), Window: s.window(),
		Begin: func() error { e.profile(ctx, p, s); return u.Begin() }, End: u.End,
	}
	if s.part.Soak > 0 {
		plan.Every = s.part.Every
		plan.Edge = func() error {
			r, err := u.Resident()
			resident = append(resident, r)
			return err
		}
	}
	l, err := load.Run(ctx, plan)
	if err != nil {
		return nil, err
	}
	e.profiles.Wait()
	_, swaps := p.(swapper)
	if err := e.confirm(ctx, before, l, swaps); err != nil {
		return nil, err
	}
	c := report.NewCell(s.Setting, p.Name(), l, u)
	if plan.Every > 0 {
		c.AddIntervals(l.Intervals, resident)
	}
	return c, e.addPacing(ctx, c)
}

// groups are all processes whose CPU time and memory count, as far as they are on this machine.
func (e *environment) groups(p peer) map[string][]int {
	out := map[string][]int{report.GroupClient: {os.Getpid()}}
	if e.upstream != nil {
		out[report.GroupUpstream] = []int{e.upstream.pid()}
	}
	maps.Copy(out, p.Groups())
	return out
}

// reached is what has reached the upstream; nothing where it is not ours.
func (e *environment) reached(ctx context.Context) (map[string]int64, error) {
	if e.upstream == nil {
		return nil, nil
	}
	if _, err := e.upstream.pacing(ctx); err != nil { // from here on it is this cell's
		return nil, err
	}
	return counts(ctx, e.upstream.counter)
}

// confirm holds the client's count against the upstream's. A call that failed may or may not have reached it; one that was
// answered must have, once, and one that was refused must not. Those of a peer that swaps the token for the credential came
// with it, and no others.
func (e *environment) confirm(ctx context.Context, before map[string]int64, l *load.Result, swaps bool) error {
	if e.upstream == nil {
		return nil
	}
	after, err := counts(ctx, e.upstream.counter)
	if err != nil {
		return err
	}
	return account(l, after["requests"]-before["requests"], after["credential"]-before["credential"], swaps)
}

// account is confirm's sum.
func account(l *load.Result, reached, credentialed int64, swaps bool) error {
	var through int64
	for name, n := range l.Answered {
		if !workload.IsRefused(name) {
			through += n
		}
	}
	switch {
	case reached < through || reached > through+l.Errors:
		return fmt.Errorf("%d calls were answered and %d failed, but %d reached the upstream", through, l.Errors, reached)
	case swaps && credentialed != reached, !swaps && credentialed != 0:
		return fmt.Errorf("of %d calls that reached the upstream %d came with the real credential", reached, credentialed)
	}
	return nil
}

// addPacing notes how the upstream itself sent the streams.
func (e *environment) addPacing(ctx context.Context, c *report.Cell) error {
	if c.Stream == nil {
		return nil
	}
	if e.upstream == nil {
		c.Stream.UpstreamIsForeign = true
		return nil
	}
	p, err := e.upstream.pacing(ctx)
	c.Stream.UpstreamFirstP50, c.Stream.UpstreamFirstP99 = p.FirstP50, p.FirstP99
	c.Stream.UpstreamGapP50, c.Stream.UpstreamGapP99 = p.GapP50, p.GapP99
	return err
}

// sequences prepares the bytes of all calls, and in which order each connection makes them.
func sequences(ctx context.Context, e *environment, p peer, t target, s setting) ([]load.Sequence, error) {
	params := workload.Params{Model: s.part.Model, Gap: s.part.Gap, Loose: e.upstream == nil}
	if s.Workload == workload.Mix {
		return mixed(t, s, params)
	}
	c, err := workload.New(s.Workload, params)
	if err != nil {
		return nil, err
	}
	if workload.IsRefused(s.Workload) {
		c.Want = load.Want{Status: http.StatusUnauthorized, Size: load.AnySize, Text: refusalCodes[s.Workload]}
		t.Answer = ""
	}
	if reader, ok := p.(identifier); ok && aboutTokens(s.Workload) {
		return identified(ctx, reader, t, c, s)
	}
	out := make([]load.Sequence, 0, len(t.Headers))
	for _, h := range t.Headers {
		out = append(out, load.Same(t.call(c, h)))
	}
	return out, nil
}

// renewAfter is when a long soak gets new tokens: well before the old ones end.
const renewAfter = tokenTTL / 3

// renewing replaces the calls of all connections from time to time by calls with new identities, until stop is called.
// Where there are no new ones to be had, the old ones go on, and their failing says so.
func renewing(ctx context.Context, e *environment, p peer, s setting, first []load.Sequence) (calls []load.Sequence, stop func()) {
	var now atomic.Pointer[[]load.Sequence]
	now.Store(&first)
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(renewAfter):
			}
			t, err := p.Target(ctx, s.Connections)
			if err == nil {
				var next []load.Sequence
				if next, err = sequences(ctx, e, p, t, s); err == nil {
					now.Store(&next)
				}
			}
			if err != nil && ctx.Err() == nil {
				e.log.Warn("no new tokens", "peer", p.Name(), "error", err)
			}
		}
	}()
	out := make([]load.Sequence, len(first))
	for i := range out {
		out[i] = func() *load.Call { return (*now.Load())[i]() }
	}
	return out, cancel
}

func aboutTokens(name string) bool {
	return name == workload.SingleUse || name == workload.Tenants || workload.IsRefused(name)
}

// identified has the peer make the identities, and each connection use them: up, drawn from a Zipf distribution, or over
// and over.
func identified(ctx context.Context, p identifier, t target, c *workload.Call, s setting) ([]load.Sequence, error) {
	count := 1
	switch s.Workload {
	case workload.SingleUse:
		count = max(1, s.part.Tokens/s.Connections)
	case workload.Tenants:
		count = s.part.Contracts
	}
	all, err := p.Identities(ctx, s.Workload, s.Connections, count)
	if err != nil {
		return nil, err
	}
	if s.Workload == workload.Tenants {
		return zipf(prepared(t, c, all[0]), s), nil
	}
	out := make([]load.Sequence, 0, len(all))
	for _, headers := range all {
		calls := prepared(t, c, headers)
		if s.Workload == workload.SingleUse {
			out = append(out, each(calls))
		} else {
			out = append(out, load.Same(calls[0]))
		}
	}
	return out, nil
}

func prepared(t target, c *workload.Call, headers []http.Header) []*load.Call {
	out := make([]*load.Call, 0, len(headers))
	for _, h := range headers {
		out = append(out, t.call(c, h))
	}
	return out
}

// each makes every call once.
func each(calls []*load.Call) load.Sequence {
	i := 0
	return func() *load.Call {
		if i == len(calls) {
			return nil
		}
		i++
		return calls[i-1]
	}
}

// zipf has few tenants call often and most of them seldom. The draws are the same in each run.
func zipf(calls []*load.Call, s setting) []load.Sequence {
	out := make([]load.Sequence, s.Connections)
	for i := range out {
		z := rand.NewZipf(rand.New(rand.NewPCG(uint64(i), 0)), s.part.Skew, 1, uint64(len(calls)-1))
		out[i] = func() *load.Call { return calls[z.Uint64()] }
	}
	return out
}

// mixed draws each connection's next call by the weights. The draws are the same in each run.
func mixed(t target, s setting, params workload.Params) ([]load.Sequence, error) {
	var kinds []*workload.Call
	for _, name := range s.names() {
		c, err := workload.New(name, params)
		if err != nil {
			return nil, err
		}
		for range s.part.Weights[name] {
			kinds = append(kinds, c)
		}
	}
	out := make([]load.Sequence, 0, len(t.Headers))
	for i, h := range t.Headers {
		ready := map[*workload.Call]*load.Call{}
		for _, k := range kinds {
			if ready[k] == nil {
				ready[k] = t.call(k, h)
			}
		}
		draw := rand.New(rand.NewPCG(uint64(i), 1))
		out = append(out, func() *load.Call { return ready[kinds[draw.IntN(len(kinds))]] })
	}
	return out, nil
}
