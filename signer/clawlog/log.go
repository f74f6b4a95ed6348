// Package clawlog is the Claw ecosystem's receipt log (WIRE 7), bug for bug, so that its verifiers accept the proofs: SHA-256
// over two nodes without domain separation, an odd node paired with itself, and a signature over the root's text alone. It
// stands beside the transparency log (package tlog), takes its receipts from there, and is no evidence by itself: everything
// that these rules leave open is closed there.
package clawlog

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/signer/envelope"
	"sallyport/signer/internal/hashindex"
	"sallyport/signer/jcs"
)

// ReceiptTransparency is the ecosystem's name for a gateway's log of receipts.
const ReceiptTransparency = "receipt-transparency"

// ErrNotFound means that a hash is no leaf of the log, or not yet.
var ErrNotFound = errors.New("not in the receipt log")

// ErrDamaged is wrapped by errors about files that are not as they were written.
var ErrDamaged = errors.New("receipt log damaged")

// ErrExists means that the log has this leaf already.
var ErrExists = errors.New("in the receipt log already")

const (
	proofsFile  = "proofs.jsonl"  // one line for each leaf, in order: {"log_inclusion_proof":…,"payload_hash_b64u":…}
	offsetsFile = "proofs.offset" // where each line ends, 8 bytes big-endian; written last
	indexDir    = "index"
	offsetLen   = 8
)

// Line is a line of the file of proofs.
type Line struct {
	Proof       *Proof `json:"log_inclusion_proof"`
	PayloadHash string `json:"payload_hash_b64u"`
}

// Config of a log.
type Config struct {
	Dir    string
	ID     string // "": ReceiptTransparency
	Signer envelope.Signer
	Now    func() time.Time // nil: time.Now
}

// Log keeps the tree in one file for each level, so that an append and a proof take one look for each level. Reading may go on
// beside the one who appends.
type Log struct {
	cfg   Config
	index *hashindex.Index

	mu      sync.RWMutex
	size    uint64
	levels  []*os.File
	proofs  *os.File
	offsets *os.File
	end     uint64 // of the file of proofs
	root    Root
}

// Open opens the log in cfg.Dir, made if need be. What a crash left half done is taken back; the caller appends it again.
func Open(cfg Config) (*Log, error) {
	if cfg.ID == "" {
		cfg.ID = ReceiptTransparency
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Dir == "" || cfg.Signer == nil {
		return nil, errors.New("receipt log: it needs a directory and a signer")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("receipt log: %w", err)
	}
	l := &Log{cfg: cfg}
	if err := l.open(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Log) open() (err error) {
	if l.proofs, err = l.file(proofsFile); err != nil {
		return err
	}
	if l.offsets, err = l.file(offsetsFile); err != nil {
		return err
	}
	leaves, err := l.level(0)
	if err != nil {
		return err
	}
	have, err := units(leaves, sha256.Size)
	if err != nil {
		return err
	}
	if l.size, err = units(l.offsets, offsetLen); err != nil {
		return err
	}
	if have < l.size {
		return fmt.Errorf("%w: it has %d leaves and %d proofs; remove %s to have it made again", ErrDamaged, have, l.size, l.cfg.Dir)
	}
	if err := l.wholeBatches(); err != nil {
		return err
	}
	if err := l.cut(); err != nil {
		return err
	}
	if err := l.loadRoot(); err != nil {
		return err
	}
	if l.index, err = hashindex.Open(filepath.Join(l.cfg.Dir, indexDir), l.size); err != nil {
		return err
	}
	return l.indexAll()
}

// units is how many records of a size a file holds.
func units(f *os.File, size uint64) (uint64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("receipt log: %w", err)
	}
	return uint64(info.Size()) / size, nil //nolint:gosec // a size is positive
}

// indexAll brings the index up to the leaves.
func (l *Log) indexAll() error {
	for i := l.index.Indexed(); i < l.size; i++ {
		h, err := l.node(0, i)
		if err == nil {
			err = l.index.Add(h[:])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wholeBatches goes back to the end of a batch: all leaves of one have proofs against the same root. What a power cut took of
// the last batch may be anything, so its lines need not be readable.
func (l *Log) wholeBatches() error {
	for back := 0; l.size > 0; back++ {
		last, err := l.line(l.size - 1)
		if err != nil && back > maxBatch {
			return err
		}
		if err == nil && last.Proof.TreeSize == l.size {
			return nil
		}
		l.size--
	}
	return nil
}

// cut takes back what has no offset yet.
func (l *Log) cut() error {
	l.end = 0
	if l.size > 0 {
		var b [offsetLen]byte
		if _, err := l.offsets.ReadAt(b[:], int64(l.size-1)*offsetLen); err != nil { //nolint:gosec // a file's size
			return fmt.Errorf("receipt log: %w", err)
		}
		l.end = binary.BigEndian.Uint64(b[:])
	}
	info, err := l.proofs.Stat()
	if err != nil {
		return fmt.Errorf("receipt log: %w", err)
	}
	if uint64(info.Size()) < l.end { //nolint:gosec // a size is positive
		return fmt.Errorf("%w: %s is shorter than its offsets say; remove %s to have it made again", ErrDamaged, proofsFile, l.cfg.Dir)
	}
	err = errors.Join(l.offsets.Truncate(int64(l.size)*offsetLen), l.proofs.Truncate(int64(l.end))) //nolint:gosec // a file's size
	if err != nil {
		return fmt.Errorf("receipt log: %w", err)
	}
	return nil
}

// loadRoot takes up the last signed root, if the nodes still lead to it; else the nodes above the leaves are made again.
func (l *Log) loadRoot() error {
	if l.size == 0 {
		l.root = signRoot(l.cfg.ID, emptyRoot, 0, l.cfg.Signer, l.cfg.Now())
		return nil
	}
	last, err := l.line(l.size - 1)
	if err != nil {
		return err
	}
	p := last.Proof
	for range 2 {
		path, err := edge(l, l.size)
		if err == nil {
			if root := path[len(path)-1]; p.TreeSize == l.size && jcs.EncodeB64u(root[:]) == p.RootHash {
				l.root = Root{p.LogID, p.RootHash, p.TreeSize, p.RootPublishedAt, p.RootSignature}
				return nil
			}
		}
		if err := l.rebuild(); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: its leaves do not lead to the root that was signed for them; remove %s to have it made again", ErrDamaged, l.cfg.Dir)
}

// rebuild makes the nodes above the leaves again.
func (l *Log) rebuild() error {
	n := l.size
	for level := 0; n > 1; level++ {
		for i := range n / 2 {
			left, err := l.node(level, 2*i)
			if err != nil {
				return err
			}
			right, err := l.node(level, 2*i+1)
			if err != nil {
				return err
			}
			if err := l.setNode(level+1, i, parent(left, right)); err != nil {
				return err
			}
		}
		n /= 2
	}
	return nil
}

func (l *Log) file(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(l.cfg.Dir, name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("receipt log: %w", err)
	}
	return f, nil
}

// level is the file with the nodes of a level.
func (l *Log) level(n int) (*os.File, error) {
	for n >= len(l.levels) {
		f, err := l.file(fmt.Sprintf("level-%02d", len(l.levels)))
		if err != nil {
			return nil, err
		}
		l.levels = append(l.levels, f)
	}
	return l.levels[n], nil
}

func (l *Log) node(level int, index uint64) (h hash, err error) {
	f, err := l.level(level)
	if err != nil {
		return h, err
	}
	if _, err := f.ReadAt(h[:], int64(index)*sha256.Size); err != nil { //nolint:gosec // a file's size
		return h, fmt.Errorf("receipt log: node %d of level %d: %w", index, level, err)
	}
	return h, nil
}

func (l *Log) setNode(level int, index uint64, h hash) error {
	f, err := l.level(level)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(h[:], int64(index)*sha256.Size); err != nil { //nolint:gosec // a file's size
		return fmt.Errorf("receipt log: %w", err)
	}
	return nil
}

// Size is the number of leaves.
func (l *Log) Size() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.size
}

// Root is the signed root of all leaves.
func (l *Log) Root() Root {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.root
}

// Leaf is the index-th leaf.
func (l *Log) Leaf(index uint64) (string, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if index >= l.size {
		return "", ErrNotFound
	}
	h, err := l.node(0, index)
	return jcs.EncodeB64u(h[:]), err
}

// Append adds leaves, and writes the proof of each, against the root of all, before it returns. After an error the log
// is as before, or has them all. Hashes must be base64url of a SHA-256 in its one spelling; ErrExists names one that the log has.
func (l *Log) Append(leaves []string) error {
	if len(leaves) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.indexAll(); err != nil { // what an earlier fault left out
		return err
	}
	raw := make([]hash, len(leaves))
	seen := make(map[hash]bool, len(leaves))
	for i, s := range leaves {
		h, err := decodeHash(s)
		if err != nil {
			return fmt.Errorf("receipt log: leaf %.60q: %w", s, err)
		}
		at, err := l.find(h)
		if err == nil || seen[h] {
			return fmt.Errorf("%w: %s, as leaf %d", ErrExists, s, at)
		}
		if !errors.Is(err, ErrNotFound) {
			return err
		}
		raw[i], seen[h] = h, true
	}
	t := &batch{Log: l, known: map[place]hash{}}
	if err := t.grow(raw); err != nil {
		return err
	}
	size := l.size + uint64(len(raw))
	last, err := edge(t, size)
	if err != nil {
		return err
	}
	root := signRoot(l.cfg.ID, last[len(last)-1], size, l.cfg.Signer, l.cfg.Now())
	if err := t.writeProofs(root, last, leaves); err != nil {
		return err
	}
	l.size, l.root = size, root
	return l.indexAll()
}

// place is a node's.
type place struct {
	level int
	index uint64
}

// batch is an append in the making. It keeps the nodes that it has seen, since the paths of neighbours share most of theirs.
type batch struct {
	*Log
	known map[place]hash
}

func (t *batch) node(level int, index uint64) (hash, error) {
	if h, ok := t.known[place{level, index}]; ok {
		return h, nil
	}
	h, err := t.Log.node(level, index)
	if err == nil {
		t.known[place{level, index}] = h
	}
	return h, err
}

func (t *batch) setNode(level int, index uint64, h hash) error {
	t.known[place{level, index}] = h
	return t.Log.setNode(level, index, h)
}

// grow writes the leaves and every node that they complete.
func (t *batch) grow(leaves []hash) error {
	for i, h := range leaves {
		index := t.size + uint64(i) //nolint:gosec // a count
		if err := t.setNode(0, index, h); err != nil {
			return err
		}
		for level := 0; index%2 == 1; level++ {
			left, err := t.node(level, index-1)
			if err != nil {
				return err
			}
			h = parent(left, h)
			index /= 2
			if err := t.setNode(level+1, index, h); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeProofs writes the lines, makes them and the leaves durable, and then the offsets, which are what counts.
func (t *batch) writeProofs(root Root, last []hash, leaves []string) error {
	var lines, ends []byte
	for i, leaf := range leaves {
		index := t.size + uint64(i) //nolint:gosec // a count
		p, err := path(t, last, index, root.TreeSize)
		if err != nil {
			return err
		}
		lines = append(appendLine(lines, root, leaf, index, p), '\n')
		ends = binary.BigEndian.AppendUint64(ends, t.end+uint64(len(lines)))
	}
	if _, err := t.proofs.WriteAt(lines, int64(t.end)); err != nil { //nolint:gosec // a file's size
		return fmt.Errorf("receipt log: %w", err)
	}
	if err := errors.Join(fdatasync(t.levels[0]), fdatasync(t.proofs)); err != nil {
		return err
	}
	if _, err := t.offsets.WriteAt(ends, int64(t.size)*offsetLen); err != nil { //nolint:gosec // a file's size
		return errors.Join(fmt.Errorf("receipt log: %w", err), t.offsets.Truncate(int64(t.size)*offsetLen)) //nolint:gosec // a file's size
	}
	t.end += uint64(len(lines))
	return nil
}

func fdatasync(f *os.File) error {
	if err := unix.Fdatasync(int(f.Fd())); err != nil { //nolint:gosec // a file descriptor
		return fmt.Errorf("receipt log: sync: %w", err)
	}
	return nil
}

// find is the place of a leaf.
func (l *Log) find(h hash) (uint64, error) {
	places, err := l.index.Find(h[:])
	if err != nil {
		return 0, err
	}
	for _, i := range places {
		got, err := l.node(0, i)
		if err != nil {
			return 0, err
		}
		if got == h {
			return i, nil
		}
	}
	return 0, ErrNotFound
}

// Find is the place of a leaf. ErrNotFound: it is none.
func (l *Log) Find(leaf string) (uint64, error) {
	h, err := decodeHash(leaf)
	if err != nil {
		return 0, err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.find(h)
}

// Proof is the proof that was written when the receipt with this payload hash came in: always the same. ErrNotFound: it did
// not, or not yet.
func (l *Log) Proof(payloadHash string) (*Proof, error) {
	i, err := l.Find(payloadHash)
	if err != nil {
		return nil, err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	line, err := l.line(i)
	if err != nil {
		return nil, err
	}
	return line.Proof, nil
}

// line reads a line of the file of proofs.
func (l *Log) line(i uint64) (*Line, error) {
	var ends [2 * offsetLen]byte                  // the end of the line before, and of this one
	from, skip := int64(i)*offsetLen-offsetLen, 0 //nolint:gosec // a file's size
	if i == 0 {
		from, skip = 0, offsetLen
	}
	if _, err := l.offsets.ReadAt(ends[skip:], from); err != nil {
		return nil, fmt.Errorf("receipt log: %w", err)
	}
	begin, end := binary.BigEndian.Uint64(ends[:]), binary.BigEndian.Uint64(ends[offsetLen:])
	if end < begin || end-begin > 1<<20 {
		return nil, fmt.Errorf("%w: %s, line %d", ErrDamaged, offsetsFile, i)
	}
	data := make([]byte, end-begin)
	if _, err := l.proofs.ReadAt(data, int64(begin)); err != nil { //nolint:gosec // a file's size
		return nil, fmt.Errorf("%w: %s, line %d: %w", ErrDamaged, proofsFile, i, err)
	}
	var line Line
	if err := json.Unmarshal(data, &line); err != nil || line.Proof == nil {
		return nil, fmt.Errorf("%w: %s, line %d is not a proof", ErrDamaged, proofsFile, i)
	}
	return &line, nil
}

// Close gives up the files.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, f := range append(l.levels, l.proofs, l.offsets) {
		if f != nil {
			if err := f.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
