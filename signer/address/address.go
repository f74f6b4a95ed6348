// Package address tells the addresses of the public internet from those that a gateway must not reach unless it is told
// to: its own host, the network around it, the metadata service of its cloud, and whatever leads there in disguise. The
// rules are the IANA special-purpose address registries (RFC 6890, RFC 8190) as of 2026, plus what is noted in the table.
package address

import (
	"net/netip"
	"slices"
)

// block is one range of special addresses.
type block struct {
	prefix netip.Prefix
	class  string
}

// blocks are the special ranges; of those that hold an address the first one names its class, so narrow ones stand
// before wide ones. Ranges that IANA calls globally reachable (AS112, AMT, port control anycast) are here too: what
// answers there is no service that an agent calls.
var blocks = table(
	// IPv4
	"0.0.0.0/8", "this network", // RFC 791; Linux takes 0.0.0.0 for the host itself
	"10.0.0.0/8", "private", // RFC 1918
	"100.64.0.0/10", "carrier-grade NAT", // RFC 6598; Alibaba's metadata service is 100.100.100.200
	"127.0.0.0/8", "loopback", // RFC 1122
	"168.63.129.16/32", "cloud metadata", // Azure's host channel, a public address that leads to the host below
	"169.254.169.254/32", "cloud metadata", // AWS, Azure, Google and others
	"169.254.0.0/16", "link-local", // RFC 3927
	"172.16.0.0/12", "private", // RFC 1918
	"192.0.0.192/32", "cloud metadata", // Oracle
	"192.0.0.0/24", "protocol assignments", // RFC 6890
	"192.0.2.0/24", "documentation", // RFC 5737
	"192.31.196.0/24", "AS112", // RFC 7535
	"192.52.193.0/24", "AMT", // RFC 7450
	"192.88.99.0/24", "6to4 relay", // RFC 7526
	"192.168.0.0/16", "private", // RFC 1918
	"192.175.48.0/24", "AS112", // RFC 7534
	"198.18.0.0/15", "benchmarking", // RFC 2544
	"198.51.100.0/24", "documentation", // RFC 5737
	"203.0.113.0/24", "documentation", // RFC 5737
	"224.0.0.0/4", "multicast", // RFC 5771
	"255.255.255.255/32", "broadcast", // RFC 919
	"240.0.0.0/4", "reserved", // RFC 1112

	// IPv6 inside 2000::/3, the part that is given out as global unicast
	"2001::/32", "Teredo", // RFC 4380
	"2001:2::/48", "benchmarking", // RFC 5180
	"2001::/23", "protocol assignments", // RFC 2928: AMT, AS112, ORCHID, DRIP and what is still to come
	"2001:db8::/32", "documentation", // RFC 3849
	"2002::/16", "6to4", // RFC 3056
	"2620:4f:8000::/48", "AS112", // RFC 7534
	"3fff::/20", "documentation", // RFC 9637

	// IPv6 outside of it: the ranges that have a name, then all the rest, which nobody has been given (RFC 4291)
	"::/128", "unspecified", // RFC 4291
	"::1/128", "loopback", // RFC 4291
	"::ffff:0:0/96", "IPv4-mapped", // RFC 4291
	"::ffff:0:0:0/96", "IPv4-translated", // RFC 2765
	"::/96", "IPv4-compatible", // RFC 4291
	"64:ff9b::/96", "NAT64", // RFC 6052
	"64:ff9b:1::/48", "NAT64", // RFC 8215
	"100::/64", "discard-only", // RFC 6666
	"5f00::/16", "segment routing", // RFC 9602
	"fd00:ec2::254/128", "cloud metadata", // AWS
	"fc00::/7", "private", // RFC 4193, unique local
	"fe80::/10", "link-local", // RFC 4291
	"fec0::/10", "private", // RFC 3879, site-local
	"ff00::/8", "multicast", // RFC 4291
	"::/3", "unassigned",
	"4000::/2", "unassigned",
	"8000::/1", "unassigned",
)

// table reads prefix and class in turn. It panics on a slip of the pen above, which any test shows.
func table(lines ...string) []block {
	var out []block
	for l := range slices.Chunk(lines, 2) {
		out = append(out, block{netip.MustParsePrefix(l[0]), l[1]})
	}
	return out
}

// prefixes is what Prefixes returns; it never changes.
var prefixes = func() []netip.Prefix {
	all := make([]netip.Prefix, len(blocks))
	for i, b := range blocks {
		all[i] = b.prefix
	}
	return merge(all)
}()

// Special says whether an address is special, and the class of it for people to read, such as "loopback". An address
// that carries an IPv4 address inside (mapped, NAT64, 6to4, Teredo) is special whatever that one is: it is another way to
// write it. So is one with a zone, which means a link of this host, and the zero Addr.
func Special(a netip.Addr) (class string, special bool) {
	switch {
	case !a.IsValid():
		return "invalid", true
	case a.Zone() != "":
		return "zoned", true
	}
	for _, b := range blocks {
		if b.prefix.Contains(a) {
			return b.class, true
		}
	}
	return "", false
}

// Prefixes lists everything special with as few prefixes as there can be, for a matcher elsewhere; IPv4 comes first. An
// address is special exactly if one of them contains it, zones aside. The slice is the caller's.
func Prefixes() []netip.Prefix { return slices.Clone(prefixes) }

// Allowed says whether an address may be reached by somebody who is given cidrs: it is public, or one of cidrs contains
// it. An IPv4 address that it carries inside must be allowed by itself too, so that naming NAT64's prefix opens the
// public internet behind it and not the private network there. An IPv4 CIDR does not contain a mapped address; unmap
// first where the network would.
func Allowed(a netip.Addr, cidrs []netip.Prefix) bool {
	if !reachable(a, cidrs) {
		return false
	}
	inner, carries := embedded(a)
	for _, i := range inner {
		if !reachable(i, cidrs) {
			return false
		}
	}
	return !carries || len(inner) > 0
}

func reachable(a netip.Addr, cidrs []netip.Prefix) bool {
	if _, special := Special(a); !special {
		return true
	}
	return slices.ContainsFunc(cidrs, func(p netip.Prefix) bool { return p.Contains(a) })
}
