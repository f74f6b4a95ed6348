// Package jobkey makes the key of a job: the did:key under which the signer keeps the event chain and signs the proof bundles
// of that job's runs. Keys are derived from one root secret, so there is nothing to store for each job and nothing to lose.
package jobkey

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"sallyport/signer/keyring"
)

// rootSize is the length of the root secret, in bytes.
const rootSize = 32

// maxCached bounds the keys that are kept ready.
const maxCached = 4096

// info separates these keys from anything else that may ever be derived from the root.
const info = "sallyport job key v1\x00"

// ErrRoot is wrapped by errors about a root secret that cannot be used.
var ErrRoot = errors.New("root secret of the job keys")

// Keys derives keys. Its methods may be called from any goroutine.
type Keys struct {
	root [rootSize]byte

	mu    sync.Mutex
	ready map[string]*keyring.Key
}

// OpenOrCreate reads the root secret from a file that only its owner may read, or makes it from 32 bytes of rand. An existing
// file is never replaced: with another root every job's past and future would fall apart.
func OpenOrCreate(file string, rand io.Reader) (*Keys, error) {
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		raw, err = create(file, rand)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRoot, err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRoot, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s %w: run chmod 600 on it", ErrRoot, file, keyring.ErrMode)
	}
	if len(raw) != rootSize {
		return nil, fmt.Errorf("%w: %s has %d bytes instead of %d; restore it from a copy", ErrRoot, file, len(raw), rootSize)
	}
	k := &Keys{ready: map[string]*keyring.Key{}}
	copy(k.root[:], raw)
	return k, nil
}

func create(file string, rand io.Reader) ([]byte, error) {
	raw := make([]byte, rootSize)
	if _, err := io.ReadFull(rand, raw); err != nil {
		return nil, err
	}
	tmp := file + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, file); err != nil {
		return nil, err
	}
	d, err := os.Open(filepath.Dir(file))
	if err != nil {
		return nil, err
	}
	return raw, errors.Join(d.Sync(), d.Close())
}

// For returns the key of a job. The same job always has the same key.
func (k *Keys) For(job string) *keyring.Key {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key := k.ready[job]; key != nil {
		return key
	}
	seed, err := hkdf.Key(sha256.New, k.root[:], nil, info+job, rootSize)
	if err != nil {
		panic("jobkey: " + err.Error()) // 32 bytes can always be had
	}
	key, err := keyring.Generate(bytes.NewReader(seed))
	if err != nil {
		panic("jobkey: " + err.Error()) // the reader has all that is asked for
	}
	if len(k.ready) >= maxCached {
		clear(k.ready)
	}
	k.ready[job] = key
	return key
}

// String keeps the root out of logs.
func (k *Keys) String() string { return "job keys" }
