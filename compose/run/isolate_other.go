//go:build !linux

package run

import (
	"context"
	"errors"
	"os"
)

var errCannotIsolate = errors.New("programs can be isolated on Linux only; --no-isolation runs one with the environment alone, which does not hold it back")

func canIsolate() error { return errCannotIsolate }

func startIsolated(context.Context, *Config, *owner, func(string) []string) (int, error) {
	return 0, errCannotIsolate
}

// Init is the first process of a program's namespaces, of which there are none here.
func Init() int { return 2 }

// inForeground is a guess: a program with a terminal gets the terminal's signals by itself.
func inForeground() bool {
	info, err := os.Stdin.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
