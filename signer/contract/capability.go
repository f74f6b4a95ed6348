package contract

import "slices"

// Pattern is a resource that a contract's statements speak of, for who has to write the same in another program's words.
// Whether a given ask is allowed is for Decide alone.
type Pattern struct {
	Source      string // as the statement has it, * and ** included
	Deny        bool
	Conditional bool // the statement has conditions: it does not always apply
}

// Patterns are the resources that the statements about an action name, in the contract's order, each once. Statements
// about endpoints (hosts and paths) are not among them: Bindings and Egress are.
func (c *Contract) Patterns(action string) []Pattern {
	var out []Pattern
	for i := range c.rules {
		r := &c.rules[i]
		if !anyMatch(r.actions, action) {
			continue
		}
		for j := range r.resources {
			p := Pattern{Source: r.resources[j].source, Deny: r.deny, Conditional: len(r.when) > 0}
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}
