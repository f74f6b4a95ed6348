package envoy

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"strings"
)

// logSeparator parts the fields of Envoy's log lines; the unit separator occurs in none of them.
const logSeparator = "\x1f"

// maxLine bounds one log line, in bytes.
const maxLine = 64 << 10

// forward carries Envoy's log into ours until the pipe closes.
func (s *Supervisor) forward(r io.Reader) {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), maxLine)
	for sc.Scan() {
		level, component, text := splitLine(sc.Text())
		if strings.Contains(text, "marked as work-in-progress") {
			level = slog.LevelDebug // one for each address of the guard's list, each time that it is read (1.40.0)
		}
		s.cfg.Log.LogAttrs(context.Background(), level, "envoy", slog.String("component", component), slog.String("text", text))
	}
	if sc.Err() != nil {
		_, _ = io.Copy(io.Discard, r) // a line too long must not block Envoy
	}
}

func splitLine(line string) (level slog.Level, component, text string) {
	parts := strings.SplitN(line, logSeparator, 3)
	if len(parts) != 3 {
		return slog.LevelInfo, "", line
	}
	switch parts[0] {
	case "trace", "debug":
		level = slog.LevelDebug
	case "warning":
		level = slog.LevelWarn
	case "error", "critical":
		level = slog.LevelError
	default:
		level = slog.LevelInfo
	}
	return level, parts[1], parts[2]
}
