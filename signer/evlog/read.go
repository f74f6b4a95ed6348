package evlog

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
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
	var damage []error
	for i, name := range names {
		last := i == len(names)-1
		_, _, err := readSegment(dir, name, visit)
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
		if strings.HasSuffix(e.Name(), ".seg") && e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	sort.Strings(names)
	return names, nil
}

// readSegment visits one segment. good is the length of its sound part, next the sequence after its last sound record.
func readSegment(dir, name string, visit func(Entry) error) (good int64, next uint64, err error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0, 0, fmt.Errorf("evidence log: %w", err)
	}
	next, err = parseHeader(data)
	if err != nil {
		return 0, 0, fmt.Errorf("segment %s: %w", name, err)
	}
	good = headerSize
	for int(good) < len(data) {
		kind, payload, size, err := parseRecord(data[good:])
		if err != nil {
			if tailIsTorn(data[good:], err) {
				err = errTorn
			}
			return good, next, fmt.Errorf("segment %s, offset %d: %w", name, good, err)
		}
		if err := visit(Entry{next, kind, payload, name, good}); err != nil {
			return good, next, stopped{err}
		}
		good += int64(size)
		next++
	}
	return good, next, nil
}

// tailIsTorn tells a write that a crash cut short from damage: the record reaches past the end of the file, ends exactly
// there with bytes that never arrived, or nothing but zeros follows, as file systems leave them after a power cut.
func tailIsTorn(rest []byte, err error) bool {
	if errors.Is(err, errTorn) {
		return true
	}
	for _, b := range rest {
		if b != 0 {
			return false
		}
	}
	return true
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
