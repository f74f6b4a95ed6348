package seal

import (
	"encoding/binary"
	"errors"
)

// Direction says which body a chunk is of.
type Direction uint8

// The directions.
const (
	Request  Direction = 1
	Response Direction = 2
)

func (d Direction) String() string {
	switch d {
	case Request:
		return "request"
	case Response:
		return "response"
	}
	return "unknown"
}

// Chunk is a sealed part of a body, as it stands in the evidence log.
type Chunk struct {
	Receipt   string // id of the receipt, at most 255 bytes
	Direction Direction
	KeyID     string // of the auditor's key, at most 255 bytes
	Number    uint32 // from 0, within receipt, direction and key
	Last      bool
	Enc       []byte // HPKE's encapsulated key, in chunk 0 only
	Sealed    []byte
}

// ErrChunk is returned for bytes that are no chunk.
var ErrChunk = errors.New("not a sealed chunk")

// version stands at the end too: a record of the log must not end in a zero byte.
const version = 1

// AppendBinary writes the chunk behind dst: version, direction, last, number (4 bytes, big-endian), then receipt, key id and enc with
// their lengths (1 byte) in front, the sealed bytes, and the version again.
func (c *Chunk) AppendBinary(dst []byte) []byte {
	last := byte(0)
	if c.Last {
		last = 1
	}
	dst = append(dst, version, byte(c.Direction), last)
	dst = binary.BigEndian.AppendUint32(dst, c.Number)
	for _, s := range []string{c.Receipt, c.KeyID, string(c.Enc)} {
		dst = append(append(dst, byte(len(s))), s...) //nolint:gosec // bounded by its makers
	}
	return append(append(dst, c.Sealed...), version)
}

// ParseChunk reads what AppendBinary wrote. Enc and Sealed share b.
func ParseChunk(b []byte) (*Chunk, error) {
	const head = 3 + 4
	if len(b) < head+3+1 || b[0] != version || b[len(b)-1] != version || b[2] > 1 {
		return nil, ErrChunk
	}
	c := &Chunk{Direction: Direction(b[1]), Last: b[2] == 1, Number: binary.BigEndian.Uint32(b[3:])}
	if c.Direction != Request && c.Direction != Response {
		return nil, ErrChunk
	}
	rest := b[head : len(b)-1]
	var parts [3][]byte
	for i := range parts {
		if len(rest) == 0 || len(rest)-1 < int(rest[0]) {
			return nil, ErrChunk
		}
		n := 1 + int(rest[0])
		parts[i], rest = rest[1:n], rest[n:]
	}
	c.Receipt, c.KeyID, c.Enc, c.Sealed = string(parts[0]), string(parts[1]), parts[2], rest
	if c.Receipt == "" || c.KeyID == "" || (len(c.Enc) > 0) != (c.Number == 0) {
		return nil, ErrChunk
	}
	return c, nil
}
