package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// startPlain runs the program in the caller's own namespaces and process group, with signals passed on.
func startPlain(ctx context.Context, c *Config, env []string) (int, error) {
	cmd := exec.CommandContext(ctx, c.Program[0], c.Program[1:]...)
	cmd.Env, cmd.Dir = env, c.Dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	got := make(chan os.Signal, 16)
	for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT} {
		if !signal.Ignored(s) {
			signal.Notify(got, s)
		}
	}
	defer signal.Stop(got)
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(c.Stderr, "sallyport: %v\n", err)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
			return exitNotFound, nil
		}
		return exitNotExecutable, nil
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case s := <-got:
			if (s == syscall.SIGINT || s == syscall.SIGQUIT) && inForeground() {
				continue // the terminal sent it to the program too
			}
			_ = cmd.Process.Signal(s) // it may have ended
		case err := <-done:
			if ctx.Err() != nil {
				return 0, fmt.Errorf("the program was ended: %w", context.Cause(ctx))
			}
			return exitCode(cmd, err)
		}
	}
}

func exitCode(cmd *exec.Cmd, err error) (int, error) {
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		return 0, err
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}
