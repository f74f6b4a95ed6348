package resolver

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// maxLines is how many warnings a second are written: a program under a contract chooses the names and how often it asks
// for them. The metrics count every one.
const maxLines = 10

// lines writes warnings and counts those that it leaves out.
type lines struct {
	mu      sync.Mutex
	second  int64
	written int
	left    int
}

func (l *lines) warn(log *slog.Logger, message string, attrs ...slog.Attr) {
	l.mu.Lock()
	if s := time.Now().Unix(); s != l.second {
		l.second, l.written = s, 0
	}
	if l.written >= maxLines {
		l.left++
		l.mu.Unlock()
		return
	}
	l.written++
	left := l.left
	l.left = 0
	l.mu.Unlock()
	if left > 0 {
		attrs = append(attrs, slog.Int("left_out", left))
	}
	log.LogAttrs(context.Background(), slog.LevelWarn, message, attrs...) //nolint:sloglint // the callers' messages are static
}
