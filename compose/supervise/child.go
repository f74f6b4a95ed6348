package supervise

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// child is one process and its successors.
type child struct {
	sup  *Supervisor
	spec Spec
	end  chan struct{} // closed when no successor is wanted

	mu      sync.Mutex
	cmd     *exec.Cmd
	exited  chan struct{} // closed when cmd has ended
	err     error         // how cmd ended; read after exited
	started time.Time
	ending  bool
}

func newChild(s *Supervisor, spec Spec) *child {
	return &child{sup: s, spec: spec, end: make(chan struct{})}
}

// launch starts a process for the child.
func (c *child) launch() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending {
		return errors.New("stopped")
	}
	cmd := exec.Command(c.spec.Path, c.spec.Args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = c.spec.Env, c.sup.cfg.Output, c.sup.cfg.Output
	cmd.SysProcAttr = attributes()
	// A grandchild that keeps the pipe open must not keep us waiting.
	cmd.WaitDelay = time.Second
	if err := c.sup.start(cmd); err != nil {
		return err
	}
	exited := make(chan struct{})
	c.cmd, c.exited, c.started = cmd, exited, time.Now()
	go func() {
		err := cmd.Wait()
		c.mu.Lock()
		c.err = err
		c.mu.Unlock()
		close(exited)
	}()
	c.sup.cfg.Log.Info("process started", "child", c.spec.Role, "pid", cmd.Process.Pid)
	return nil
}

func (c *child) awaitReady(ctx context.Context) error {
	if c.spec.Ready == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.spec.StartTimeout)
	defer cancel()
	last := errors.New("not asked yet")
	for {
		if err := c.spec.Ready(ctx); err == nil {
			return nil
		} else if ctx.Err() == nil {
			last = err
		}
		select {
		case <-c.exited:
			return fmt.Errorf("ended before it was ready: %s", c.how())
		case <-ctx.Done():
			return fmt.Errorf("not ready in %s: %w", c.spec.StartTimeout, errors.Join(last, context.Cause(ctx)))
		case <-time.After(pollReady):
		}
	}
}

// keep starts a successor whenever the process ends, until stop.
func (c *child) keep() {
	wait := FirstBackoff
	for {
		<-c.exited
		select {
		case <-c.end:
			return
		default:
		}
		if time.Since(c.started) > steady {
			wait = FirstBackoff
		}
		c.sup.cfg.Log.Error("process ended by itself; starting it again", "child", c.spec.Role, "how", c.how(), "after", wait)
		for {
			select {
			case <-c.end:
				return
			case <-time.After(wait):
			}
			wait = min(2*wait, MaxBackoff)
			err := c.launch()
			if err == nil {
				break
			}
			c.sup.cfg.Log.Error("process cannot be started", "child", c.spec.Role, "error", err)
		}
	}
}

// stop ends the process and wants no successor. It returns when the process is gone.
func (c *child) stop() {
	c.mu.Lock()
	if c.ending {
		c.mu.Unlock()
		<-c.exited
		return
	}
	c.ending = true
	close(c.end)
	cmd, exited := c.cmd, c.exited
	c.mu.Unlock()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-exited:
	case <-time.After(c.spec.StopTimeout):
		c.sup.cfg.Log.Warn("process did not end when asked; killing it", "child", c.spec.Role, "pid", cmd.Process.Pid)
		_ = cmd.Process.Kill()
		<-exited
	}
	c.sup.cfg.Log.Info("process stopped", "child", c.spec.Role, "pid", cmd.Process.Pid)
}

func (c *child) how() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		return "exit status 0"
	}
	return c.err.Error()
}

func (c *child) pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.exited:
		return 0
	default:
		return c.cmd.Process.Pid
	}
}
