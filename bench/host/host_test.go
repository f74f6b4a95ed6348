package host

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	line := func(command string) string {
		return fmt.Sprintf("7 (%s) S 1 7 7 0 -1 4194560 100 0 0 0 150 25 9 9 20 0 4 0 100 1000 10\n", command)
	}
	for name, tc := range map[string]struct {
		in   string
		want time.Duration
		err  string
	}{
		"plain":                {in: line("envoy"), want: 1750 * time.Millisecond},
		"parenthesis in name":  {in: line("a) S 1 (b"), want: 1750 * time.Millisecond},
		"no command":           {in: "7 envoy S", err: "no command"},
		"too short":            {in: "7 (envoy) S 1 2 3", err: "too short"},
		"utime is no number":   {in: strings.Replace(line("envoy"), " 150 ", " x ", 1), err: "utime"},
		"stime is no number":   {in: strings.Replace(line("envoy"), " 25 ", " x ", 1), err: "stime"},
		"empty":                {in: "", err: "no command"},
		"nothing behind names": {in: "7 (envoy)", err: "too short"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat([]byte(tc.in))
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil || got != tc.want {
				t.Errorf("%v, %v, want %v", got, err, tc.want)
			}
		})
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("7 (envoy) S 1 7 7 0 -1 4194560 100 0 0 0 150 25 9 9 20"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if d, err := parseStat(raw); err != nil && d != 0 {
			t.Errorf("%v beside the error %v", d, err)
		}
	})
}

func TestCPUTimeOfAGoneProcessIsAnError(t *testing.T) {
	if _, err := CPUTime([]int{0}); err == nil {
		t.Error("there is no process 0, and it has used CPU time")
	}
}

func TestParseStatus(t *testing.T) {
	const good = "Name:\tx\nVmPeak:\t 9 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t1\n"
	if r, err := parseStatus([]byte(good)); err != nil || r != (resident{1 << 20, 2 << 20}) {
		t.Errorf("%+v, %v", r, err)
	}
	for name, in := range map[string]string{
		"empty": "", "no peak": strings.Replace(good, "VmHWM", "VmXXX", 1), "no number": strings.Replace(good, "1024", "x", 1),
		"another unit": strings.Replace(good, "1024 kB", "1024 MB", 1), "cut off": "Name:\tx\nVmHWM:\t1 kB\nVmRSS:",
	} {
		if r, err := parseStatus([]byte(in)); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestParseBusyLeavesOutIdleTime(t *testing.T) {
	// user nice system idle iowait irq softirq steal guest guest_nice
	got, err := parseBusy([]byte("cpu  100 1 50 9999 999 2 3 4 77 7\ncpu0 1 1 1 1 1 1 1 1 1 1\n"))
	if err != nil || got != 1600*time.Millisecond {
		t.Errorf("%v, %v", got, err)
	}
	for _, in := range []string{"", "intr 1 2 3", "cpu 1 2", "cpu  100 1 x 9999 999 2 3 4 77 7"} {
		if _, err := parseBusy([]byte(in)); err == nil {
			t.Errorf("%q is read", in)
		}
	}
}

// TestUsage burns CPU time and holds memory, and wants both to be seen.
func TestUsage(t *testing.T) {
	u := &Usage{Groups: map[string][]int{"self": {os.Getpid()}}}
	if err := u.Begin(); err != nil {
		t.Fatal(err)
	}
	const held = 64 << 20
	b := make([]byte, held)
	for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
		for i := 0; i < len(b); i += 4096 {
			b[i]++
		}
	}
	if err := u.End(); err != nil {
		t.Fatal(err)
	}
	if u.CPU["self"] < 50*time.Millisecond {
		t.Errorf("%v of CPU time in 200 ms of work", u.CPU["self"])
	}
	if m := u.Memory["self"]; m.Growth < held/2 || m.Peak < m.Begin {
		t.Errorf("%d MiB were held: %+v", held>>20, m)
	}
	if u.Machine.Busy <= 0 || u.Machine.Cores < 1 {
		t.Errorf("%+v", u.Machine)
	}
}

func TestGroupCommitLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	took, err := GroupCommit(dir)
	if err != nil || took <= 0 {
		t.Errorf("%v, %v", took, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}
