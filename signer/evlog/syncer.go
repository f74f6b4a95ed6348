package evlog

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// syncer makes written records durable. While one fdatasync runs, those who come wait together for the next: that is the
// group commit. The writer never waits for it.
type syncer struct {
	mu      sync.Mutex
	wake    chan struct{}
	waiting []func(error)
	spare   []func(error) // the last round's waiting, to be used again
	dirty   file          // the segment that was written since the last sync
	retired []file
	failed  error // a failed fdatasync is final: the kernel may have dropped the pages (fsyncgate)
	quit    chan struct{}
	done    chan struct{}
}

func (s *syncer) start(every time.Duration) {
	s.wake, s.quit, s.done = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	go s.run(every)
}

// add notes that the segment was written, and who waits for it to be durable.
func (s *syncer) add(f file, waiting []func(error)) {
	s.mu.Lock()
	s.dirty = f
	s.waiting = append(s.waiting, waiting...)
	s.mu.Unlock()
	if len(waiting) > 0 {
		s.poke()
	}
}

// broken is the failed sync that ended this log, or nil. What was written before may be lost with the machine, so nothing
// more is taken until a new process has read what is really there.
func (s *syncer) broken() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// retire takes over a segment that will not be written any more: it is synced once more and closed.
func (s *syncer) retire(f file) {
	s.mu.Lock()
	s.retired = append(s.retired, f)
	s.mu.Unlock()
	s.poke()
}

func (s *syncer) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *syncer) stop() {
	close(s.quit)
	<-s.done
}

func (s *syncer) run(every time.Duration) {
	defer close(s.done)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-s.wake:
			// Receipts that are about to be written come along: a sync costs as much for one as for many.
			runtime.Gosched()
			s.flush()
		case <-tick.C:
			s.flush()
		case <-s.quit:
			s.flush()
			return
		}
	}
}

func (s *syncer) flush() {
	s.mu.Lock()
	waiting, dirty, retired, err := s.waiting, s.dirty, s.retired, s.failed
	s.waiting, s.spare, s.dirty, s.retired = s.spare, nil, nil, nil
	s.mu.Unlock()
	for _, f := range retired {
		err = errors.Join(err, fdatasync(f), f.Close())
		if f == dirty {
			dirty = nil
		}
	}
	if dirty != nil {
		err = errors.Join(err, fdatasync(dirty))
	}
	if err != nil {
		s.mu.Lock()
		s.failed = err
		s.mu.Unlock()
	}
	for _, done := range waiting {
		done(err)
	}
	clear(waiting)
	s.spare = waiting[:0] // only flush touches it
}

func fdatasync(f file) error {
	if err := unix.Fdatasync(int(f.Fd())); err != nil { //nolint:gosec // a file descriptor
		return fmt.Errorf("evidence log: sync: %w", err)
	}
	return nil
}
