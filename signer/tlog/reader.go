package tlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"

	"sallyport/signer/internal/hashindex"
)

// ErrNotFound means that a payload hash has no entry under the log's checkpoint: it never had one, or not yet.
var ErrNotFound = errors.New("not in the transparency log")

// ErrProof is wrapped when an inclusion proof does not hold.
var ErrProof = errors.New("inclusion proof")

// Proof says that an entry is in the log.
type Proof struct {
	Kind        Kind
	PayloadHash string
	Index       uint64
	Inclusion   [][]byte // RFC 6962 audit path, bottom up
	Checkpoint  []byte   // the signed note that the path leads to
}

// Reader reads a log's files, with or without its owner at work.
type Reader struct {
	files     client.FileFetcher
	verifiers Verifiers
	index     *hashindex.Index
}

// OpenReader reads the log in dir, whose checkpoints are believed by these keys.
func OpenReader(dir string, v Verifiers) (*Reader, error) {
	r := &Reader{files: client.FileFetcher{Root: dir}, verifiers: v}
	c, _, err := r.Checkpoint()
	if err != nil {
		return nil, err
	}
	if r.index, err = hashindex.Open(filepath.Join(dir, indexDir), c.Size); err != nil {
		return nil, err
	}
	return r, r.fill(c.Size)
}

// fill brings the index up to size entries.
func (r *Reader) fill(size uint64) error {
	l := leaves{files: r.files, size: size}
	for i := r.index.Indexed(); i < size; i++ {
		e, err := l.at(i)
		if err != nil {
			return err
		}
		h, err := e.hash()
		if err != nil {
			return err
		}
		if err := r.index.Add(h); err != nil {
			return err
		}
	}
	return nil
}

// Checkpoint is the newest checkpoint and its signed note.
func (r *Reader) Checkpoint() (*Checkpoint, []byte, error) {
	signed, err := r.files.ReadCheckpoint(context.Background())
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	c, err := r.verifiers.OpenCheckpoint(signed)
	return c, signed, err
}

// Proof proves that the entry with this payload hash is in the log. ErrNotFound: it is not.
func (r *Reader) Proof(payloadHash string) (*Proof, error) {
	proofs, err := r.Proofs([]string{payloadHash})
	if err != nil {
		return nil, err
	}
	return &proofs[0], nil
}

// Proofs proves several entries against one checkpoint. ErrNotFound names the first that is not there.
func (r *Reader) Proofs(payloadHashes []string) ([]Proof, error) {
	c, signed, err := r.Checkpoint()
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	b, err := client.NewProofBuilder(ctx, c.Size, r.files.ReadTile)
	if err != nil {
		return nil, fmt.Errorf("transparency log: %w", err)
	}
	l := leaves{files: r.files, size: c.Size}
	out := make([]Proof, 0, len(payloadHashes))
	for _, h := range payloadHashes {
		p, err := r.find(&l, h)
		if err != nil {
			return nil, err
		}
		p.Checkpoint = signed
		if p.Inclusion, err = b.InclusionProof(ctx, p.Index); err != nil {
			return nil, fmt.Errorf("transparency log: entry %d: %w", p.Index, err)
		}
		// What is given out has been checked: a tile may have been altered since it was written.
		if err := verifyInclusion(Entry{p.Kind, p.PayloadHash}, &p, c); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// find looks an entry up.
func (r *Reader) find(l *leaves, payloadHash string) (Proof, error) {
	raw, err := Entry{Receipt, payloadHash}.hash()
	if err != nil {
		return Proof{}, err
	}
	places, err := r.index.Find(raw)
	if err != nil {
		return Proof{}, err
	}
	for _, i := range places {
		if i >= l.size {
			continue
		}
		e, err := l.at(i)
		if err != nil {
			return Proof{}, err
		}
		if e.PayloadHash == payloadHash {
			return Proof{Kind: e.Kind, PayloadHash: e.PayloadHash, Index: i}, nil
		}
	}
	return Proof{}, fmt.Errorf("%w: %s", ErrNotFound, payloadHash)
}

// VerifyInclusion checks a proof offline: the checkpoint is signed by the given keys, and under it the entry for this payload
// hash is the p.Index-th, by the path p.Inclusion. Nothing else of p is looked at. The error wraps ErrCheckpoint, ErrEntry or
// ErrProof.
func VerifyInclusion(kind Kind, payloadHash string, p *Proof, checkpoint []byte, v Verifiers) error {
	c, err := v.OpenCheckpoint(checkpoint)
	if err != nil {
		return err
	}
	e := Entry{kind, payloadHash}
	if err := e.check(); err != nil {
		return err
	}
	return verifyInclusion(e, p, c)
}

func verifyInclusion(e Entry, p *Proof, c *Checkpoint) error {
	leaf := rfc6962.DefaultHasher.HashLeaf(e.Data())
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, p.Index, c.Size, leaf, p.Inclusion, c.Root); err != nil {
		return fmt.Errorf("%w: %s as entry %d of %d: %w", ErrProof, e, p.Index, c.Size, err)
	}
	return nil
}

// leaves reads entries in order, a bundle of 256 at a time.
type leaves struct {
	files  client.FileFetcher
	size   uint64 // of the tree
	loaded bool
	bundle uint64
	data   [][]byte
}

func (l *leaves) at(i uint64) (Entry, error) {
	data, err := l.raw(i)
	if err != nil {
		return Entry{}, err
	}
	e, err := ParseEntry(data)
	if err != nil {
		return Entry{}, fmt.Errorf("entry %d in %s: %w", i, layout.EntriesPathForLogIndex(i, l.size), err)
	}
	return e, nil
}

func (l *leaves) raw(i uint64) ([]byte, error) {
	if n := i / layout.EntryBundleWidth; !l.loaded || n != l.bundle {
		b, err := readBundle(l.files, n, l.size)
		if err != nil {
			return nil, err
		}
		l.loaded, l.bundle, l.data = true, n, b
	}
	return l.data[i%layout.EntryBundleWidth], nil
}

// readBundle reads the entries of bundle n that a tree of this size has.
func readBundle(files client.FileFetcher, n, size uint64) ([][]byte, error) {
	partial := layout.PartialTileSize(0, n, size)
	path := layout.EntriesPath(n, partial)
	raw, err := files.ReadEntryBundle(context.Background(), n, partial)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing", ErrDamaged, path)
	}
	if err != nil {
		return nil, fmt.Errorf("transparency log: %w", err)
	}
	var b api.EntryBundle
	if err := b.UnmarshalText(raw); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	}
	want := int(partial)
	if want == 0 {
		want = layout.EntryBundleWidth
	}
	if len(b.Entries) < want {
		return nil, fmt.Errorf("%w: %s holds %d entries instead of %d", ErrDamaged, path, len(b.Entries), want)
	}
	return b.Entries[:want], nil
}
