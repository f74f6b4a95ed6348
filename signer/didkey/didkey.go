// Package didkey writes Ed25519 public keys as did:key and names them by key id.
// The form is that of the did:key method (multicodec ed25519-pub, multibase base58btc); the key id is the
// Claw ecosystem's: the first 16 hex digits of the key's SHA-256.
package didkey

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/mr-tron/base58"
)

// prefix is what every Ed25519 did:key begins with: the method, multibase z, and how 0xED 0x01 comes out in base58.
const prefix = "did:key:z6Mk"

// length is that of every Ed25519 did:key: with the fixed first two bytes, 34 bytes always take 47 digits and the z.
const length = len("did:key:z") + 47

// multicodec is the varint of ed25519-pub.
var multicodec = [2]byte{0xed, 0x01}

// ErrFormat is returned for text that is not the did:key of an Ed25519 key.
var ErrFormat = errors.New("not a did:key of an Ed25519 key")

// Encode returns the did:key of a 32-byte public key.
func Encode(key ed25519.PublicKey) string {
	raw := make([]byte, 0, len(multicodec)+ed25519.PublicKeySize)
	raw = append(append(raw, multicodec[:]...), key...)
	return "did:key:z" + base58.Encode(raw)
}

// Decode returns the public key of a did:key. Only Encode's own form of a 32-byte Ed25519 key is taken; the error
// wraps ErrFormat. Whether the bytes are a point on the curve shows when a signature is checked.
func Decode(did string) (ed25519.PublicKey, error) {
	if len(did) != length || !strings.HasPrefix(did, prefix) {
		return nil, fmt.Errorf("%w: want %d characters that begin with %s", ErrFormat, length, prefix)
	}
	raw, err := base58.Decode(did[len("did:key:z"):])
	if err != nil {
		return nil, fmt.Errorf("%w: not base58", ErrFormat)
	}
	if len(raw) != len(multicodec)+ed25519.PublicKeySize || [2]byte(raw) != multicodec {
		return nil, fmt.Errorf("%w: not 32 bytes of key behind the ed25519-pub code", ErrFormat)
	}
	return ed25519.PublicKey(raw[len(multicodec):]), nil
}

// KID returns the key id: the first 16 hex digits of SHA-256 over the raw public key, lower case.
func KID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}
