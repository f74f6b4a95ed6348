package main

import (
	"context"
	"log/slog"
	"path/filepath"

	"sallyport/envoy"
)

// environment is what all peers share.
type environment struct {
	dir      string // for sockets and files of this run; short, and removed at the end
	root     string // the checkout
	o        options
	upstream *upstream
	log      *slog.Logger
	facts    map[string]string // what the report says about this run
}

func newEnvironment(ctx context.Context, o options, dir string, log *slog.Logger) (*environment, error) {
	root, err := repository()
	if err != nil {
		return nil, err
	}
	up, err := startUpstream(ctx, filepath.Join(dir, "upstream.sock"))
	if err != nil {
		return nil, err
	}
	return &environment{dir: dir, root: root, o: o, upstream: up, log: log, facts: map[string]string{}}, nil
}

func (e *environment) stop() { e.upstream.stop() }

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
