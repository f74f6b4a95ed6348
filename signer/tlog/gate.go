package tlog

import (
	"bytes"
	"fmt"
	"maps"
	"sync"

	"github.com/transparency-dev/merkle/rfc6962"
)

// gate knows which checkpoints may be signed: those whose root follows from the evidence.
type gate struct {
	mu    sync.Mutex
	roots map[uint64][]byte // by tree size
	err   error             // why the last checkpoint was refused
}

func newGate() *gate { return &gate{roots: map[uint64][]byte{0: rfc6962.DefaultHasher.EmptyRoot()}} }

// permit lets the checkpoint of this tree be signed.
func (g *gate) permit(size uint64, root []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.roots[size] = root
}

// allow says whether a checkpoint may be signed. Smaller ones are not signed any more after it.
func (g *gate) allow(msg []byte) error {
	c, err := parseCheckpoint(msg)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if root, ok := g.roots[c.Size]; !ok || !bytes.Equal(root, c.Root) {
		g.err = fmt.Errorf("%w: the tree of %d entries has a root that does not follow from the evidence; it is not signed", ErrMismatch, c.Size)
		return g.err
	}
	g.err = nil
	maps.DeleteFunc(g.roots, func(size uint64, _ []byte) bool { return size < c.Size })
	return nil
}

func (g *gate) refused() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}
