package contract

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// How a way out is looked into.
const (
	InspectFull = "full" // TLS is ended at the gateway, each request is decided
	InspectSNI  = "sni"  // the bytes pass unread, once the TLS server name was seen
	InspectNone = "none" // the bytes pass unread
)

// Reach is what a contract says of a host and port before a request is known.
type Reach struct {
	Inspect  string         // InspectFull, InspectSNI or InspectNone
	Prefixes []netip.Prefix // private addresses that the host may have
}

// Reach says whether some Allow of the network could speak of a host (lower case, no port) and port, and how they are
// looked into: where several rules differ, the one that sees more. Whether a request passes is Decide's to say.
func (c *Contract) Reach(host string, port int) (Reach, bool) {
	var out Reach
	found := false
	for i := range c.egress {
		r := &c.egress[i]
		if c.closed(*r, host) || !slices.ContainsFunc(endpointsOf(*r), func(e endpoint) bool { return e.matchHost(host) && slices.Contains(e.ports, port) }) {
			continue
		}
		found = true
		out.Inspect = wider(out.Inspect, r.Inspect)
		out.Prefixes = append(out.Prefixes, r.Prefixes()...)
	}
	for _, b := range c.bindings {
		if b.Host == host && slices.Contains(endpointsOf(EgressRule{Ports: b.Ports})[0].ports, port) {
			out.Prefixes = append(out.Prefixes, b.Prefixes()...)
		}
	}
	for i := range c.rules {
		r := &c.rules[i]
		if r.way || !anyMatch(r.actions, NetworkEgress) || !r.couldReach(host, port) {
			continue
		}
		found = found || !r.deny
		out.Inspect = InspectFull // tools, statements and Denies need each request: a tunnel that passes unread would lead around them
	}
	return out, found
}

// couldReach leaves methods and paths aside. A pattern over the whole text is taken to reach: the request decides.
func (r *rule) couldReach(host string, port int) bool {
	if r.endpoints == nil {
		return r.resources == nil || slices.ContainsFunc(r.resources, func(g glob) bool { return couldName(&g, host, port) })
	}
	return slices.ContainsFunc(r.endpoints, func(e endpoint) bool { return e.matchHost(host) && slices.Contains(e.ports, port) })
}

// couldName says whether a pattern for "METHOD host[:port]/path" could name the host, from its fixed beginning.
func couldName(g *glob, host string, port int) bool {
	_, rest, ok := strings.Cut(g.head, " ")
	if !ok {
		return true // not even the method is fixed
	}
	authority, _, whole := strings.Cut(rest, "/")
	names := []string{host + ":" + strconv.Itoa(port)}
	if port == defaultPort {
		names = append(names, host)
	}
	return slices.ContainsFunc(names, func(n string) bool { return n == authority || !whole && strings.HasPrefix(n, authority) })
}

// wider is the one of two kinds of inspection that sees more; "" is none yet, and in a contract it means full.
func wider(have, more string) string {
	if more == "" {
		more = InspectFull
	}
	rank := []string{"", InspectNone, InspectSNI, InspectFull}
	if slices.Index(rank, more) > slices.Index(rank, have) {
		return more
	}
	return have
}
