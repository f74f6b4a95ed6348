// Package supervise keeps child processes running: it starts them one after the other, each when the one before is
// ready, starts again what ends by itself, and stops them in the reverse order. The processes are the roles of
// `sallyport up`; nothing here knows what they do.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"runtime"
	"sync"
	"time"
)

// Defaults of Config and Spec.
const (
	// DefaultStartTimeout is long for a process that only opens files and sockets, so that a slow disk does not end the start.
	DefaultStartTimeout = 30 * time.Second
	// DefaultStopTimeout is what a process gets to finish what it has begun before it is killed.
	DefaultStopTimeout = 8 * time.Second
	// FirstBackoff makes the gap after a single crash hard to notice.
	FirstBackoff = 50 * time.Millisecond
	// MaxBackoff keeps a process that cannot start from filling the log; while one is away calls are refused, so it is short.
	MaxBackoff = time.Second
	// steady is how long a process must have run for its next end to count as the first again.
	steady = 2 * time.Second
	// pollReady is how often an unready process is asked again.
	pollReady = 20 * time.Millisecond
)

// Spec describes one child process.
type Spec struct {
	Role         string // what it is; several processes may share a role
	Path         string // the program
	Args         []string
	Env          []string                    // the whole environment; nil means this process's own
	Ready        func(context.Context) error // nil error once it serves; nil function means ready at once
	StartTimeout time.Duration
	StopTimeout  time.Duration
}

// Config is what a supervisor needs.
type Config struct {
	Log    *slog.Logger
	Output io.Writer // where the children's standard output and error go
}

// Supervisor runs children. Its methods may be called from several goroutines.
type Supervisor struct {
	cfg   Config
	spawn chan spawnRequest
	quit  chan struct{}

	mu       sync.Mutex
	children []*child // in start order
}

type spawnRequest struct {
	cmd  *exec.Cmd
	done chan error
}

// New makes a supervisor. StopAll must be called, or its one goroutine stays.
func New(cfg Config) *Supervisor {
	s := &Supervisor{cfg: cfg, spawn: make(chan spawnRequest), quit: make(chan struct{})}
	go s.spawner()
	return s
}

// spawner starts every child from one thread that lives as long as the supervisor: Linux sends the parent-death
// signal when the starting thread ends, not the process.
func (s *Supervisor) spawner() {
	runtime.LockOSThread()
	for {
		select {
		case r := <-s.spawn:
			r.done <- r.cmd.Start()
		case <-s.quit:
			return
		}
	}
}

func (s *Supervisor) start(cmd *exec.Cmd) error {
	r := spawnRequest{cmd, make(chan error, 1)}
	select {
	case s.spawn <- r:
		return <-r.done
	case <-s.quit:
		return errors.New("supervise: stopped")
	}
}

// Start starts a child and returns when it is ready; from then on it is started again whenever it ends. The error
// says why it did not become ready; the child is ended then.
func (s *Supervisor) Start(ctx context.Context, spec Spec) error {
	if spec.StartTimeout == 0 {
		spec.StartTimeout = DefaultStartTimeout
	}
	if spec.StopTimeout == 0 {
		spec.StopTimeout = DefaultStopTimeout
	}
	c := newChild(s, spec)
	if err := c.launch(); err != nil {
		return fmt.Errorf("start %s: %w", spec.Role, err)
	}
	if err := c.awaitReady(ctx); err != nil {
		c.stop()
		return fmt.Errorf("start %s: %w", spec.Role, err)
	}
	s.mu.Lock()
	s.children = append(s.children, c)
	s.mu.Unlock()
	go c.keep()
	return nil
}

// StopAll asks the children to end, the last started first and each after the one before has ended, and kills those
// that do not. It may be called more than once.
func (s *Supervisor) StopAll() {
	s.mu.Lock()
	children := s.children
	s.children = nil
	s.mu.Unlock()
	for i := len(children) - 1; i >= 0; i-- {
		children[i].stop()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.quit:
	default:
		close(s.quit)
	}
}

// StopRole ends all children of a role, the last started first.
func (s *Supervisor) StopRole(role string) {
	s.mu.Lock()
	var stop, stay []*child
	for _, c := range s.children {
		if c.spec.Role == role {
			stop = append(stop, c)
		} else {
			stay = append(stay, c)
		}
	}
	s.children = stay
	s.mu.Unlock()
	for i := len(stop) - 1; i >= 0; i-- {
		stop[i].stop()
	}
}

// PIDs are the process ids by role, as they are now.
func (s *Supervisor) PIDs() map[string][]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string][]int{}
	for _, c := range s.children {
		if pid := c.pid(); pid != 0 {
			out[c.spec.Role] = append(out[c.spec.Role], pid)
		}
	}
	return out
}
