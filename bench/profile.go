package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// profiled is a peer that can leave profiles of its processes in a directory, taken while its calls run.
type profiled interface {
	Profile(ctx context.Context, length time.Duration, dir string) error
}

// profile has a peer profile itself while a cell runs, if that was asked for. Files of later rounds replace the earlier.
func (e *environment) profile(ctx context.Context, p peer, s setting) {
	who, ok := p.(profiled)
	if !e.o.profile || !ok {
		return
	}
	name := fmt.Sprintf("%s-%d-%s", s.Workload, s.Connections, p.Name())
	dir := filepath.Join(e.o.out, "profiles", name)
	e.profiles.Go(func() {
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = who.Profile(ctx, s.window(), dir)
		}
		if err != nil {
			e.log.Warn("not everything was profiled", "what", name, "error", err)
		}
	})
}

// fetch keeps what a process answers on a Unix socket in a file.
func fetch(ctx context.Context, socket, path, file string, patience time.Duration) error {
	c := overSocket(socket)
	c.Timeout = patience
	raw, err := get(ctx, c, path)
	if err != nil {
		return err
	}
	return os.WriteFile(file, raw, 0o644)
}

// fetchPatience is how much longer than its length a profile may take.
const fetchPatience = 30 * time.Second

// Profile takes CPU and mutex profiles for the cell's length, then the heap, of each role, from its status socket, and
// Envoy's statistics from the control API.
func (s *sallyport) Profile(ctx context.Context, length time.Duration, dir string) error {
	sockets, err := filepath.Glob(filepath.Join(s.dir, "data", "run", "*.status.sock"))
	if err != nil {
		return err
	}
	if len(sockets) == 0 {
		return errors.New("the roles have no status sockets")
	}
	seconds := int(math.Ceil(length.Seconds()))
	var g errgroup.Group
	for _, socket := range sockets {
		role := strings.TrimSuffix(filepath.Base(socket), ".status.sock")
		take := func(path, name string) error {
			return fetch(ctx, socket, path, filepath.Join(dir, role+"."+name+".pprof"), length+fetchPatience)
		}
		g.Go(func() error { return take(fmt.Sprintf("/debug/pprof/mutex?seconds=%d", seconds), "mutex") })
		g.Go(func() error {
			if err := take(fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds), "cpu"); err != nil {
				return err
			}
			return take("/debug/pprof/heap", "heap")
		})
	}
	return errors.Join(g.Wait(), s.envoyStatistics(ctx, dir))
}

// envoyStatistics keeps what the control API shows of Envoy.
func (s *sallyport) envoyStatistics(ctx context.Context, dir string) error {
	raw, err := getURL(ctx, s.tokens.client, s.ready.ControlURL+"/metrics/envoy")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "envoy.stats.txt"), raw, 0o644)
}

// Profile keeps Envoy's statistics at the end of the cell.
func (s *staticEnvoy) Profile(ctx context.Context, length time.Duration, dir string) error {
	select {
	case <-time.After(length):
	case <-ctx.Done():
		return ctx.Err()
	}
	return fetch(ctx, s.admin, "/stats/prometheus", filepath.Join(dir, "envoy.stats.txt"), fetchPatience)
}

// Profile keeps what its Envoy counted.
func (p *envoyAlone) Profile(ctx context.Context, length time.Duration, dir string) error {
	return p.envoy.Profile(ctx, length, dir)
}

// Profile keeps what its Envoy counted.
func (p *noop) Profile(ctx context.Context, length time.Duration, dir string) error {
	return p.envoy.Profile(ctx, length, dir)
}
