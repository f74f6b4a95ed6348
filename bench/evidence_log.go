package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/signer/evlog"
)

const (
	// logRecord is the size of a chat call's receipt in the log, in bytes.
	logRecord  = 1900
	logSeconds = 2
)

// logCallers are how many append at the same time, each waiting for its record.
var logCallers = []int{1, 16, 256}

// addLogFacts measures the evidence log alone: how many records a second are acknowledged, as durable as each mode has them.
func (e *environment) addLogFacts() error {
	for name, level := range map[string]evlog.Durability{"synced to the disk": evlog.Synced, "written to the system": evlog.Written} {
		text := ""
		for _, callers := range logCallers {
			n, err := appends(filepath.Join(e.dir, fmt.Sprintf("log-%d-%d", level, callers)), callers, level)
			if err != nil {
				return fmt.Errorf("measure the evidence log: %w", err)
			}
			text += fmt.Sprintf("%.0f from %d; ", n, callers)
		}
		e.facts["log, records a second "+name] = text + fmt.Sprintf("callers that wait, %d bytes each", logRecord)
	}
	return nil
}

// appends is how many records a second so many callers get acknowledged.
func appends(dir string, callers int, level evlog.Durability) (perSecond float64, err error) {
	l, _, err := evlog.Open(dir, evlog.Options{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, l.Close(), os.RemoveAll(dir)) }()
	ctx, cancel := context.WithTimeout(context.Background(), logSeconds*time.Second)
	defer cancel()
	var done atomic.Int64
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	begin := time.Now()
	for range callers {
		all.Go(func() {
			payload := make([]byte, logRecord)
			payload[len(payload)-1] = '}'
			for ctx.Err() == nil {
				if err := l.AppendWait(evlog.KindReceipt, payload, level); err != nil {
					failed.Store(&err)
					return
				}
				done.Add(1)
			}
		})
	}
	all.Wait()
	took := time.Since(begin)
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(done.Load()) / took.Seconds(), nil
}
