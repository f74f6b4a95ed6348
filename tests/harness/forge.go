package harness

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/signer/didkey"
	"sallyport/signer/keyring"
)

// Forge makes tokens that the issuer never would, from one that it did issue.
type Forge struct {
	Header, Claims map[string]any
	Sign           func(input []byte) []byte
	t              testing.TB
}

// Forge starts from a good token and signs with the issuer's real key, so that each test changes one thing.
func (s *System) Forge(good string) *Forge {
	s.t.Helper()
	ring, err := keyring.Open(filepath.Join(s.Dir, "data", "keys", "issuer"))
	must(s.t, err)
	f := &Forge{t: s.t, Sign: ring.Active().Sign}
	parts := strings.Split(good, ".")
	f.Header, f.Claims = decodePart(s.t, parts[0]), decodePart(s.t, parts[1])
	return f
}

func decodePart(t testing.TB, part string) map[string]any {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(part)
	must(t, err)
	var m map[string]any
	must(t, json.Unmarshal(raw, &m))
	return m
}

// Token is the forged token.
func (f *Forge) Token() string {
	input := encodePart(f.t, f.Header) + "." + encodePart(f.t, f.Claims)
	return input + "." + base64.RawURLEncoding.EncodeToString(f.Sign([]byte(input)))
}

func encodePart(t testing.TB, v any) string {
	raw, err := json.Marshal(v)
	must(t, err)
	return base64.RawURLEncoding.EncodeToString(raw)
}

// Set changes a claim.
func (f *Forge) Set(claim string, v any) *Forge { f.Claims[claim] = v; return f }

// Stranger signs with a key that the issuer does not know; keepKID claims the issuer's kid all the same.
func (f *Forge) Stranger(keepKID bool) *Forge {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	must(f.t, err)
	if !keepKID {
		f.Header["kid"] = didkey.KID(pub)
	}
	f.Sign = func(in []byte) []byte { return ed25519.Sign(priv, in) }
	return f
}

// HS256 signs with the classic confusion: the issuer's public key used as an HMAC secret.
func (f *Forge) HS256(public []byte) *Forge {
	f.Header["alg"] = "HS256"
	f.Sign = func(in []byte) []byte {
		m := hmac.New(sha256.New, public)
		m.Write(in)
		return m.Sum(nil)
	}
	return f
}

// Unsigned claims alg none.
func (f *Forge) Unsigned() *Forge {
	f.Header["alg"] = "none"
	f.Sign = func([]byte) []byte { return nil }
	return f
}
