package run

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// arrangeNetwork makes a network of the loopback interface alone, in which every IPv4 connection ends at the listening
// sockets of listenInside. IPv6 has no route but to itself, so clients fall back to IPv4 at once.
func arrangeNetwork() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback interface: %w", err)
	}
	addr, err := netlink.ParseAddr(insideAddress)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(lo, addr); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	_, everywhere, err := net.ParseCIDR("0.0.0.0/0")
	if err != nil {
		return err
	}
	route := netlink.Route{LinkIndex: lo.Attrs().Index, Dst: everywhere, Src: addr.IP, Scope: netlink.SCOPE_LINK}
	if err := netlink.RouteAdd(&route); err != nil {
		return fmt.Errorf("route: %w", err)
	}
	// A packet that was redirected comes back in with our own address as its source.
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/lo/accept_local", []byte("1"), 0); err != nil {
		return fmt.Errorf("accept_local: %w", err)
	}
	return redirect()
}

// redirect is: DNS to our server whatever its destination, other TCP to the transparent listener, nothing else.
func redirect() error {
	nft, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := nft.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "sallyport"})
	nat := nft.AddChain(&nftables.Chain{
		Name: "redirect", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	drop := nftables.ChainPolicyDrop
	filter := nft.AddChain(&nftables.Chain{
		Name: "only-loopback", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput,
		Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})
	add := func(c *nftables.Chain, parts ...[]expr.Any) {
		rule := &nftables.Rule{Table: table, Chain: c}
		for _, p := range parts {
			rule.Exprs = append(rule.Exprs, p...)
		}
		nft.AddRule(rule)
	}
	accept := []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		add(nat, protocolIs(proto), portIs(53), toPort(insideDNS))
	}
	loopback, own := netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix(insideAddress)
	for _, c := range []*nftables.Chain{nat, filter} {
		add(c, destinationIn(loopback), accept)
		add(c, destinationIn(own), accept)
	}
	add(nat, protocolIs(unix.IPPROTO_TCP), toPort(insideTransparent))
	// An ICMP error rather than silence: a client that tries QUIC turns to TCP at once.
	add(filter, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3}})
	if err := nft.Flush(); err != nil {
		return fmt.Errorf("nftables (the kernel needs nf_tables with nat, redir and reject): %w", err)
	}
	return nil
}

func protocolIs(p byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{p}},
	}
}

func portIs(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

func destinationIn(p netip.Prefix) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: net.CIDRMask(p.Bits(), 32), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}

func toPort(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: 1, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED},
	}
}

// listenInside makes the sockets that the owner answers, in the order that it expects.
func listenInside() ([]int, error) {
	dns := fmt.Sprintf("127.0.0.1:%d", insideDNS)
	var out []int
	for _, s := range []struct{ network, address string }{
		{"tcp4", insideProxy}, {"tcp4", fmt.Sprintf("127.0.0.1:%d", insideTransparent)}, {"udp4", dns}, {"tcp4", dns},
	} {
		fd, err := listenOne(s.network, s.address)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", s.network, s.address, err)
		}
		out = append(out, fd)
	}
	return out, nil
}

func listenOne(network, address string) (int, error) {
	var c interface {
		SyscallConn() (syscall.RawConn, error)
		Close() error
	}
	if network == "udp4" {
		p, err := net.ListenPacket(network, address)
		if err != nil {
			return 0, err
		}
		c = p.(*net.UDPConn)
	} else {
		l, err := net.Listen(network, address)
		if err != nil {
			return 0, err
		}
		c = l.(*net.TCPListener)
	}
	defer func() { _ = c.Close() }() // the duplicate stays
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	out := -1
	var failed error
	if err := raw.Control(func(fd uintptr) { out, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return 0, err
	}
	return out, failed
}

// originalDestination is where a redirected connection was meant to go. The socket was made in the program's network
// namespace, and the kernel answers by the socket's.
func originalDestination(c net.Conn) (netip.AddrPort, error) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%T is no TCP connection", c)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var dst netip.AddrPort
	var failed error
	err = raw.Control(func(fd uintptr) {
		// The option fills in a struct sockaddr_in; this one has the same length and no meaning of its own.
		var m *unix.IPv6Mreq
		if m, failed = unix.GetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IP, unix.SO_ORIGINAL_DST); failed == nil {
			a := m.Multiaddr
			dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(a[4:8])), binary.BigEndian.Uint16(a[2:4]))
		}
	})
	if err != nil {
		return dst, err
	}
	return dst, failed
}
