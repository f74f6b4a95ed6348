package token

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sallyport/signer/code"
	"sallyport/signer/jcs"
	"sallyport/signer/keyring"
	"sallyport/signer/weaken"
)

// Leeway is how far the clocks of issuer and gateway may differ: a token counts until exp plus Leeway, and from
// iat minus Leeway.
const Leeway = 30 * time.Second

// MaxBytes is the largest token that is issued or read.
const MaxBytes = 8192

// maxHeader is the longest header part that Looks decodes, in characters.
const maxHeader = 2048

// Token is a token that was read, with its claims.
type Token struct {
	Claims
	Hash string // hex SHA-256 of the whole token
	KID  string
}

// Keys finds the key that a kid names, if it counts at that time. A *keyring.KeySet is one.
type Keys interface {
	Lookup(kid string, at time.Time) (ed25519.PublicKey, *code.Denial)
}

// ErrTooLarge is returned by Issue for claims that would make a token of more than MaxBytes.
var ErrTooLarge = errors.New("token would be too large")

// Hash returns the hash by which a token is known: hex SHA-256 of its text.
func Hash(raw string) string {
	sum := sha256.Sum256([]byte(raw))
	return hex.EncodeToString(sum[:])
}

// Issue signs a token. It fills in token_version and token_scope_hash_b64u; errors about claims wrap ErrClaims.
func Issue(k *keyring.Key, c Claims) (string, error) {
	if err := c.Validate(); err != nil {
		return "", err
	}
	c.TokenVersion, c.TokenScopeHash = Version, ScopeHash(c)
	claims, err := c.encode()
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrClaims, err)
	}
	header := `{"alg":"EdDSA","kid":"` + k.KID() + `","typ":"JWT"}`
	input := jcs.EncodeB64u([]byte(header)) + "." + jcs.EncodeB64u(claims)
	raw := input + "." + jcs.EncodeB64u(k.Sign([]byte(input)))
	if len(raw) > MaxBytes {
		return "", fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(raw), MaxBytes)
	}
	return raw, nil
}

// Verify reads a token and holds it against the issuer's keys, the names of this gateway (audience) and the time.
// The signature is checked before any claim is read. Which provider the scope reaches, the contract, the job, the
// nonce and withdrawal are for the caller to check.
func Verify(raw string, keys Keys, audience []string, now time.Time) (*Token, *code.Denial) {
	p, d := split(raw)
	if d != nil {
		return nil, d
	}
	key, d := keys.Lookup(p.kid, now)
	if d != nil {
		return nil, d
	}
	if len(key) != ed25519.PublicKeySize {
		return nil, code.Deny(code.TokenUnknownKID, "")
	}
	signature, err := jcs.DecodeB64u(p.signature)
	if err != nil {
		return nil, code.Deny(code.TokenMalformed, "the signature is %v", err)
	}
	if !ed25519.Verify(key, []byte(p.input), signature) && !weaken.Off("signature") {
		return nil, code.Deny(code.TokenSignatureInvalid, "")
	}
	t, d := p.token(raw)
	if d != nil {
		return nil, d
	}
	if d := t.check(audience, now); d != nil {
		return nil, d
	}
	return t, nil
}

// Expired says whether the token's time is over, Leeway included.
func (t *Token) Expired(now time.Time) bool { return !now.Before(time.Unix(t.Exp, 0).Add(Leeway)) }

// Unverified reads a token without checking its signature, time, audience or scope hash. It is for showing a token
// to a person; nothing may be decided by what it returns.
func Unverified(raw string) (*Token, *code.Denial) {
	p, d := split(raw)
	if d != nil {
		return nil, d
	}
	return p.token(raw)
}

// parts is a token taken apart, with its header read.
type parts struct {
	input     string // header and claims, as signed
	claims    string
	signature string
	kid       string
}

func split(raw string) (parts, *code.Denial) {
	if len(raw) > MaxBytes {
		return parts{}, code.Deny(code.TokenTooLarge, "it has %d", len(raw))
	}
	s := strings.Split(raw, ".")
	if len(s) != 3 {
		return parts{}, code.Deny(code.TokenMalformed, "it has not three parts")
	}
	h, err := readHeader(s[0])
	if err != nil {
		return parts{}, code.Deny(code.TokenMalformed, "the header cannot be read: %v", err)
	}
	switch {
	case h.alg != "EdDSA":
		return parts{}, code.Deny(code.TokenUnsupportedAlg, "")
	case h.critical:
		return parts{}, code.Deny(code.TokenMalformed, "the header has crit, of which nothing is understood")
	case h.kid == "":
		return parts{}, code.Deny(code.TokenUnknownKID, "the header has no kid")
	}
	return parts{input: raw[:len(s[0])+1+len(s[1])], claims: s[1], signature: s[2], kid: h.kid}, nil
}

type header struct {
	alg, kid string
	critical bool
}

func readHeader(part string) (header, error) {
	var h header
	data, err := jcs.DecodeB64u(part)
	if err != nil {
		return h, err
	}
	err = jcs.Scan(data, func(key, value []byte) (err error) {
		switch string(key) {
		case "alg":
			h.alg, err = jcs.String(value)
		case "kid":
			h.kid, err = jcs.String(value)
		case "crit": // RFC 7515 section 4.1.11: what is critical and not understood makes the token invalid
			h.critical = true
		}
		return err
	})
	return h, err
}

// token reads the claims.
func (p parts) token(raw string) (*Token, *code.Denial) {
	data, err := jcs.DecodeB64u(p.claims)
	if err != nil {
		return nil, code.Deny(code.TokenMalformed, "the claims are %v", err)
	}
	c, err := parseClaims(data)
	switch {
	case err != nil && !errors.Is(err, ErrClaims):
		return nil, code.Deny(code.TokenMalformed, "the claims cannot be read: %v", err)
	case c.TokenVersion != Version:
		return nil, code.Deny(code.TokenUnknownVersion, "")
	}
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		return nil, code.Deny(code.TokenInvalidClaims, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return &Token{Claims: c, Hash: Hash(raw), KID: p.kid}, nil
}

// check holds the claims against time, gateway and scope hash.
func (t *Token) check(audience []string, now time.Time) *code.Denial {
	switch {
	case t.Expired(now):
		return code.Deny(code.TokenExpired, "exp was %s", time.Unix(t.Exp, 0).UTC().Format(time.RFC3339))
	case time.Unix(t.Iat, 0).After(now.Add(Leeway)):
		return code.Deny(code.TokenNotYetValid, "iat is %s", time.Unix(t.Iat, 0).UTC().Format(time.RFC3339))
	case !slices.ContainsFunc(t.Aud, func(a string) bool { return slices.Contains(audience, a) }):
		return code.Deny(code.TokenBadAudience, "")
	case t.TokenScopeHash == "":
		return code.Deny(code.TokenScopeHashRequired, "")
	}
	if _, err := jcs.DecodeHash(t.TokenScopeHash); err != nil {
		return code.Deny(code.TokenScopeHashInvalid, "")
	}
	if t.TokenScopeHash != ScopeHash(t.Claims) {
		return code.Deny(code.TokenScopeHashMismatch, "")
	}
	return nil
}

// AllowsProvider says whether the token's scope reaches this provider.
func (t *Token) AllowsProvider(p string) bool {
	for _, s := range t.Scope {
		switch s {
		case "*", "proxy:call", "clawproxy:call", "proxy:*", "clawproxy:*", "control:*",
			"proxy:provider:" + p, "proxy:call:" + p, "clawproxy:provider:" + p, "clawproxy:call:" + p:
			return true
		}
	}
	return false
}

// Looks says whether a credential has the shape of a token, good or bad: three parts of base64url, the first of
// which is a JSON object with an alg. What does not look like one was not given by the broker.
func Looks(raw string) bool {
	s := strings.Split(raw, ".")
	if len(s) != 3 || len(s[0]) > maxHeader || s[0] == "" || s[1] == "" {
		return false
	}
	if slices.ContainsFunc(s, func(part string) bool { return !isB64u(part) }) {
		return false
	}
	data, err := base64.RawURLEncoding.DecodeString(s[0])
	if err != nil {
		return false
	}
	alg := ""
	err = jcs.Scan(data, func(key, value []byte) (err error) {
		if string(key) == "alg" {
			alg, err = jcs.String(value)
		}
		return err
	})
	return err == nil && trim(alg) != ""
}

// isB64u tells whether s is of base64url's alphabet.
func isB64u(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
