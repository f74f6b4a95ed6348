package privacy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"sallyport/signer/jcs"
)

// SecretBytes is the size of a Secret.
const SecretBytes = 32

// Secret is the operator's secret behind all keyed hashes. Whoever has it can confirm a guessed value; it prints as
// nothing.
type Secret struct{ bytes [SecretBytes]byte }

// ParseSecret reads the secret's one form: 64 hexadecimal digits, and a line's end.
func ParseSecret(text []byte) (*Secret, error) {
	raw, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(raw) != SecretBytes {
		return nil, errors.New("a redaction secret is 64 hexadecimal digits; make one with 32 random bytes")
	}
	return &Secret{bytes: [SecretBytes]byte(raw)}, nil
}

// String says that it is a secret, and not which.
func (*Secret) String() string { return "[redaction secret]" }

// GoString is String for %#v.
func (s *Secret) GoString() string { return s.String() }

// Key is what the values of one job are hashed with, so that equal values can be told in one job and not across jobs.
type Key struct{ bytes []byte }

// For derives the key of a job, which is the token's mission_id, or its hash where it has none:
// HMAC-SHA-256(secret, "sallyport/v1 redaction\n" + job).
func (s *Secret) For(job string) *Key {
	return &Key{mac(s.bytes[:], "sallyport/v1 redaction\n"+job)}
}

// Text is what stands in place of a JSON value: [HASH:hmac-sha256: and the base64url of HMAC-SHA-256(key, the value's
// RFC 8785 form) ]. Short values cannot be guessed without the key, and whoever has it can confirm one.
func (k *Key) Text(value []byte) (string, error) {
	canonical, err := jcs.Canonical(value)
	if err != nil {
		return "", fmt.Errorf("the value is not JSON; a text stands in quotes: %w", err)
	}
	return k.text(canonical), nil
}

func (k *Key) text(canonical []byte) string {
	return "[HASH:hmac-sha256:" + jcs.EncodeB64u(mac(k.bytes, string(canonical))) + "]"
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
