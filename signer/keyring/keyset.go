package keyring

import (
	"crypto/ed25519"
	"time"

	"sallyport/signer/code"
	"sallyport/signer/didkey"
	"sallyport/signer/jcs"
)

// KeySet is a fixed set of keys to verify with. A nil set holds none.
type KeySet struct{ keys map[string]VerifyKey }

// NewKeySet makes a set. A key is known by its own kid, whatever the entry says; of two entries for one key the
// one that ends earlier counts; an entry without a whole key is left out.
func NewKeySet(keys []VerifyKey) *KeySet {
	s := &KeySet{keys: make(map[string]VerifyKey, len(keys))}
	for _, k := range keys {
		if len(k.Public) != ed25519.PublicKeySize {
			continue
		}
		k.KID = didkey.KID(k.Public)
		if old, ok := s.keys[k.KID]; ok && !endsEarlier(k, old) {
			continue
		}
		s.keys[k.KID] = k
	}
	return s
}

func endsEarlier(a, b VerifyKey) bool {
	return !a.NotAfter.IsZero() && (b.NotAfter.IsZero() || a.NotAfter.Before(b.NotAfter))
}

// Lookup returns the key of this id, if it counts at that time: TOKEN_UNKNOWN_KID or TOKEN_KID_EXPIRED otherwise.
func (s *KeySet) Lookup(kid string, at time.Time) (ed25519.PublicKey, *code.Denial) {
	if s == nil {
		return nil, code.Deny(code.TokenUnknownKID, "")
	}
	k, ok := s.keys[kid]
	if !ok {
		return nil, code.Deny(code.TokenUnknownKID, "")
	}
	if !k.NotAfter.IsZero() && at.After(k.NotAfter) {
		return nil, code.Deny(code.TokenKIDExpired, "key %s ended at %s", k.KID, k.NotAfter.UTC().Format(time.RFC3339))
	}
	return k.Public, nil
}

// Len is the number of keys in the set, ended ones included.
func (s *KeySet) Len() int {
	if s == nil {
		return 0
	}
	return len(s.keys)
}

// JWKS is a JSON Web Key Set (RFC 7517) of Ed25519 keys.
type JWKS struct {
	Keys []JWK `json:"keys"`
}

// JWK is one entry, with the members that the ecosystem's issuer writes.
type JWK struct {
	Kty string `json:"kty"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	KID string `json:"kid"`
	Alg string `json:"alg"`
	Use string `json:"use"`
	Ext bool   `json:"ext"`
}

// JWKS lists the keys that count now, the signing one first.
func (r *Ring) JWKS(now time.Time) JWKS {
	set := JWKS{Keys: []JWK{}}
	for _, k := range r.VerifyKeys() {
		if !k.NotAfter.IsZero() && now.After(k.NotAfter) {
			continue
		}
		set.Keys = append(set.Keys, JWK{Kty: "OKP", Crv: "Ed25519", X: jcs.EncodeB64u(k.Public), KID: k.KID, Alg: "EdDSA", Use: "sig", Ext: true})
	}
	return set
}
