package issuer

import (
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
	"sallyport/signer/token"
)

// revokeRequest names one thing to withdraw. Upstream knows token and token_hash; a job and a contract are ours.
type revokeRequest struct {
	Token      *string `json:"token"`
	TokenHash  *string `json:"token_hash"`
	MissionID  *string `json:"mission_id"`
	PolicyHash *string `json:"policy_hash_b64u"`
	Reason     string  `json:"reason"`
}

// revokeAnswer is the ecosystem's, with what else can be withdrawn in the place of token_hash.
type revokeAnswer struct {
	Status       string `json:"status"`
	TokenHash    string `json:"token_hash,omitempty"`
	MissionID    string `json:"mission_id,omitempty"`
	PolicyHash   string `json:"policy_hash_b64u,omitempty"`
	RevokedAt    int64  `json:"revoked_at"`
	RevokedAtISO string `json:"revoked_at_iso"`
	EventKey     string `json:"event_key"`
}

// parseRevoke reads what is to be withdrawn, and why.
func parseRevoke(data []byte) (Revocation, *refusal) {
	var q revokeRequest
	if no := decode(data, &q); no != nil {
		return Revocation{}, no
	}
	rev := Revocation{Reason: q.Reason}
	named := 0
	for _, is := range []struct {
		value *string
		kind  Kind
	}{{q.Token, KindToken}, {q.TokenHash, KindToken}, {q.MissionID, KindMission}, {q.PolicyHash, KindPolicy}} {
		if is.value != nil {
			named++
			rev.Kind, rev.Value = is.kind, *is.value
		}
	}
	if named != 1 {
		return Revocation{}, bad("INVALID_REQUEST", "name one of token, token_hash, mission_id and policy_hash_b64u")
	}
	if len(q.Reason) > maxReason || strings.ContainsFunc(q.Reason, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return Revocation{}, bad("INVALID_REQUEST", "reason: at most %d bytes without control characters", maxReason)
	}
	switch {
	case q.Token != nil:
		if !token.Looks(rev.Value) {
			return Revocation{}, bad("INVALID_REQUEST", "token: that is no scoped token")
		}
		rev.Value = token.Hash(rev.Value)
	case q.TokenHash != nil:
		rev.Value = strings.ToLower(rev.Value)
		if !tokenHash.MatchString(rev.Value) {
			return Revocation{}, bad("INVALID_TOKEN_HASH", "token_hash: it must be the 64 hex digits of the token's SHA-256")
		}
	case q.MissionID != nil:
		if !plainText(rev.Value, maxMission) {
			return Revocation{}, bad("INVALID_REQUEST", "mission_id: 1 to %d bytes, not padded with spaces", maxMission)
		}
	case q.PolicyHash != nil:
		if _, err := jcs.DecodeHash(rev.Value); err != nil {
			return Revocation{}, bad("POLICY_HASH_INVALID", "policy_hash_b64u: %v", err)
		}
	}
	return rev, nil
}

func (i *Issuer) revoke(r *http.Request, who string) (any, *refusal) {
	if i.cfg.Revocations == nil {
		return nil, noRevocations()
	}
	data, no := readBody(r, maxBody)
	if no != nil {
		return nil, no
	}
	rev, no := parseRevoke(data)
	if no != nil {
		return nil, no
	}
	rev.RevokedAt, rev.RevokedBy = i.cfg.Now().Unix(), who
	rev, already, err := i.cfg.Revocations.Revoke(rev)
	if err != nil {
		i.cfg.Log.Error("revocation not recorded", slog.String("kind", string(rev.Kind)), slog.Any("error", err))
		return nil, refuse(http.StatusServiceUnavailable, "REVOCATION_STORE_ERROR", "the revocation cannot be kept, so it is not in force; try again")
	}
	status := "already_revoked"
	if !already {
		status = "revoked"
		i.Refresh() // pushes it to every replica
		i.cfg.Log.Info("revoked", slog.String("kind", string(rev.Kind)), slog.String("value", rev.Value), slog.String("by", rev.RevokedBy), slog.String("reason", rev.Reason))
	}
	a := revokeAnswer{Status: status, RevokedAt: rev.RevokedAt, RevokedAtISO: iso(rev.RevokedAt), EventKey: rev.EventKey()}
	switch rev.Kind {
	case KindToken:
		a.TokenHash = rev.Value
	case KindMission:
		a.MissionID = rev.Value
	case KindPolicy:
		a.PolicyHash = rev.Value
	}
	return a, nil
}

func noRevocations() *refusal {
	return refuse(http.StatusServiceUnavailable, "REVOCATION_NOT_CONFIGURED", "this issuer keeps no revocations")
}

func iso(unix int64) string { return envelope.FormatTime(time.Unix(unix, 0)) }

// event is one entry of the feed. The record has the ecosystem's members; kind and the last two are ours.
type event struct {
	Sequence int         `json:"sequence,omitempty"`
	Key      string      `json:"key"`
	Record   eventRecord `json:"record"`
}

type eventRecord struct {
	Kind         Kind   `json:"kind"`
	TokenHash    string `json:"token_hash,omitempty"`
	MissionID    string `json:"mission_id,omitempty"`
	PolicyHash   string `json:"policy_hash_b64u,omitempty"`
	RevokedAt    int64  `json:"revoked_at"`
	RevokedAtISO string `json:"revoked_at_iso"`
	Reason       string `json:"reason,omitempty"`
	RevokedBy    string `json:"revoked_by"`
}

type eventsAnswer struct {
	StreamVersion string  `json:"stream_version,omitempty"`
	Events        []event `json:"events"`
	Cursor        string  `json:"cursor,omitempty"`
	ListComplete  bool    `json:"list_complete"`
}

func (i *Issuer) revocationEvents(r *http.Request, _ string) (any, *refusal) {
	return i.events(r)
}

// revocationStream is the same with a version and the position in this page; it is no stream upstream either.
func (i *Issuer) revocationStream(r *http.Request, _ string) (any, *refusal) {
	a, no := i.events(r)
	if no != nil {
		return nil, no
	}
	a.StreamVersion = "1"
	for n := range a.Events {
		a.Events[n].Sequence = n + 1
	}
	return a, nil
}

// Bounds of a page (WIRE 3.3).
const defaultPage, maxPage = 50, 200

func (i *Issuer) events(r *http.Request) (*eventsAnswer, *refusal) {
	if i.cfg.Revocations == nil {
		return nil, noRevocations()
	}
	query := r.URL.Query()
	limit := defaultPage
	if text := query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxPage {
			return nil, bad("INVALID_REQUEST", "limit: 1 to %d", maxPage)
		}
		limit = n
	}
	cursor := query.Get("cursor")
	if cursor != "" && !strings.HasPrefix(cursor, eventsPrefix) {
		return nil, bad("INVALID_REQUEST", "cursor: it must be one that an earlier page gave")
	}
	page, complete := i.cfg.Revocations.Events(cursor, limit)
	a := &eventsAnswer{Events: make([]event, 0, len(page)), ListComplete: complete}
	for _, e := range page {
		rec := eventRecord{Kind: e.Record.Kind, RevokedAt: e.Record.RevokedAt, RevokedAtISO: iso(e.Record.RevokedAt), Reason: e.Record.Reason, RevokedBy: e.Record.RevokedBy}
		switch e.Record.Kind {
		case KindToken:
			rec.TokenHash = e.Record.Value
		case KindMission:
			rec.MissionID = e.Record.Value
		case KindPolicy:
			rec.PolicyHash = e.Record.Value
		}
		a.Events = append(a.Events, event{Key: e.Key, Record: rec})
	}
	if !complete {
		a.Cursor = page[len(page)-1].Key
	}
	return a, nil
}
