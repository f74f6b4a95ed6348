// Package run starts a program that knows nothing of Sallyport so that every connection it opens goes through the gate.
// The process that calls Run owns the job's token and speaks to the gate's forward door; the program gets a private
// environment and, on Linux, namespaces of its own whose only sockets to the outside are the owner's.
package run

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
)

// ReverseHost is the authority under which the forward door answers base-URL paths such as /openai/v1/….
const ReverseHost = "gateway.sallyport.internal"

// InitCommand is the hidden command of the binary that calls Run: its main must lead it to Init.
const InitCommand = "__job-init"

// Exit statuses of a program that did not start, as of a shell.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// Token is the job's scoped token. It never shows itself in text.
type Token string

// String hides the token.
func (Token) String() string { return "[token]" }

// GoString hides the token.
func (Token) GoString() string { return "[token]" }

// LogValue hides the token.
func (Token) LogValue() slog.Value { return slog.StringValue("[token]") }

// MarshalJSON hides the token.
func (Token) MarshalJSON() ([]byte, error) { return []byte(`"[token]"`), nil }

// Door is a model upstream that the gate offers under a base URL.
type Door struct {
	Name    string // first part of the path
	Dialect string // openai, anthropic or gemini
}

// Config is one run.
type Config struct {
	ForwardAddress string                 // host:port of the gate's forward door
	TLS            *tls.Config            // of the door: its authority, its name and our client certificate; nil is plain text
	Token          func() Token           // the job's, asked for at each connection since it is renewed
	CA             []byte                 // PEM, the authority of the certificates that the gate shows the program
	Doors          []Door                 // base URLs to announce; the first of a dialect counts
	Names          func(name string) bool // host names, lower case, that the contract can reach; nil means none

	Program []string // with its arguments
	Environ []string // the caller's environment
	Keep    []string // names of variables that are secrets and may stay
	Dir     string   // working directory, "" for the caller's
	Stdin   *os.File
	Stdout  *os.File
	Stderr  *os.File
	Notes   io.Writer // what the person should know before the program starts

	NoIsolation bool     // environment only: a program that ignores it is not held back
	Hide        []string // paths that the program must not see: the gateway's keys, sockets and data
	PrivateTmp  bool     // an empty /tmp instead of the caller's
}

// Validate names everything that is missing, at once.
func (c *Config) Validate() error {
	var errs []error
	for what, missing := range map[string]bool{
		"address of the forward door": c.ForwardAddress == "", "token": c.Token == nil, "program": len(c.Program) == 0,
		"standard streams": c.Stdin == nil || c.Stdout == nil || c.Stderr == nil, "place for notes": c.Notes == nil,
	} {
		if missing {
			errs = append(errs, fmt.Errorf("run: no %s", what))
		}
	}
	return errors.Join(errs...)
}

// Result is how a run ended.
type Result struct {
	ExitCode int // the program's own, or 128 + the signal that ended it
	Summary  Summary
}

// Run starts the program, waits for it and ends whatever it left behind. An error means that the program did not run, or
// that its isolation broke; the program's own failure is in the result. The context ends the program at once.
func Run(ctx context.Context, c Config) (*Result, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if !c.NoIsolation {
		if err := canIsolate(); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp("", "sallyport-run-")
	if err != nil {
		return nil, fmt.Errorf("private directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // a leftover holds no secret
	bundle := filepath.Join(dir, "ca.pem")
	if err := writeBundle(bundle, c.CA, c.Environ); err != nil {
		return nil, err
	}
	if err := writeTrustStore(bundle); err != nil {
		return nil, err
	}
	o := newOwner(&c, newNonce())
	defer o.close()

	start := startIsolated
	if c.NoIsolation {
		start = startOpen
	}
	code, err := start(ctx, &c, o, func(proxyAddress string) []string {
		env, stripped := environment(&c, proxyAddress, o.nonce, bundle)
		noteStripped(c.Notes, stripped)
		return env
	})
	if err != nil {
		return nil, err
	}
	return &Result{ExitCode: code, Summary: o.tally.summary()}, nil
}

// newNonce tells this run's placeholder credentials from another's. crypto/rand does not fail: it ends the process first.
func newNonce() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// startOpen runs the program in the caller's own namespaces. Any process of this machine can reach the proxy's port, so
// it asks for the run's placeholder.
func startOpen(ctx context.Context, c *Config, o *owner, environ func(string) []string) (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("proxy: %w", err)
	}
	o.requireNonce = true
	go o.serveProxy(l)
	return startPlain(ctx, c, environ(l.Addr().String()))
}
