// Package host reads what a measurement has to know of the machine: CPU time and memory of processes and what else used
// the machine meanwhile, from /proc (proc_pid_stat(5), proc_pid_status(5), proc_stat(5)), and what a sync of the disk takes.
package host

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU time in /proc: USER_HZ is 100 on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// CPUTime is what the processes have used so far, user and system, all threads. A process that is gone is an error: a
// figure that leaves out what it used would flatter its peer.
func CPUTime(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		raw, err := os.ReadFile(file(pid, "stat"))
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

func file(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }

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

// busyTime is the time that all cores together were not idle since the machine started.
func busyTime() (time.Duration, error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseBusy(raw)
}

// parseBusy adds up user, nice, system, irq, softirq and steal of proc_stat(5)'s first line: all but idle and iowait; the
// guests' time is in user already.
func parseBusy(raw []byte) (time.Duration, error) {
	line, _, _ := strings.Cut(string(raw), "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, errors.New("/proc/stat: no cpu line")
	}
	var sum int64
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: field %d: %w", i, err)
		}
		sum += n
	}
	return time.Duration(sum) * tick, nil
}

// Cores is how many cores the machine has.
func Cores() int { return runtime.NumCPU() }

// CPUModel is the processor's name as Linux tells it, "" where it does not.
func CPUModel() string {
	raw, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
