package contract

import (
	"fmt"
	"slices"
	"strings"
)

// Severity says whether a finding should stop a publication.
type Severity string

// The severities.
const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
)

// Finding is one thing about a valid contract that its author probably did not mean.
type Finding struct {
	Severity Severity `json:"severity"`
	Rule     string   `json:"rule"`
	Path     string   `json:"path"`
	Message  string   `json:"message"`
	Remedy   string   `json:"remedy"`
}

// Lint looks for what a contract's author probably did not mean.
func Lint(c *Contract) []Finding {
	var out []Finding
	out = append(out, lintDenyOnly(c)...)
	out = append(out, lintUnreachable(c)...)
	out = append(out, lintUnanchored(c)...)
	out = append(out, lintUnbound(c)...)
	out = append(out, lintNotEnforced(c)...)
	return out
}

func lintDenyOnly(c *Contract) []Finding {
	if slices.ContainsFunc(c.rules, func(r rule) bool { return !r.deny }) {
		return nil
	}
	return []Finding{{SeverityError, "deny-only", "$", "nothing is allowed, so every call is refused", "add what the job needs; what is not allowed is denied anyway"}}
}

// lintUnreachable finds allowed parts that an unconditional Deny covers whole.
func lintUnreachable(c *Contract) []Finding {
	var out []Finding
	for i := range c.rules {
		allow := &c.rules[i]
		if allow.deny {
			continue
		}
		for _, action := range allow.actions {
			for _, resource := range allow.resources {
				if d := coveredBy(c.rules, &action, &resource); d != nil {
					out = append(out, Finding{SeverityError, "unreachable", "statement " + allow.sid,
						fmt.Sprintf("%s on %s can never pass: %s denies it", action.source, resource.source, d.sid), "remove one of the two"})
				}
			}
		}
	}
	return out
}

func coveredBy(rules []rule, action, resource *glob) *rule {
	for i := range rules {
		d := &rules[i]
		if !d.deny || d.when != nil {
			continue
		}
		if slices.ContainsFunc(d.actions, func(g glob) bool { return g.covers(action) }) && slices.ContainsFunc(d.resources, func(g glob) bool { return g.covers(resource) }) {
			return d
		}
	}
	return nil
}

// lintUnanchored finds patterns whose beginning is open, so that a name that only ends like the intended one matches.
func lintUnanchored(c *Contract) []Finding {
	var out []Finding
	for i := range c.rules {
		r := &c.rules[i]
		if r.deny {
			continue
		}
		for _, res := range r.resources {
			name := res.source
			if res.fold {
				_, name, _ = strings.Cut(name, "/")
			}
			if len(name) > 1 && strings.HasPrefix(name, "*") && strings.Trim(name, "*") != "" && !strings.HasPrefix(name, "* ") {
				out = append(out, Finding{SeverityWarning, "unanchored", "statement " + r.sid,
					fmt.Sprintf("%s is open at its beginning, so any name that ends like it matches", res.source), "write the beginning out"})
			}
		}
	}
	return out
}

func lintUnbound(c *Contract) []Finding {
	var out []Finding
	for _, t := range c.tools {
		if _, ok := c.bindings[t]; !ok {
			out = append(out, Finding{SeverityWarning, "unbound-tool", "$.tools.allow",
				t + " is allowed but bound to no endpoint, so no call can be recognised as it", "add tools.bindings[\"" + t + "\"]"})
		}
	}
	return out
}

// lintNotEnforced names parts that this version reads and cannot carry out.
func lintNotEnforced(c *Contract) []Finding {
	var out []Finding
	for _, r := range c.rules {
		if r.deny && r.code != "" {
			out = append(out, Finding{SeverityError, "cannot-pass", "$." + r.sid, "no model call can pass: " + r.why, "remove the member or use a gateway that carries it out"})
		}
	}
	if strings.Contains(string(c.Payload), `"required_audit_packs":[`) && c.Kind == ClawV1 {
		out = append(out, Finding{SeverityWarning, "not-enforced", "$.required_audit_packs", "audit packs are not checked at the gateway", "check them where the evidence is verified"})
	}
	return out
}
