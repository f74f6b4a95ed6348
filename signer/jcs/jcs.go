// Package jcs reads JSON strictly and writes the two byte forms that are hashed in the Claw ecosystem:
// RFC 8785 (JCS) and what JavaScript's JSON.stringify(JSON.parse(text)) gives, the JSON-order form.
// What is refused on reading follows RFC 8259, I-JSON (RFC 7493) and our own bound on nesting.
package jcs

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// MaxDepth is the deepest nesting of objects and arrays that is read. Real requests stay below 20; the bound
// keeps a hostile document from growing the stack.
const MaxDepth = 128

// MaxBytes is the largest document that is read. Offsets are kept in 31 bits on the hot path.
const MaxBytes = 1<<31 - 1

// Error says where a document is refused and why.
type Error struct {
	Path   string // $.a.b[2]; members whose names are not plain are written ["…"]
	Offset int    // bytes from the start of the document
	Reason string
}

func (e *Error) Error() string {
	return fmt.Sprintf("JSON at %s (byte %d): %s", e.Path, e.Offset, e.Reason)
}

// Parse reads one strict JSON document into map[string]any, []any, string, float64, bool and nil.
//
// It refuses duplicate keys at any depth, trailing data, invalid UTF-8, lone surrogates, integers beyond
// ±(2^53-1), numbers that no double can hold, and nesting below MaxDepth. The error is an *Error.
//
// A number between 2^53 and 1e21 is refused in every spelling, since its canonical form would be such an integer.
func Parse(data []byte) (any, error) {
	n, err := parse(data)
	if err != nil {
		return nil, err
	}
	return n.value(), nil
}

// Canonical reads a strict JSON document and returns its RFC 8785 bytes.
func Canonical(data []byte) ([]byte, error) {
	n, err := parse(data)
	if err != nil {
		return nil, err
	}
	n.sortMembers(compareUTF16)
	return n.append(make([]byte, 0, len(data))), nil
}

// Compact reads a strict JSON document and returns what JSON.stringify(JSON.parse(text)) gives in JavaScript:
// members in document order, except that keys which look like array indexes come first, ascending.
func Compact(data []byte) ([]byte, error) {
	n, err := parse(data)
	if err != nil {
		return nil, err
	}
	n.sortMembers(compareJS)
	return n.append(make([]byte, 0, len(data))), nil
}

// Marshal returns the RFC 8785 bytes of a Go value, which is read through its json tags. A number that Parse
// would refuse is an error here too. Invalid UTF-8 in a Go string becomes U+FFFD, as in encoding/json.
func Marshal(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode for canonical JSON: %w", err)
	}
	return Canonical(data)
}

// Scan reads one strict JSON object in one pass and calls visit for each top-level member, in document order, with
// the decoded key and the bytes of the value. It refuses all that Parse refuses, and a document that is no object.
//
// What visit saw counts only if Scan returns nil: a fault may come after it. The key is valid during the call
// only; the value points into data. An error from visit ends the scan and is returned as it is.
func Scan(data []byte, visit func(key []byte, value []byte) error) error {
	if len(data) > MaxBytes {
		return &Error{Path: "$", Reason: "document too large"}
	}
	s := scanner{data: data}
	s.space()
	if s.pos >= len(data) {
		return s.fail("empty document")
	}
	if data[s.pos] != '{' {
		return s.fail("want an object")
	}
	if err := s.object(visit); err != nil {
		return err
	}
	return s.end()
}

// String decodes the bytes of one JSON string, quotes included, as strictly as Parse does.
func String(raw []byte) (string, error) {
	s := scanner{data: raw}
	if len(raw) == 0 || raw[0] != '"' {
		return "", s.fail("want a string")
	}
	tok, err := s.str()
	if err != nil {
		return "", err
	}
	if s.pos != len(raw) {
		return "", s.fail("trailing data")
	}
	return tok.text(raw), nil
}

// Compare orders strings by their UTF-16 code units, as RFC 8785 and JavaScript's sort do.
func Compare(a, b string) int { return compareUTF16(a, b) }

// AppendString writes a string of valid UTF-8 in canonical form, for those who build a fixed document by hand.
func AppendString(dst []byte, s string) []byte { return appendString(dst, s) }

// AppendText is AppendString for any string: a byte that is no UTF-8 becomes U+FFFD, as in Marshal and encoding/json.
func AppendText(dst []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = string([]rune(s))
	}
	return appendString(dst, s)
}

// AppendNumber writes a finite double in canonical form.
func AppendNumber(dst []byte, f float64) []byte { return appendNumber(dst, f) }
