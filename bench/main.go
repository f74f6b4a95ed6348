// Command bench measures what calls cost on several ways to one upstream: direct, through Envoy alone, through Envoy with a
// processor that does nothing, and through Sallyport with everything on; or the load that a deployment carries. All ways
// are measured in one run, in interleaved rounds, so that a figure stands beside the others under the same conditions;
// README.md says how to read it.
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
	"slices"
	"syscall"
	"time"

	"sallyport/bench/picture"
	"sallyport/bench/report"
	"sallyport/bench/scenario"
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
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level(stderr)}))
	r, err := compare(ctx, o, log, newProgress(stderr))
	if r == nil {
		return err
	}
	return errors.Join(err, write(r, o.out, stdout), r.Failure())
}

// level keeps the log from running into the progress line of a terminal.
func level(w io.Writer) slog.Level {
	if isTerminal(w) {
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// write leaves the table, the report and the picture in a directory, and shows the table.
func write(r *report.Report, dir string, stdout io.Writer) error {
	table, err := os.Create(filepath.Join(dir, "table.md"))
	if err != nil {
		return err
	}
	if err := errors.Join(r.WriteTable(io.MultiWriter(stdout, table)), table.Close()); err != nil {
		return err
	}
	svg, err := os.Create(filepath.Join(dir, "report.svg"))
	if err != nil {
		return err
	}
	if err := errors.Join(picture.SVG(svg, r.Figures()), svg.Close()); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "\nThe report is in %s\n", dir)
	return r.WriteJSON(filepath.Join(dir, "report.json"))
}

// compare starts the upstream and the peers, lets each show that it does its job, and measures them in turn. A report
// beside an error has figures that are worth seeing, of a peer that did not do its job.
func compare(ctx context.Context, o options, log *slog.Logger, show *progress) (r *report.Report, err error) {
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
	peers, err := startPeers(ctx, e, show)
	defer func() {
		for _, p := range peers {
			p.Stop()
		}
	}()
	if err != nil {
		return nil, err
	}
	r = &report.Report{Title: o.scenario.Title, Started: time.Now().UTC(), Baseline: e.baseline(), Peers: names(peers), Facts: e.facts}
	if err := e.addFacts(); err != nil {
		return nil, err
	}
	if err := measure(ctx, e, peers, r, show); err != nil {
		if len(r.Cells) == 0 && len(r.Startups) == 0 {
			return nil, err
		}
		return r, fmt.Errorf("not everything was measured, and nothing was verified: %w", err)
	}
	// A peer that did its job once may have been bypassed later: each accounts for all that was sent through it.
	var errs []error
	for _, p := range peers {
		if err := p.Verify(ctx, r.Answered(p.Name())); err != nil {
			errs = append(errs, fmt.Errorf("after measuring %s: %w", p.Name(), err))
		}
	}
	return r, errors.Join(errs...)
}

func names(peers []peer) []string {
	var out []string
	for _, p := range peers {
		out = append(out, p.Name())
	}
	return out
}

// startPeers starts and checks the peers that any part names. What was started is returned even if a later one fails.
func startPeers(ctx context.Context, e *environment, show *progress) ([]peer, error) {
	if e.o.target != nil {
		p, err := newRemote(e)
		if err != nil {
			return nil, err
		}
		return []peer{p}, p.Check(ctx)
	}
	var peers []peer
	for _, name := range allPeers() {
		if !slices.ContainsFunc(e.o.scenario.Parts, func(p scenario.Part) bool { return slices.Contains(p.Peers, name) }) {
			continue
		}
		e.log.Info("start", "peer", name)
		show.say("starting %s", name)
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
func measure(ctx context.Context, e *environment, peers []peer, r *report.Report, show *progress) error {
	all := settings(e.o.scenario)
	rounds := 0
	for _, s := range all {
		r.Settings = append(r.Settings, s.Setting)
		rounds = max(rounds, s.part.Rounds)
	}
	if err := measureStartups(ctx, e, peers, r, show); err != nil {
		return err
	}
	jobs := plan(all, peers, rounds, r)
	for i, j := range jobs {
		show.cell(i, jobs)
		c, err := measureCell(ctx, e, j.peer, j.setting)
		if err != nil {
			return fmt.Errorf("round %d, %s, %d connections, %s: %w", j.round, j.Workload, j.Connections, j.peer.Name(), err)
		}
		c.Round = j.round
		r.Cells = append(r.Cells, c)
		e.log.Info("measured", "round", c.Round, "workload", c.Workload, "connections", c.Connections, "peer", c.Peer,
			"requests_per_second", int(c.RequestsPerSecond), "errors", c.Errors)
	}
	show.done()
	return nil
}

// job is one cell to be measured.
type job struct {
	setting
	peer  peer
	round int // from 1
}

// plan is the order of all cells. Peers that do not carry a workload are noted in the report instead.
func plan(all []setting, peers []peer, rounds int, r *report.Report) []job {
	var out []job
	for round := range rounds {
		for _, s := range all {
			if round >= s.part.Rounds {
				continue
			}
			for i := range peers {
				p := peers[(i+round)%len(peers)]
				if !slices.Contains(s.peers, p.Name()) {
					continue
				}
				if err := carries(p, s); err == nil {
					out = append(out, job{s, p, round + 1})
				} else if round == 0 && !s.readersOnly {
					r.Skipped = append(r.Skipped, report.Skipped{Setting: s.Setting, Peer: p.Name(), Reason: err.Error()})
				}
			}
		}
	}
	return out
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
