package role

import (
	"os"
	"runtime"
	"runtime/debug"
)

const (
	// coresPerProcess: Envoy spends most of a call, so one in four cores is enough for either of the processes beside it.
	// More would only make them wake each other: with two cores, a gate with one costs a third less of CPU a call than a
	// gate with two (bench/STEPS.md).
	coresPerProcess = 4
	// gcPercent: these processes hold a few MiB, so that by default the collector would run many times a second.
	gcPercent = 400
)

// tune fits the runtime to a process on every request's path. GOMAXPROCS and GOGC in the environment have the last word.
func tune() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS((runtime.GOMAXPROCS(0) + coresPerProcess - 1) / coresPerProcess)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
