package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Change is one difference between two contracts.
type Change struct {
	Widens  bool   `json:"widens"` // the new contract may let more pass
	Path    string `json:"path"`   // in the new contract, or in the old one for what is gone
	Message string `json:"message"`
}

// Diff says what a new contract changes. If it allows any call that the old one refuses, at least one change widens: a
// decision can only turn by an Allow that is new or a Deny that is gone, and such a change counts as widening unless
// another rule is seen to cover it.
func Diff(old, new *Contract) []Change {
	oldAllow, oldDeny := atomsOf(old)
	newAllow, newDeny := atomsOf(new)
	var out []Change
	out = append(out, diffAtoms(newAllow, oldAllow, "adds: ", true)...)
	out = append(out, diffAtoms(oldDeny, newDeny, "removes: ", true)...)
	out = append(out, diffAtoms(oldAllow, newAllow, "removes: ", false)...)
	out = append(out, diffAtoms(newDeny, oldDeny, "adds: ", false)...)
	out = append(out, diffSecrets(old, new)...)
	out = append(out, diffTerms(old, new)...)
	out = append(out, diffRedaction(old, new)...)
	out = append(out, diffMembers(old, new)...)
	if len(out) == 0 && old.Hash != new.Hash {
		out = append(out, Change{false, "$", "only names or order are different"})
	}
	return out
}

func atomsOf(c *Contract) (allow, deny map[string]atom) {
	allow, deny = map[string]atom{}, map[string]atom{}
	for i := range c.rules {
		into := allow
		if c.rules[i].deny {
			into = deny
		}
		for _, a := range c.rules[i].atoms() {
			into[a.String()] = a
		}
	}
	return allow, deny
}

// maxComparisons keeps a diff of hostile contracts from running for hours; beyond it nothing counts as covered.
const maxComparisons = 1 << 22

// diffAtoms lists the atoms of a that b lacks. Where that may widen, it does unless an atom of b covers the one of a.
func diffAtoms(a, b map[string]atom, verb string, mayWiden bool) []Change {
	var out []Change
	left := maxComparisons
	others := slices.Collect(maps.Values(b))
	for _, text := range slices.Sorted(maps.Keys(a)) {
		if _, same := b[text]; same {
			continue
		}
		mine := a[text]
		widens := mayWiden
		for i := 0; widens && i < len(others) && left > 0; i, left = i+1, left-1 {
			widens = !others[i].covers(&mine)
		}
		out = append(out, Change{widens, mine.rule.path, verb + text})
	}
	return out
}

// diffSet lists what a set gains and loses; a gain widens.
func diffSet(path string, old, new []string) []Change {
	var out []Change
	for _, s := range sorted(new) {
		if !slices.Contains(old, s) {
			out = append(out, Change{true, path, "adds: " + s})
		}
	}
	for _, s := range sorted(old) {
		if !slices.Contains(new, s) {
			out = append(out, Change{false, path, "removes: " + s})
		}
	}
	return out
}

func diffSecrets(old, new *Contract) []Change {
	const path = "$.secrets.allowed_secret_classes"
	var out []Change
	switch {
	case old.secrets != nil && new.secrets == nil:
		out = append(out, Change{true, path, "any secret class that the operator declared"})
	case old.secrets == nil && new.secrets != nil:
		out = append(out, Change{false, path, "only the named secret classes"})
	case old.secrets != nil:
		out = diffSet(path, old.secrets.AllowedClasses, new.secrets.AllowedClasses)
	}
	return append(out, diffSet("$.tools.bindings", old.boundSecrets(), new.boundSecrets())...)
}

func (c *Contract) boundSecrets() []string {
	var out []string
	for name, b := range c.bindings {
		if b.SecretClass != "" {
			out = append(out, name+" uses the secret class "+b.SecretClass)
		}
	}
	return out
}

// network are the terms of egress that decide after the contract's own decision: which addresses, read or unread.
func (c *Contract) network() []string {
	var out []string
	for _, e := range c.egress {
		for _, cidr := range e.CIDRs {
			out = append(out, e.Host+" at private addresses "+cidr)
		}
		if e.Inspect != "" && e.Inspect != "full" {
			out = append(out, e.Host+" with inspection "+e.Inspect)
		}
	}
	return out
}

// diffSockets lists where WebSockets may be opened in one contract and not in the other.
func diffSockets(verb string, mayWiden bool, mine, others []endpoint) []Change {
	var out []Change
	for i := range mine {
		e := &mine[i]
		if !slices.ContainsFunc(others, func(o endpoint) bool { return o.covers(e) }) {
			out = append(out, Change{mayWiden, "$.egress.rules", verb + "WebSockets, whose frames nobody reads, on " + e.String()})
		}
	}
	return out
}

func diffTerms(old, new *Contract) []Change {
	out := diffSet("$.egress.rules", old.network(), new.network())
	out = append(out, diffSockets("adds: ", true, new.sockets, old.sockets)...)
	out = append(out, diffSockets("removes: ", false, old.sockets, new.sockets)...)
	number := func(path string, a, b int64) {
		if a != b { // 0 means no bound, so it is the widest
			out = append(out, Change{b == 0 || (a != 0 && b > a), path, fmt.Sprintf("%d becomes %d (0 is no bound)", a, b)})
		}
	}
	number("$.secrets.max_ttl_seconds", int64(old.MaxSecretTTL().Seconds()), int64(new.MaxSecretTTL().Seconds()))
	number("$.limits.max_request_bytes", old.limits.MaxRequestBytes, new.limits.MaxRequestBytes)
	if old.PinPolicyHash() != new.PinPolicyHash() {
		out = append(out, Change{!new.PinPolicyHash(), "$.auth.pin_policy_hash", fmt.Sprintf("becomes %v", new.PinPolicyHash())})
	}
	if a, b := old.CSTScopeHash(), new.CSTScopeHash(); a != b {
		// Another hash is another set of jobs; only from none to one is surely narrower.
		out = append(out, Change{a != "", "$.auth.cst_scope_hash", fmt.Sprintf("%q becomes %q", a, b)})
	}
	return out
}

// decided are the members whose differences are told by what they decide.
var decided = []string{"allowed_models", "allowed_providers", "auth", "egress", "egress_allowlist", "limits", "models", "redaction", "redaction_rules", "secrets", "statements", "tools"}

// diffMembers lists the members that say something without deciding anything, so that no difference goes unseen.
func diffMembers(old, new *Contract) []Change {
	a, b := old.members(), new.members()
	names := slices.Concat(slices.Collect(maps.Keys(a)), slices.Collect(maps.Keys(b)))
	var out []Change
	for _, name := range sorted(names) {
		if !slices.Contains(decided, name) && !bytes.Equal(a[name], b[name]) {
			out = append(out, Change{false, "$" + step(name), "is different"})
		}
	}
	return out
}

func (c *Contract) members() map[string]json.RawMessage {
	var out map[string]json.RawMessage
	if err := json.Unmarshal(c.Payload, &out); err != nil {
		return nil // cannot be: Parse has read it
	}
	return out
}
