package contract

import (
	"fmt"
	"maps"
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
	out := slices.Clone(c.notes)
	out = append(out, lintDenyOnly(c)...)
	out = append(out, lintUnreachable(c)...)
	out = append(out, lintUnanchored(c)...)
	out = append(out, lintUnbound(c)...)
	out = append(out, lintToolHosts(c)...)
	out = append(out, lintTools(c)...)
	return append(out, lintKeys(c)...)
}

func (c *Contract) note(s Severity, rule, path, message, remedy string) {
	c.notes = append(c.notes, Finding{s, rule, path, message, remedy})
}

func (c *Contract) notEnforced(path, remedy string) {
	c.note(SeverityWarning, "not-enforced", path, "is read and not checked at the gateway", remedy)
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
	seen := map[string]bool{}
	for i := range c.rules {
		if c.rules[i].deny {
			continue
		}
		for _, a := range c.rules[i].atoms() {
			d := deniedBy(c.rules, &a)
			if d == nil || seen[a.String()] {
				continue
			}
			seen[a.String()] = true
			out = append(out, Finding{SeverityError, "unreachable", a.rule.path, a.String() + " can never pass: " + d.sid + " denies it", "remove one of the two"})
		}
	}
	return out
}

func deniedBy(rules []rule, a *atom) *rule {
	for i := range rules {
		d := &rules[i]
		if !d.deny || d.when != nil || !slices.ContainsFunc(d.actions, func(g glob) bool { return g.covers(a.action) }) {
			continue
		}
		switch {
		case a.resource != nil && slices.ContainsFunc(d.resources, func(g glob) bool { return g.covers(a.resource) }):
			return d
		case a.endpoint == nil:
		case slices.ContainsFunc(d.endpoints, func(e endpoint) bool { return e.covers(a.endpoint) }):
			return d
		case d.unless != nil && a.rule.tool == "" && !slices.ContainsFunc(d.unless, func(e endpoint) bool { return e.overlaps(a.endpoint) }):
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
			if strings.HasPrefix(name, "*") && strings.Trim(name, "*/") != "" {
				out = append(out, Finding{SeverityWarning, "unanchored", r.path,
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
				t + " is allowed but bound to no endpoint, so no call on the network can be recognised as it", "add tools.bindings[\"" + t + "\"]"})
		}
	}
	return out
}

// lintToolHosts finds egress rules that meet the hosts of tools: they open them beside the tools, or do not reach them at all.
func lintToolHosts(c *Contract) []Finding {
	var out []Finding
	for i, e := range c.egress {
		at, seen := fmt.Sprintf("$.egress.rules[%d]", i), []string{}
		for _, tool := range c.endpoints() {
			if slices.Contains(seen, tool.host) {
				continue
			}
			seen = append(seen, tool.host)
			switch {
			case e.Host == tool.host:
				out = append(out, Finding{SeverityWarning, "open-tool-host", at,
					"opens " + e.Host + " beside the tools that are bound there; such calls carry no credential and no rule about arguments holds for them",
					"bind a tool to what else is needed there, or remove the rule"})
			case c.closed(e, tool.host):
				out = append(out, Finding{SeverityWarning, "closed-tool-host", at,
					"does not reach " + tool.host + ", because tools are bound there", "name that host in a rule of its own if it should be open beside its tools"})
			}
		}
	}
	return out
}

// lintTools finds rules about arguments that say nothing of the call, and tools of which a call could be either.
func lintTools(c *Contract) []Finding {
	var out []Finding
	names := slices.Sorted(maps.Keys(c.bound))
	for i, name := range names {
		at := "$.tools.bindings" + step(name)
		for _, n := range c.args[name].Constant() {
			out = append(out, Finding{SeverityError, "constant-rule", fmt.Sprintf("%s.args[%d]", at, n),
				"names nothing of the call, so it is true or false for every one", "name path, query, body, method or host"})
		}
		mine := c.bound[name]
		for _, other := range names[i+1:] {
			if theirs := c.bound[other]; mine.covers(&theirs) || theirs.covers(&mine) {
				out = append(out, Finding{SeverityWarning, "overlapping-tools", at,
					"a call can be both " + name + " and " + other + "; it is the one that stands first in tools.allow of those whose args hold", "make their methods or paths different"})
			}
		}
	}
	return out
}

// lintKeys finds conditions on what this gateway cannot know before a call leaves.
func lintKeys(c *Contract) []Finding {
	var out []Finding
	for i := range c.rules {
		r := &c.rules[i]
		for _, w := range r.when {
			if _, known := knownKeys[w.key]; known {
				continue
			}
			effect := "so this Allow never applies"
			if r.deny {
				effect = "so this Deny applies to every call that it could be meant for"
			}
			out = append(out, Finding{SeverityError, "unknown-key", r.path, w.key + " is not known at the gateway before a call leaves, " + effect, "use another key, or check it where the evidence is verified"})
		}
	}
	return out
}
