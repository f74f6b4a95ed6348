package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
)

const noopName = "noop"

// noop is Envoy with a processor that lets everything pass: the price of asking at all, in the phases in which
// Sallyport's processor is asked.
type noop struct {
	e         *environment
	envoy     *staticEnvoy
	processor *process
	counter   *http.Client
}

func newNoop(ctx context.Context, e *environment) (peer, error) {
	socket, countSocket := filepath.Join(e.dir, "processor.sock"), filepath.Join(e.dir, "processor-counts.sock")
	p, _, err := startRole(ctx, roleProcessor, socket, countSocket)
	if err != nil {
		return nil, err
	}
	envoy, err := startEnvoy(ctx, e, noopName, socket)
	if err != nil {
		p.stop()
		return nil, err
	}
	return &noop{e: e, envoy: envoy, processor: p, counter: overSocket(countSocket)}, nil
}

func (p *noop) Name() string { return noopName }

// Check sends one call and wants the processor to have seen all of it, once.
func (p *noop) Check(ctx context.Context) error {
	before, err := counts(ctx, p.counter)
	if err != nil {
		return err
	}
	if err := p.e.expectForwarded(ctx, same(p.envoy.address, 1)); err != nil {
		return err
	}
	after, err := counts(ctx, p.counter)
	if err != nil {
		return err
	}
	for name, want := range map[string]int64{
		"request_headers": 1, "request_bodies": 1, "request_bytes": int64(len(prompt)),
		"response_headers": 1, "response_ends": 1, "response_bytes": answerSize,
	} {
		if got := after[name] - before[name]; got != want {
			return fmt.Errorf("of one call the processor has seen %s %d, want %d", name, got, want)
		}
	}
	return nil
}

func (p *noop) Target(_ context.Context, n int) (target, error) {
	return same(p.envoy.address, n), nil
}

func (p *noop) Groups() map[string][]int {
	return map[string][]int{"envoy": {p.envoy.pid()}, "processor": {p.processor.pid()}}
}

// Verify wants the processor to have seen the whole of every call since it started.
func (p *noop) Verify(ctx context.Context, answered int64) error {
	c, err := counts(ctx, p.counter)
	if err != nil {
		return err
	}
	n := c["request_headers"]
	if n < answered || c["request_bodies"] != n || c["response_headers"] != n || c["response_ends"] != n ||
		c["request_bytes"] != n*int64(len(prompt)) || c["response_bytes"] != n*answerSize {
		return fmt.Errorf("the processor has not seen all phases of all %d calls: %v", answered, c)
	}
	return nil
}

func (p *noop) Stop() {
	p.envoy.stop()
	p.processor.stop()
}
