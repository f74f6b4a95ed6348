package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU time in /proc: USER_HZ is 100 on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// cpuTime is what the processes have used so far, user and system, all threads. A process that is gone is an error: a
// figure that leaves out what it used would flatter its peer.
func cpuTime(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			return 0, fmt.Errorf("a measured process is gone: %w", err)
		}
		t, err := parseStat(raw)
		if err != nil {
			return 0, fmt.Errorf("process %d: %w", pid, err)
		}
		sum += t
	}
	return sum, nil
}

// parseStat reads utime and stime, fields 14 and 15 of proc_pid_stat(5).
func parseStat(raw []byte) (time.Duration, error) {
	// The command in parentheses may hold anything, so fields are counted from the last one: state is field 3.
	i := bytes.LastIndexByte(raw, ')')
	if i < 0 {
		return 0, errors.New("stat: no command")
	}
	f := strings.Fields(string(raw[i+1:]))
	if len(f) < 13 {
		return 0, errors.New("stat: too short")
	}
	user, err := strconv.ParseInt(f[11], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("stat: utime: %w", err)
	}
	system, err := strconv.ParseInt(f[12], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("stat: stime: %w", err)
	}
	return time.Duration(user+system) * tick, nil
}

// usage is the CPU time of process groups between two moments.
type usage struct {
	groups map[string][]int
	at     map[string]time.Duration
}

func (u *usage) begin() error {
	var err error
	u.at, err = u.read()
	return err
}

func (u *usage) end() error {
	now, err := u.read()
	for g := range now {
		u.at[g] = now[g] - u.at[g]
	}
	return err
}

func (u *usage) read() (map[string]time.Duration, error) {
	out := map[string]time.Duration{}
	var errs []error
	for g, pids := range u.groups {
		t, err := cpuTime(pids)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", g, err))
		}
		out[g] = t
	}
	return out, errors.Join(errs...)
}
