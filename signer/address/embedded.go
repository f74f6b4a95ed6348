package address

import "net/netip"

// carriers are the IPv6 ranges whose addresses carry an IPv4 address, and how each reads.
var carriers = []struct {
	prefix netip.Prefix
	read   func(b [16]byte) []netip.Addr
}{
	{netip.MustParsePrefix("::ffff:0:0/96"), last},
	{netip.MustParsePrefix("::ffff:0:0:0/96"), last},
	{netip.MustParsePrefix("::/96"), last},
	{netip.MustParsePrefix("64:ff9b::/96"), last},
	{netip.MustParsePrefix("64:ff9b:1::/48"), localNAT64},
	{netip.MustParsePrefix("2002::/16"), sixToFour},
	{netip.MustParsePrefix("2001::/32"), teredo},
}

// embedded are the IPv4 addresses that an address can be read as, and whether it is of a kind that carries any. None for
// one that does means that nobody can tell where it leads.
func embedded(a netip.Addr) (inner []netip.Addr, carries bool) {
	if !a.Is6() || a.IsLoopback() || a.IsUnspecified() { // :: and ::1 stand in ::/96 and are no IPv4-compatible addresses
		return nil, false
	}
	for _, c := range carriers {
		if c.prefix.Contains(a) {
			return c.read(a.As16()), true
		}
	}
	return nil, false
}

// last reads the last 32 bits.
func last(b [16]byte) []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte(b[12:]))}
}

// localNAT64 reads an address of RFC 8215's prefix both ways that RFC 6052 (section 2.2) has room for: the prefix alone
// and one of 96 bits below it. The translator decides which it is, so both count, but for the one that is all zero.
func localNAT64(b [16]byte) []netip.Addr {
	var out []netip.Addr
	for _, four := range [][4]byte{{b[6], b[7], b[9], b[10]}, {b[12], b[13], b[14], b[15]}} {
		if four != [4]byte{} {
			out = append(out, netip.AddrFrom4(four))
		}
	}
	return out
}

func sixToFour(b [16]byte) []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte(b[2:6]))}
}

// teredo reads the server and the client, whose bits are turned over (RFC 4380, section 4).
func teredo(b [16]byte) []netip.Addr {
	return []netip.Addr{
		netip.AddrFrom4([4]byte(b[4:8])),
		netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}),
	}
}
