package jcs

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// token is a checked string: where its content lies, without the quotes.
type token struct {
	from, to int
	escaped  bool
}

// text is the decoded content.
func (t token) text(data []byte) string {
	if !t.escaped {
		return string(data[t.from:t.to])
	}
	return string(unescape(make([]byte, 0, t.to-t.from), data[t.from:t.to]))
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// stops marks the bytes of x that end a plain run: a quote, a backslash, a control character. The lowest mark is
// exact; those above it may be false, because the subtraction borrows. Bytes outside ASCII are no stops.
func stops(x uint64) uint64 {
	quote, slash := x^(ones*'"'), x^(ones*'\\')
	return ((x-ones*0x20)&^x | (quote-ones)&^quote | (slash-ones)&^slash) & highs
}

// str checks a string; s.pos is at its opening quote. Prompts are long plain strings, so eight bytes are looked
// at together, and UTF-8 is checked once for the whole string if it has any byte outside ASCII.
func (s *scanner) str() (token, error) {
	data, i := s.data, s.pos+1
	t := token{from: i}
	var wide uint64
	for {
		for i+8 <= len(data) {
			x := binary.LittleEndian.Uint64(data[i:])
			wide |= x
			if m := stops(x); m != 0 {
				i += bits.TrailingZeros64(m) / 8
				break
			}
			i += 8
		}
		if i >= len(data) {
			return t, s.failAt(i, "unexpected end of string")
		}
		switch c := data[i]; {
		case c == '"':
			t.to, s.pos = i, i+1
			if wide&highs != 0 && !utf8.Valid(data[t.from:t.to]) {
				return t, s.failAt(t.from+firstInvalid(data[t.from:t.to]), "invalid UTF-8")
			}
			return t, nil
		case c == '\\':
			n, reason := escape(data[i:])
			if reason != "" {
				return t, s.failAt(i, reason)
			}
			t.escaped = true
			i += n
		case c < 0x20:
			return t, s.failAt(i, "control character in string")
		default:
			wide |= uint64(c)
			i++
		}
	}
}

func firstInvalid(b []byte) int {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(b)
}

// escape checks the escape sequence that b begins with and returns its length in bytes, or why it is refused.
// A surrogate pair is one sequence.
func escape(b []byte) (int, string) {
	if len(b) < 2 {
		return 0, "unexpected end of string"
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, ""
	case 'u':
		r, ok := hex4(b[2:])
		if !ok {
			return 0, "want four hex digits behind \\u"
		}
		if !utf16.IsSurrogate(r) {
			return 6, ""
		}
		if len(b) >= 12 && b[6] == '\\' && b[7] == 'u' {
			if low, ok := hex4(b[8:]); ok && utf16.DecodeRune(r, low) != utf8.RuneError {
				return 12, ""
			}
		}
		return 0, "lone surrogate"
	}
	return 0, "unknown escape"
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// unescape appends the decoded form of a checked string's content.
func unescape(dst, raw []byte) []byte {
	for i := 0; i < len(raw); {
		c := raw[i]
		if c != '\\' {
			dst = append(dst, c)
			i++
			continue
		}
		i += 2
		switch e := raw[i-1]; e {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r, _ := hex4(raw[i:])
			i += 4
			if utf16.IsSurrogate(r) {
				low, _ := hex4(raw[i+2:])
				r = utf16.DecodeRune(r, low)
				i += 6
			}
			dst = utf8.AppendRune(dst, r)
		default:
			dst = append(dst, e)
		}
	}
	return dst
}

const hexDigits = "0123456789abcdef"

// appendString writes a string as JavaScript's JSON.stringify does, which is also RFC 8785: only the quote, the
// backslash and control characters are escaped.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}
