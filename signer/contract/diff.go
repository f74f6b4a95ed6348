package contract

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Change is one difference between two contracts.
type Change struct {
	Widens  bool   `json:"widens"` // the new contract lets more pass
	Path    string `json:"path"`
	Message string `json:"message"`
}

// Diff says what a new contract changes. If it allows any call that the old one refuses, at least one change widens:
// a decision can only turn by an Allow that is new or a Deny that is gone, and both are listed.
func Diff(old, new *Contract) []Change {
	oldAllow, oldDeny := atomsOf(old)
	newAllow, newDeny := atomsOf(new)
	var out []Change
	list := func(widens bool, verb string, atoms []string) {
		for _, a := range atoms {
			out = append(out, Change{widens, "$", verb + " " + a})
		}
	}
	list(true, "adds", missing(newAllow, oldAllow))
	list(true, "removes", missing(oldDeny, newDeny))
	list(false, "removes", missing(oldAllow, newAllow))
	list(false, "adds", missing(newDeny, oldDeny))
	out = append(out, diffSecrets(old, new)...)
	return append(out, diffTerms(old, new)...)
}

func atomsOf(c *Contract) (allow, deny []string) {
	for i := range c.rules {
		if c.rules[i].deny {
			deny = append(deny, c.rules[i].atoms()...)
			continue
		}
		allow = append(allow, c.rules[i].atoms()...)
	}
	return sorted(allow), sorted(deny)
}

// missing are the members of a that b lacks.
func missing(a, b []string) []string {
	var out []string
	for _, s := range a {
		if _, found := slices.BinarySearch(b, s); !found {
			out = append(out, s)
		}
	}
	return out
}

func diffSecrets(old, new *Contract) []Change {
	var out []Change
	const path = "$.secrets.allowed_secret_classes"
	switch {
	case old.secrets != nil && new.secrets == nil:
		out = append(out, Change{true, path, "any secret class that the operator declared"})
	case old.secrets == nil && new.secrets != nil:
		out = append(out, Change{false, path, "only the named secret classes"})
	case old.secrets != nil:
		for _, s := range missing(sorted(new.secrets.AllowedClasses), sorted(old.secrets.AllowedClasses)) {
			out = append(out, Change{true, path, "adds class " + s})
		}
		for _, s := range missing(sorted(old.secrets.AllowedClasses), sorted(new.secrets.AllowedClasses)) {
			out = append(out, Change{false, path, "removes class " + s})
		}
	}
	return out
}

func diffTerms(old, new *Contract) []Change {
	var out []Change
	number := func(path string, a, b int64) {
		if a != b {
			// 0 means no bound, so it is the widest.
			out = append(out, Change{b == 0 || (a != 0 && b > a), path, fmt.Sprintf("%d becomes %d (0 is no bound)", a, b)})
		}
	}
	number("$.secrets.max_ttl_seconds", int64(old.MaxSecretTTL().Seconds()), int64(new.MaxSecretTTL().Seconds()))
	number("$.limits.max_request_bytes", old.limits.MaxRequestBytes, new.limits.MaxRequestBytes)
	if old.PinPolicyHash() != new.PinPolicyHash() {
		out = append(out, Change{!new.PinPolicyHash(), "$.auth.pin_policy_hash", fmt.Sprintf("becomes %v", new.PinPolicyHash())})
	}
	if a, b := old.CSTScopeHash(), new.CSTScopeHash(); a != b {
		out = append(out, Change{a != "", "$.auth.cst_scope_hash", fmt.Sprintf("%q becomes %q", a, b)})
	}
	if a, b := mustText(old.bindings), mustText(new.bindings); a != b {
		out = append(out, Change{true, "$.tools.bindings", a + " becomes " + b})
	}
	return out
}

func mustText(v any) string {
	b, _ := json.Marshal(v) // strings and lists only
	return string(b)
}
