// Package registry keeps signed contracts as files that are named by the contract's hash: written once, never changed,
// and verified each time they are read. The addressing and the HTTP interface are those of the Claw ecosystem (WPC).
package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sallyport/signer/code"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
)

// maxFile bounds a stored envelope, in bytes: a contract of maxContract and what is around it.
const maxFile = 2 << 20

const suffix = ".json"

// Verify holds an envelope against the hash under which it is kept and the signers that count; nil lets it pass.
// Package contract has it.
type Verify func(e *envelope.Envelope, wantHash string) *code.Denial

// Config is what a Registry needs.
type Config struct {
	Dir    string // made with mode 0700 where it is missing
	Verify Verify
	Log    *slog.Logger
}

// Validate reports everything that is wrong with c, joined.
func (c Config) Validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("registry: no directory"))
	}
	if c.Verify == nil {
		errs = append(errs, errors.New("registry: nothing to verify contracts with"))
	}
	if c.Log == nil {
		errs = append(errs, errors.New("registry: a logger is missing"))
	}
	return errors.Join(errs...)
}

// What a registry answers besides a contract.
var (
	ErrHash      = errors.New("not a policy hash: want 43 base64url characters of a SHA-256")
	ErrNotFound  = errors.New("no contract of that hash is kept here")
	ErrCorrupted = errors.New("the stored contract is not what its name says")
)

// Registry is a directory of contracts. Several processes may use one directory.
type Registry struct{ cfg Config }

// Open makes the directory where it is missing.
func Open(cfg Config) (*Registry, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	return &Registry{cfg}, nil
}

func (r *Registry) path(hash string) string { return filepath.Join(r.cfg.Dir, hash+suffix) }

// Put verifies e and keeps it. If a contract of that hash is kept already, that one stays, whoever signed it, and existed
// is true. The error is a *code.Denial if e does not verify.
func (r *Registry) Put(e *envelope.Envelope) (hash string, existed bool, err error) {
	hash = e.PayloadHashB64u
	if _, err := jcs.DecodeHash(hash); err != nil {
		return "", false, fmt.Errorf("%w: %w", ErrHash, err)
	}
	if d := r.verify("put", e, hash); d != nil {
		return "", false, d
	}
	data, err := e.Encode()
	if err != nil {
		return "", false, fmt.Errorf("registry: %w", err)
	}
	if len(data) > maxFile {
		return "", false, fmt.Errorf("registry: the contract has %d bytes, more than %d", len(data), maxFile)
	}
	err = writeOnce(r.cfg.Dir, r.path(hash), data)
	if errors.Is(err, os.ErrExist) {
		return hash, true, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("registry: %w", err)
	}
	return hash, false, nil
}

// writeOnce makes path with data, all or nothing, and never replaces a file. It returns when both survive the machine.
func writeOnce(dir, path string, data []byte) (err error) {
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil { // unlike a rename, it fails if path is there
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Get reads and verifies the contract of that hash. An altered file is ErrCorrupted; one whose signer does not count
// (any more) is a *code.Denial.
func (r *Registry) Get(hash string) (*envelope.Envelope, error) {
	if _, err := jcs.DecodeHash(hash); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHash, err)
	}
	data, err := readFile(r.path(hash))
	if errors.Is(err, os.ErrNotExist) {
		r.cfg.Log.Info("contract asked for", slog.String("policy_hash", hash), slog.String("verdict", string(code.WPCNotFound)))
		return nil, fmt.Errorf("%w: %s", ErrNotFound, hash)
	}
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	e, err := envelope.Parse(data)
	if err != nil {
		return nil, r.corrupted(hash, err.Error())
	}
	d := r.verify("get", e, hash)
	switch {
	case d == nil:
		return e, nil
	case d.Code == code.WPCSignerNotAllowed:
		return nil, d
	default:
		return nil, r.corrupted(hash, d.Error())
	}
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(f, maxFile+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if n > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return b.Bytes(), nil
}

func (r *Registry) corrupted(hash, reason string) error {
	r.cfg.Log.Error("a stored contract is corrupted and is not used", slog.String("policy_hash", hash), slog.String("verdict", codeCorrupted), slog.String("reason", reason))
	return fmt.Errorf("%w: %s: %s", ErrCorrupted, hash, reason)
}

// verify writes the log line that each fetch and its verdict leave.
func (r *Registry) verify(what string, e *envelope.Envelope, hash string) *code.Denial {
	d := r.cfg.Verify(e, hash)
	attrs := []any{slog.String("what", what), slog.String("policy_hash", hash), slog.String("signer", e.SignerDID)}
	if d != nil {
		r.cfg.Log.Warn("contract refused", append(attrs, slog.String("verdict", string(d.Code)), slog.String("reason", d.Message()))...)
		return d
	}
	r.cfg.Log.Info("contract verified", append(attrs, slog.String("verdict", "ok"))...)
	return nil
}

// Hashes are the hashes of all contracts kept here, in order. The files are not read.
func (r *Registry) Hashes() ([]string, error) {
	entries, err := os.ReadDir(r.cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	var out []string
	for _, e := range entries {
		hash, ok := strings.CutSuffix(e.Name(), suffix)
		if _, err := jcs.DecodeHash(hash); ok && err == nil && e.Type().IsRegular() {
			out = append(out, hash)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Each gives every contract that verifies to visit. One that does not is logged and left out; it does not keep the
// others from being used. An error of visit for one contract does not end the walk either; all are joined.
func (r *Registry) Each(visit func(hash string, e *envelope.Envelope) error) error {
	hashes, err := r.Hashes()
	if err != nil {
		return err
	}
	var errs []error
	for _, hash := range hashes {
		e, err := r.Get(hash)
		if err != nil {
			continue // logged by Get
		}
		if err := visit(hash, e); err != nil {
			errs = append(errs, fmt.Errorf("contract %s: %w", hash, err))
		}
	}
	return errors.Join(errs...)
}
