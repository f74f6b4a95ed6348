package secret

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"
)

// MaxBytes bounds a credential: Envoy refuses requests whose headers are much longer.
const MaxBytes = 16 << 10

// Source is where a class's credential comes from. Fetch is called whenever a credential is needed that is not at hand;
// a source with a lease sets Expires, and its answer is kept until then, renewed ahead of its end while calls use it. It must
// be safe for concurrent use, must honour ctx, and its errors must not quote the credential.
type Source interface {
	Fetch(ctx context.Context) (Credential, error)
	// String says where the credential comes from, for logs; never what it is.
	String() string
}

// local marks sources that answer at once and from this machine, so that nothing of theirs is kept elsewhere.
type local interface{ local() }

func (envSource) local()    {}
func (staticSource) local() {}
func (*fileSource) local()  {}

// ParseSource reads the operator's way of naming a source: env:NAME or file:PATH.
func ParseSource(text string) (Source, error) {
	kind, rest, ok := strings.Cut(text, ":")
	switch {
	case !ok || rest == "":
		return nil, fmt.Errorf("source %q: use env:NAME or file:PATH", clip(text))
	case kind == "env":
		if strings.ContainsAny(rest, "=\x00") {
			return nil, fmt.Errorf("source %q: not the name of an environment variable", clip(text))
		}
		return Env(rest), nil
	case kind == "file":
		return File(rest), nil
	}
	return nil, fmt.Errorf("source %q: use env:NAME or file:PATH", clip(text))
}

// clip keeps a credential that was pasted in the place of a source's name out of error messages.
func clip(text string) string {
	const shown = 8
	if len(text) <= shown {
		return text
	}
	return text[:shown] + "…"
}

type envSource struct{ name string }

// Env reads an environment variable of this process.
func Env(name string) Source { return envSource{name} }

func (s envSource) String() string { return "env:" + s.name }

func (s envSource) Fetch(context.Context) (Credential, error) {
	v, ok := os.LookupEnv(s.name)
	if !ok {
		return Credential{}, fmt.Errorf("the environment variable %s is not set", s.name)
	}
	return Credential{Value: NewValue(v)}, nil
}

type staticSource struct{ cred Credential }

// Static is a fixed credential, for tests.
func Static(value string) Source { return staticSource{Credential{Value: NewValue(value)}} }

func (staticSource) String() string                              { return "static" }
func (s staticSource) Fetch(context.Context) (Credential, error) { return s.cred, nil }

// fileSource keeps what it read until the file changes. Every use looks (one stat), so that a rotated credential is in
// use at the next call.
type fileSource struct {
	path string
	mu   sync.Mutex
	seen stamp
	cred Credential
}

// stamp tells one content of a file from the next. Symlinks are followed: that is how orchestrators swap secrets.
type stamp struct {
	info    fs.FileInfo
	settled bool // the last change was long enough before the reading for another one to show in the file's time
}

// settling is longer than the step of any file system's clock.
const settling = 2 * time.Second

func (a stamp) same(b fs.FileInfo) bool {
	return a.settled && os.SameFile(a.info, b) && a.info.Size() == b.Size() && a.info.ModTime().Equal(b.ModTime())
}

// File reads a file; one line break at its end does not count.
func File(path string) Source { return &fileSource{path: path} }

func (s *fileSource) String() string { return "file:" + s.path }

func (s *fileSource) Fetch(context.Context) (Credential, error) {
	info, err := os.Stat(s.path)
	if err != nil {
		return Credential{}, fmt.Errorf("secret file: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen.same(info) {
		return s.cred, nil
	}
	s.cred, s.seen, err = readFile(s.path)
	return s.cred, err
}

// readFile reads one file whole, and stamps what it read rather than what stood at the path a moment ago.
func readFile(path string) (Credential, stamp, error) {
	f, err := os.Open(path)
	if err != nil {
		return Credential{}, stamp{}, fmt.Errorf("secret file: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return Credential{}, stamp{}, fmt.Errorf("secret file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return Credential{}, stamp{}, fmt.Errorf("secret file %s is not a regular file", path)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return Credential{}, stamp{}, fmt.Errorf("secret file %s has mode %04o: others may replace the credential; use 0600", path, info.Mode().Perm())
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxBytes+3)) // a line break more, and one byte to see that it is too long
	if err != nil {
		return Credential{}, stamp{}, fmt.Errorf("secret file: %w", err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	// The kernel's clock, since it is the kernel that dates the file.
	return Credential{Value: NewValue(text)}, stamp{info, time.Since(info.ModTime()) > settling}, nil
}

// usable refuses what would be no header value: empty, too long, or with characters that could end the line.
func usable(v Value) error {
	s := v.Reveal()
	switch {
	case s == "":
		return errors.New("it is empty")
	case len(s) > MaxBytes:
		return fmt.Errorf("it is longer than %d bytes", MaxBytes)
	case strings.TrimSpace(s) != s:
		return errors.New("it begins or ends with white space")
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return fmt.Errorf("byte %d is no printable ASCII character", i)
		}
	}
	return nil
}
