// Package seal encrypts bodies to auditors, chunk by chunk as they pass, with HPKE (RFC 9180, base mode,
// DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305). The gateway holds public keys only: what it sealed it cannot
// open.
package seal

import (
	"crypto/hpke"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"sallyport/signer/jcs"
)

// ErrKey is wrapped by errors about key files.
var ErrKey = errors.New("auditor key")

func kem() hpke.KEM { return hpke.DHKEM(curve) }

// PublicKey is whom bodies are sealed to.
type PublicKey struct {
	key hpke.PublicKey
	id  string
}

// ID is the first 16 hexadecimal digits of the SHA-256 of the raw public key, as of the other keys.
func (p *PublicKey) ID() string { return p.id }

// PrivateKey opens what was sealed to its public key. It prints as nothing.
type PrivateKey struct{ key hpke.PrivateKey }

// String says that it is a key, and not which.
func (*PrivateKey) String() string { return "[auditor's private key]" }

// GoString is String for %#v.
func (k *PrivateKey) GoString() string { return k.String() }

// Public is the key that bodies are sealed to.
func (k *PrivateKey) Public() *PublicKey {
	pub := k.key.PublicKey()
	return &PublicKey{pub, idOf(pub.Bytes())}
}

func idOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8])
}

// Generate makes a key of the system's randomness.
func Generate() (*PrivateKey, error) {
	key, err := kem().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return &PrivateKey{key}, nil
}

// jwk is a key as RFC 8037 writes it.
type jwk struct {
	Kty string `json:"kty"`
	Crv string `json:"crv"`
	Kid string `json:"kid"`
	X   string `json:"x"`
	D   string `json:"d,omitempty"`
}

// MarshalPublic writes a public key as a JWK.
func MarshalPublic(p *PublicKey) ([]byte, error) {
	return json.Marshal(jwk{Kty: "OKP", Crv: "X25519", Kid: p.id, X: jcs.EncodeB64u(p.key.Bytes())})
}

// MarshalPrivate writes a private key as a JWK: for a file that nobody else reads.
func MarshalPrivate(k *PrivateKey) ([]byte, error) {
	d, err := k.key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	p := k.Public()
	return json.Marshal(jwk{Kty: "OKP", Crv: "X25519", Kid: p.id, X: jcs.EncodeB64u(p.key.Bytes()), D: jcs.EncodeB64u(d)})
}

// ParsePublic reads a public key. A private one is refused: it does not belong where bodies are sealed.
func ParsePublic(text []byte) (*PublicKey, error) {
	j, x, err := parse(text)
	if err != nil {
		return nil, err
	}
	if j.D != "" {
		return nil, fmt.Errorf("%w: this is a private key; give the gateway the public one, and keep this one from it", ErrKey)
	}
	key, err := kem().NewPublicKey(x)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return &PublicKey{key, j.Kid}, nil
}

// ParsePrivate reads a private key.
func ParsePrivate(text []byte) (*PrivateKey, error) {
	j, _, err := parse(text)
	if err != nil {
		return nil, err
	}
	d, err := jcs.DecodeB64u(j.D)
	if err != nil || len(d) == 0 {
		return nil, fmt.Errorf("%w: there is no private key in it; use the file that was kept secret", ErrKey)
	}
	key, err := kem().NewPrivateKey(d)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	k := &PrivateKey{key}
	if k.Public().id != j.Kid {
		return nil, fmt.Errorf("%w: its private and its public part are of two keys", ErrKey)
	}
	return k, nil
}

func parse(text []byte) (jwk, []byte, error) {
	var j jwk
	if err := jcs.Unmarshal(text, &j); err != nil {
		return j, nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	x, err := jcs.DecodeB64u(j.X)
	switch {
	case j.Kty != "OKP" || j.Crv != "X25519" || err != nil:
		return j, nil, fmt.Errorf("%w: not a JWK with kty OKP and crv X25519; make one with `sallyport evidence auditor-key new`", ErrKey)
	case j.Kid != idOf(x):
		return j, nil, fmt.Errorf("%w: kid %.32q is not the name of this key, %s", ErrKey, j.Kid, idOf(x))
	}
	return j, x, nil
}
