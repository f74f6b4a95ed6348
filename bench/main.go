// Command bench compares what calls cost on four ways to one upstream: direct, through Envoy alone, through Envoy with a
// processor that does nothing, and through Sallyport with everything on. All ways are measured in one run, in
// interleaved rounds, so that a figure stands beside the others under the same conditions; README.md says how to read it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// run is the whole program. As "role NAME …" it is one of the processes that the comparison itself starts.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == roleArgument {
		return runRole(ctx, args[1:], stdout)
	}
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	r, err := compare(ctx, o, log)
	if err != nil {
		return err
	}
	if err := r.writeTable(stdout); err != nil {
		return err
	}
	if o.JSON != "" {
		if err := r.writeJSON(o.JSON); err != nil {
			return err
		}
	}
	return r.failure()
}

// compare starts the upstream and the peers, lets each show that it does its job, and measures them in turn.
func compare(ctx context.Context, o options, log *slog.Logger) (r *report, err error) {
	// Unix sockets live in it, so its path must be short.
	dir, err := os.MkdirTemp("", "spbench")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	e, err := newEnvironment(ctx, o, dir, log)
	if err != nil {
		return nil, err
	}
	defer e.stop()
	peers, err := startPeers(ctx, e, o.Peers)
	defer func() {
		for _, p := range peers {
			p.Stop()
		}
	}()
	if err != nil {
		return nil, err
	}
	r = newReport(o, e)
	if err := measure(ctx, o, e, peers, r); err != nil {
		return nil, err
	}
	// A peer that did its job once may have been bypassed later: each accounts for all that was sent through it.
	for _, p := range peers {
		if err := p.Verify(ctx, r.answered(p.Name())); err != nil {
			return nil, fmt.Errorf("after measuring %s: %w", p.Name(), err)
		}
	}
	return r, nil
}

// startPeers starts and checks the named peers. What was started is returned even if a later one fails.
func startPeers(ctx context.Context, e *environment, names []string) ([]peer, error) {
	var peers []peer
	for _, name := range names {
		e.log.Info("start", "peer", name)
		p, err := registry[name](ctx, e)
		if err != nil {
			return peers, fmt.Errorf("start %s: %w", name, err)
		}
		peers = append(peers, p)
		if err := p.Check(ctx); err != nil {
			return peers, fmt.Errorf("%s does not do its job, so it is not measured: %w", name, err)
		}
	}
	return peers, nil
}

// measure runs all rounds. In each round the peers begin with another one, so that none profits from its place.
func measure(ctx context.Context, o options, e *environment, peers []peer, r *report) error {
	for round := range o.Rounds {
		for _, n := range o.Connections {
			for i := range peers {
				p := peers[(i+round)%len(peers)]
				c, err := measureCell(ctx, o, e, p, n)
				if err != nil {
					return fmt.Errorf("round %d, %d connections, %s: %w", round+1, n, p.Name(), err)
				}
				c.Round = round + 1
				r.Cells = append(r.Cells, c)
				e.log.Info("measured", "round", c.Round, "connections", n, "peer", c.Peer,
					"requests_per_second", int(c.RequestsPerSecond), "p50_us", c.P50us, "p99_us", c.P99us, "errors", c.Errors)
			}
		}
	}
	return nil
}

// repository is the checkout that holds this program: the directory of go.mod at or above the working directory.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod here or above: run it inside the checkout")
		}
		dir = up
	}
}
