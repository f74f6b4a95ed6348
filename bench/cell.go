package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// Process groups that every peer shares. All others are the peer's own.
const (
	groupClient   = "client"
	groupUpstream = "upstream"
)

// cell is one peer measured once at one number of connections.
type cell struct {
	Round             int                `json:"round"`
	Connections       int                `json:"connections"`
	Peer              string             `json:"peer"`
	Requests          int64              `json:"requests"` // completed within the window
	RequestsPerSecond float64            `json:"requests_per_second"`
	P50us             int64              `json:"p50_us"`
	P99us             int64              `json:"p99_us"`
	Errors            int64              `json:"errors"`
	FirstError        string             `json:"first_error,omitempty"`
	Answered          int64              `json:"answered"` // as they should be, warm-up and run-out included
	CPU               map[string]float64 `json:"cpu_seconds_per_1000"`
}

// gateCPU is what the peer's own processes used, in CPU seconds for 1,000 requests.
func (c *cell) gateCPU() float64 {
	var sum float64
	for g, s := range c.CPU {
		if g != groupClient && g != groupUpstream {
			sum += s
		}
	}
	return sum
}

// measureCell measures p with n connections, and has the upstream confirm that each answer came from it.
func measureCell(ctx context.Context, o options, e *environment, p peer, n int) (*cell, error) {
	t, err := p.Target(ctx, n)
	if err != nil {
		return nil, err
	}
	before, err := counts(ctx, e.upstream.counter)
	if err != nil {
		return nil, err
	}
	u := usage{groups: map[string][]int{groupClient: {os.Getpid()}, groupUpstream: {e.upstream.pid()}}}
	for g, pids := range p.Groups() {
		u.groups[g] = pids
	}
	l, err := drive(ctx, t, o.warmUp(), o.window(), u.begin, u.end)
	if err != nil {
		return nil, err
	}
	after, err := counts(ctx, e.upstream.counter)
	if err != nil {
		return nil, err
	}
	// A call that failed may or may not have reached the upstream; one that was answered must have, once.
	if reached := after["requests"] - before["requests"]; reached < l.sent || reached > l.sent+l.errors {
		return nil, fmt.Errorf("%d calls were answered and %d failed, but %d reached the upstream", l.sent, l.errors, reached)
	}
	return newCell(p.Name(), n, l, u.at), nil
}

func newCell(peer string, connections int, l *load, cpu map[string]time.Duration) *cell {
	c := &cell{
		Peer: peer, Connections: connections, Requests: l.latency.TotalCount(), Errors: l.errors, Answered: l.sent,
		P50us: l.latency.ValueAtQuantile(50), P99us: l.latency.ValueAtQuantile(99), CPU: map[string]float64{},
	}
	c.RequestsPerSecond = float64(c.Requests) / l.window.Seconds()
	if l.firstErr != nil {
		c.FirstError = l.firstErr.Error()
	}
	for g, t := range cpu {
		if c.Requests > 0 {
			c.CPU[g] = t.Seconds() / float64(c.Requests) * 1000
		}
	}
	return c
}
