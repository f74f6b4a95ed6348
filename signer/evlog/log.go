package evlog

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Durability is how much an append must survive before it is acknowledged.
type Durability uint8

// The durabilities.
const (
	Written Durability = iota // handed to the operating system: survives the death of any process
	Synced                    // fdatasync returned: survives the machine
)

// Defaults of Options.
const (
	DefaultSegmentBytes = 64 << 20
	// DefaultSyncEvery is how often a log with only Written appends is synced in the background.
	DefaultSyncEvery = 10 * time.Millisecond
)

// ErrClosed is returned for appends to a log that was closed.
var ErrClosed = errors.New("evidence log closed")

// ErrLocked means that another process appends to the same directory.
var ErrLocked = errors.New("evidence log is in use by another process")

// ErrTooLarge is returned for a payload above MaxRecord.
var ErrTooLarge = errors.New("record too large for the evidence log")

// Options of a log; the zero value means the defaults.
type Options struct {
	SegmentBytes int64         // size at which a new segment begins
	SyncEvery    time.Duration // background sync of Written appends
	Log          *slog.Logger
	open         func(name string, flag int, perm os.FileMode) (file, error) // tests inject faults here
}

// file is what the log needs of a segment; *os.File has it.
type file interface {
	Write(p []byte) (int, error)
	Truncate(size int64) error
	Seek(offset int64, whence int) (int64, error)
	Close() error
	Fd() uintptr
	Sync() error
}

// Log appends. Its methods may be called from any goroutine.
type Log struct {
	dir  string
	opt  Options
	lock *os.File

	mu      sync.Mutex
	wake    *sync.Cond
	pending batch // waiting to be written
	closed  bool

	tail atomic.Uint64 // next, for who follows the log

	// The writer goroutine's own.
	seg    file
	size   int64
	next   uint64 // sequence of the next record
	synced []func(error)
	out    []byte // records that were finished just before they are written

	sync    syncer
	writing sync.WaitGroup
}

// batch is what was appended and not yet written: the records as they will stand in the file, and who waits for them.
type batch struct {
	buf   []byte
	items []item
}

// item is one append on its way.
type item struct {
	end    int // of its record in the batch's buffer, in bytes
	level  Durability
	done   func(error)
	kind   Kind
	finish func(dst, payload []byte) []byte // nil: the record is whole. Else what stands in the buffer is the payload alone
}

// empty keeps what the batch has allocated for the next one, unless that is unusually much.
func (b *batch) empty() {
	if cap(b.buf) > maxBatch {
		b.buf = nil
	}
	clear(b.items) // lets go of the callbacks
	b.buf, b.items = b.buf[:0], b.items[:0]
}

// Open takes the directory for appending, creating it if need be. It checks the last segment, cuts off a torn tail
// (keeping the torn bytes beside it in a .torn file), and begins a new segment. Damage elsewhere is an error that names the place.
func Open(dir string, opt Options) (*Log, Recovered, error) {
	opt.defaults()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, Recovered{}, fmt.Errorf("evidence log: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, Recovered{}, err
	}
	rec, err := findEnd(dir, opt.Log)
	if err != nil {
		_ = lock.Close()
		return nil, rec, err
	}
	if err := syncSegments(dir); err != nil {
		_ = lock.Close()
		return nil, rec, err
	}
	l := &Log{dir: dir, opt: opt, lock: lock, next: rec.Next}
	l.wake = sync.NewCond(&l.mu)
	l.tail.Store(l.next)
	if err := l.roll(); err != nil {
		_ = lock.Close()
		return nil, rec, err
	}
	l.sync.start(opt.SyncEvery)
	l.writing.Go(l.write)
	return l, rec, nil
}

func (o *Options) defaults() {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	if o.SyncEvery == 0 {
		o.SyncEvery = DefaultSyncEvery
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.open == nil {
		o.open = func(name string, flag int, perm os.FileMode) (file, error) { return os.OpenFile(name, flag, perm) }
	}
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("evidence log: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%w: %s", ErrLocked, dir)
	}
	return f, nil
}

// Append hands over a record. done is called exactly once, from another goroutine: with nil when the record is as durable
// as asked, with an error when it is not in the log. The payload is copied. done must not block.
func (l *Log) Append(k Kind, payload []byte, level Durability, done func(error)) {
	if len(payload) > MaxRecord {
		done(fmt.Errorf("%w: %d bytes of %s", ErrTooLarge, len(payload), k))
		return
	}
	sum := checksum(k, payload)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		done(ErrClosed)
		return
	}
	p := &l.pending
	p.buf = appendRecord(p.buf, k, payload, sum)
	p.items = append(p.items, item{end: len(p.buf), level: level, done: done})
	first := len(p.items) == 1
	l.mu.Unlock()
	if first {
		l.wake.Signal()
	}
}

// maxFinish bounds what AppendFinished may add to a payload, in bytes.
const maxFinish = 8 << 10

// AppendFinished is Append for a record of which a part depends on the records before it. finish appends the record to dst,
// given the payload, and may make it up to 8 KiB longer. It is called by the one writer, in the order in which records stand
// in the log, just before they are written; it must not block or keep its arguments. If the write then fails, done is told before
// finish is called for any later record, so that what finish keeps can be taken back.
func (l *Log) AppendFinished(k Kind, payload []byte, level Durability, finish func(dst, payload []byte) []byte, done func(error)) {
	if len(payload) > MaxRecord-maxFinish {
		done(fmt.Errorf("%w: %d bytes of %s", ErrTooLarge, len(payload), k))
		return
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		done(ErrClosed)
		return
	}
	p := &l.pending
	p.buf = append(p.buf, payload...)
	p.items = append(p.items, item{end: len(p.buf), level: level, done: done, kind: k, finish: finish})
	first := len(p.items) == 1
	l.mu.Unlock()
	if first {
		l.wake.Signal()
	}
}

// AppendWait is Append for callers that wait.
func (l *Log) AppendWait(k Kind, payload []byte, level Durability) error {
	ch := make(chan error, 1)
	l.Append(k, payload, level, func(err error) { ch <- err })
	return <-ch
}

// Close writes and syncs what was appended, and gives the directory up.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.closed = true
	l.mu.Unlock()
	l.wake.Signal()
	l.writing.Wait()
	l.sync.stop()
	err := l.seg.Sync()
	return errors.Join(err, l.seg.Close(), l.lock.Close())
}

// write is the one writer: it takes everything that is pending and hands it to the operating system in one call.
func (l *Log) write() {
	var b batch
	for {
		l.mu.Lock()
		for len(l.pending.items) == 0 && !l.closed {
			l.wake.Wait()
		}
		b, l.pending = l.pending, b
		l.mu.Unlock()
		if len(b.items) == 0 {
			return // closed, and nothing is left
		}
		l.writeBatch(&b)
		b.empty()
	}
}

// maxBatch bounds one write in bytes, so that the first of many large records is not held up by the last.
const maxBatch = 4 << 20

func (l *Log) writeBatch(b *batch) {
	from := 0
	for items := b.items; len(items) > 0; {
		n := 1
		for n < len(items) && items[n-1].end-from < maxBatch {
			n++
		}
		end := items[n-1].end
		err := l.writeOnce(l.finished(b.buf, from, items[:n]), uint64(n)) //nolint:gosec // a count
		l.settle(items[:n], err)
		items, from = items[n:], end
	}
}

// finished is the records of some items as they are written; the first begins at from.
func (l *Log) finished(buf []byte, from int, items []item) []byte {
	whole := true
	for i := range items {
		whole = whole && items[i].finish == nil
	}
	if whole {
		return buf[from:items[len(items)-1].end]
	}
	out := l.out[:0]
	for i := range items {
		it := &items[i]
		if it.finish == nil {
			out = append(out, buf[from:it.end]...)
		} else {
			out = appendFinished(out, it.kind, buf[from:it.end], it.finish)
		}
		from = it.end
	}
	if l.out = out; cap(out) > maxBatch {
		l.out = nil
	}
	return out
}

// writeOnce writes whole records, all or nothing: what a failed write left is cut off again, so that the next attempt, when
// the disk has room again, continues a sound file.
func (l *Log) writeOnce(buf []byte, records uint64) error {
	if err := l.sync.broken(); err != nil {
		return err
	}
	if l.size >= l.opt.SegmentBytes && l.size > headerSize {
		if err := l.roll(); err != nil {
			return err
		}
	}
	n, err := l.seg.Write(buf)
	if err == nil {
		l.size += int64(n)
		l.next += records
		l.tail.Store(l.next)
		return nil
	}
	err = fmt.Errorf("evidence log: %w", err)
	if n > 0 {
		if terr := l.seg.Truncate(l.size); terr != nil {
			return errors.Join(err, terr, l.abandon())
		}
	}
	if _, serr := l.seg.Seek(l.size, 0); serr != nil {
		return errors.Join(err, serr, l.abandon())
	}
	return err
}

// abandon leaves a segment whose tail cannot be cut: the next write begins another, and readers stop this one at the tear.
func (l *Log) abandon() error {
	l.size = l.opt.SegmentBytes
	return nil
}

// settle tells those whom a write satisfies, after the syncer has been given its part: it can begin meanwhile.
func (l *Log) settle(items []item, err error) {
	if err == nil {
		for _, it := range items {
			if it.level == Synced {
				l.synced = append(l.synced, it.done)
			}
		}
		l.sync.add(l.seg, l.synced)
		clear(l.synced)
		l.synced = l.synced[:0]
	}
	for _, it := range items {
		if err != nil || it.level != Synced {
			it.done(err)
		}
	}
}

// roll begins the next segment. The old one is synced first, and the directory after, so that no segment can be missing
// between two that exist.
func (l *Log) roll() error {
	if l.seg != nil {
		if err := l.seg.Sync(); err != nil {
			return fmt.Errorf("evidence log: %w", err)
		}
	}
	name := filepath.Join(l.dir, segmentName(l.next))
	f, err := l.opt.open(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("evidence log: %w", err)
	}
	if _, err := f.Write(appendHeader(nil, l.next)); err != nil {
		_ = f.Close()
		_ = os.Remove(name)
		return fmt.Errorf("evidence log: %w", err)
	}
	if err := errors.Join(f.Sync(), syncDir(l.dir)); err != nil {
		_ = f.Close()
		_ = os.Remove(name)
		return fmt.Errorf("evidence log: %w", err)
	}
	old := l.seg
	l.seg, l.size = f, headerSize
	if old != nil {
		l.sync.retire(old)
	}
	return nil
}

func segmentName(first uint64) string { return fmt.Sprintf("%020d.seg", first) }

// syncSegments makes what an earlier process wrote and did not sync durable before anything is put behind it.
func syncSegments(dir string) error {
	names, err := segments(dir)
	if err != nil || len(names) == 0 {
		return err
	}
	f, err := openSegment(dir, names[len(names)-1])
	if err != nil {
		return err
	}
	return errors.Join(f.sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
