package evlog

import (
	"errors"
	"fmt"
	"io"
)

// tailChunk is how much a Tail reads at once, in bytes: several of the largest records.
const tailChunk = 4 << 20

// Next is the sequence number of the record that will be written next: all before it are in their files and stay there. What
// a failed write left may be cut off again, so who follows a log reads up to here and not up to the end of the file.
func (l *Log) Next() uint64 { return l.tail.Load() }

// Tail reads a log from a record on, and goes on when more has been written. It keeps one file open. It is for one goroutine.
type Tail struct {
	dir  string
	next uint64 // sequence of the record that is read next

	f    segmentFile // it; nil: not looked for yet
	name string
	left string // the segment that was read to its end
	seq  uint64 // of the record at off
	off  int64
	buf  []byte
}

// NewTail begins before the record with this sequence number. The segment that holds it is looked for by the first Read.
func NewTail(dir string, next uint64) *Tail { return &Tail{dir: dir, next: next} }

// Next is the sequence number of the record that Read will visit next.
func (t *Tail) Next() uint64 { return t.next }

// Read visits the records before until, in order. All of them must have been written (Log.Next says so): one that cannot be
// read is damage, and named. The visitor ends the reading with an error, which is returned; the record that it had is visited
// again by the next Read.
func (t *Tail) Read(until uint64, visit func(Entry) error) error {
	for t.next < until {
		if err := t.open(); err != nil {
			return err
		}
		if err := t.readChunk(until, visit); err != nil {
			return err
		}
	}
	return nil
}

// Sync makes what was visited durable, whatever the log's own mode. Segments before the open one were synced when they ended.
func (t *Tail) Sync() error {
	if t.f == nil {
		return nil
	}
	if err := t.f.sync(); err != nil {
		return fmt.Errorf("evidence log: sync: %w", err)
	}
	return nil
}

// Close gives up the file.
func (t *Tail) Close() error {
	if t.f == nil {
		return nil
	}
	err := t.f.Close()
	t.f, t.buf = nil, nil
	return err
}

// open finds the segment with the next record, which is the last one that does not begin after it.
func (t *Tail) open() error {
	if t.f != nil {
		return nil
	}
	names, err := segments(t.dir)
	if err != nil {
		return err
	}
	found, first := "", uint64(0)
	for _, name := range names {
		var begins uint64
		if _, err := fmt.Sscanf(name, "%020d.seg", &begins); err != nil {
			return fmt.Errorf("%w: segment %s has no sequence number for a name", ErrDamaged, name)
		}
		if begins <= t.next {
			found, first = name, begins
		}
	}
	if found == "" {
		return fmt.Errorf("%w: no segment holds record %d; its segment was moved away", ErrDamaged, t.next)
	}
	if found == t.left {
		return fmt.Errorf("segment %s, offset %d: %w: record %d was written and is not there", t.name, t.off, ErrDamaged, t.next)
	}
	f, err := openSegment(t.dir, found)
	if err != nil {
		return err
	}
	head := make([]byte, headerSize)
	if _, err := f.ReadAt(head, 0); err != nil {
		return errors.Join(fmt.Errorf("segment %s: %w: %w", found, ErrDamaged, err), f.Close())
	}
	if _, err := parseHeader(head); err != nil {
		return errors.Join(fmt.Errorf("segment %s: %w", found, err), f.Close())
	}
	t.f, t.name, t.seq, t.off = f, found, first, headerSize
	return nil
}

// readChunk visits what one read of the file brings. At the end of a segment it lets go of it.
func (t *Tail) readChunk(until uint64, visit func(Entry) error) error {
	if t.buf == nil {
		t.buf = make([]byte, tailChunk)
	}
	n, err := t.f.ReadAt(t.buf, t.off)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("segment %s: %w", t.name, err)
	}
	rest, atEnd := t.buf[:n], errors.Is(err, io.EOF)
	if n == 0 {
		t.left = t.name
		return t.Close()
	}
	for len(rest) > 0 && t.next < until {
		kind, payload, size, err := parseRecord(rest)
		switch {
		case errors.Is(err, errTorn) && !atEnd:
			return nil // the next chunk begins with it
		case errors.Is(err, errTorn):
			t.left = t.name // a tear that was left behind: the next segment goes on
			return t.Close()
		case err != nil:
			return fmt.Errorf("segment %s, offset %d: %w", t.name, t.off, err)
		}
		if t.seq >= t.next {
			if err := visit(Entry{t.seq, kind, payload, t.name, t.off}); err != nil {
				return err
			}
			t.next = t.seq + 1
		}
		rest, t.seq, t.off = rest[size:], t.seq+1, t.off+int64(size)
	}
	return nil
}
