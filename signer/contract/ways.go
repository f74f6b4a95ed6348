package contract

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Ways are the ways out for which routes can be made: the egress rules, and those that the statements' resources of
// "METHOD host[:port]/path" name. They may be wider than what the contract allows, never narrower: each request is decided.
func (c *Contract) Ways() []EgressRule {
	out := c.Egress()
	for i := range c.rules {
		r := &c.rules[i]
		if r.deny || r.way || r.endpoints != nil || !anyMatch(r.actions, NetworkEgress) {
			continue
		}
		for _, g := range r.resources {
			if e, ok := wayOf(g.source); ok {
				out = append(out, e)
			}
		}
	}
	return out
}

// wayOf reads a resource pattern whose host is fixed, or is * and the name that follows.
func wayOf(pattern string) (EgressRule, bool) {
	method, rest, spaced := strings.Cut(pattern, " ")
	authority, path, rooted := strings.Cut(rest, "/")
	host, port, ported := strings.Cut(strings.ToLower(authority), ":")
	name, below := strings.CutPrefix(host, "*.")
	e := EgressRule{Host: name, OnlySubdomains: below}
	switch {
	case !spaced || !rooted || !isHostName(name):
		return EgressRule{}, false
	case method == "*" || method == "**":
	case isMethod(method):
		e.Methods = []string{method}
	default:
		return EgressRule{}, false
	}
	if ported {
		n, err := strconv.Atoi(port)
		if err != nil || n < 1 || n > 65535 {
			return EgressRule{}, false
		}
		e.Ports = []int{n}
	}
	if i := strings.IndexAny(path, "*?"); i >= 0 {
		path = path[:i]
	}
	// Whole segments only: a route's prefix is /a for /a and /a/b, and not for /ab.
	if dir := "/" + path[:max(0, strings.LastIndexByte(path, '/'))]; dir != "/" {
		e.PathPrefixes = []string{dir}
	}
	return e, true
}

// isHostName tells a name of labels, or an IPv4 address; IPv6 is for egress rules.
func isHostName(s string) bool {
	labels := strings.Split(s, ".")
	return len(s) <= 253 && !slices.ContainsFunc(labels, func(l string) bool {
		return l == "" || len(l) > 63 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != ""
	})
}

func isMethod(s string) bool {
	return s != "" && len(s) <= 16 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// warnOfRoutes says which of a statement's network resources no route can be made for.
func (c *Contract) warnOfRoutes(r *rule, at string) {
	if r.deny || !anyMatch(r.actions, NetworkEgress) {
		return
	}
	for i, g := range r.resources {
		if method, _, spaced := strings.Cut(g.source, " "); !spaced && !strings.ContainsAny(method, "*?") {
			continue // a model or a tool, beside the network's action
		}
		if _, ok := wayOf(g.source); !ok {
			c.note(SeverityWarning, "no-route", fmt.Sprintf("%s.resources[%d]", at, i), shown(g.source)+" names no host, so no request reaches the network by it",
				`write the method, the host and the path: "GET api.example.com/v1/**"`)
		}
	}
}
