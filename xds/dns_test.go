package xds_test

import (
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// names is a DNS server that answers from a table with a time to live of one second. A name's answers are given one
// after the other, the last one for ever.
type names struct {
	addr netip.AddrPort

	mu    sync.Mutex
	table map[string][][]netip.Addr
	asked map[string]int
}

func newNames(t testing.TB) *names {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	n := &names{addr: c.LocalAddr().(*net.UDPAddr).AddrPort(), table: map[string][][]netip.Addr{}, asked: map[string]int{}}
	n.addr = netip.AddrPortFrom(n.addr.Addr().Unmap(), n.addr.Port())
	go func() {
		buf := make([]byte, 1500)
		for {
			size, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			var q dnsmessage.Message
			if q.Unpack(buf[:size]) != nil || len(q.Questions) != 1 {
				continue
			}
			if out, err := n.answer(&q); err == nil {
				_, _ = c.WriteToUDPAddrPort(out, from)
			}
		}
	}()
	return n
}

func (n *names) set(name string, answers ...[]netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.table[name+"."] = answers
}

func (n *names) questions(name string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[name+"."]
}

func (n *names) answer(q *dnsmessage.Message) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	asked := q.Questions[0]
	name := asked.Name.String()
	answers := n.table[name]
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true, RecursionAvailable: true}, Questions: q.Questions}
	if answers == nil {
		m.RCode = dnsmessage.RCodeNameError
		return m.Pack()
	}
	head := dnsmessage.ResourceHeader{Name: asked.Name, Type: asked.Type, Class: dnsmessage.ClassINET, TTL: 1}
	for _, a := range answers[0] {
		switch {
		case asked.Type == dnsmessage.TypeA && a.Is4():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}})
		case asked.Type == dnsmessage.TypeAAAA && a.Is6():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	if asked.Type == dnsmessage.TypeA {
		n.asked[name]++
		if len(answers) > 1 {
			n.table[name] = answers[1:]
		}
	}
	return m.Pack()
}
