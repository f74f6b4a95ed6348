package evlog

import (
	"errors"
	"fmt"
	"io"
)

// ReadAt reads the one record at an offset of a segment, both as an Entry told them. Its sequence number is not known here.
func ReadAt(dir, segment string, offset int64) (Entry, error) {
	f, err := openSegment(dir, segment)
	if err != nil {
		return Entry{}, err
	}
	defer f.Close()
	head := make([]byte, recordHead)
	if _, err := f.ReadAt(head, offset); err != nil {
		return Entry{}, fmt.Errorf("segment %s, offset %d: %w: %w", segment, offset, ErrDamaged, err)
	}
	record := make([]byte, recordHead+min(lengthOf(head), MaxRecord))
	if _, err := f.ReadAt(record, offset); err != nil && !errors.Is(err, io.EOF) {
		return Entry{}, fmt.Errorf("segment %s, offset %d: %w", segment, offset, err)
	}
	kind, payload, _, err := parseRecord(record)
	if err != nil {
		return Entry{}, fmt.Errorf("segment %s, offset %d: %w", segment, offset, errDamagedUnless(false, err))
	}
	return Entry{Kind: kind, Payload: payload, Segment: segment, Offset: offset}, nil
}
