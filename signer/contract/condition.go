package contract

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// truth is the outcome of a condition. Unknown must never work in favour of the call.
type truth uint8

const (
	no truth = iota
	yes
	unknown
)

func is(b bool) truth {
	if b {
		return yes
	}
	return no
}

type operator uint8

const (
	stringEquals operator = iota
	stringLike
	numericEquals
	numericLessThan
	numericGreaterThan
	boolEquals
	ipAddress
)

// operators are the nine of v2; two are negations.
var operators = map[string]struct {
	op      operator
	negated bool
}{
	"StringEquals":       {stringEquals, false},
	"StringNotEquals":    {stringEquals, true},
	"StringLike":         {stringLike, false},
	"StringNotLike":      {stringLike, true},
	"NumericEquals":      {numericEquals, false},
	"NumericLessThan":    {numericLessThan, false},
	"NumericGreaterThan": {numericGreaterThan, false},
	"Bool":               {boolEquals, false},
	"IpAddress":          {ipAddress, false},
}

// condition is one operator on one context key.
type condition struct {
	name, key, expected string // as written
	op                  operator
	negated             bool
	number              float64
	truth               bool
	prefix              netip.Prefix
	pattern             glob
}

func newCondition(name, key, expected string) (condition, error) {
	o, ok := operators[name]
	if !ok {
		return condition{}, fmt.Errorf("no such operator")
	}
	c := condition{name: name, key: key, expected: expected, op: o.op, negated: o.negated}
	switch o.op {
	case stringEquals:
	case stringLike:
		c.pattern = v2Glob(expected)
	case numericEquals, numericLessThan, numericGreaterThan:
		if c.number, ok = number(expected); !ok {
			return c, fmt.Errorf("%q is not a number", expected)
		}
	case boolEquals:
		if c.truth, ok = boolean(expected); !ok {
			return c, fmt.Errorf("%q is neither true nor false", expected)
		}
	case ipAddress:
		var err error
		if c.prefix, err = parsePrefix(expected); err != nil {
			return c, err
		}
	}
	return c, nil
}

// holds evaluates the condition for an ask. Where upstream guesses from a value that it cannot read, or takes a missing key
// as "not equal", the outcome is unknown. A key that is missing on a plain operator is not fulfilled; but in a Deny
// that could switch the Deny off, so there it is unknown too, unless the key is about another kind of action.
func (c *condition) holds(a *Ask, deny bool) truth {
	got, present := a.Context[c.key]
	switch {
	case !present && (c.negated || (deny && concerns(c.key, a.Action))):
		return unknown
	case !present:
		return no
	case !readable(got):
		return unknown
	}
	t := c.compare(got)
	if c.negated && t != unknown {
		return is(t == no)
	}
	return t
}

func (c *condition) compare(got string) truth {
	switch c.op {
	case stringEquals:
		return is(got == c.expected)
	case stringLike:
		return is(c.pattern.match(got))
	case boolEquals:
		if b, ok := boolean(got); ok {
			return is(b == c.truth)
		}
		return unknown
	case ipAddress:
		if addr, err := netip.ParseAddr(got); err == nil && addr.Zone() == "" {
			return is(c.prefix.Contains(addr.Unmap()))
		}
		return unknown
	case numericEquals, numericLessThan, numericGreaterThan:
		n, ok := number(got)
		if !ok {
			return unknown
		}
		return is(c.op == numericEquals && n == c.number || c.op == numericLessThan && n < c.number ||
			c.op == numericGreaterThan && n > c.number)
	}
	return unknown
}

// number reads a plain decimal number; strconv alone would also take infinities, NaN, hexadecimal and underscores.
func number(s string) (float64, bool) {
	if strings.Trim(s, "+-.0123456789eE") != "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil
}

func boolean(s string) (value, ok bool) {
	switch {
	case strings.EqualFold(s, "true"):
		return true, true
	case strings.EqualFold(s, "false"):
		return false, true
	}
	return false, false
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a CIDR", s)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is an IPv4 address in IPv6 form; write the IPv4 form", s)
	}
	return p.Masked(), nil
}

// knownKeys are the context keys that this gateway can know before a call leaves, with the kinds of actions that each is
// about; none is every kind.
var knownKeys = map[string][]string{
	"Agent:DID":               nil,
	"Context:Hour":            nil,
	"Model:Provider":          {"model:"},
	"Model:Name":              {"model:"},
	"SideEffect:TargetDomain": {"side_effect:", "model:"},
	"Tool:Name":               {"tool:", "side_effect:"},
}

// concerns says whether a key that is missing could have had a value for the action. A key that nobody knows might.
func concerns(key, action string) bool {
	kinds := knownKeys[key]
	return kinds == nil || slices.ContainsFunc(kinds, func(kind string) bool { return strings.HasPrefix(action, kind) })
}
