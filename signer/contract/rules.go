package contract

import (
	"slices"
	"strings"

	"sallyport/signer/code"
	"sallyport/signer/contract/args"
)

// rule is one statement of the internal rule set, to which every dialect compiles. It speaks about the asks whose action
// and resource match, where the resource is given by patterns or, for the network, by endpoints.
type rule struct {
	sid       string
	path      string // where it stands in the contract
	deny      bool
	actions   []glob
	resources []glob
	endpoints []endpoint
	way       bool       // made from an EgressRule
	unless    []endpoint // a Deny of the network that leaves these endpoints alone
	tools     []endpoint // that an Allow of the network leaves to tools
	args      *args.Set  // that an Allow of a tool's endpoint asks for besides
	when      []condition

	tool    string   // that the allowed ask is
	classes []string // of secrets that the allowed ask may use; nil where the dialect says nothing
	sids    []string // sid alone, made once
	code    code.Code
	why     string // said with a denial by code
}

func (c *Contract) addRule(r rule) {
	r.sids = []string{r.sid}
	c.rules = append(c.rules, r)
}

// applies says whether the rule speaks about the ask. unknown means that only a condition could not be decided.
func (r *rule) applies(a *Ask, t *target) truth {
	if !anyMatch(r.actions, a.Action) || !r.reaches(a, t) {
		return no
	}
	out := yes
	for i := range r.when {
		switch r.when[i].holds(a, r.deny) {
		case no:
			return no
		case unknown:
			out = unknown
		case yes:
		}
	}
	return out
}

func (r *rule) reaches(a *Ask, t *target) bool {
	switch {
	case a.Action == NetworkEgress && !t.plain: // what cannot be read as an endpoint is in no Allow and in every Deny
		return r.deny
	case a.Action == NetworkEgress && r.resources != nil:
		return slices.ContainsFunc(t.spellings(a.Resource, r.deny), func(s string) bool { return anyMatch(r.resources, s) })
	case r.endpoints == nil && r.unless == nil:
		return anyMatch(r.resources, a.Resource)
	}
	if r.unless != nil {
		return !anyReaches(r.unless, t)
	}
	if r.deny {
		return anyReading(r.endpoints, t)
	}
	return anyReaches(r.endpoints, t) && (r.tools == nil || !anyReading(r.tools, t))
}

// anyReading is anyReaches for the path with its escapes undone too, so that no escape leads around a Deny or a tool.
func anyReading(endpoints []endpoint, t *target) bool {
	if anyReaches(endpoints, t) {
		return true
	}
	if t.decoded == t.path {
		return false
	}
	decoded := *t
	decoded.path = t.decoded
	return anyReaches(endpoints, &decoded)
}

func anyMatch(globs []glob, s string) bool {
	for i := range globs {
		if globs[i].match(s) {
			return true
		}
	}
	return false
}

func anyReaches(endpoints []endpoint, t *target) bool {
	for i := range endpoints {
		if endpoints[i].match(t) {
			return true
		}
	}
	return false
}

// patterns are all that the rule matches texts with.
func (r *rule) patterns() []*glob {
	var out []*glob
	for _, list := range [][]glob{r.actions, r.resources} {
		for i := range list {
			out = append(out, &list[i])
		}
	}
	for i := range r.when {
		out = append(out, &r.when[i].pattern)
	}
	for _, list := range [][]endpoint{r.endpoints, r.unless, r.tools} {
		for i := range list {
			if list[i].path != nil {
				out = append(out, list[i].path)
			}
		}
	}
	return out
}

// atom is a part of a rule with one action and one resource. A rule is the union of its atoms, so two rule sets with the
// same atoms decide alike.
type atom struct {
	rule     *rule
	action   *glob
	resource *glob     // nil where endpoint is set, or the rule's unless
	endpoint *endpoint // nil where resource is set, or the rule's unless
}

func (r *rule) atoms() []atom {
	var out []atom
	for i := range r.actions {
		a := atom{rule: r, action: &r.actions[i]}
		if r.unless != nil {
			out = append(out, a)
		}
		for j := range r.resources {
			a.resource = &r.resources[j]
			out = append(out, a)
		}
		a.resource = nil
		for j := range r.endpoints {
			a.endpoint = &r.endpoints[j]
			out = append(out, a)
		}
	}
	return out
}

// String tells equal atoms apart from others, whatever rule they stand in.
func (a *atom) String() string {
	var b strings.Builder
	b.WriteString("allow ")
	if a.rule.deny {
		b.Reset()
		b.WriteString("deny ")
	}
	b.WriteString(a.action.source + " on ")
	switch {
	case a.resource != nil:
		b.WriteString(a.resource.source)
		if a.resource.fold {
			b.WriteString(" (without case)")
		}
	case a.endpoint != nil:
		b.WriteString(a.endpoint.String())
	default:
		b.WriteString("every endpoint")
		for i := range a.rule.unless {
			b.WriteString([]string{" but ", ", "}[min(i, 1)] + a.rule.unless[i].String())
		}
	}
	for i := range a.rule.tools {
		b.WriteString([]string{" but not ", ", "}[min(i, 1)] + a.rule.tools[i].String())
	}
	for i, w := range a.rule.conditions() {
		b.WriteString([]string{" when ", " and "}[min(i, 1)] + w)
	}
	return b.String()
}

// conditions are the rule's conditions as text, sorted.
func (r *rule) conditions() []string {
	var out []string
	for _, c := range r.when {
		out = append(out, c.key+" "+c.name+" \""+c.expected+"\"")
	}
	for _, source := range r.args.Sources() {
		out = append(out, "args "+source)
	}
	slices.Sort(out)
	return out
}

// covers says whether a surely applies wherever b does. Both must be Allows, or both Denies: an Allow counts only where
// all its conditions are met, a Deny where none is surely not met, and in both ways fewer conditions reach further.
func (a *atom) covers(b *atom) bool {
	if !a.action.covers(b.action) {
		return false
	}
	switch {
	case a.resource != nil && b.resource != nil:
		if !a.resource.covers(b.resource) {
			return false
		}
	case a.endpoint != nil && b.endpoint != nil:
		if !a.endpoint.covers(b.endpoint) || !a.leavesNoMore(b) {
			return false
		}
	case a.rule.unless != nil && b.rule.unless != nil:
		for i := range a.rule.unless {
			if !slices.ContainsFunc(b.rule.unless, func(e endpoint) bool { return e.covers(&a.rule.unless[i]) }) {
				return false
			}
		}
	default:
		return false
	}
	theirs := b.rule.conditions()
	return !slices.ContainsFunc(a.rule.conditions(), func(w string) bool { return !slices.Contains(theirs, w) })
}

// leavesNoMore says whether all that a leaves to tools is surely outside of b.
func (a *atom) leavesNoMore(b *atom) bool {
	for i := range a.rule.tools {
		left := &a.rule.tools[i]
		if left.overlaps(b.endpoint) && !slices.ContainsFunc(b.rule.tools, func(e endpoint) bool { return e.covers(left) }) {
			return false
		}
	}
	return true
}
