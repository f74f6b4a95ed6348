package tlog

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"
)

// ErrCheckpoint is wrapped by errors about a checkpoint that is not believed.
var ErrCheckpoint = errors.New("checkpoint")

// Checkpoint is a signed statement of the whole log: so many entries, under this root.
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   []byte // RFC 6962 tree hash
}

// OpenCheckpoint reads a checkpoint (C2SP tlog-checkpoint) and believes it only if every given key signed it.
func (v Verifiers) OpenCheckpoint(signed []byte) (*Checkpoint, error) {
	known := v.notes()
	n, err := note.Open(signed, note.VerifierList(known...))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	have := map[uint32]bool{}
	for _, s := range n.Sigs {
		have[s.Hash] = true
	}
	for _, k := range known {
		if !have[k.KeyHash()] {
			return nil, fmt.Errorf("%w: the signature of key %s+%08x is missing", ErrCheckpoint, k.Name(), k.KeyHash())
		}
	}
	c, err := parseCheckpoint([]byte(n.Text))
	if err == nil && c.Origin != v.origin {
		err = fmt.Errorf("%w: it is of log %q, not %q", ErrCheckpoint, c.Origin, v.origin)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// parseCheckpoint reads the text, without the signatures.
func parseCheckpoint(text []byte) (*Checkpoint, error) {
	var c log.Checkpoint
	if _, err := c.Unmarshal(text); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	if len(c.Hash) != 32 || !bytes.HasPrefix(text, c.Marshal()) {
		return nil, fmt.Errorf("%w: not in the one form that it has", ErrCheckpoint)
	}
	return &Checkpoint{c.Origin, c.Size, c.Hash}, nil
}
