package host

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// resident is a process's memory in bytes: now, and at most since the peak was last reset.
type resident struct{ now, peak int64 }

// resetPeak makes the kernel forget the highest resident size so far (proc_pid_clear_refs(5), value 5).
func resetPeak(pid int) error { return os.WriteFile(file(pid, "clear_refs"), []byte("5"), 0) }

func memoryOf(pid int) (resident, error) {
	raw, err := os.ReadFile(file(pid, "status"))
	if err != nil {
		return resident{}, fmt.Errorf("a measured process is gone: %w", err)
	}
	r, err := parseStatus(raw)
	if err != nil {
		return r, fmt.Errorf("process %d: %w", pid, err)
	}
	return r, nil
}

// parseStatus reads VmRSS and VmHWM of proc_pid_status(5), which are in KiB.
func parseStatus(raw []byte) (resident, error) {
	var r resident
	for name, to := range map[string]*int64{"VmRSS:": &r.now, "VmHWM:": &r.peak} {
		_, rest, ok := bytes.Cut(raw, []byte("\n"+name))
		f := bytes.Fields(rest)
		if !ok || len(f) < 2 || string(f[1]) != "kB" {
			return resident{}, fmt.Errorf("status: no %s", name)
		}
		n, err := strconv.ParseInt(string(f[0]), 10, 64)
		if err != nil {
			return resident{}, fmt.Errorf("status: %s: %w", name, err)
		}
		*to = n << 10
	}
	return r, nil
}
