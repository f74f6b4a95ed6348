package role

import (
	"os"
	"runtime"
	"runtime/debug"
	"testing"
)

// The environment has the last word; without it a quarter of the cores is taken, and never none.
func TestTune(t *testing.T) {
	procs, percent := runtime.GOMAXPROCS(0), debug.SetGCPercent(100)
	t.Cleanup(func() { runtime.GOMAXPROCS(procs); debug.SetGCPercent(percent) })
	// gcNow is the collector's setting, which can be read only by changing it.
	gcNow := func() int { p := debug.SetGCPercent(100); debug.SetGCPercent(p); return p }

	t.Setenv("GOMAXPROCS", "3")
	t.Setenv("GOGC", "100")
	runtime.GOMAXPROCS(3)
	if tune(); runtime.GOMAXPROCS(0) != 3 || gcNow() != 100 {
		t.Errorf("%d processors and GOGC %d, against the environment", runtime.GOMAXPROCS(0), gcNow())
	}
	for _, name := range []string{"GOMAXPROCS", "GOGC"} {
		if err := os.Unsetenv(name); err != nil { // t.Setenv puts it back
			t.Fatal(err)
		}
	}
	for cores, want := range map[int]int{1: 1, 2: 1, 4: 1, 5: 2, 16: 4} {
		runtime.GOMAXPROCS(cores)
		if tune(); runtime.GOMAXPROCS(0) != want || gcNow() != gcPercent {
			t.Errorf("of %d cores %d are taken, want %d; GOGC %d", cores, runtime.GOMAXPROCS(0), want, gcNow())
		}
	}
}
