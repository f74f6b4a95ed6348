package contract

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"sallyport/signer/code"
)

// rule is one statement of the internal rule set, to which every dialect compiles.
type rule struct {
	sid       string
	deny      bool
	actions   []glob
	resources []glob
	when      []condition
	code      code.Code // of a denial by this rule; "" for POLICY_STATEMENT_DENIED
	why       string    // said with the denial
}

// truth is the outcome of a condition. Unknown must never work in favour of the call.
type truth uint8

const (
	no truth = iota
	yes
	unknown
)

// condition is one operator on one context key.
type condition struct {
	operator, key, expected string
	number                  float64
	prefix                  netip.Prefix
	pattern                 glob
}

// holds evaluates a condition as WIRE 5.5 does, but where upstream guesses from a value that it cannot read, or takes a
// missing key as "not equal", the answer is unknown.
func (c *condition) holds(ctx map[string]string) truth {
	got, present := ctx[c.key]
	if !present {
		if strings.Contains(c.operator, "Not") {
			return unknown
		}
		return no
	}
	switch c.operator {
	case "StringEquals":
		return is(got == c.expected)
	case "StringNotEquals":
		return is(got != c.expected)
	case "StringLike":
		return is(c.pattern.match(got))
	case "StringNotLike":
		return is(!c.pattern.match(got))
	case "Bool":
		if got = strings.ToLower(got); got != "true" && got != "false" {
			return unknown
		}
		return is(got == c.expected)
	case "IpAddress":
		addr, err := netip.ParseAddr(got)
		if err != nil {
			return unknown
		}
		return is(c.prefix.Contains(addr.Unmap()))
	default:
		return c.compare(got)
	}
}

func (c *condition) compare(got string) truth {
	n, err := strconv.ParseFloat(got, 64)
	if err != nil || n != n {
		return unknown
	}
	switch c.operator {
	case "NumericEquals":
		return is(n == c.number)
	case "NumericLessThan":
		return is(n < c.number)
	case "NumericGreaterThan":
		return is(n > c.number)
	}
	return unknown // the schema has let an operator through that is not evaluated: decide against the call
}

func is(b bool) truth {
	if b {
		return yes
	}
	return no
}

// applies says whether the rule speaks about the ask. unknown means that only a condition could not be decided.
func (r *rule) applies(a *Ask) truth {
	if !anyMatch(r.actions, a.Action) || !anyMatch(r.resources, a.Resource) {
		return no
	}
	out := yes
	for i := range r.when {
		switch r.when[i].holds(a.Context) {
		case no:
			return no
		case unknown:
			out = unknown
		case yes:
		}
	}
	return out
}

func anyMatch(globs []glob, s string) bool {
	for i := range globs {
		if globs[i].match(s) {
			return true
		}
	}
	return false
}

// evaluate applies the rule set: a Deny that applies, or that may apply, denies; else an Allow that surely applies
// allows; else the default denies.
func evaluate(rules []rule, a *Ask) Verdict {
	var allow []string
	var undecided *rule
	for i := range rules {
		r := &rules[i]
		t := r.applies(a)
		switch {
		case t == no:
		case r.deny:
			return Verdict{SIDs: []string{r.sid}, Denial: r.denial(a, t)}
		case t == unknown:
			undecided = r
		default:
			allow = append(allow, r.sid)
		}
	}
	switch {
	case allow != nil:
		return Verdict{Allow: true, SIDs: allow}
	case undecided != nil:
		return Verdict{SIDs: []string{undecided.sid}, Denial: code.Deny(code.PolicyConditionUnknown, "statement %s on %s", undecided.sid, a.Resource)}
	}
	return Verdict{Denial: code.Deny(code.PolicyActionNotAllowed, "%s on %s", a.Action, a.Resource)}
}

func (r *rule) denial(a *Ask, t truth) *code.Denial {
	switch {
	case t == unknown:
		return code.Deny(code.PolicyConditionUnknown, "statement %s on %s", r.sid, a.Resource)
	case r.code != "":
		return code.Deny(r.code, "%s", r.why)
	}
	return code.Deny(code.PolicyStatementDenied, "statement %s: %s on %s", r.sid, a.Action, a.Resource)
}

// atoms are the rule's parts, one for each action and resource, in words that tell equal parts apart from others.
func (r *rule) atoms() []string {
	verb := "allow"
	if r.deny {
		verb = "deny"
	}
	var when []string
	for _, c := range r.when {
		when = append(when, c.operator+" "+c.key+" "+strconv.Quote(c.expected))
	}
	slices.Sort(when)
	tail := ""
	if when != nil {
		tail = " when " + strings.Join(when, " and ")
	}
	var out []string
	for _, a := range r.actions {
		for _, res := range r.resources {
			kind := ""
			if res.fold {
				kind = " (without case)"
			}
			out = append(out, verb+" "+a.source+" on "+res.source+kind+tail)
		}
	}
	return out
}
