package gate

import (
	"crypto/sha256"
	"sync"
	"time"

	"sallyport/signer/client"
	"sallyport/signer/code"
	"sallyport/signer/token"
)

// maxTokens bounds the cache of verified tokens; an entry is about a KiB.
const maxTokens = 8192

// tokens remembers which tokens verified, so that an agent's next call does not pay for the signature again. Only what
// cannot change is remembered: time, the key's window and revocation are looked at on every call, replay elsewhere.
type tokens struct {
	audience []string

	mu   sync.RWMutex
	good map[[sha256.Size]byte]verifiedToken
}

type verifiedToken struct {
	token *token.Token
	trust uint64 // version of the key set that it verified under
}

func newTokens(audience []string) *tokens {
	return &tokens{audience: audience, good: map[[sha256.Size]byte]verifiedToken{}}
}

// known tells whether a text is a token that verified before. Whether it still does is verify's to say.
func (c *tokens) known(raw string) bool {
	key := sha256.Sum256([]byte(raw))
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, ok := c.good[key]
	return ok
}

// verify returns the verified token. It is shared by every exchange that carries it and must not be changed.
func (c *tokens) verify(raw string, trust *client.Trust, now time.Time) (*token.Token, *code.Denial) {
	key := sha256.Sum256([]byte(raw))
	c.mu.RLock()
	hit, found := c.good[key]
	c.mu.RUnlock()
	if found && hit.trust == trust.Version && now.Before(time.Unix(hit.token.Exp, 0)) {
		if _, d := trust.Keys.Lookup(hit.token.KID, now); d != nil {
			return nil, d
		}
		return hit.token, nil
	}
	t, d := token.Verify(raw, trust.Keys, c.audience, now)
	if d != nil {
		return nil, d
	}
	c.mu.Lock()
	evictOne(c.good, maxTokens)
	c.good[key] = verifiedToken{t, trust.Version}
	c.mu.Unlock()
	return t, nil
}

// renewed is the token of t's holder that lives longest, of those that were shown to this process and are not withdrawn; nil
// where none lives longer than t. A holder is known by the job, the subject, the scope (the contract is part of it) and the
// client certificate: whoever renews a token says the same of all of them. Tokens without a job are nobody's renewal.
func (c *tokens) renewed(t *token.Token, trust *client.Trust) *token.Token {
	if t.MissionID == "" {
		return nil
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	best := t
	for _, v := range c.good {
		n := v.token
		if n.Exp > best.Exp && n.MissionID == t.MissionID && n.Sub == t.Sub && n.TokenScopeHash == t.TokenScopeHash && certificateOf(n) == certificateOf(t) && !trust.Revoked(n) {
			best = n
		}
	}
	if best == t {
		return nil
	}
	return best
}

func certificateOf(t *token.Token) string {
	if t.Cnf == nil {
		return ""
	}
	return t.Cnf.X5tS256
}
