// Package tlog is the transparency log of the evidence: an append-only Merkle tree (RFC 6962) over every receipt, signed refusal
// and tombstone, in the order of the evidence log, as C2SP tlog-tiles with signed checkpoints. Tessera keeps the tree; this
// package feeds it from the evidence exactly once, lets nothing be signed that does not follow from the evidence, and proves
// and audits from the files alone.
package tlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"sallyport/signer/evlog"
	"sallyport/signer/internal/hashindex"
)

const (
	// DefaultEvery is how often the evidence is looked at. With two checkpoint intervals it bounds the time from a receipt to its
	// proof to about half a second, for some ten syncs of the disk in each round.
	DefaultEvery = 100 * time.Millisecond
	// checkpointEvery is how often a checkpoint may be published.
	checkpointEvery = 150 * time.Millisecond
	// never is longer than any batch takes.
	never = time.Hour
	// maxBatch bounds the entries that are integrated at once.
	maxBatch = 1024
	// stuckAfter is how long entries may be without a checkpoint before the status says so.
	stuckAfter = 5 * time.Second
	// retryAfter is the pause after a fault of the disk.
	retryAfter = time.Second
	// closeWait bounds the wait for the last checkpoint when the log is closed.
	closeWait = 5 * time.Second
)

const (
	indexDir     = "index"    // hash to place, derived
	positionFile = "position" // where the evidence was read to, derived
	lockFile     = "LOCK"
)

// ErrLocked means that another process appends to this log.
var ErrLocked = errors.New("transparency log is in use by another process")

// ErrDamaged is wrapped by errors about files that are not as they were written.
var ErrDamaged = errors.New("transparency log damaged")

// ErrMismatch is wrapped when the log and the evidence do not hold the same records in the same order. Nothing is appended then.
var ErrMismatch = errors.New("transparency log and evidence log do not agree")

// Source says how far the evidence log has been written; *evlog.Log is one.
type Source interface{ Next() uint64 }

// Config of a log.
type Config struct {
	Dir      string // of the log
	Evidence string // directory of the evidence log
	Source   Source // its writer
	Keys     *Keys
	Origin   string        // the log's name; an existing log keeps its own
	Every    time.Duration // 0: DefaultEvery
	// Grown is told how many entries the log durably has, in Run's goroutine; at reads them. It may be nil. Who keeps something
	// beside the log keeps its own place and takes what is new. An error makes the log wait and try again.
	Grown   func(size uint64, at func(index uint64) (Entry, error)) error
	Slog    *slog.Logger
	Metrics prometheus.Registerer // nil: counted but not published
	Now     func() time.Time      // nil: time.Now; for the age of what waits
}

// Validate joins everything that is wrong.
func (c *Config) Validate() error {
	var errs []error
	for what, missing := range map[string]bool{
		"directory": c.Dir == "", "evidence directory": c.Evidence == "", "source": c.Source == nil, "keys": c.Keys == nil, "log": c.Slog == nil,
	} {
		if missing {
			errs = append(errs, fmt.Errorf("transparency log: no %s", what))
		}
	}
	if err := checkOrigin(c.Origin); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Log follows an evidence log. One process does, and one goroutine in it runs Run.
type Log struct {
	*Reader
	cfg     Config
	lock    *os.File
	gate    *gate
	metrics *metrics
	classic note.Signer
	quantum note.Signer
	driver  tessera.Driver
	tessera tessera.LogReader
	ctx     context.Context // of Tessera's goroutines
	cancel  context.CancelFunc

	// Of the goroutine in Run.
	tail  *evlog.Tail
	tree  *compact.Range // of what is integrated
	stale bool           // tail and tree are not known to be at the same place

	mu      sync.Mutex
	failure error
	lacking time.Time // since when entries are integrated and under no checkpoint; zero: none are
}

// Open takes the log in cfg.Dir, made if need be. The tree is held against its own checkpoint and the end of it against the
// evidence; ErrLocked, ErrDamaged and ErrMismatch say what is wrong. Run must be called next.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	if cfg.Every == 0 {
		cfg.Every = DefaultEvery
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("transparency log: %w", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	l := &Log{cfg: cfg, lock: lock, gate: newGate()}
	if err := l.open(ctx); err != nil {
		l.release()
		return nil, err
	}
	return l, nil
}

func (l *Log) open(ctx context.Context) error {
	origin, err := OriginOf(l.cfg.Dir, l.cfg.Origin)
	if err != nil {
		return err
	}
	if l.metrics, err = newMetrics(l.cfg.Metrics); err != nil {
		return err
	}
	ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx)) // it ends with Close, so that the last checkpoint is published
	l.ctx = ctx
	if l.driver, err = posix.New(ctx, posix.Config{Path: l.cfg.Dir}); err != nil {
		return fmt.Errorf("transparency log: %w", err)
	}
	l.classic, l.quantum = l.cfg.Keys.signers(origin, l.gate.allow)
	// This appender adds nothing: it publishes checkpoints and removes partial tiles that full ones replaced.
	opts := l.options().WithCheckpointInterval(checkpointEvery).WithGarbageCollectionInterval(tessera.DefaultGarbageCollectionInterval)
	_, _, reader, err := tessera.NewAppender(ctx, l.driver, opts)
	if err != nil {
		return fmt.Errorf("transparency log: %w", err)
	}
	l.tessera = reader
	size, err := reader.IntegratedSize(ctx)
	if err != nil {
		return fmt.Errorf("transparency log: %w", err)
	}
	x, err := hashindex.Open(filepath.Join(l.cfg.Dir, indexDir), size)
	if err != nil {
		return err
	}
	l.Reader = &Reader{client.FileFetcher{Root: l.cfg.Dir}, l.cfg.Keys.Verifiers(origin), x}
	l.stale = true // Run begins with Grown
	return l.resume(size)
}

func (l *Log) options() *tessera.AppendOptions {
	return tessera.NewAppendOptions().WithCheckpointSigner(l.classic, l.quantum).
		WithCheckpointInterval(never).WithCheckpointRepublishInterval(0).WithGarbageCollectionInterval(0)
}

func (l *Log) release() {
	if l.cancel != nil {
		l.cancel()
	}
	_ = l.lock.Close() // releases it too
}

// Close waits for the last checkpoint and gives the log up. Run must have returned.
func (l *Log) Close() error {
	var err error
	for end := time.Now().Add(closeWait); !l.stale; time.Sleep(checkpointEvery / 10) {
		c, _, cerr := l.Checkpoint()
		if cerr == nil && c.Size >= l.tree.End() {
			break
		}
		if time.Now().After(end) {
			err = fmt.Errorf("transparency log: no checkpoint of the last entries within %s; it comes with the next start", closeWait)
			break
		}
	}
	if l.tail != nil {
		err = errors.Join(err, l.tail.Close())
	}
	l.release()
	return err
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("transparency log: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrLocked, dir), f.Close())
	}
	return f, nil
}

// resume takes up the tree where it is: held against its checkpoint, against the evidence, and into memory.
func (l *Log) resume(size uint64) error {
	tree, err := treeAt(l.files, size)
	if err != nil {
		return err
	}
	root, err := rootOf(tree)
	if err != nil {
		return err
	}
	if err := l.holdAgainstCheckpoint(size); err != nil {
		return err
	}
	l.gate.permit(size, root)
	l.tree = tree
	if err := l.fill(size); err != nil {
		return err
	}
	return l.holdAgainstEvidence(size)
}

func (l *Log) holdAgainstCheckpoint(size uint64) error {
	c, _, err := l.Checkpoint()
	if errors.Is(err, os.ErrNotExist) {
		return nil // a crash before the first one
	}
	if err != nil {
		return err
	}
	if c.Size > size {
		return fmt.Errorf("%w: its checkpoint has %d entries and its tree %d", ErrDamaged, c.Size, size)
	}
	tree, err := treeAt(l.files, c.Size)
	if err != nil {
		return err
	}
	root, err := rootOf(tree)
	if err == nil && !bytes.Equal(root, c.Root) {
		err = fmt.Errorf("%w: the tiles of the first %d entries do not lead to the root that was signed", ErrDamaged, c.Size)
	}
	return err
}

// holdAgainstEvidence compares the end of the tree with the records it was made of, and leaves the tail behind them.
func (l *Log) holdAgainstEvidence(size uint64) error {
	pos, err := readPosition(l.cfg.Dir)
	if err != nil {
		return err
	}
	if pos.Entries > size {
		return fmt.Errorf("%w: %d entries were integrated and the tree has %d: restore its directory from one copy", ErrDamaged, pos.Entries, size)
	}
	if l.tail != nil {
		_ = l.tail.Close()
	}
	l.tail = evlog.NewTail(l.cfg.Evidence, pos.Seq)
	have := leaves{files: l.files, size: size}
	for n := pos.Entries; n < size; n++ {
		got, err := have.at(n)
		if err != nil {
			return err
		}
		want, ok, err := l.nextEntry()
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%w: the log's entry %d is %s, and the evidence ends before it (record %d)", ErrMismatch, n, got, l.tail.Next())
		}
		if got != want {
			return fmt.Errorf("%w: the log's entry %d is %s, and the evidence has %s there (before record %d)", ErrMismatch, n, got, want, l.tail.Next())
		}
	}
	return nil
}

var errOne = errors.New("one is enough")

// nextEntry reads on to the next record that has an entry; ok is false where the evidence ends.
func (l *Log) nextEntry() (e Entry, ok bool, err error) {
	seq := uint64(0)
	err = l.tail.Read(l.cfg.Source.Next(), func(r evlog.Entry) error {
		if ok {
			return errOne // r stays for the next call
		}
		var err error
		e, ok, err = EntryOf(r)
		seq = r.Seq
		return err
	})
	if err != nil && !errors.Is(err, errOne) {
		return Entry{}, false, fmt.Errorf("after record %d: %w", seq, err)
	}
	return e, ok, nil
}

func (l *Log) grown() error {
	if l.cfg.Grown == nil {
		return nil
	}
	have := leaves{files: l.files, size: l.tree.End()}
	return l.cfg.Grown(have.size, have.at)
}

// Run appends what is in the evidence and what comes, until ctx ends. Faults of the disk are tried again; what cannot be
// repaired stops the log, and Status says so: the evidence itself goes on.
func (l *Log) Run(ctx context.Context) error {
	for {
		n, err := l.step(ctx)
		l.report(err)
		wait := l.cfg.Every
		switch {
		case err == nil && n == maxBatch:
			wait = 0
		case errors.Is(err, ErrMismatch), errors.Is(err, ErrDamaged), errors.Is(err, evlog.ErrDamaged):
			<-ctx.Done()
			return nil
		case err != nil:
			wait = retryAfter
		}
		select {
		case <-ctx.Done():
			if err == nil {
				_, err = l.step(context.WithoutCancel(ctx)) // what was written until now
				l.report(err)
			}
			return nil
		case <-time.After(wait):
		}
	}
}

// step integrates one batch and returns how many entries it had.
func (l *Log) step(ctx context.Context) (int, error) {
	l.watchCheckpoint()
	if l.stale { // at the beginning, and when a batch failed: see what it left
		if err := l.recover(ctx); err != nil {
			return 0, err
		}
	}
	begun := position{l.tree.End(), l.tail.Next()}
	batch, err := l.read()
	if err != nil || len(batch) == 0 {
		return 0, err
	}
	// The evidence must not lose to a power cut what the log has.
	if err := l.tail.Sync(); err != nil {
		l.stale = true
		return 0, err
	}
	if err := l.integrate(batch); err != nil {
		l.stale = true
		return 0, err
	}
	for _, e := range batch {
		h, err := e.hash()
		if err != nil {
			return 0, err
		}
		if err := l.index.Add(h); err != nil {
			l.stale = true
			return 0, err
		}
	}
	if err := l.grown(); err != nil {
		l.stale = true
		return 0, err
	}
	l.metrics.size.Set(float64(l.tree.End()))
	// The beginning of this batch is what is kept, so that a restart always has entries to compare.
	return len(batch), writePosition(l.cfg.Dir, begun)
}

// read takes the next entries from the evidence.
func (l *Log) read() ([]Entry, error) {
	var batch []Entry
	err := l.tail.Read(l.cfg.Source.Next(), func(r evlog.Entry) error {
		if len(batch) == maxBatch {
			return errOne
		}
		e, ok, err := EntryOf(r)
		if ok {
			batch = append(batch, e)
		}
		return err
	})
	if err != nil && !errors.Is(err, errOne) {
		l.stale = true
		return nil, err
	}
	return batch, nil
}

// integrate hands a batch to Tessera and waits. The root that it must lead to is computed here, from the evidence: no other
// is signed, whatever Tessera or the disk make of it. The appender is made for the batch's very size, so that all of it is
// integrated at once or nothing is: were it split by a timer, the second part could be written and the first not.
func (l *Log) integrate(batch []Entry) error {
	first := l.tree.End()
	for _, e := range batch {
		if err := l.tree.Append(rfc6962.DefaultHasher.HashLeaf(e.Data()), nil); err != nil {
			return fmt.Errorf("transparency log: %w", err)
		}
	}
	root, err := rootOf(l.tree)
	if err != nil {
		return err
	}
	l.gate.permit(l.tree.End(), root)
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	appender, _, _, err := tessera.NewAppender(ctx, l.driver, l.options().WithBatching(uint(len(batch)), never))
	if err != nil {
		return fmt.Errorf("transparency log: %w", err)
	}
	futures := make([]tessera.IndexFuture, len(batch))
	for i, e := range batch {
		futures[i] = appender.Add(ctx, tessera.NewEntry(e.Data()))
	}
	var failed error
	for i, f := range futures {
		at, err := f()
		switch {
		case err != nil:
			failed = fmt.Errorf("transparency log: %w", err)
		case at.Index != first+uint64(i): //nolint:gosec // an index
			return fmt.Errorf("%w: %s became entry %d instead of %d", ErrMismatch, batch[i], at.Index, first+uint64(i)) //nolint:gosec // an index
		}
	}
	return failed
}

// recover finds out what is there.
func (l *Log) recover(ctx context.Context) error {
	size, err := l.tessera.IntegratedSize(ctx)
	if err != nil {
		return fmt.Errorf("transparency log: %w", err)
	}
	if err := l.resume(size); err != nil {
		return err
	}
	if err := l.grown(); err != nil {
		return err
	}
	l.stale = false
	return nil
}

// treeAt is the compact form of the first size entries, from the tiles.
func treeAt(files client.FileFetcher, size uint64) (*compact.Range, error) {
	f := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	if size == 0 {
		return f.NewEmptyRange(0), nil
	}
	nodes, err := client.FetchRangeNodes(context.Background(), size, files.ReadTile)
	if err != nil {
		return nil, fmt.Errorf("%w: tiles for %d entries: %w", ErrDamaged, size, err)
	}
	tree, err := f.NewRange(0, size, nodes)
	if err != nil {
		return nil, fmt.Errorf("%w: tiles for %d entries: %w", ErrDamaged, size, err)
	}
	return tree, nil
}

func rootOf(tree *compact.Range) ([]byte, error) {
	if tree.End() == 0 {
		return rfc6962.DefaultHasher.EmptyRoot(), nil
	}
	root, err := tree.GetRootHash(nil)
	if err != nil {
		return nil, fmt.Errorf("transparency log: %w", err)
	}
	return root, nil
}

// watchCheckpoint notes whether entries wait for a checkpoint. Tessera goes by the age of the file: where the clock went back,
// the file is from the future and would stay the last for that long, so it is given the present time.
func (l *Log) watchCheckpoint() {
	path := filepath.Join(l.cfg.Dir, layout.CheckpointPath)
	c, _, err := l.Checkpoint()
	lacking := err != nil || c.Size < l.tree.End()
	l.mu.Lock()
	switch {
	case !lacking:
		l.lacking = time.Time{}
	case l.lacking.IsZero():
		l.lacking = l.cfg.Now()
	}
	l.mu.Unlock()
	if c != nil {
		l.metrics.signed.Set(float64(c.Size))
	}
	if !lacking {
		return
	}
	if info, err := os.Stat(path); err == nil && time.Until(info.ModTime()) > checkpointEvery {
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-checkpointEvery)); err == nil {
			l.cfg.Slog.Warn("the clock went back; checkpoints go on", slog.Time("last_checkpoint", info.ModTime()))
		}
	}
}

func (l *Log) report(err error) {
	l.mu.Lock()
	before := l.failure
	l.failure = err
	l.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		l.metrics.failures.Inc()
		l.cfg.Slog.Error("the transparency log does not go on", slog.Any("error", err))
	case err == nil && before != nil:
		l.cfg.Slog.Info("the transparency log goes on")
	}
}

// Status is nil while the log keeps up, else why it does not.
func (l *Log) Status() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure != nil {
		return l.failure
	}
	if refused := l.gate.refused(); refused != nil {
		return refused
	}
	if !l.lacking.IsZero() && l.cfg.Now().Sub(l.lacking) > stuckAfter {
		return fmt.Errorf("transparency log: entries have been without a checkpoint since %s", l.lacking.UTC().Format(time.RFC3339))
	}
	return nil
}
