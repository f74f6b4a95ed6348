package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sallyport/bench/host"
)

// pythonEnvironment returns the directory of programs of a Python environment below .tools that has exactly what the
// requirements say. It is made once for each text of them, which may take minutes; one caller at a time makes it.
func (e *environment) pythonEnvironment(ctx context.Context, name, requirements string) (string, error) {
	dir := e.pythonDir(name, requirements)
	bin, done := filepath.Join(dir, "bin"), filepath.Join(dir, "complete")
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(filepath.Dir(dir), ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close() // gives the lock back
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(done); err == nil {
		return bin, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	e.log.Info("installing, once for each version", "peer", name, "dir", dir)
	file := filepath.Join(e.dir, name+"-requirements.txt")
	if err := os.WriteFile(file, []byte(requirements), 0o600); err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{"python3", "-m", "venv", "--clear", dir},
		{filepath.Join(bin, "python3"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", file},
		{filepath.Join(bin, "python3"), "-m", "pip", "check", "--quiet"},
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("install %s: %s: %w\n%.4000s", name, strings.Join(args[1:], " "), err, out)
		}
	}
	return bin, os.WriteFile(done, nil, 0o600)
}

// pythonDir is named after the text of the requirements, so that another text is another environment.
func (e *environment) pythonDir(name, requirements string) string {
	sum := sha256.Sum256([]byte(requirements))
	return filepath.Join(e.root, ".tools", "bench-"+name, hex.EncodeToString(sum[:6]))
}

// bare starts a program with the given variables and no others, so that no proxy, key or setting of whoever runs the
// comparison reaches it.
func bare(ctx context.Context, name string, variables []string, args ...string) (*process, error) {
	p, _, err := start(ctx, name, false, "env", append(append([]string{"-i"}, variables...), args...)...)
	return p, err
}

// family is a process with all that descend from it.
func family(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, entry := range entries {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue // no process
		}
		raw, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "stat"))
		if err != nil {
			continue // it has just ended
		}
		if parent, ok := parentOf(string(raw)); ok {
			children[parent] = append(children[parent], child)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all, nil
}

// parentOf reads ppid, field 4 of proc_pid_stat(5). The command before it may hold anything.
func parentOf(stat string) (int, bool) {
	_, rest, ok := cutLast(stat, ") ")
	if !ok {
		return 0, false
	}
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(fields[1])
	return parent, err == nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// warmCalls is how many calls a Python peer gets before it is measured. At 200, LiteLLM has found its speed.
const warmCalls = 200

// How a family that has just started is known to be done with it: no more CPU time for a while.
const (
	quietFor  = time.Second
	quietMost = 30 * time.Millisecond // of CPU time in it, for what idles
)

// settled waits until a process and all that descend from it have stopped working at starting. It returns those that
// stay: a child that runs for a moment has no CPU time of its own to read later.
func (p *process) settled(ctx context.Context) ([]int, error) {
	var stay []int
	var before time.Duration
	next := time.Time{}
	err := p.await(ctx, func() error {
		if time.Now().Before(next) {
			return errors.New("it is still busy with starting")
		}
		pids, err := family(p.pid())
		if err != nil {
			return err
		}
		now, err := host.CPUTime(pids)
		if err != nil {
			return err
		}
		same, spent := slices.Equal(pids, stay), now-before
		stay, before, next = pids, now, time.Now().Add(quietFor)
		if !same || spent > quietMost {
			return fmt.Errorf("it still used %v of CPU time within %v", spent, quietFor)
		}
		return nil
	})
	return stay, err
}

// pinned is the version of a package in a requirements text.
func pinned(requirements, name string) string {
	for line := range strings.Lines(requirements) {
		if n, version, ok := strings.Cut(strings.TrimSpace(line), "=="); ok && n == name {
			return version
		}
	}
	return ""
}
