package address_test

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"sallyport/signer/address"
)

func TestSpecial(t *testing.T) {
	for _, x := range []struct{ address, class string }{
		{"8.8.8.8", ""},
		{"1.1.1.1", ""},
		{"9.255.255.255", ""},
		{"11.0.0.0", ""},
		{"100.63.255.255", ""},
		{"100.128.0.0", ""},
		{"168.63.129.15", ""},
		{"172.15.255.255", ""},
		{"172.32.0.0", ""},
		{"192.0.1.0", ""},
		{"198.17.255.255", ""},
		{"198.20.0.0", ""},
		{"223.255.255.255", ""},
		{"2606:4700:4700::1111", ""},
		{"2a00:1450:4001:80b::200e", ""},
		{"2001:200::1", ""},
		{"2003::1", ""},
		{"3ffe:ffff::1", ""},
		{"0.0.0.0", "this network"},
		{"10.0.0.1", "private"},
		{"10.255.255.255", "private"},
		{"100.64.0.1", "carrier-grade NAT"},
		{"100.100.100.200", "carrier-grade NAT"},
		{"127.0.0.1", "loopback"},
		{"127.255.255.255", "loopback"},
		{"168.63.129.16", "cloud metadata"},
		{"169.254.169.254", "cloud metadata"},
		{"169.254.170.2", "link-local"},
		{"172.16.0.1", "private"},
		{"172.31.255.255", "private"},
		{"192.0.0.192", "cloud metadata"},
		{"192.0.0.8", "protocol assignments"},
		{"192.0.2.1", "documentation"},
		{"192.31.196.1", "AS112"},
		{"192.52.193.1", "AMT"},
		{"192.88.99.1", "6to4 relay"},
		{"192.168.1.1", "private"},
		{"192.175.48.1", "AS112"},
		{"198.18.0.1", "benchmarking"},
		{"198.19.255.255", "benchmarking"},
		{"198.51.100.1", "documentation"},
		{"203.0.113.1", "documentation"},
		{"224.0.0.251", "multicast"},
		{"240.0.0.1", "reserved"},
		{"255.255.255.255", "broadcast"},
		{"::", "unspecified"},
		{"::1", "loopback"},
		{"::7f00:1", "IPv4-compatible"},
		{"::ffff:127.0.0.1", "IPv4-mapped"},
		{"::ffff:8.8.8.8", "IPv4-mapped"},
		{"::ffff:0:8.8.8.8", "IPv4-translated"},
		{"64:ff9b::a00:1", "NAT64"},
		{"64:ff9b::808:808", "NAT64"},
		{"64:ff9b:1::808:808", "NAT64"},
		{"100::1", "discard-only"},
		{"100:0:0:1::1", "unassigned"},
		{"2001::1", "Teredo"},
		{"2001:2::1", "benchmarking"},
		{"2001:20::1", "protocol assignments"},
		{"2001:db8::1", "documentation"},
		{"2002:a00:1::1", "6to4"},
		{"2002:808:808::1", "6to4"},
		{"2620:4f:8000::1", "AS112"},
		{"3fff:fff::1", "documentation"},
		{"4000::1", "unassigned"},
		{"5f00::1", "segment routing"},
		{"fc00::1", "private"},
		{"fd00:ec2::254", "cloud metadata"},
		{"fdff::1", "private"},
		{"fe80::1", "link-local"},
		{"fe80::1%eth0", "zoned"},
		{"2606:4700:4700::1111%eth0", "zoned"},
		{"fec0::1", "private"},
		{"ff02::1", "multicast"},
	} {
		t.Run(x.address, func(t *testing.T) {
			class, special := address.Special(netip.MustParseAddr(x.address))
			if class != x.class || special != (x.class != "") {
				t.Errorf("got %q, %v; want %q", class, special, x.class)
			}
		})
	}
	if class, special := address.Special(netip.Addr{}); !special {
		t.Errorf("the zero Addr is not special: %q", class)
	}
}

func TestAllowed(t *testing.T) {
	for _, x := range []struct {
		name, address string
		cidrs         []string
		want          bool
	}{
		{"public", "8.8.8.8", nil, true},
		{"public IPv6", "2606:4700:4700::1111", nil, true},
		{"public, and CIDRs of something else", "8.8.8.8", []string{"10.0.0.0/8"}, true},
		{"private", "10.0.0.1", nil, false},
		{"private and named", "10.0.0.1", []string{"10.0.0.0/24"}, true},
		{"private and another is named", "10.0.1.1", []string{"10.0.0.0/24"}, false},
		{"loopback and named", "::1", []string{"::1/128"}, true},
		{"IPv4-compatible loopback", "::7f00:1", []string{"::/96"}, false},
		{"unique local and named", "fd00::1", []string{"fd00::/8"}, true},
		{"mapped, named as IPv4", "::ffff:10.0.0.1", []string{"10.0.0.0/8"}, false},
		{"mapped, named as both", "::ffff:10.0.0.1", []string{"10.0.0.0/8", "::ffff:0:0/96"}, true},
		{"mapped, named as IPv6 alone", "::ffff:10.0.0.1", []string{"::/0"}, false},
		{"NAT64 of a public address, not named", "64:ff9b::808:808", nil, false},
		{"NAT64 of a public address", "64:ff9b::808:808", []string{"64:ff9b::/96"}, true},
		{"NAT64 of a private address", "64:ff9b::a00:1", []string{"64:ff9b::/96"}, false},
		{"NAT64 of the metadata service", "64:ff9b::a9fe:a9fe", []string{"64:ff9b::/96"}, false},
		{"NAT64 of a private address that is named too", "64:ff9b::a00:1", []string{"64:ff9b::/96", "10.0.0.0/8"}, true},
		{"local NAT64, prefix of 48 bits, private", "64:ff9b:1:a00:0:100::", []string{"64:ff9b:1::/48"}, false},
		{"local NAT64, prefix of 48 bits, public", "64:ff9b:1:808:8:800::", []string{"64:ff9b:1::/48"}, true},
		{"local NAT64, prefix of 96 bits, private", "64:ff9b:1::a00:1", []string{"64:ff9b:1::/48"}, false},
		{"local NAT64, prefix of 96 bits, public", "64:ff9b:1::808:808", []string{"64:ff9b:1::/48"}, true},
		{"local NAT64 of nothing", "64:ff9b:1::", []string{"64:ff9b:1::/48"}, false},
		{"6to4 of a private address", "2002:a00:1::1", []string{"2002::/16"}, false},
		{"6to4 of a public address", "2002:808:808::1", []string{"2002::/16"}, true},
		{"Teredo with a private client", "2001:0:808:808::f5ff:fffe", []string{"2001::/32"}, false},
		{"Teredo with a private server", "2001:0:a00:1::f7f7:f7f7", []string{"2001::/32"}, false},
		{"Teredo, both public", "2001:0:808:808::f7f7:f7f7", []string{"2001::/32"}, true},
		{"link-local with a zone", "fe80::1%lo", []string{"fe80::/10"}, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			var cidrs []netip.Prefix
			for _, c := range x.cidrs {
				cidrs = append(cidrs, netip.MustParsePrefix(c))
			}
			if got := address.Allowed(netip.MustParseAddr(x.address), cidrs); got != x.want {
				t.Errorf("Allowed(%s, %v) = %v", x.address, x.cidrs, got)
			}
		})
	}
	if address.Allowed(netip.Addr{}, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}) {
		t.Error("the zero Addr is allowed")
	}
}

// Prefixes and Special are two readings of the same table: whoever matches by the one decides as whoever asks the other.
func TestPrefixesAgreeWithSpecial(t *testing.T) {
	list := address.Prefixes()
	near := rapid.Custom(func(t *rapid.T) netip.Addr {
		if rapid.Bool().Draw(t, "anywhere") {
			if rapid.Bool().Draw(t, "four") {
				return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "bytes")))
			}
			return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "bytes")))
		}
		p := rapid.SampledFrom(list).Draw(t, "prefix") // its first address, its last, and their neighbours
		edge := rapid.SampledFrom([]netip.Addr{p.Addr(), p.Addr().Prev(), lastOf(p), lastOf(p).Next()}).Draw(t, "edge")
		if !edge.IsValid() {
			return p.Addr()
		}
		return edge
	})
	rapid.Check(t, func(t *rapid.T) {
		a := near.Draw(t, "address")
		_, special := address.Special(a)
		if in := slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) }); in != special {
			t.Fatalf("%v: special %v, in a prefix %v", a, special, in)
		}
		if address.Allowed(a, nil) == special {
			t.Fatalf("%v: special %v and allowed without a CIDR", a, special)
		}
	})
}

func TestPrefixesAreMinimal(t *testing.T) {
	list := address.Prefixes()
	for i, p := range list {
		if p.Masked() != p {
			t.Errorf("%v has host bits", p)
		}
		for _, q := range list[i+1:] {
			if p.Overlaps(q) {
				t.Errorf("%v and %v overlap", p, q)
			}
			if p.Bits() == q.Bits() && p.Bits() > 0 && netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked() == netip.PrefixFrom(q.Addr(), q.Bits()-1).Masked() {
				t.Errorf("%v and %v are one", p, q)
			}
		}
	}
	list[0] = netip.Prefix{}
	if !address.Prefixes()[0].IsValid() {
		t.Error("a caller can change the list")
	}
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
