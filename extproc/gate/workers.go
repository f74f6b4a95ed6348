package gate

import (
	"sync/atomic"

	"sallyport/extproc/message"
)

// maxParked is how many goroutines wait for the next message that has to wait. A new one would have to grow its stack
// anew for every call.
const maxParked = 256

// workers run what has to wait.
type workers struct {
	jobs   chan job
	parked atomic.Int64
}

type job struct {
	x *exchange
	m *message.Request
}

func newWorkers() *workers { return &workers{jobs: make(chan job)} }

// run hands a message to a parked goroutine, or to a new one: nothing waits for another's wait to end.
func (w *workers) run(x *exchange, m *message.Request) {
	j := job{x, m}
	select {
	case w.jobs <- j:
	default:
		go w.work(j)
	}
}

func (w *workers) work(j job) {
	for {
		j.x.later(j.m)
		if w.parked.Add(1) > maxParked {
			w.parked.Add(-1)
			return
		}
		j = <-w.jobs
		w.parked.Add(-1)
	}
}
