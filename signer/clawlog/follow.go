package clawlog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"sallyport/signer/tlog"
)

// positionFile is how far the transparency log was read. It may be behind: what is here already is passed over.
const positionFile = "position"

// maxBatch bounds the leaves of one root.
const maxBatch = 1024

type position struct {
	Entries uint64 `json:"tlog_entries"`
}

// Follow takes the receipts that are new among the first size entries of the transparency log; at reads them. It is what
// tlog.Config.Grown calls.
func (l *Log) Follow(size uint64, at func(index uint64) (tlog.Entry, error)) error {
	next, err := l.position()
	if err != nil {
		return err
	}
	if next > size {
		return fmt.Errorf("%w: it has read %d entries of a transparency log that has %d; remove %s to have it made again", ErrDamaged, next, size, l.cfg.Dir)
	}
	for next < size {
		var leaves []string
		seen := map[string]bool{}
		for ; next < size && len(leaves) < maxBatch; next++ {
			e, err := at(next)
			if err != nil {
				return err
			}
			if e.Kind != tlog.Receipt || seen[e.PayloadHash] {
				continue
			}
			if _, err := l.Find(e.PayloadHash); !errors.Is(err, ErrNotFound) {
				if err != nil {
					return err
				}
				continue
			}
			seen[e.PayloadHash] = true
			leaves = append(leaves, e.PayloadHash)
		}
		if err := l.Append(leaves); err != nil {
			return err
		}
		if err := l.setPosition(next); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) position() (uint64, error) {
	raw, err := os.ReadFile(filepath.Join(l.cfg.Dir, positionFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("receipt log: %w", err)
	}
	var p position
	if err := json.Unmarshal(raw, &p); err != nil {
		return 0, nil //nolint:nilerr // a power cut took it: read from the beginning, and pass over what is here
	}
	return p.Entries, nil
}

func (l *Log) setPosition(n uint64) error {
	raw, err := json.Marshal(position{n})
	if err != nil {
		return fmt.Errorf("receipt log: %w", err)
	}
	// Behind the leaves, always: they were synced before. Losing it costs a reading, so it is not synced.
	path := filepath.Join(l.cfg.Dir, positionFile)
	if err := os.WriteFile(path+".new", raw, 0o600); err != nil {
		return fmt.Errorf("receipt log: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("receipt log: %w", err)
	}
	return nil
}

// FindProof looks a proof up in the file of proofs of a log that this process does not own, whether its owner is at work or
// not. It reads the file to that line. ErrNotFound: there is none, or not yet.
func FindProof(dir, payloadHash string) (*Proof, error) {
	f, err := os.Open(filepath.Join(dir, proofsFile))
	if err != nil {
		return nil, fmt.Errorf("receipt log: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if !bytes.Contains(lines.Bytes(), []byte(payloadHash)) {
			continue
		}
		var line Line
		if json.Unmarshal(lines.Bytes(), &line) != nil || line.PayloadHash != payloadHash || line.Proof == nil {
			continue // another's line, or one that is half written
		}
		return line.Proof, nil
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("receipt log: %w", err)
	}
	return nil, ErrNotFound
}
