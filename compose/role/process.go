package role

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"

	"golang.org/x/sync/errgroup"

	"sallyport/compose/config"
	"sallyport/compose/control"
)

// Logger is the process's log, as the configuration says.
func Logger(c *config.Config, w io.Writer, role string) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
		return nil, fmt.Errorf("log level: %w", err)
	}
	opts := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(w, opts)
	if c.Log.Format == "json" {
		h = slog.NewJSONHandler(w, opts)
	}
	return slog.New(h).With("role", role), nil
}

// Process is one running role: its configuration, its log and what it says of itself.
type Process struct {
	Config  *config.Config
	Log     *slog.Logger
	Status  *control.Status
	Version string // of this program
}

// NewProcess makes the process of a role; name tells several of one role apart.
func NewProcess(c *config.Config, log *slog.Logger, name, version string) *Process {
	return &Process{Config: c, Log: log, Version: version, Status: control.NewStatus(name, version)}
}

// StatusSocket is where a process answers /health, /ready and /metrics.
func StatusSocket(c *config.Config, name string) string { return c.Socket(name + ".status") }

// services are the things that a process serves at the same time; the first that fails ends them all.
type services struct {
	group *errgroup.Group
	ctx   context.Context
}

func newServices(ctx context.Context) *services {
	g, ctx := errgroup.WithContext(ctx)
	return &services{g, ctx}
}

func (s *services) run(what string, f func(context.Context) error) {
	s.group.Go(func() error {
		if err := f(s.ctx); err != nil && s.ctx.Err() == nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
}

func (s *services) http(l net.Listener, h http.Handler, log *slog.Logger) {
	s.run("http", func(ctx context.Context) error { return control.Serve(ctx, l, h, log) })
}

func (s *services) wait() error { return s.group.Wait() }

// status serves the process's own status socket, and on it the process's profiles: it is a local socket that only this user
// can reach, and the control API does not pass it on.
func (p *Process) status(s *services) error {
	l, err := listenUnix(StatusSocket(p.Config, p.Status.Role))
	if err != nil {
		return err
	}
	s.http(l, withProfiles(p.Status.Handler()), p.Log)
	return nil
}
