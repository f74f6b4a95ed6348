package issuer

import (
	"net/http"
	"time"

	"sallyport/signer/code"
	"sallyport/signer/keyring"
	"sallyport/signer/token"
)

type introspectRequest struct {
	Token *string `json:"token"`
}

// introspectAnswer is the ecosystem's; revoked_by_kind is ours.
type introspectAnswer struct {
	Active            bool     `json:"active"`
	Revoked           bool     `json:"revoked,omitempty"`
	RevokedAt         int64    `json:"revoked_at,omitempty"`
	RevokedAtISO      string   `json:"revoked_at_iso,omitempty"`
	RevokedByKind     Kind     `json:"revoked_by_kind,omitempty"`
	TokenHash         string   `json:"token_hash"`
	Sub               string   `json:"sub"`
	Aud               []string `json:"aud"`
	Scope             []string `json:"scope"`
	OwnerRef          string   `json:"owner_ref,omitempty"`
	OwnerDID          string   `json:"owner_did,omitempty"`
	ControllerDID     string   `json:"controller_did,omitempty"`
	AgentDID          string   `json:"agent_did,omitempty"`
	PolicyHash        string   `json:"policy_hash_b64u,omitempty"`
	ControlPolicyHash string   `json:"control_plane_policy_hash_b64u,omitempty"`
	ScopeHash         string   `json:"token_scope_hash_b64u"`
	PaymentAccountDID string   `json:"payment_account_did,omitempty"`
	SpendCap          *float64 `json:"spend_cap,omitempty"`
	MissionID         string   `json:"mission_id,omitempty"`

	DelegationID         string `json:"delegation_id,omitempty"`
	DelegatorDID         string `json:"delegator_did,omitempty"`
	DelegateDID          string `json:"delegate_did,omitempty"`
	DelegationPolicyHash string `json:"delegation_policy_hash_b64u,omitempty"`
	DelegationSpendCap   string `json:"delegation_spend_cap_minor,omitempty"`
	DelegationExpiresAt  int64  `json:"delegation_expires_at,omitempty"`

	TokenLane string `json:"token_lane,omitempty"`
	Iat       int64  `json:"iat"`
	Exp       int64  `json:"exp"`
	KID       string `json:"kid"`
	KIDSource string `json:"kid_source"`
}

func (i *Issuer) keys() *keyring.KeySet { return keyring.NewKeySet(i.cfg.Ring.VerifyKeys()) }

// introspect says what a token is worth. An invalid one is 401 with its code, as upstream and unlike RFC 7662. The codes
// are upstream's, the order is ours: the signature comes before any claim, and a token without kid is not tried
// against every key.
func (i *Issuer) introspect(r *http.Request, _ string) (any, *refusal) {
	data, no := readBody(r, maxBody)
	if no != nil {
		return nil, no
	}
	var q introspectRequest
	if no := decode(data, &q); no != nil {
		return nil, no
	}
	if q.Token == nil {
		return nil, bad("INVALID_REQUEST", "token: it is missing")
	}
	t, denial := i.verify(*q.Token)
	if denial != nil {
		return nil, refuse(http.StatusUnauthorized, string(denial.Code), "%s", denial.Message())
	}
	a := introspectAnswer{
		Active: true, TokenHash: t.Hash, Sub: t.Sub, Aud: t.Aud, Scope: t.Scope,
		OwnerRef: t.OwnerRef, OwnerDID: t.OwnerDID, ControllerDID: t.ControllerDID, AgentDID: t.AgentDID,
		PolicyHash: t.PolicyHash, ControlPolicyHash: t.ControlPlanePolicyHash, ScopeHash: t.TokenScopeHash,
		PaymentAccountDID: t.PaymentAccountDID, SpendCap: t.SpendCap, MissionID: t.MissionID,
		DelegationID: t.DelegationID, DelegatorDID: t.DelegatorDID, DelegateDID: t.DelegateDID,
		DelegationPolicyHash: t.DelegationPolicyHash, DelegationSpendCap: t.DelegationSpendCapMinor, DelegationExpiresAt: t.DelegationExpiresAt,
		TokenLane: t.TokenLane, Iat: t.Iat, Exp: t.Exp, KID: t.KID, KIDSource: "header",
	}
	if rev, yes := i.revokedAs(t); yes {
		a.Active, a.Revoked, a.RevokedAt, a.RevokedAtISO, a.RevokedByKind = false, true, rev.RevokedAt, iso(rev.RevokedAt), rev.Kind
	}
	return a, nil
}

// verify is for nobody in particular, so that the token's own audience is the right one; and without leeway, since the
// issuer's clock is the one that dated the token.
func (i *Issuer) verify(raw string) (*token.Token, *code.Denial) {
	unverified, denial := token.Unverified(raw)
	var audience []string
	if denial == nil {
		audience = unverified.Aud
	}
	now := i.cfg.Now()
	t, denial := token.Verify(raw, i.keys(), audience, now)
	switch {
	case denial != nil:
		return nil, denial
	case !now.Before(time.Unix(t.Exp, 0)):
		return nil, code.Deny(code.TokenExpired, "")
	}
	return t, nil
}

// revokedAs finds the withdrawal that hits a token: its own, its job's, its contract's.
func (i *Issuer) revokedAs(t *token.Token) (Revocation, bool) {
	if i.cfg.Revocations == nil {
		return Revocation{}, false
	}
	for _, is := range []struct {
		kind  Kind
		value string
	}{{KindToken, t.Hash}, {KindMission, t.MissionID}, {KindPolicy, t.PolicyHash}} {
		if rev, yes := i.cfg.Revocations.Lookup(is.kind, is.value); yes {
			return rev, true
		}
	}
	return Revocation{}, false
}
