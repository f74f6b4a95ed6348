package issuer

import (
	"math"
	"net/http"
	"regexp"
	"slices"
	"time"

	"sallyport/signer/jcs"
	"sallyport/signer/token"
)

// issueRequest is a token to be made: the claims that a caller may choose, and for how long.
type issueRequest struct {
	Sub    string         `json:"sub"`
	Aud    token.Audience `json:"aud"`
	Scope  []string       `json:"scope"`
	TTLSec *float64       `json:"ttl_sec"`
	Exp    *float64       `json:"exp"`
	Tier   string         `json:"tier"`

	OwnerRef          string   `json:"owner_ref"`
	OwnerDID          string   `json:"owner_did"`
	ControllerDID     string   `json:"controller_did"`
	AgentDID          string   `json:"agent_did"`
	PolicyHash        string   `json:"policy_hash_b64u"`
	ControlPolicyHash string   `json:"control_plane_policy_hash_b64u"`
	PaymentAccountDID string   `json:"payment_account_did"`
	SpendCap          *float64 `json:"spend_cap"`
	MissionID         string   `json:"mission_id"`
	TokenLane         string   `json:"token_lane"`
	JTI               string   `json:"jti"`
	Nonce             string   `json:"nonce"`

	DelegationID         string   `json:"delegation_id"`
	DelegatorDID         string   `json:"delegator_did"`
	DelegateDID          string   `json:"delegate_did"`
	DelegationPolicyHash string   `json:"delegation_policy_hash_b64u"`
	DelegationSpendCap   string   `json:"delegation_spend_cap_minor"`
	DelegationExpiresAt  *float64 `json:"delegation_expires_at"`

	// Cnf binds the token to a client certificate (RFC 8705); ours.
	Cnf *token.Confirmation `json:"cnf"`
}

const (
	laneLegacy    = "legacy"
	laneCanonical = "canonical"
	maxClaim      = 512 // bytes of any one claim
	maxAudiences  = 16
)

var (
	didSyntax  = regexp.MustCompile(`^did:[a-z0-9]+:[a-zA-Z0-9._%-]+$`)
	uuidSyntax = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	minorUnits = regexp.MustCompile(`^[0-9]{1,30}$`)
)

// parseIssue reads a request and checks everything that does not depend on time or tier.
func parseIssue(data []byte) (*issueRequest, *refusal) {
	var q issueRequest
	if no := decode(data, &q); no != nil {
		return nil, no
	}
	if no := q.identities(); no != nil {
		return nil, no
	}
	if no := q.delegation(); no != nil {
		return nil, no
	}
	return &q, q.lane()
}

func (q *issueRequest) identities() *refusal {
	if !plainText(q.Sub, maxClaim) {
		return bad("INVALID_REQUEST", "sub: who the token is for, 1 to %d bytes, not padded with spaces", maxClaim)
	}
	if len(q.Aud) == 0 || len(q.Aud) > maxAudiences || slices.ContainsFunc(q.Aud, func(a string) bool { return !plainText(a, maxClaim) }) {
		return bad("INVALID_REQUEST", "aud: 1 to %d audiences, such as the gateway's", maxAudiences)
	}
	for _, c := range []struct{ name, value, code string }{
		{"owner_did", q.OwnerDID, "OWNER_DID_INVALID"},
		{"controller_did", q.ControllerDID, "CONTROLLER_DID_INVALID"},
		{"agent_did", q.AgentDID, "AGENT_DID_INVALID"},
		{"delegator_did", q.DelegatorDID, "DELEGATOR_DID_INVALID"},
		{"delegate_did", q.DelegateDID, "DELEGATE_DID_INVALID"},
		{"payment_account_did", q.PaymentAccountDID, "PAYMENT_ACCOUNT_CLAIM_INVALID"},
	} {
		if c.value != "" && (len(c.value) > maxClaim || !didSyntax.MatchString(c.value)) {
			return bad(c.code, "%s: that is no DID", c.name)
		}
	}
	for _, c := range []struct{ name, value, code string }{
		{"policy_hash_b64u", q.PolicyHash, "POLICY_HASH_INVALID"},
		{"control_plane_policy_hash_b64u", q.ControlPolicyHash, "CONTROL_POLICY_HASH_INVALID"},
		{"delegation_policy_hash_b64u", q.DelegationPolicyHash, "DELEGATION_POLICY_HASH_INVALID"},
	} {
		if c.value == "" {
			continue
		}
		if _, err := jcs.DecodeHash(c.value); err != nil {
			return bad(c.code, "%s: %v", c.name, err)
		}
	}
	return q.others()
}

func (q *issueRequest) others() *refusal {
	for name, value := range map[string]string{"owner_ref": q.OwnerRef, "mission_id": q.MissionID, "delegation_id": q.DelegationID} {
		if value != "" && !plainText(value, maxMission) {
			return bad("INVALID_REQUEST", "%s: at most %d bytes, not padded with spaces", name, maxMission)
		}
	}
	for name, value := range map[string]string{"jti": q.JTI, "nonce": q.Nonce} {
		if value != "" && !uuidSyntax.MatchString(value) {
			return bad("INVALID_REQUEST", "%s: it must be a UUID in lower case", name)
		}
	}
	if q.SpendCap != nil && *q.SpendCap < 0 {
		return bad("INVALID_REQUEST", "spend_cap: it must not be negative")
	}
	if q.Cnf != nil {
		if _, err := jcs.DecodeHash(q.Cnf.X5tS256); err != nil {
			return bad("INVALID_REQUEST", "cnf: x5t#S256: %v", err)
		}
	}
	return nil
}

// delegation is checked as upstream does, and then refused: it needs the canonical lane.
func (q *issueRequest) delegation() *refusal {
	given := q.DelegationID != "" || q.DelegatorDID != "" || q.DelegateDID != "" || q.DelegationPolicyHash != "" ||
		q.DelegationSpendCap != "" || q.DelegationExpiresAt != nil
	switch {
	case !given:
		return nil
	case q.DelegationSpendCap != "" && !minorUnits.MatchString(q.DelegationSpendCap):
		return bad("DELEGATION_SPEND_CAP_INVALID", "delegation_spend_cap_minor: decimal digits only")
	case q.DelegationExpiresAt != nil && !positiveInt(*q.DelegationExpiresAt):
		return bad("INVALID_REQUEST", "delegation_expires_at: Unix seconds")
	case q.DelegateDID != "" && q.DelegateDID != q.Sub:
		return bad("DELEGATE_DID_SUB_MISMATCH", "delegate_did is not sub")
	case q.DelegatorDID != "" && q.OwnerDID != "" && q.DelegatorDID != q.OwnerDID:
		return bad("DELEGATOR_OWNER_MISMATCH", "delegator_did is not owner_did")
	case q.TokenLane != laneCanonical:
		return bad("DELEGATION_CANONICAL_REQUIRED", "a delegated token needs token_lane canonical")
	}
	return nil
}

// lane lets through the legacy lane, which is the only one without a control plane.
func (q *issueRequest) lane() *refusal {
	switch q.TokenLane {
	case "", laneLegacy:
		q.TokenLane = laneLegacy
		return nil
	case laneCanonical:
	default:
		return bad("TOKEN_LANE_INVALID", "token_lane: legacy or canonical")
	}
	switch {
	case q.OwnerDID == "" || q.ControllerDID == "" || q.AgentDID == "":
		return bad("CANONICAL_CHAIN_REQUIRED", "the canonical lane needs owner_did, controller_did and agent_did")
	case q.AgentDID != q.Sub:
		return bad("CANONICAL_AGENT_SUB_MISMATCH", "agent_did is not sub")
	}
	return noControlPlane()
}

func noControlPlane() *refusal {
	return refuse(http.StatusServiceUnavailable, "CONTROL_PLANE_NOT_CONFIGURED", "this issuer has no control plane, so it issues no tokens of the canonical lane")
}

func positiveInt(f float64) bool { return f > 0 && f == math.Trunc(f) && f <= 1<<53 }

// life is from when to when the token counts, in Unix seconds.
func (q *issueRequest) life(t *Tier, now time.Time) (iat, exp int64, no *refusal) {
	iat = now.Unix()
	switch {
	case q.TTLSec != nil && q.Exp != nil:
		return 0, 0, bad("INVALID_REQUEST", "give ttl_sec or exp, not both")
	case q.TTLSec != nil:
		if !positiveInt(*q.TTLSec) {
			return 0, 0, bad("INVALID_TTL", "ttl_sec: whole seconds above 0")
		}
		if *q.TTLSec > t.maxTTL().Seconds() {
			return 0, 0, tooLong(t)
		}
		exp = iat + int64(*q.TTLSec)
	case q.Exp != nil:
		if !positiveInt(*q.Exp) {
			return 0, 0, bad("INVALID_EXP", "exp: Unix seconds")
		}
		exp = int64(*q.Exp)
	default:
		exp = iat + int64(min(DefaultTTL, t.maxTTL()).Seconds())
	}
	switch {
	case exp <= iat:
		return 0, 0, bad("TTL_EXPIRED", "exp: that moment has passed")
	case float64(exp-iat) > t.maxTTL().Seconds():
		return 0, 0, tooLong(t)
	}
	return iat, exp, nil
}

func tooLong(t *Tier) *refusal {
	return bad("TTL_TOO_LONG", "a token of this tier lives %d seconds at most", int64(t.maxTTL().Seconds()))
}

// claims are the request's, with its life. The lane is always written, as upstream does.
func (q *issueRequest) claims(iat, exp int64) token.Claims {
	return token.Claims{
		Sub: q.Sub, Aud: q.Aud, Scope: q.Scope, Iat: iat, Exp: exp,
		OwnerRef: q.OwnerRef, OwnerDID: q.OwnerDID, ControllerDID: q.ControllerDID, AgentDID: q.AgentDID,
		PolicyHash: q.PolicyHash, ControlPlanePolicyHash: q.ControlPolicyHash, PaymentAccountDID: q.PaymentAccountDID,
		SpendCap: q.SpendCap, MissionID: q.MissionID, TokenLane: q.TokenLane, JTI: q.JTI, Nonce: q.Nonce, Cnf: q.Cnf,
	}
}
