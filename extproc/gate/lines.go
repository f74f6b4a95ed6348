package gate

import (
	"sync"
	"time"
)

// maxLines is how many refusals a second are written to the process's log one by one. Whoever sends bad tokens as fast as
// the line carries them would otherwise make the gate spend more on its log than on the refusals. Every one of them is in
// the evidence and in the metrics all the same.
const maxLines = 50

// lines counts what is written to the log.
type lines struct {
	mu      sync.Mutex
	second  int64
	written int
	left    int // not written, in the last second that had any
}

// write tells whether a line may be written now, and how many were left out since the last one that was.
func (l *lines) write(now time.Time) (ok bool, left int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := now.Unix(); s != l.second {
		l.second, l.written = s, 0
	}
	if l.written >= maxLines {
		l.left++
		return false, 0
	}
	l.written++
	left, l.left = l.left, 0
	return true, left
}
