// Package evlog is the evidence log: a directory of segment files to which records are appended and which never change
// behind their tail. What an append acknowledged survives the death of any process (Written) or of the machine (Synced);
// the rules come from the design ("Evidence").
package evlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Kind tells the records of the log apart.
type Kind uint8

// The kinds. Their numbers stand in the files and never change.
const (
	KindIntent  Kind = 1 // a record.Intent
	KindReceipt Kind = 2 // a signed gateway receipt
	KindRefusal Kind = 3 // a record.Refusal, or a signed decision (package decision) where the refused run is known
	KindControl Kind = 4 // start, recovery and stop of the log's owner
	// KindTombstone is a signed statement that records were removed.
	KindTombstone Kind = 5
	// KindSealed is a part of a body, encrypted to the auditor.
	KindSealed Kind = 6
)

// lastKind is the highest kind.
const lastKind = KindSealed

func (k Kind) String() string {
	switch k {
	case KindIntent:
		return "intent"
	case KindReceipt:
		return "receipt"
	case KindRefusal:
		return "refusal"
	case KindControl:
		return "control"
	case KindTombstone:
		return "tombstone"
	case KindSealed:
		return "sealed"
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// A segment begins with its header: magic, format version, sequence number of its first record. A record is
// length of the payload | CRC-32C of kind and payload | kind | payload, all numbers big-endian.
const (
	magic         = "SPEV"
	formatVersion = 1
	headerSize    = 4 + 4 + 8
	recordHead    = 4 + 4 + 1
	// MaxRecord bounds a payload, in bytes, so that a damaged length cannot ask for all memory.
	MaxRecord = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrDamaged is wrapped by every error about bytes that were not written like this.
var ErrDamaged = errors.New("evidence log damaged")

// errTorn means that the bytes end inside a record: the mark of a crash during a write.
var errTorn = errors.New("record torn")

func appendHeader(dst []byte, first uint64) []byte {
	dst = append(dst, magic...)
	dst = binary.BigEndian.AppendUint32(dst, formatVersion)
	return binary.BigEndian.AppendUint64(dst, first)
}

func parseHeader(b []byte) (first uint64, err error) {
	if len(b) < headerSize {
		return 0, errTorn
	}
	if !bytes.Equal(b[:4], []byte(magic)) || binary.BigEndian.Uint32(b[4:]) != formatVersion {
		return 0, fmt.Errorf("%w: not a segment of format %d", ErrDamaged, formatVersion)
	}
	return binary.BigEndian.Uint64(b[8:]), nil
}

// appendRecord appends a record; sum is checksum's.
func appendRecord(dst []byte, k Kind, payload []byte, sum uint32) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(payload))) //nolint:gosec // bounded by MaxRecord
	dst = binary.BigEndian.AppendUint32(dst, sum)
	dst = append(dst, byte(k))
	return append(dst, payload...)
}

// appendFinished appends a record whose payload finish makes of another.
func appendFinished(dst []byte, k Kind, payload []byte, finish func(dst, payload []byte) []byte) []byte {
	head := len(dst)
	dst = finish(appendRecord(dst, k, nil, 0), payload)
	made := dst[head+recordHead:]
	binary.BigEndian.PutUint32(dst[head:], uint32(len(made))) //nolint:gosec // bounded by MaxRecord
	binary.BigEndian.PutUint32(dst[head+4:], checksum(k, made))
	return dst
}

func checksum(k Kind, payload []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, []byte{byte(k)}), castagnoli, payload)
}

// lengthOf is the length of the payload that a record's head gives.
func lengthOf(head []byte) int { return int(binary.BigEndian.Uint32(head)) }

// parseRecord reads one record from the front of b. errTorn: b ends too early. ErrDamaged: the bytes are there and wrong.
func parseRecord(b []byte) (k Kind, payload []byte, size int, err error) {
	if len(b) < recordHead {
		return 0, nil, 0, errTorn
	}
	n := lengthOf(b)
	if n > MaxRecord {
		return 0, nil, 0, fmt.Errorf("%w: length %d", ErrDamaged, n)
	}
	if len(b) < recordHead+n {
		return 0, nil, 0, errTorn
	}
	k, payload = Kind(b[8]), b[recordHead:recordHead+n]
	if checksum(k, payload) != binary.BigEndian.Uint32(b[4:]) {
		return 0, nil, 0, fmt.Errorf("%w: checksum", ErrDamaged)
	}
	return k, payload, recordHead + n, nil
}
