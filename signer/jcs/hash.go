package jcs

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
)

// HashLen is the length of a hash in its text form, in characters.
const HashLen = 43

// ErrBase64 is returned for text that is not the one base64url form of some bytes.
var ErrBase64 = errors.New("not plain base64url without padding")

// ErrHash is returned for text that is not the base64url form of a SHA-256.
var ErrHash = errors.New("not a base64url SHA-256 of 43 characters")

var strict = base64.RawURLEncoding.Strict()

// Hash returns base64url(SHA-256(b)) without padding.
func Hash(b []byte) string {
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// HashCanonical returns the JCS hash of a strict JSON document: the hash of its RFC 8785 bytes.
func HashCanonical(data []byte) (string, error) {
	b, err := Canonical(data)
	if err != nil {
		return "", err
	}
	return Hash(b), nil
}

// HashJSONOrder returns the JSON-order hash of a strict JSON document: the hash of what Compact gives.
func HashJSONOrder(data []byte) (string, error) {
	b, err := Compact(data)
	if err != nil {
		return "", err
	}
	return Hash(b), nil
}

// DecodeB64u decodes base64url without padding. Each byte string has one text form only: line breaks and unused
// bits that are not zero are refused, since they would let one signed thing have several spellings.
func DecodeB64u(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") { // encoding/base64 skips these
		return nil, ErrBase64
	}
	b, err := strict.DecodeString(s)
	if err != nil {
		return nil, ErrBase64
	}
	return b, nil
}

// EncodeB64u is the inverse of DecodeB64u.
func EncodeB64u(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// IsHash says whether DecodeHash takes the text.
func IsHash(s string) bool {
	if len(s) != HashLen {
		return false
	}
	for i := range len(s) - 1 {
		if sextet(s[i]) < 0 {
			return false
		}
	}
	// The last character carries four bits of the hash; its two others must be zero, or one hash had four spellings.
	last := sextet(s[HashLen-1])
	return last >= 0 && last&3 == 0
}

// sextet is the value of a base64url character, or -1.
func sextet(c byte) int {
	switch {
	case c >= 'A' && c <= 'Z':
		return int(c - 'A')
	case c >= 'a' && c <= 'z':
		return int(c-'a') + 26
	case c >= '0' && c <= '9':
		return int(c-'0') + 52
	case c == '-':
		return 62
	case c == '_':
		return 63
	}
	return -1
}

// DecodeHash decodes a hash in its text form, strictly, to its 32 bytes.
func DecodeHash(s string) ([]byte, error) {
	if len(s) != HashLen {
		return nil, ErrHash
	}
	b, err := DecodeB64u(s)
	if err != nil || len(b) != sha256.Size {
		return nil, ErrHash
	}
	return b, nil
}
