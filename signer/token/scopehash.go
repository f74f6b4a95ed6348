package token

import (
	"slices"
	"strings"

	"sallyport/signer/jcs"
)

// ScopeHash returns token_scope_hash_b64u as these claims must carry it: the JCS hash of what the token allows,
// without the times, jti, nonce and lane, so that a token issued again for the same job has the same hash.
func ScopeHash(c Claims) string { return scopeHash(&c, c.PolicyHash) }

// ScopeHashWithoutPin is the scope hash computed as if the token were pinned to no contract. A contract names its
// tokens by this form (auth.cst_scope_hash), since it cannot hold a hash that covers its own.
func ScopeHashWithoutPin(c Claims) string { return scopeHash(&c, "") }

// scopeHash writes the canonical object by hand, its members in UTF-16 order: this runs for every call, and all
// the names are known.
func scopeHash(c *Claims, pin string) string {
	o := object{b: make([]byte, 0, 512)}
	o.text("agent_did", c.AgentDID)
	o.list("aud", c.Aud)
	o.text("control_plane_policy_hash_b64u", c.ControlPlanePolicyHash)
	o.text("controller_did", c.ControllerDID)
	o.text("delegate_did", c.DelegateDID)
	if c.DelegationExpiresAt > 0 {
		o.number("delegation_expires_at", float64(c.DelegationExpiresAt))
	}
	o.text("delegation_id", c.DelegationID)
	o.text("delegation_policy_hash_b64u", c.DelegationPolicyHash)
	if minor := trim(c.DelegationSpendCapMinor); strings.Trim(minor, "0123456789") == "" {
		o.text("delegation_spend_cap_minor", minor)
	}
	o.text("delegator_did", c.DelegatorDID)
	o.text("mission_id", c.MissionID)
	o.text("owner_did", c.OwnerDID)
	o.text("owner_ref", c.OwnerRef)
	o.text("payment_account_did", c.PaymentAccountDID)
	o.text("policy_hash_b64u", pin)
	o.list("scope", c.Scope)
	if c.SpendCap != nil && finiteCap(*c.SpendCap) {
		o.number("spend_cap", *c.SpendCap)
	}
	o.member("sub")
	o.b = jcs.AppendString(o.b, trim(c.Sub))
	o.text("token_version", Version)
	return jcs.Hash(append(o.b, '}'))
}

// object is a JSON object in the making.
type object struct{ b []byte }

func (o *object) member(name string) {
	sep := byte(',')
	if len(o.b) == 0 {
		sep = '{'
	}
	o.b = append(jcs.AppendString(append(o.b, sep), name), ':')
}

// text writes a string member, trimmed, unless it is blank.
func (o *object) text(name, value string) {
	if value = trim(value); value != "" {
		o.member(name)
		o.b = jcs.AppendString(o.b, value)
	}
}

func (o *object) number(name string, value float64) {
	o.member(name)
	o.b = jcs.AppendNumber(o.b, value)
}

// list writes a set of strings: trimmed, without empty ones, sorted, each once.
func (o *object) list(name string, values []string) {
	set := make([]string, 0, len(values))
	for _, v := range values {
		if v = trim(v); v != "" {
			set = append(set, v)
		}
	}
	slices.SortFunc(set, jcs.Compare)
	o.member(name)
	o.b = append(o.b, '[')
	for i, v := range slices.Compact(set) {
		if i > 0 {
			o.b = append(o.b, ',')
		}
		o.b = jcs.AppendString(o.b, v)
	}
	o.b = append(o.b, ']')
}
