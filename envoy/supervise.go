package envoy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Defaults of a Supervisor.
const (
	DefaultDrain = 30 * time.Second // for calls under way when the gate stops; a longer stream is cut, and its receipt says so
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 5 * time.Second
	// steady is how long an Envoy must live for its next end to count as a first one.
	steady    = 30 * time.Second
	killAfter = 5 * time.Second
	poll      = 50 * time.Millisecond
)

// SupervisorConfig says which Envoy is run and how.
type SupervisorConfig struct {
	Binary      string // absolute path
	ConfigPath  string // the bootstrap, absolute path
	AdminSocket string // as in the bootstrap
	LogLevel    string // Envoy's: trace, debug, info, warning, error, critical, off; empty: warning
	Concurrency int    // worker threads; 0: one per core
	Drain       time.Duration
	Log         *slog.Logger
}

// Validate reports everything that is wrong with c, joined.
func (c SupervisorConfig) Validate() error {
	var errs []error
	if !filepath.IsAbs(c.Binary) {
		errs = append(errs, fmt.Errorf("envoy: binary %q must be an absolute path", c.Binary))
	}
	if !filepath.IsAbs(c.ConfigPath) {
		errs = append(errs, fmt.Errorf("envoy: configuration %q must be an absolute path", c.ConfigPath))
	}
	errs = append(errs, checkSocket("admin socket", c.AdminSocket))
	switch c.LogLevel {
	case "", "trace", "debug", "info", "warning", "error", "critical", "off":
	default:
		errs = append(errs, fmt.Errorf("envoy: %q is no log level of Envoy", c.LogLevel))
	}
	if c.Concurrency < 0 || c.Drain < 0 {
		errs = append(errs, errors.New("envoy: concurrency and drain time must not be negative"))
	}
	if c.Log == nil {
		errs = append(errs, errors.New("envoy: a logger is missing"))
	}
	return errors.Join(errs...)
}

// Supervisor keeps one Envoy running.
type Supervisor struct {
	cfg   SupervisorConfig
	admin *Admin

	mu  sync.Mutex
	pid int
}

// NewSupervisor makes a Supervisor; Run starts the process.
func NewSupervisor(cfg SupervisorConfig) (*Supervisor, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.LogLevel == "" {
		cfg.LogLevel = "warning"
	}
	if cfg.Drain == 0 {
		cfg.Drain = DefaultDrain
	}
	return &Supervisor{cfg: cfg, admin: NewAdmin(cfg.AdminSocket)}, nil
}

// Admin is the running Envoy's admin interface.
func (s *Supervisor) Admin() *Admin { return s.admin }

// PID is the running Envoy's process id, or 0 between two of them.
func (s *Supervisor) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid
}

// WaitReady returns when Envoy can carry calls. The error says what was missing when ctx ended.
func (s *Supervisor) WaitReady(ctx context.Context) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := s.admin.Ready(ctx)
		if err == nil && s.PID() != 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ErrNotReady, ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// Run starts Envoy and starts it again, later each time, whenever it ends. When ctx ends it stops listening, lets the calls
// under way finish for the drain time, and stops the process. It returns an error only if Envoy cannot be started at all.
func (s *Supervisor) Run(ctx context.Context) error {
	backoff := firstBackoff
	for {
		started := time.Now()
		p, err := s.start()
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			s.stop(p)
			return nil
		case err := <-p.exited:
			s.setPID(0)
			if time.Since(started) > steady {
				backoff = firstBackoff
			}
			s.cfg.Log.Error("envoy ended and is started again", slog.Int("pid", p.pid), slog.String("reason", exitReason(err)),
				slog.Duration("after", time.Since(started)), slog.Duration("wait", backoff))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

func exitReason(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

type process struct {
	pid    int
	exited chan error
	signal func(syscall.Signal)
}

func (s *Supervisor) setPID(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid = pid
}

func (s *Supervisor) start() (*process, error) {
	args := []string{
		"-c", s.cfg.ConfigPath, "--disable-hot-restart", "--log-level", s.cfg.LogLevel,
		"--log-format", "%l" + logSeparator + "%n" + logSeparator + "%v",
		"--file-flush-interval-msec", "500", // the access log must not be 10 s behind when someone looks for a reason
	}
	if s.cfg.Concurrency > 0 {
		args = append(args, "--concurrency", strconv.Itoa(s.cfg.Concurrency))
	}
	cmd := exec.Command(s.cfg.Binary, args...)
	// A group of its own, so that Ctrl-C in a terminal ends the gate in order instead of Envoy first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("envoy: start: %w", err)
	}
	p := &process{exited: make(chan error, 1)}
	startErr := make(chan error, 1)
	go func() {
		// Linux sends the death signal when the thread that started the process ends, so that thread is kept until then.
		runtime.LockOSThread()
		if err := cmd.Start(); err != nil {
			startErr <- fmt.Errorf("envoy: start %s: %w", s.cfg.Binary, err)
			return
		}
		startErr <- nil
		s.forward(stderr)
		p.exited <- cmd.Wait()
	}()
	if err := <-startErr; err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	p.signal = func(sig syscall.Signal) { _ = cmd.Process.Signal(sig) } // an error says that it has ended already
	s.setPID(p.pid)
	s.cfg.Log.Info("envoy started", slog.Int("pid", p.pid))
	return p, nil
}

// stop ends p in order: no new calls, the ones under way, then the process.
func (s *Supervisor) stop(p *process) {
	defer s.setPID(0)
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Drain)
	defer cancel()
	if err := s.admin.StopListening(ctx); err != nil {
		s.cfg.Log.Warn("envoy cannot be drained", slog.String("error", err.Error()))
	} else if ended := s.drain(ctx, p); ended {
		return
	}
	p.signal(syscall.SIGTERM)
	var err error
	select {
	case err = <-p.exited:
	case <-time.After(killAfter):
		s.cfg.Log.Warn("envoy does not stop and is killed", slog.Int("pid", p.pid))
		p.signal(syscall.SIGKILL)
		err = <-p.exited
	}
	s.cfg.Log.Info("envoy stopped", slog.Int("pid", p.pid), slog.String("reason", exitReason(err)))
}

// drain waits for the calls under way; ended says that the process went by itself.
func (s *Supervisor) drain(ctx context.Context, p *process) (ended bool) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		n, err := s.admin.ActiveRequests(context.WithoutCancel(ctx)) // it has a limit of its own
		if err != nil {
			s.cfg.Log.Warn("it cannot be seen whether calls are under way", slog.String("error", err.Error()))
			return false
		}
		if n == 0 {
			return false
		}
		select {
		case err := <-p.exited:
			s.cfg.Log.Warn("envoy ended while it was drained", slog.Int("pid", p.pid), slog.String("reason", exitReason(err)))
			return true
		case <-ctx.Done():
			s.cfg.Log.Warn("calls are cut, because the drain time is over", slog.Int("calls", n))
			return false
		case <-tick.C:
		}
	}
}
