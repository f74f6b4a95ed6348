package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"sallyport/bench/host"
	"sallyport/envoy"
)

// environment is what all peers share.
type environment struct {
	dir      string // for sockets and files of this run; short, and removed at the end
	root     string // the checkout
	o        options
	upstream *upstream // nil where a deployment with its own is measured
	log      *slog.Logger
	facts    map[string]string // what the report says about this run
	profiles sync.WaitGroup    // profiles under way
}

var errTooLong = fmt.Errorf("request bodies are buffered, up to max_body_bytes, %d MiB by default", maxBuffered>>20)

func newEnvironment(ctx context.Context, o options, dir string, log *slog.Logger) (*environment, error) {
	e := &environment{dir: dir, o: o, log: log, facts: map[string]string{}}
	if o.target != nil {
		return e, nil
	}
	var err error
	if e.root, err = repository(); err != nil {
		return nil, err
	}
	e.upstream, err = startUpstream(ctx, dir, "upstream")
	return e, err
}

func (e *environment) stop() {
	if e.upstream != nil {
		e.upstream.stop()
	}
}

// baseline is the peer that ratios are to.
func (e *environment) baseline() string {
	if e.o.target != nil {
		return targetName
	}
	return cmp.Or(e.o.scenario.Baseline, baseline)
}

// addFacts notes what the figures depend on.
func (e *environment) addFacts() error {
	e.facts["cores"] = fmt.Sprint(host.Cores())
	e.facts["go"] = runtime.Version()
	e.facts["platform"] = runtime.GOOS + "/" + runtime.GOARCH
	e.facts["cpu"] = host.CPUModel()
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" || s.Key == "vcs.modified" {
				e.facts[s.Key] = s.Value
			}
		}
	}
	if e.o.target != nil {
		e.facts["target"] = e.o.target.url.Redacted()
		return nil
	}
	return e.addDiskFacts()
}

// addDiskFacts measures the disk that the evidence is on.
func (e *environment) addDiskFacts() error {
	dir := e.dir // that of the evidence is below
	took, err := host.GroupCommit(dir)
	if err != nil {
		return fmt.Errorf("measure the disk: %w", err)
	}
	e.facts["group_commit"] = fmt.Sprintf("%s to append 4 KiB and fdatasync, median", took.Round(time.Microsecond))
	if host.InMemory(dir) {
		e.facts["group_commit"] += "; the directory is in memory, so that syncs are free (set TMPDIR)"
	}
	if e.o.scenario.Log {
		return e.addLogFacts()
	}
	return nil
}

// envoyBinary finds the Envoy that all gates use.
func (e *environment) envoyBinary(ctx context.Context) (string, error) {
	bin, err := envoy.Find(filepath.Join(e.root, ".tools"))
	if err != nil {
		return "", err
	}
	if e.facts["envoy"] == "" {
		if e.facts["envoy"], err = envoy.Version(ctx, bin); err != nil {
			return "", err
		}
	}
	return bin, nil
}
