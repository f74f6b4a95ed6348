package main

import "context"

const directName = "direct"

// direct is no gate at all: what the client and the upstream cost by themselves.
type direct struct{ e *environment }

func newDirect(_ context.Context, e *environment) (peer, error) { return &direct{e}, nil }

func (d *direct) Name() string { return directName }

func (d *direct) Check(ctx context.Context) error {
	return d.e.expectForwarded(ctx, same(d.e.upstream.address, 1))
}

func (d *direct) Target(_ context.Context, n int) (target, error) {
	return same(d.e.upstream.address, n), nil
}

func (d *direct) Groups() map[string][]int { return nil }

func (d *direct) Verify(context.Context, int64) error { return nil }

func (d *direct) Stop() {}
