package run

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
)

// maxNames is how many names get an address in one run; it fits in 198.18.0.0/15 with room to spare.
const maxNames = 16384

// synthetic is the network of the addresses that stand for names (RFC 2544; never routed). They exist inside a run only.
var synthetic = netip.MustParsePrefix("198.18.0.0/15")

// nameTable gives each name an address that stays the same, so that a connection that says no name has one.
type nameTable struct {
	mu     sync.Mutex
	byName map[string]netip.Addr
	names  []string
}

func newNameTable() *nameTable { return &nameTable{byName: map[string]netip.Addr{}} }

// address is the name's; false when the table is full.
func (t *nameTable) address(name string) (netip.Addr, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a, ok := t.byName[name]; ok {
		return a, true
	}
	if len(t.names) >= maxNames {
		return netip.Addr{}, false
	}
	base := synthetic.Addr().As4()
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], binary.BigEndian.Uint32(base[:])+1+uint32(len(t.names)))
	a := netip.AddrFrom4(raw)
	t.names, t.byName[name] = append(t.names, name), a
	return a, true
}

// name is what an address stands for, "" for none.
func (t *nameTable) name(a netip.Addr) string {
	a = a.Unmap()
	if !synthetic.Contains(a) {
		return ""
	}
	base, raw := synthetic.Addr().As4(), a.As4()
	t.mu.Lock()
	defer t.mu.Unlock()
	i := int(binary.BigEndian.Uint32(raw[:])-binary.BigEndian.Uint32(base[:])) - 1
	if i < 0 || i >= len(t.names) {
		return ""
	}
	return t.names[i]
}

// authority is host or host:port with one of our addresses replaced by its name.
func (t *nameTable) authority(authority string) string {
	host, port, err := net.SplitHostPort(authority)
	if err != nil {
		host, port = authority, ""
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if err != nil {
		return authority
	}
	name := t.name(a)
	switch {
	case name == "":
		return authority
	case port == "":
		return name
	default:
		return net.JoinHostPort(name, port)
	}
}
