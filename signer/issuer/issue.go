package issuer

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"sallyport/signer/token"
)

func (i *Issuer) issueCanonical(*http.Request, string) (any, *refusal) { return nil, noControlPlane() }

func (i *Issuer) issue(r *http.Request, who string) (any, *refusal) {
	data, no := readBody(r, maxBody)
	if no != nil {
		return nil, no
	}
	q, no := parseIssue(data)
	if no != nil {
		return nil, no
	}
	if q.Tier == "" {
		q.Tier = DefaultTier
	}
	tier, ok := i.cfg.Policy.Tiers[q.Tier]
	if !ok {
		return nil, bad("INVALID_REQUEST", "tier %s is not configured", clip(q.Tier))
	}
	if no := tier.scopes(q.Scope); no != nil {
		return nil, no
	}
	if no := i.withdrawn(q); no != nil {
		return nil, no
	}
	iat, exp, no := q.life(&tier, i.cfg.Now())
	if no != nil {
		return nil, no
	}
	a, err := i.make(q, iat, exp, who)
	switch {
	case errors.Is(err, errNoKey):
		return nil, noSigning()
	case errors.Is(err, token.ErrClaims), errors.Is(err, token.ErrTooLarge):
		return nil, bad("INVALID_REQUEST", "%v", err)
	case err != nil:
		i.cfg.Log.Error("token not issued", slog.Any("error", err))
		return nil, refuse(http.StatusInternalServerError, "ISSUE_FAILED", "the token cannot be made or recorded; see the log of the signer")
	}
	return a, nil
}

// withdrawn refuses tokens that no gateway would take: of a job or under a contract that was revoked. Ours.
func (i *Issuer) withdrawn(q *issueRequest) *refusal {
	if i.cfg.Revocations == nil {
		return nil
	}
	if _, yes := i.cfg.Revocations.Lookup(KindMission, q.MissionID); yes {
		return refuse(http.StatusConflict, "MISSION_REVOKED", "the job %s was withdrawn", clip(q.MissionID))
	}
	if _, yes := i.cfg.Revocations.Lookup(KindPolicy, q.PolicyHash); yes {
		return refuse(http.StatusConflict, "POLICY_REVOKED", "the contract %s was withdrawn", q.PolicyHash)
	}
	return nil
}

// issueAnswer is the ecosystem's.
type issueAnswer struct {
	Token             string        `json:"token"`
	TokenHash         string        `json:"token_hash"`
	TokenLane         string        `json:"token_lane"`
	PolicyHash        string        `json:"policy_hash_b64u,omitempty"`
	ScopeHash         string        `json:"token_scope_hash_b64u"`
	PaymentAccountDID string        `json:"payment_account_did,omitempty"`
	MissionID         string        `json:"mission_id,omitempty"`
	PolicyVersion     string        `json:"policy_version"`
	PolicyTier        string        `json:"policy_tier"`
	KID               string        `json:"kid"`
	Iat               int64         `json:"iat"`
	Exp               int64         `json:"exp"`
	Claims            *token.Claims `json:"claims"`
}

// issuance is what is kept of a token: never the token.
type issuance struct {
	TokenHash  string   `json:"token_hash"`
	ScopeHash  string   `json:"token_scope_hash_b64u"`
	JTI        string   `json:"jti"`
	KID        string   `json:"kid"`
	Sub        string   `json:"sub"`
	Aud        []string `json:"aud"`
	Scope      []string `json:"scope"`
	MissionID  string   `json:"mission_id,omitempty"`
	PolicyHash string   `json:"policy_hash_b64u,omitempty"`
	SingleUse  bool     `json:"single_use,omitempty"`
	Tier       string   `json:"tier"`
	Iat        int64    `json:"iat"`
	Exp        int64    `json:"exp"`
	IssuedBy   string   `json:"issued_by"`
}

var errNoKey = errors.New("the ring has no signing key")

// make signs the token, reads it back as a gateway would, and records it before anybody gets it.
func (i *Issuer) make(q *issueRequest, iat, exp int64, who string) (*issueAnswer, error) {
	key := i.cfg.Ring.Active()
	if key == nil {
		return nil, errNoKey
	}
	if q.JTI == "" {
		// Two tokens of one job in one second would else be one token, and withdrawn together.
		id, err := newUUID(i.cfg.Rand)
		if err != nil {
			return nil, err
		}
		q.JTI = id
	}
	raw, err := token.Issue(key, q.claims(iat, exp))
	if err != nil {
		return nil, fmt.Errorf("issue: %w", err)
	}
	t, denial := token.Verify(raw, i.keys(), q.Aud, time.Unix(iat, 0))
	if denial != nil {
		return nil, fmt.Errorf("the issued token does not verify: %w", denial)
	}
	line, err := json.Marshal(issuance{
		TokenHash: t.Hash, ScopeHash: t.TokenScopeHash, JTI: q.JTI, KID: t.KID, Sub: t.Sub, Aud: t.Aud, Scope: t.Scope,
		MissionID: t.MissionID, PolicyHash: t.PolicyHash, SingleUse: t.Nonce != "", Tier: q.Tier, Iat: iat, Exp: exp, IssuedBy: who,
	})
	if err != nil {
		return nil, fmt.Errorf("issuance record: %w", err)
	}
	if err := i.issued.append(line); err != nil {
		return nil, err
	}
	i.cfg.Log.Info("token issued", slog.String("token_hash", t.Hash), slog.String("sub", t.Sub), slog.String("mission_id", t.MissionID), slog.Int64("exp", exp))
	return &issueAnswer{
		Token: raw, TokenHash: t.Hash, TokenLane: q.TokenLane, PolicyHash: t.PolicyHash, ScopeHash: t.TokenScopeHash,
		PaymentAccountDID: t.PaymentAccountDID, MissionID: t.MissionID, PolicyVersion: i.cfg.Policy.Version, PolicyTier: q.Tier,
		KID: t.KID, Iat: iat, Exp: exp, Claims: &t.Claims,
	}, nil
}

// newUUID makes a random UUID (RFC 9562, version 4).
func newUUID(rand io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", fmt.Errorf("randomness: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], nil
}
