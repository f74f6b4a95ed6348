package issuer

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Limits of a token request (WIRE 3.1).
const (
	maxScopes     = 64
	maxScopeChars = 128
	// MaxTTL is the longest life of a token, whatever a tier says.
	MaxTTL = time.Hour
	// DefaultTTL is a token's life when the request says none.
	DefaultTTL = 10 * time.Minute
	// DefaultTier is the tier of requests that name none.
	DefaultTier = "default"
)

// ScopePolicy says what each tier of callers may ask for.
type ScopePolicy struct {
	Version string
	Tiers   map[string]Tier
}

// Tier bounds the tokens of one kind of caller.
type Tier struct {
	MaxTTL          time.Duration // 0 means MaxTTL
	AllowWildcards  bool          // scopes with * in them
	AllowedScopes   []string      // exact; both lists empty means any scope
	AllowedPrefixes []string
}

// DefaultScopePolicy has the one tier "default": any scope without wildcards, up to an hour.
func DefaultScopePolicy() ScopePolicy {
	return ScopePolicy{Version: "1", Tiers: map[string]Tier{DefaultTier: {}}}
}

// Validate names everything that is wrong, at once.
func (p *ScopePolicy) Validate() error {
	var errs []error
	for name, t := range p.Tiers {
		if t.MaxTTL < 0 || t.MaxTTL > MaxTTL {
			errs = append(errs, fmt.Errorf("issuer: tier %q: max ttl %v must be at most %v", name, t.MaxTTL, MaxTTL))
		}
		if slices.Contains(t.AllowedPrefixes, "") {
			errs = append(errs, fmt.Errorf("issuer: tier %q: an empty prefix would allow every scope; leave both lists empty for that", name))
		}
	}
	return errors.Join(errs...)
}

func (t *Tier) maxTTL() time.Duration {
	if t.MaxTTL == 0 {
		return MaxTTL
	}
	return t.MaxTTL
}

// sensitivePrefix is of scopes that administer the control plane. They need the canonical lane, which needs a control
// plane; on the legacy lane nobody gets them.
const sensitivePrefix = "control:"

// scopes checks the scopes of a request against the tier.
func (t *Tier) scopes(scopes []string) *refusal {
	if len(scopes) == 0 {
		return bad("INVALID_REQUEST", "scope: name at least one, such as proxy:call")
	}
	if len(scopes) > maxScopes {
		return bad("SCOPE_TOO_LARGE", "scope: %d scopes, at most %d are carried", len(scopes), maxScopes)
	}
	for _, s := range scopes {
		switch {
		case len(s) > maxScopeChars:
			return bad("SCOPE_ITEM_TOO_LONG", "scope: one has %d characters, at most %d are carried", len(s), maxScopeChars)
		case !plainText(s, maxScopeChars):
			return bad("INVALID_REQUEST", "scope: %s is not a plain scope", clip(s))
		}
	}
	for _, s := range scopes {
		switch {
		case strings.Contains(s, "*") && !t.AllowWildcards:
			return bad("SCOPE_WILDCARD_NOT_ALLOWED", "scope %s: this tier has no wildcards", clip(s))
		case strings.HasPrefix(s, sensitivePrefix):
			return refuse(http.StatusForbidden, "LEGACY_SENSITIVE_SCOPE_FORBIDDEN", "scope %s needs a token of the canonical lane", clip(s))
		case !t.allows(s):
			return bad("SCOPE_NOT_ALLOWED", "scope %s is not among those of this tier", clip(s))
		}
	}
	return nil
}

func (t *Tier) allows(scope string) bool {
	if len(t.AllowedScopes) == 0 && len(t.AllowedPrefixes) == 0 {
		return true
	}
	return slices.Contains(t.AllowedScopes, scope) ||
		slices.ContainsFunc(t.AllowedPrefixes, func(p string) bool { return strings.HasPrefix(scope, p) })
}
