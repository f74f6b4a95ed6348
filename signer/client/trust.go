package client

import (
	"sync/atomic"
	"time"

	"sallyport/signer/keyring"
	"sallyport/signer/token"
	"sallyport/signer/trust"
)

// Trust is an immutable snapshot of what the signer said about keys and withdrawals.
type Trust struct {
	Version uint64
	Keys    *keyring.KeySet

	tokens, missions, policies map[string]struct{}
	heard                      *atomic.Int64
}

// Trust returns the newest snapshot; nil before the first.
func (c *Client) Trust() *Trust { return c.trust.Load() }

func newTrust(s *trust.State, heard *atomic.Int64) *Trust {
	return &Trust{
		Version: s.Version, Keys: keyring.NewKeySet(s.Keys), heard: heard,
		tokens: set(s.RevokedTokens), missions: set(s.RevokedMissions), policies: set(s.RevokedPolicies),
	}
}

// NewTrust makes a snapshot that was heard at the given time, for tests of those who use one.
func NewTrust(s trust.State, heard time.Time) *Trust {
	h := new(atomic.Int64)
	h.Store(heard.UnixNano())
	return newTrust(&s, h)
}

func set(list []string) map[string]struct{} {
	m := make(map[string]struct{}, len(list))
	for _, s := range list {
		m[s] = struct{}{}
	}
	return m
}

// Revoked says whether the token, its job or its contract was withdrawn.
func (t *Trust) Revoked(k *token.Token) bool {
	_, byToken := t.tokens[k.Hash]
	_, byPolicy := t.policies[k.PolicyHash]
	if byToken || byPolicy {
		return true
	}
	_, byMission := t.missions[k.MissionID]
	return byMission && k.MissionID != ""
}

// Age is how long ago the signer last said anything, also that nothing has changed. A snapshot that is old by itself is
// young as long as the signer is heard.
func (t *Trust) Age(now time.Time) time.Duration { return now.Sub(time.Unix(0, t.heard.Load())) }
