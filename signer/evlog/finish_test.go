package evlog

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// flaky fails every third write after some of its bytes.
type flaky struct {
	file
	writes *atomic.Int64
}

func (f flaky) Write(p []byte) (int, error) {
	if len(p) == headerSize || f.writes.Add(1)%3 != 0 {
		return f.file.Write(p)
	}
	n, err := f.file.Write(p[:len(p)/2])
	return n, errors.Join(err, errDisk)
}

// Each finished record names the one before it. Whatever fails, no record in the log names one that is not.
func TestFinishedRecordsFollowOneAnother(t *testing.T) {
	t.Parallel()
	dir, writes := t.TempDir(), new(atomic.Int64)
	l := openT(t, dir, Options{SegmentBytes: 4 << 10, open: func(name string, flag int, perm os.FileMode) (file, error) {
		f, err := os.OpenFile(name, flag, perm)
		return flaky{f, writes}, err
	}})
	last, failed := 0, new(atomic.Int64) // last is the writer's own
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 200 {
				if i%4 == 0 {
					_ = l.AppendWait(KindReceipt, []byte("in between"), Written)
				}
				done, before := make(chan error, 1), -1
				finish := func(dst, payload []byte) []byte {
					before = last
					last++
					return fmt.Appendf(append(dst, payload...), " %d", last)
				}
				l.AppendFinished(KindIntent, fmt.Appendf(nil, "by %d", g), Written, finish, func(err error) {
					if err != nil && before >= 0 {
						last = min(last, before)
						failed.Add(1)
					}
					done <- err
				})
				if err := <-done; err != nil && !errors.Is(err, errDisk) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := Read(dir, func(e Entry) error {
		if e.Kind != KindIntent {
			return nil
		}
		n++
		if !strings.HasSuffix(string(e.Payload), fmt.Sprintf(" %d", n)) {
			return fmt.Errorf("record %d reads %q", n, e.Payload)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if failed.Load() == 0 || n+int(failed.Load()) != 8*200 {
		t.Errorf("%d records, %d failed", n, failed.Load())
	}
	if err := l.AppendWait(KindIntent, nil, Written); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func TestFinishedTooLarge(t *testing.T) {
	t.Parallel()
	l := openT(t, t.TempDir(), Options{})
	l.AppendFinished(KindIntent, make([]byte, MaxRecord-maxFinish+1), Written, nil, func(err error) {
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("got %v", err)
		}
	})
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
