package jcs

import (
	"math"
	"strconv"
)

// maxSafe is the largest integer that I-JSON lets two parties exchange without rounding.
const maxSafe = 1<<53 - 1

// exactDigits is how many decimal digits of an integer part are below maxSafe whatever they are.
const exactDigits = 15

// number checks a number's grammar and range; s.pos is at its first byte.
func (s *scanner) number() error {
	from := s.pos
	i := from
	if s.data[i] == '-' {
		i++
	}
	first := i
	i = s.digits(i)
	whole := i - first
	switch {
	case whole == 0:
		return s.failAt(i, "want a digit")
	case whole > 1 && s.data[first] == '0':
		return s.failAt(first, "leading zero")
	}
	integer, small := true, whole <= exactDigits
	if i < len(s.data) && s.data[i] == '.' {
		integer = false
		end := s.digits(i + 1)
		if end == i+1 {
			return s.failAt(end, "want a digit")
		}
		i = end
	}
	if i < len(s.data) && (s.data[i] == 'e' || s.data[i] == 'E') {
		integer, small = false, false
		i++
		if i < len(s.data) && (s.data[i] == '+' || s.data[i] == '-') {
			i++
		}
		end := s.digits(i)
		if end == i {
			return s.failAt(end, "want a digit")
		}
		i = end
	}
	if !small {
		if reason := outOfRange(string(s.data[from:i]), integer); reason != "" {
			return s.failAt(from, reason)
		}
	}
	s.pos = i
	return nil
}

func (s *scanner) digits(i int) int {
	for i < len(s.data) && s.data[i] >= '0' && s.data[i] <= '9' {
		i++
	}
	return i
}

// outOfRange says why a number cannot be carried, or nothing. A double that is no safe integer but would be
// written as one (below 1e21) is refused however it is spelled: else the canonical form could not be read again.
func outOfRange(text string, integer bool) string {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return "number too large for a double"
	}
	if a := math.Abs(f); a > maxSafe && (integer || a < 1e21) {
		return "integer beyond ±(2^53-1)"
	}
	return ""
}

// appendNumber writes a double as ECMAScript's Number::toString does. f must be finite.
func appendNumber(dst []byte, f float64) []byte {
	if f == 0 {
		return append(dst, '0') // also -0
	}
	if a := math.Abs(f); a >= 1e-6 && a < 1e21 {
		return strconv.AppendFloat(dst, f, 'f', -1, 64)
	}
	dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
	// Go writes at least two digits of exponent, ECMAScript as few as it takes.
	if n := len(dst); dst[n-2] == '0' && (dst[n-3] == '-' || dst[n-3] == '+') {
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}
