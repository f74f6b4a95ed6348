// Package hashindex finds the places of hashes in an append-only list, with bounded memory: the newest in a map, all others in
// sorted files of 65,536 places each. It is derived from the list and can be thrown away: it only names candidates, and who
// asks looks at the list itself.
package hashindex

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
)

const (
	// RunLength is how many places one file holds.
	RunLength = 1 << 16
	prefixLen = 8
	entryLen  = prefixLen + 2 // the first bytes of the hash | place within the run, big-endian
)

// prefix is what is kept of a hash: enough that two hashes rarely share it.
type prefix [prefixLen]byte

// Index is safe for concurrent use.
type Index struct {
	dir string

	mu    sync.RWMutex
	n     uint64
	fresh map[prefix][]uint16 // of the run that is not full yet
	order []prefix
}

// Open takes the directory, made if need be, for a list that is most long. Indexed is how many places its files hold: Add must
// go on from there. Files of places that the list does not have, or not yet, do not count.
func Open(dir string, most uint64) (*Index, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	x := &Index{dir: dir, fresh: map[prefix][]uint16{}}
	for {
		info, err := os.Stat(x.run(x.n / RunLength))
		if err != nil || info.Size() != RunLength*entryLen || x.n+RunLength > most {
			return x, nil
		}
		x.n += RunLength
	}
}

// Indexed is the number of places.
func (x *Index) Indexed() uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.n
}

// Add puts a hash, of 8 bytes at least, at the next place.
func (x *Index) Add(hash []byte) error {
	if len(hash) < prefixLen {
		return fmt.Errorf("index: a hash of %d bytes", len(hash))
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	p := prefix(hash[:prefixLen])
	x.fresh[p] = append(x.fresh[p], uint16(len(x.order))) //nolint:gosec // below RunLength
	x.order = append(x.order, p)
	x.n++
	if len(x.order) < RunLength {
		return nil
	}
	if err := x.write(); err != nil {
		x.n--
		x.order = x.order[:len(x.order)-1]
		x.fresh[p] = x.fresh[p][:len(x.fresh[p])-1]
		return err
	}
	clear(x.fresh)
	x.order = x.order[:0]
	return nil
}

// write makes a full run a file, all or nothing.
func (x *Index) write() error {
	places := make([]int, len(x.order))
	for i := range places {
		places[i] = i
	}
	slices.SortStableFunc(places, func(a, b int) int { return bytes.Compare(x.order[a][:], x.order[b][:]) })
	out := make([]byte, 0, RunLength*entryLen)
	for _, i := range places {
		out = append(out, x.order[i][:]...)
		out = binary.BigEndian.AppendUint16(out, uint16(i)) //nolint:gosec // below RunLength
	}
	name := x.run(x.n/RunLength - 1)
	err := os.WriteFile(name+".new", out, 0o600)
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	return nil
}

func (x *Index) run(i uint64) string { return filepath.Join(x.dir, fmt.Sprintf("%08d", i)) }

// Find returns the places where a hash may be, the newest first. A hash that is not in the list has none, rarely a wrong one.
func (x *Index) Find(hash []byte) ([]uint64, error) {
	if len(hash) < prefixLen {
		return nil, nil
	}
	p := prefix(hash[:prefixLen])
	x.mu.RLock()
	runs := x.n / RunLength
	var found []uint64
	for _, at := range slices.Backward(x.fresh[p]) {
		found = append(found, runs*RunLength+uint64(at))
	}
	x.mu.RUnlock()
	for i := runs; i > 0; i-- {
		places, err := find(x.run(i-1), p)
		if err != nil {
			return found, err
		}
		for _, at := range slices.Backward(places) {
			found = append(found, (i-1)*RunLength+uint64(at))
		}
	}
	return found, nil
}

// find searches one file.
func find(name string, p prefix) ([]uint16, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	var e [entryLen]byte
	var failed error
	read := func(i int) {
		if _, err := f.ReadAt(e[:], int64(i)*entryLen); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	at := sort.Search(RunLength, func(i int) bool { read(i); return bytes.Compare(e[:prefixLen], p[:]) >= 0 })
	var out []uint16
	for ; at < RunLength; at++ {
		if read(at); prefix(e[:prefixLen]) != p {
			break
		}
		out = append(out, binary.BigEndian.Uint16(e[prefixLen:]))
	}
	if err := errors.Join(failed, f.Close()); err != nil {
		return nil, fmt.Errorf("index %s: %w", name, err)
	}
	return out, nil
}
