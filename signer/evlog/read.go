package evlog

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Entry is one record as it is read.
type Entry struct {
	Seq     uint64
	Kind    Kind
	Payload []byte // valid until the visit returns
	Segment string // file name, for messages
	Offset  int64  // of the record in its segment, in bytes
}

// Recovered says what Open found.
type Recovered struct {
	Next      uint64 // sequence of the next record
	Segments  int
	TornBytes int64  // bytes cut off the last segment
	TornFile  string // where they were kept; "" if none
}

// ErrTorn is wrapped when the last segment ends inside a record. Everything before was visited.
var ErrTorn = errors.New("evidence log ends inside a record")

// Read visits every record of a directory in order, also while its owner appends: a record that is half written at that
// moment ends the reading with ErrTorn. Damage names segment and offset; the segments after it are still visited, and
// the errors joined.
func Read(dir string, visit func(Entry) error) error {
	names, err := segments(dir)
	if err != nil {
		return err
	}
	return read(dir, names, visit)
}

// ReadSince is Read without the segments that were last written to before a time: who looks for what happened since need
// not read the whole log.
func ReadSince(dir string, since time.Time, visit func(Entry) error) error {
	names, err := segments(dir)
	if err != nil {
		return err
	}
	for len(names) > 1 {
		info, err := statSegment(dir, names[0])
		if err != nil {
			return fmt.Errorf("evidence log: %w", err)
		}
		if !info.ModTime().Before(since) {
			break
		}
		names = names[1:]
	}
	return read(dir, names, visit)
}

func read(dir string, names []string, visit func(Entry) error) error {
	var damage []error
	var expect uint64
	for i, name := range names {
		last := i == len(names)-1
		first, next, err := readSegmentFrom(dir, name, visit)
		if i > 0 && first != expect && !errors.Is(err, errTorn) {
			damage = append(damage, fmt.Errorf("%w: segment %s begins with record %d, and the one before ends before record %d: records are missing", ErrDamaged, name, first, expect))
		}
		expect = next
		var stop stopped
		switch {
		case err == nil:
		case errors.As(err, &stop):
			return stop.error
		case errors.Is(err, errTorn) && last:
			damage = append(damage, fmt.Errorf("%w: %w", ErrTorn, err))
		default:
			damage = append(damage, err)
		}
	}
	return errors.Join(damage...)
}

// stopped carries the visitor's own error out of a segment.
type stopped struct{ error }

func (s stopped) Unwrap() error { return s.error }

func segments(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("evidence log: no directory %s", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("evidence log: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name := segmentOf(e.Name()); name != "" && e.Type().IsRegular() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil // one that is being packed is there twice
}

// readSegmentFrom visits one segment and says with which record it begins and which would come next.
func readSegmentFrom(dir, name string, visit func(Entry) error) (first, next uint64, err error) {
	if _, err := fmt.Sscanf(name, "%020d.seg", &first); err != nil {
		return 0, 0, fmt.Errorf("%w: segment %s has no sequence number for a name", ErrDamaged, name)
	}
	_, next, err = readSegment(dir, name, visit)
	return first, next, err
}

// readSegment visits one segment. good is the length of its sound part, next the sequence after its last sound record.
func readSegment(dir, name string, visit func(Entry) error) (good int64, next uint64, err error) {
	data, damage := readWhole(dir, name)
	if damage != nil && len(data) == 0 {
		return 0, 0, fmt.Errorf("evidence log: %w", damage)
	}
	next, err = parseHeader(data)
	if err != nil {
		return 0, 0, fmt.Errorf("segment %s: %w", name, err)
	}
	good = headerSize
	for int(good) < len(data) {
		kind, payload, size, err := parseRecord(data[good:])
		if damage != nil && errors.Is(err, errTorn) {
			break // its rest is in the part that cannot be read
		}
		if err != nil {
			err = errDamagedUnless(tailIsTorn(data[good:], err), err)
			return good, next, fmt.Errorf("segment %s, offset %d: %w", name, good, err)
		}
		if err := visit(Entry{next, kind, payload, name, good}); err != nil {
			return good, next, stopped{err}
		}
		good += int64(size)
		next++
	}
	if damage != nil {
		return good, next, fmt.Errorf("segment %s, offset %d: %w", name, good, damage)
	}
	return good, next, nil
}

// errDamagedUnless turns a record that reaches past the end into damage where it is not the mark of a crash.
func errDamagedUnless(torn bool, err error) error {
	switch {
	case torn:
		return errTorn
	case errors.Is(err, errTorn):
		return fmt.Errorf("%w: length", ErrDamaged)
	}
	return err
}

// tailIsTorn tells a write that a crash cut short from damage. Nothing sound may follow: a flipped bit in a length would
// otherwise take whole records with it. Then the record must reach past the end of the file, or its last bytes must
// never have arrived, which file systems show as zeros after a power cut; no payload ends in one.
func tailIsTorn(rest []byte, err error) bool {
	for i := 1; i+recordHead <= len(rest); i++ {
		if k, payload, _, err := parseRecord(rest[i:]); err == nil && len(payload) > 0 && k >= KindIntent && k <= lastKind {
			return false
		}
	}
	return errors.Is(err, errTorn) || rest[len(rest)-1] == 0
}

// findEnd finds where to go on. Only the last segment may be torn; it is cut at its last sound record.
func findEnd(dir string, log *slog.Logger) (Recovered, error) {
	names, err := segments(dir)
	if err != nil {
		return Recovered{}, err
	}
	rec := Recovered{Segments: len(names)}
	for len(names) > 0 {
		name := names[len(names)-1]
		good, next, err := readSegment(dir, name, func(Entry) error { return nil })
		rec.Next = next
		if err == nil && good == headerSize {
			// Begun and never used: the next segment takes its name.
			return rec, errors.Join(os.Remove(filepath.Join(dir, name)), syncDir(dir))
		}
		if err == nil {
			return rec, nil
		}
		if !errors.Is(err, errTorn) {
			return rec, fmt.Errorf("%w; move the segment aside after keeping a copy, or restore it", err)
		}
		if err := cutTail(dir, name, good, &rec); err != nil {
			return rec, err
		}
		log.Warn("evidence log had a torn tail; it was cut off and kept", "segment", name, "offset", good, "bytes", rec.TornBytes, "kept_in", rec.TornFile)
		if good > headerSize {
			return rec, nil
		}
		if good == headerSize {
			return rec, os.Remove(filepath.Join(dir, name))
		}
		names = names[:len(names)-1] // not even a header: the segment held nothing
	}
	return rec, nil
}

func cutTail(dir, name string, good int64, rec *Recovered) error {
	path := filepath.Join(dir, name)
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("evidence log: %w", err)
	}
	rec.TornBytes += int64(len(data)) - good
	rec.TornFile = name + ".torn"
	if err := os.WriteFile(path+".torn", data[good:], 0o600); err != nil {
		return fmt.Errorf("evidence log: keep the torn tail: %w", err)
	}
	if good < headerSize {
		return errors.Join(os.Remove(path), syncDir(dir))
	}
	if err := os.Truncate(path, good); err != nil {
		return fmt.Errorf("evidence log: %w", err)
	}
	return syncDir(dir)
}
