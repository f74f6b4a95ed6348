package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// What the gates that read a signed token are told to want.
const (
	tokenIssuer   = "sallyport-bench"
	tokenAudience = "bench-gate"
	tokenRole     = "caller" // may make the call that is measured
	otherRole     = "reader" // has a good token, and may not
	tokenKeyID    = "bench"
)

// tokenMaker signs tokens with a key of this run.
type tokenMaker struct {
	public  ed25519.PublicKey
	private ed25519.PrivateKey
}

func newTokenMaker() (*tokenMaker, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	return &tokenMaker{public, private}, err
}

// token is a JSON Web Token (RFC 7519) for a role, signed with EdDSA (RFC 8037). It is as long as the token that the
// other peers carry.
func (m *tokenMaker) token(role string) (string, error) {
	head, err := json.Marshal(map[string]string{"alg": "EdDSA", "typ": "JWT", "kid": tokenKeyID})
	if err != nil {
		return "", err
	}
	var signed string
	for pad := 0; ; pad++ {
		claims, err := json.Marshal(map[string]any{
			"iss": tokenIssuer, "aud": tokenAudience, "sub": "bench", "role": role,
			"exp": time.Now().Add(24 * time.Hour).Unix(), "pad": strings.Repeat("0", pad),
		})
		if err != nil {
			return "", err
		}
		signed = segment(head) + "." + segment(claims)
		if len(signed)+1+base64.RawURLEncoding.EncodedLen(ed25519.SignatureSize) >= len(stockToken) {
			break
		}
	}
	return signed + "." + segment(ed25519.Sign(m.private, []byte(signed))), nil
}

// jwks is the public key as a JSON Web Key Set (RFC 7517).
func (m *tokenMaker) jwks() (string, error) {
	raw, err := json.Marshal(map[string]any{"keys": []any{map[string]string{
		"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": tokenKeyID, "x": segment(m.public),
	}}})
	return string(raw), err
}

func segment(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

// roleTokens are one that is good, one that is good for something else, and one that somebody else has signed.
type roleTokens struct{ good, other, forged string }

func (m *tokenMaker) roleTokens() (roleTokens, error) {
	stranger, err := newTokenMaker()
	if err != nil {
		return roleTokens{}, err
	}
	var t roleTokens
	for _, c := range []struct {
		to   *string
		by   *tokenMaker
		role string
	}{{&t.good, m, tokenRole}, {&t.other, m, otherRole}, {&t.forged, stranger, tokenRole}} {
		if *c.to, err = c.by.token(c.role); err != nil {
			return t, fmt.Errorf("token: %w", err)
		}
	}
	return t, nil
}
