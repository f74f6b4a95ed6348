package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"

	"sallyport/bench/workload"
)

const (
	noopName        = "noop-bodies"
	noopHeadersName = "noop-headers"
)

// noop is Envoy with a processor that lets everything pass: the price of asking at all. As noop-bodies it is asked in the
// phases in which Sallyport's processor is asked; as noop-headers only about the request's headers.
type noop struct {
	name        string
	headersOnly bool
	e           *environment
	envoy       *staticEnvoy
	processor   *process
	counter     *http.Client
}

func newNoop(ctx context.Context, e *environment) (peer, error) {
	return startNoop(ctx, e, noopName, false)
}

func newNoopHeaders(ctx context.Context, e *environment) (peer, error) {
	return startNoop(ctx, e, noopHeadersName, true)
}

func startNoop(ctx context.Context, e *environment, name string, headersOnly bool) (peer, error) {
	socket, countSocket := filepath.Join(e.dir, name+".sock"), filepath.Join(e.dir, name+"-counts.sock")
	p, _, err := startRole(ctx, roleProcessor, socket, countSocket)
	if err != nil {
		return nil, err
	}
	envoy, err := startAsking(ctx, e, name, socket, headersOnly)
	if err != nil {
		p.stop()
		return nil, err
	}
	return &noop{name: name, headersOnly: headersOnly, e: e, envoy: envoy, processor: p, counter: overSocket(countSocket)}, nil
}

func (p *noop) Name() string { return p.name }

// Carries refuses bodies that the listener, as Sallyport's, may not buffer.
func (p *noop) Carries(name string) error {
	if kind, size := workload.Size(name); !p.headersOnly && kind != "download" && size > maxBuffered {
		return fmt.Errorf("request bodies are buffered, up to %d MiB", maxBuffered>>20)
	}
	return nil
}

// Check sends one call and wants the processor to have seen what it is asked about, once, and nothing else.
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
	want := map[string]int64{
		"request_headers": 1, "request_bodies": 1, "request_bytes": chat.Body.Size(),
		"response_headers": 1, "response_ends": 1, "response_bytes": workload.AnswerSize,
	}
	if p.headersOnly {
		want = map[string]int64{"request_headers": 1, "request_bodies": 0, "request_bytes": 0, "response_headers": 0, "response_ends": 0, "response_bytes": 0}
	}
	for name, n := range want {
		if got := after[name] - before[name]; got != n {
			return fmt.Errorf("of one call the processor has seen %s %d, want %d", name, got, n)
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
	all := n
	if p.headersOnly {
		all = 0
	}
	if n < answered || c["request_bodies"] != all || c["response_headers"] != all || c["response_ends"] != all {
		return fmt.Errorf("the processor has not seen its phases of all %d calls: %v", answered, c)
	}
	return nil
}

func (p *noop) Stop() {
	p.envoy.stop()
	p.processor.stop()
}
