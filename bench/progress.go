package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// progress is one line on a terminal that says what is being measured and how long it still takes. Elsewhere it is silent.
type progress struct{ w io.Writer }

func newProgress(w io.Writer) *progress {
	if !isTerminal(w) {
		return &progress{}
	}
	return &progress{w}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// say replaces the line.
func (p *progress) say(format string, args ...any) {
	if p.w != nil {
		fmt.Fprintf(p.w, "\r\x1b[K"+format, args...)
	}
}

// cell says which of the jobs begins. The time left is that of the cells alone; making tokens comes on top.
func (p *progress) cell(i int, jobs []job) {
	var left time.Duration
	for _, j := range jobs[i:] {
		left += j.warmUp() + j.window()
	}
	j := jobs[i]
	p.say("[%d/%d, %s left] round %d, %s, %d connections, %s", i+1, len(jobs), left.Round(time.Second), j.round, j.Workload, j.Connections, j.peer.Name())
}

func (p *progress) done() {
	p.say("")
}
