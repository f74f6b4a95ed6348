// Package keyring keeps a service's Ed25519 keys: one that signs, and those that are only verified with until they end.
// Key ids and the JWKS entry are the Claw ecosystem's; the files are ours, one for each key, readable by their owner only.
package keyring

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"sallyport/signer/didkey"
	"sallyport/signer/jcs"
)

// Key is a private key that signs. It never shows its private part, however it is printed, logged or encoded.
type Key struct {
	// private is behind a function because package fmt reaches any data: for a struct with an unexported *Key and a
	// verb that does not fit it, such as %s, it follows the pointer and asks no method of ours.
	private func() ed25519.PrivateKey
	public  ed25519.PublicKey
	did     string
	kid     string
}

// Generate makes a key from 32 bytes of rand.
func Generate(rand io.Reader) (*Key, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return nil, fmt.Errorf("read randomness for a key: %w", err)
	}
	return fromSeed(seed), nil
}

func fromSeed(seed []byte) *Key {
	private := ed25519.NewKeyFromSeed(seed)
	public := private.Public().(ed25519.PublicKey)
	return &Key{
		private: func() ed25519.PrivateKey { return private },
		public:  public,
		did:     didkey.Encode(public),
		kid:     didkey.KID(public),
	}
}

// DID is the did:key of the public key.
func (k *Key) DID() string { return k.did }

// KID is the key id: 16 hex digits.
func (k *Key) KID() string { return k.kid }

// Public is the public key.
func (k *Key) Public() ed25519.PublicKey { return k.public }

// Sign returns the 64-byte Ed25519 signature over msg.
func (k *Key) Sign(msg []byte) []byte { return ed25519.Sign(k.private(), msg) }

// String names the key without its private part.
func (k *Key) String() string { return "key " + k.kid }

// Format keeps every verb of package fmt from printing the private part.
func (k *Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue is what slog writes.
func (k *Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalJSON writes the public names only.
func (k *Key) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		KID string `json:"kid"`
		DID string `json:"did"`
	}{k.kid, k.did})
}

// VerifyKey is a public key and how long signatures of it count.
type VerifyKey struct {
	KID      string
	Public   ed25519.PublicKey
	NotAfter time.Time // the last second at which it counts; zero means no end
}

// ErrKey is returned for a public key that cannot be read.
var ErrKey = errors.New("not a verify key")

// publicForm is a verify key in JSON: x is the base64url of its 32 bytes.
type publicForm struct {
	KID          string `json:"kid"`
	X            string `json:"x"`
	NotAfterUnix int64  `json:"not_after_unix,omitempty"`
}

// MarshalJSON writes kid, x (base64url) and not_after_unix (seconds; left out where there is no end).
func (v VerifyKey) MarshalJSON() ([]byte, error) {
	f := publicForm{KID: v.KID, X: jcs.EncodeB64u(v.Public)}
	if !v.NotAfter.IsZero() {
		f.NotAfterUnix = v.NotAfter.Unix()
	}
	return json.Marshal(f)
}

// UnmarshalJSON reads what MarshalJSON writes. A kid that is not the key's is refused.
func (v *VerifyKey) UnmarshalJSON(data []byte) error {
	var f publicForm
	if err := jcs.Unmarshal(data, &f); err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	got, err := f.verifyKey()
	if err != nil {
		return err
	}
	*v = got
	return nil
}

func (f publicForm) verifyKey() (VerifyKey, error) {
	x, err := jcs.DecodeB64u(f.X)
	if err != nil || len(x) != ed25519.PublicKeySize {
		return VerifyKey{}, fmt.Errorf("%w: x is not the base64url of 32 bytes", ErrKey)
	}
	if want := didkey.KID(x); f.KID != want {
		return VerifyKey{}, fmt.Errorf("%w: kid is %q, but the key's own is %q", ErrKey, f.KID, want)
	}
	if f.NotAfterUnix < 0 {
		return VerifyKey{}, fmt.Errorf("%w: not_after_unix is negative", ErrKey)
	}
	v := VerifyKey{KID: f.KID, Public: x}
	if f.NotAfterUnix > 0 {
		v.NotAfter = time.Unix(f.NotAfterUnix, 0)
	}
	return v, nil
}
