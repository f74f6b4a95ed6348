package keyring

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// ErrNoEnd is returned by Rotate without an end for the old key.
var ErrNoEnd = errors.New("a replaced key must have an end")

// ErrChanged is returned by Rotate when another process has rotated the ring since it was opened.
var ErrChanged = errors.New("the ring on disk has another active key than the one that was opened")

// Ring is a directory of keys, one of which signs. It is safe for concurrent use.
type Ring struct {
	dir string

	mu      sync.RWMutex
	active  *entry
	entries []*entry // the active one included
}

// entry is a key as it lies in a file.
type entry struct {
	path   string
	key    *Key // nil where the file holds the public key only
	verify VerifyKey
	active bool
	// replaces is the key that this one took the place of. It lets a rotation that was cut off be finished.
	replaces *replaced
}

type replaced struct {
	KID       string `json:"kid"`
	UntilUnix int64  `json:"until_unix"`
}

// Open reads the ring in dir. It refuses a directory or a key file that others can read, files that it does not
// understand in full, and a ring without exactly one signing key. The error joins all that is wrong.
//
// A rotation that was cut off between its two files is finished here.
func Open(dir string) (*Ring, error) {
	entries, err := readDir(dir)
	if err != nil {
		return nil, err
	}
	r := &Ring{dir: dir, entries: entries}
	if err := r.finishRotation(); err != nil {
		return nil, err
	}
	if err := r.settle(); err != nil {
		return nil, err
	}
	return r, nil
}

// OpenOrCreate opens the ring in dir, or makes the directory and one signing key if there is no key yet; created
// says which. An existing key is never replaced: a ring with a fault is an error.
func OpenOrCreate(dir string, rand io.Reader) (r *Ring, created bool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, false, fmt.Errorf("make key directory: %w", err)
	}
	// Two processes that start at once must not make a key each.
	unlock, err := lock(dir)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	names, err := keyFiles(dir)
	if err != nil {
		return nil, false, err
	}
	if len(names) == 0 {
		if err := checkMode(dir, true); err != nil {
			return nil, false, err
		}
		key, err := Generate(rand)
		if err != nil {
			return nil, false, err
		}
		if err := newEntry(dir, key).write(); err != nil {
			return nil, false, err
		}
		created = true
	}
	r, err = Open(dir)
	return r, created, err
}

// newEntry is a fresh signing key.
func newEntry(dir string, key *Key) *entry {
	return &entry{path: keyPath(dir, key.KID()), key: key, verify: VerifyKey{KID: key.KID(), Public: key.Public()}, active: true}
}

// settle checks that one key signs and puts it first.
func (r *Ring) settle() error {
	var problems []error
	seen := map[string]*entry{}
	r.active = nil
	for _, e := range r.entries {
		if other := seen[e.verify.KID]; other != nil {
			problems = append(problems, fmt.Errorf("%s: holds the same key as %s", e.path, other.path))
		}
		seen[e.verify.KID] = e
		if !e.active {
			continue
		}
		if r.active != nil {
			problems = append(problems, fmt.Errorf("%s: is active, and so is %s", e.path, r.active.path))
		}
		r.active = e
	}
	if r.active == nil {
		problems = append(problems, fmt.Errorf("%s: no key is active", r.dir))
	}
	slices.SortFunc(r.entries, func(a, b *entry) int {
		if a.active != b.active {
			if a.active {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.verify.KID, b.verify.KID)
	})
	return errors.Join(problems...)
}

// finishRotation retires every active key that another active key says it replaced.
func (r *Ring) finishRotation() error {
	for _, e := range r.entries {
		if !e.active || e.replaces == nil {
			continue
		}
		for _, old := range r.entries {
			if old != e && old.active && old.verify.KID == e.replaces.KID {
				if err := old.retire(time.Unix(e.replaces.UntilUnix, 0)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// retire rewrites a key's file without its private part.
func (e *entry) retire(until time.Time) error {
	old := entry{path: e.path, verify: VerifyKey{KID: e.verify.KID, Public: e.verify.Public, NotAfter: until}}
	if err := old.write(); err != nil {
		return err
	}
	*e = old
	return nil
}

// Active is the key that signs.
func (r *Ring) Active() *Key {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.active.key
}

// VerifyKeys lists all keys of the ring, ended ones included, the signing one first.
func (r *Ring) VerifyKeys() []VerifyKey {
	r.mu.RLock()
	defer r.mu.RUnlock()
	keys := make([]VerifyKey, len(r.entries))
	for i, e := range r.entries {
		keys[i] = e.verify
	}
	return keys
}

// Rotate makes a new signing key. The old one is kept to verify with until oldUntil, rounded down to seconds, and
// its private part is erased from the ring. If the old key's file cannot be rewritten, that is an error, but the
// new key signs: it is on disk, and Open or the next Rotate finishes the rest.
func (r *Ring) Rotate(rand io.Reader, oldUntil time.Time) error {
	if oldUntil.Unix() <= 0 {
		return ErrNoEnd
	}
	key, err := Generate(rand)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	unlock, err := lock(r.dir)
	if err != nil {
		return err
	}
	defer unlock()
	disk, err := Open(r.dir)
	if err != nil {
		return fmt.Errorf("rotate: %w", err)
	}
	old := disk.active
	if old.verify.KID != r.active.verify.KID {
		return fmt.Errorf("rotate: %w", ErrChanged)
	}
	fresh := newEntry(r.dir, key)
	fresh.replaces = &replaced{KID: old.verify.KID, UntilUnix: oldUntil.Unix()}
	if err := fresh.write(); err != nil {
		return err
	}
	until := time.Unix(oldUntil.Unix(), 0)
	retireErr := old.retire(until)
	old.active, old.verify.NotAfter = false, until
	disk.entries = append(disk.entries, fresh)
	err = disk.settle()
	r.active, r.entries = disk.active, disk.entries
	return errors.Join(retireErr, err)
}
