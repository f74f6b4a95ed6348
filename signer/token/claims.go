// Package token issues and verifies scoped tokens (CST): compact JWS with EdDSA, whose claims and scope hash are the
// Claw ecosystem's. Verification is stricter than there: the signature comes before any claim is believed, the kid
// decides on the key, and a token has one spelling.
package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"sallyport/signer/jcs"
)

// Version is the token_version that is issued and accepted.
const Version = "1"

// maxTime is the last second of the year 9999. Later times are no real ones.
const maxTime = 253402300799

// Audience is a list of names that is read from one JSON string, too.
type Audience []string

// UnmarshalJSON reads a string or an array of strings.
func (a *Audience) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		one, err := jcs.String(data)
		if err != nil {
			return err
		}
		*a = Audience{one}
		return nil
	}
	var list []string
	if err := jcs.Unmarshal(data, &list); err != nil {
		return err
	}
	*a = list
	return nil
}

// Claims are what a token says. An empty string, nil and (for times) zero mean that the claim is absent. Claims
// beyond these are tolerated in a token and not kept.
type Claims struct {
	TokenVersion string   `json:"token_version"`
	Sub          string   `json:"sub"` // the agent, a DID by convention
	Aud          Audience `json:"aud"`
	Scope        []string `json:"scope"`
	Iat          int64    `json:"iat"` // seconds since the Unix epoch
	Exp          int64    `json:"exp"` // seconds since the Unix epoch

	OwnerRef                string   `json:"owner_ref,omitempty"`
	OwnerDID                string   `json:"owner_did,omitempty"`
	ControllerDID           string   `json:"controller_did,omitempty"`
	AgentDID                string   `json:"agent_did,omitempty"`
	PolicyHash              string   `json:"policy_hash_b64u,omitempty"` // the contract that the token is pinned to
	ControlPlanePolicyHash  string   `json:"control_plane_policy_hash_b64u,omitempty"`
	TokenScopeHash          string   `json:"token_scope_hash_b64u,omitempty"`
	PaymentAccountDID       string   `json:"payment_account_did,omitempty"`
	SpendCap                *float64 `json:"spend_cap,omitempty"`
	MissionID               string   `json:"mission_id,omitempty"` // the job
	DelegationID            string   `json:"delegation_id,omitempty"`
	DelegatorDID            string   `json:"delegator_did,omitempty"`
	DelegateDID             string   `json:"delegate_did,omitempty"`
	DelegationPolicyHash    string   `json:"delegation_policy_hash_b64u,omitempty"`
	DelegationSpendCapMinor string   `json:"delegation_spend_cap_minor,omitempty"` // decimal digits
	DelegationExpiresAt     int64    `json:"delegation_expires_at,omitempty"`      // seconds since the Unix epoch
	TokenLane               string   `json:"token_lane,omitempty"`                 // legacy or canonical
	JTI                     string   `json:"jti,omitempty"`
	Nonce                   string   `json:"nonce,omitempty"` // makes the token good for one request

	Cnf *Confirmation `json:"cnf,omitempty"`
}

// Confirmation ties a token to the certificate of the client that may use it (RFC 8705).
type Confirmation struct {
	X5tS256 string `json:"x5t#S256"` // base64url SHA-256 of the certificate in DER
}

// ErrClaims is wrapped by what Validate and Issue say about claims.
var ErrClaims = errors.New("claims are not valid")

// texts lists the string claims by name.
func (c *Claims) texts() []struct {
	name  string
	value *string
} {
	return []struct {
		name  string
		value *string
	}{
		{"sub", &c.Sub},
		{"owner_ref", &c.OwnerRef},
		{"owner_did", &c.OwnerDID},
		{"controller_did", &c.ControllerDID},
		{"agent_did", &c.AgentDID},
		{"policy_hash_b64u", &c.PolicyHash},
		{"control_plane_policy_hash_b64u", &c.ControlPlanePolicyHash},
		{"payment_account_did", &c.PaymentAccountDID},
		{"mission_id", &c.MissionID},
		{"delegation_id", &c.DelegationID},
		{"delegator_did", &c.DelegatorDID},
		{"delegate_did", &c.DelegateDID},
		{"delegation_policy_hash_b64u", &c.DelegationPolicyHash},
		{"delegation_spend_cap_minor", &c.DelegationSpendCapMinor},
		{"token_lane", &c.TokenLane},
		{"jti", &c.JTI},
		{"nonce", &c.Nonce},
	}
}

// Validate says all that is wrong with the claims themselves; whether they are true of a caller is Verify's
// business. The version and the scope hash are not looked at. Errors wrap ErrClaims.
//
// A value with white space around it is refused: the scope hash trims, so that two such values would pass for one.
func (c *Claims) Validate() error {
	var problems []error
	bad := func(claim, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%w: %s %s", ErrClaims, claim, fmt.Sprintf(format, args...)))
	}
	if c.Sub == "" {
		bad("sub", "is missing")
	}
	for _, t := range c.texts() {
		if !plain(*t.value) {
			bad(t.name, "has white space around it or is not UTF-8")
		}
	}
	for _, l := range []struct {
		name string
		list []string
	}{{"aud", c.Aud}, {"scope", c.Scope}} {
		if len(l.list) == 0 {
			bad(l.name, "is missing")
		}
		if slices.ContainsFunc(l.list, func(s string) bool { return s == "" || !plain(s) }) {
			bad(l.name, "has an empty entry or one with white space around it")
		}
	}
	switch {
	case c.Iat <= 0 || c.Exp <= 0 || c.Iat > maxTime || c.Exp > maxTime:
		bad("iat, exp", "must both be there, in seconds since 1970")
	case c.Exp <= c.Iat:
		bad("exp", "is not after iat")
	}
	for _, h := range []struct{ name, value string }{
		{"policy_hash_b64u", c.PolicyHash},
		{"control_plane_policy_hash_b64u", c.ControlPlanePolicyHash},
		{"delegation_policy_hash_b64u", c.DelegationPolicyHash},
	} {
		if _, err := jcs.DecodeHash(h.value); h.value != "" && err != nil {
			bad(h.name, "is %v", err)
		}
	}
	c.validateRest(bad)
	return errors.Join(problems...)
}

func (c *Claims) validateRest(bad func(claim, format string, args ...any)) {
	if c.SpendCap != nil && !finiteCap(*c.SpendCap) {
		bad("spend_cap", "is not a finite number of at least 0")
	}
	if strings.Trim(c.DelegationSpendCapMinor, "0123456789") != "" {
		bad("delegation_spend_cap_minor", "is not decimal digits")
	}
	if c.DelegationExpiresAt < 0 || c.DelegationExpiresAt > maxTime {
		bad("delegation_expires_at", "is not a time in seconds since 1970")
	}
	switch c.TokenLane {
	case "", "legacy":
	case "canonical":
		if c.OwnerDID == "" || c.ControllerDID == "" || c.AgentDID == "" || c.AgentDID != c.Sub {
			bad("token_lane", "canonical asks for owner_did, controller_did and an agent_did that is the sub")
		}
	default:
		bad("token_lane", "is neither legacy nor canonical")
	}
	if c.Cnf != nil {
		if _, err := jcs.DecodeHash(c.Cnf.X5tS256); err != nil {
			bad("cnf", "x5t#S256 is %v", err)
		}
	}
}

func finiteCap(f float64) bool { return f >= 0 && !math.IsInf(f, 0) }

// plain says whether a value is its own trimmed form, in UTF-8.
func plain(s string) bool { return trim(s) == s && utf8.ValidString(s) }

// trim is JavaScript's String.prototype.trim: it takes the byte order mark for white space, and not U+0085.
func trim(s string) string {
	return strings.TrimFunc(s, func(r rune) bool {
		switch r {
		case '\t', '\n', '\v', '\f', '\r', ' ', 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000, 0xFEFF:
			return true
		}
		return r >= 0x2000 && r <= 0x200A
	})
}

// encode returns the claims as canonical JSON.
func (c *Claims) encode() ([]byte, error) { return jcs.Marshal(c) }

// parseClaims reads a token's claims. The error is a *jcs.Error where the JSON itself is at fault, else it wraps
// ErrClaims; in that case the version has been read.
func parseClaims(data []byte) (Claims, error) {
	var c Claims
	text := make(map[string]*string, 20)
	for _, t := range c.texts() {
		text[t.name] = t.value
	}
	text["token_version"], text["token_scope_hash_b64u"] = &c.TokenVersion, &c.TokenScopeHash
	var first error
	err := jcs.Scan(data, func(key, value []byte) error {
		var fault error
		if dst, ok := text[string(key)]; ok {
			*dst, fault = jcs.String(value)
		} else {
			fault = c.set(string(key), value)
		}
		if fault != nil && first == nil {
			first = fmt.Errorf("%w: %s: %w", ErrClaims, key, fault)
		}
		return nil // the rest is read anyway: it may be no JSON, and the version counts first
	})
	if err != nil {
		return c, err
	}
	return c, first
}

var errInteger = errors.New("not a whole number")

// set reads a claim that is no string. Names that are not known are passed over.
func (c *Claims) set(key string, value []byte) error {
	switch key {
	case "aud":
		return c.Aud.UnmarshalJSON(value)
	case "scope":
		return jcs.Unmarshal(value, &c.Scope)
	case "iat":
		return seconds(value, &c.Iat, false)
	case "exp":
		return seconds(value, &c.Exp, false)
	case "delegation_expires_at":
		return seconds(value, &c.DelegationExpiresAt, true)
	case "spend_cap":
		c.SpendCap = new(float64)
		return jcs.Unmarshal(value, c.SpendCap)
	case "cnf":
		// Another method of confirmation than ours is refused, not passed over: it would bind the token to a client.
		c.Cnf = new(Confirmation)
		return jcs.Unmarshal(value, c.Cnf)
	}
	return nil
}

// seconds reads a time. The ecosystem rounds delegation_expires_at down.
func seconds(value []byte, dst *int64, floor bool) error {
	var f float64
	if err := json.Unmarshal(value, &f); err != nil || string(value) == "null" {
		return errInteger
	}
	if f != math.Floor(f) && !floor {
		return errInteger
	}
	if math.Abs(f) > maxTime {
		return errInteger
	}
	*dst = int64(math.Floor(f))
	return nil
}
