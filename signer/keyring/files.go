package keyring

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"sallyport/signer/jcs"
)

// ErrMode is returned for a key directory or file that others than its owner can get at.
var ErrMode = errors.New("must be accessible to its owner only")

// maxKeyFile is far more than a key file takes, in bytes.
const maxKeyFile = 4096

// fileForm is what a key file holds: a seed (base64url of 32 bytes) or, to verify only, the public key.
type fileForm struct {
	KID          string    `json:"kid"`
	SeedB64u     string    `json:"seed_b64u,omitempty"`
	X            string    `json:"x,omitempty"`
	Active       bool      `json:"active"`
	NotAfterUnix int64     `json:"not_after_unix,omitempty"`
	Replaces     *replaced `json:"replaces,omitempty"`
}

func keyPath(dir, kid string) string { return filepath.Join(dir, kid+".json") }

// keyFiles lists the key files of dir. Names that begin with a dot are ours, for writing and locking.
func keyFiles(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read key directory: %w", err)
	}
	var paths []string
	for _, f := range list {
		if strings.HasSuffix(f.Name(), ".json") && !strings.HasPrefix(f.Name(), ".") {
			paths = append(paths, filepath.Join(dir, f.Name()))
		}
	}
	return paths, nil
}

func checkMode(path string, dir bool) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("key directory: %w", err)
	}
	return checkInfo(path, info, dir)
}

func checkInfo(path string, info os.FileInfo, dir bool) error {
	want := os.FileMode(0o600)
	if dir {
		want = 0o700
	}
	if info.IsDir() != dir || !dir && !info.Mode().IsRegular() {
		return fmt.Errorf("%s: is a %s", path, info.Mode().Type())
	}
	if perm := info.Mode().Perm(); perm&^want != 0 {
		return fmt.Errorf("%s: mode is %04o: %w; run chmod %04o on it", path, perm, ErrMode, want)
	}
	return nil
}

func readDir(dir string) ([]*entry, error) {
	if err := checkMode(dir, true); err != nil {
		return nil, err
	}
	paths, err := keyFiles(dir)
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("%s: holds no key", dir)
	}
	var entries []*entry
	var problems []error
	for _, path := range paths {
		e, err := readFile(path)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		entries = append(entries, e)
	}
	return entries, errors.Join(problems...)
}

func readFile(path string) (*entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open key: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open key: %w", err)
	}
	if err := checkInfo(path, info, false); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	e, err := parseFile(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	e.path = path
	return e, nil
}

// parseFile reads a key file's content. Errors never show any of it.
func parseFile(data []byte) (*entry, error) {
	if len(data) > maxKeyFile {
		return nil, fmt.Errorf("larger than %d bytes", maxKeyFile)
	}
	var f fileForm
	if err := jcs.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	e := &entry{active: f.Active, replaces: f.Replaces}
	public := publicForm{KID: f.KID, X: f.X, NotAfterUnix: f.NotAfterUnix}
	if f.SeedB64u != "" {
		seed, err := jcs.DecodeB64u(f.SeedB64u)
		if err != nil || len(seed) != ed25519.SeedSize {
			return nil, errors.New("seed_b64u is not the base64url of 32 bytes")
		}
		e.key = fromSeed(seed)
		own := jcs.EncodeB64u(e.key.Public())
		if f.X != "" && f.X != own {
			return nil, errors.New("x is not the public key of seed_b64u")
		}
		public.X = own
	}
	v, err := public.verifyKey()
	if err != nil {
		return nil, err
	}
	switch e.verify = v; {
	case f.Active && e.key == nil:
		return nil, errors.New("an active key must have a seed_b64u")
	case f.Active && f.NotAfterUnix != 0:
		return nil, errors.New("an active key must not have an end")
	}
	return e, nil
}

// write puts the entry's file on disk as a whole or not at all: beside it, synced, then renamed.
func (e *entry) write() error {
	f := fileForm{KID: e.verify.KID, Active: e.active, Replaces: e.replaces}
	if e.key != nil {
		f.SeedB64u = jcs.EncodeB64u(e.key.private().Seed())
	} else {
		f.X = jcs.EncodeB64u(e.verify.Public)
	}
	if !e.verify.NotAfter.IsZero() {
		f.NotAfterUnix = e.verify.NotAfter.Unix()
	}
	data, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	return replaceFile(e.path, bytes.NewReader(append(data, '\n')))
}

func replaceFile(path string, content io.Reader) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	_, err = io.Copy(tmp, content)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("write key: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync key directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync key directory: %w", err)
	}
	return nil
}

// lock keeps other processes from changing the ring in dir until the returned function is called.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock key directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock key directory: %w", errors.Join(err, f.Close()))
	}
	return func() { _ = f.Close() }, nil
}
