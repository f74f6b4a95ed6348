package run

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	nameTTL      = 300 // seconds; the addresses do not change in a run
	dnsTimeout   = 30 * time.Second
	maxDNSUDP    = 512
	maxDNSStream = 64 // connections at a time; a resolver needs one
)

// serveDNS answers one UDP socket. Every name that the contract can reach has an address that stands for it; no question
// leaves this process.
func (o *owner) serveDNS(c net.PacketConn) {
	if !o.track(c) {
		return
	}
	buf := make([]byte, 4096)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		if answer := o.answerDNS(buf[:n]); answer != nil && len(answer) <= maxDNSUDP {
			_, _ = c.WriteTo(answer, from) // the asker went away
		}
	}
}

// serveDNSStream answers DNS over TCP (RFC 7766).
func (o *owner) serveDNSStream(l net.Listener) {
	slots := make(chan struct{}, maxDNSStream)
	o.accept(l, func(c net.Conn) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			return
		}
		for {
			_ = c.SetDeadline(time.Now().Add(dnsTimeout))
			var size [2]byte
			if _, err := io.ReadFull(c, size[:]); err != nil {
				return
			}
			question := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(c, question); err != nil {
				return
			}
			answer := o.answerDNS(question)
			if answer == nil {
				return
			}
			if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
				return
			}
		}
	})
}

// answerDNS is nil for what is no question.
func (o *owner) answerDNS(raw []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(raw)
	if err != nil || h.Response {
		return nil
	}
	questions, err := p.AllQuestions()
	if err != nil || len(questions) != 1 {
		return nil
	}
	q := questions[0]
	out := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired, RecursionAvailable: true},
		Questions: questions,
	}
	if h.OpCode != 0 {
		out.RCode = dnsmessage.RCodeNotImplemented
	} else {
		out.RCode, out.Answers = o.resolve(q)
	}
	packed, err := out.Pack()
	if err != nil {
		return nil
	}
	return packed
}

func (o *owner) resolve(q dnsmessage.Question) (dnsmessage.RCode, []dnsmessage.Resource) {
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	local := name == "localhost" || strings.HasSuffix(name, ".localhost") // RFC 6761
	switch {
	case q.Class != dnsmessage.ClassINET:
		return dnsmessage.RCodeRefused, nil
	case !local && name != ReverseHost && (o.c.Names == nil || !o.c.Names(name)):
		o.tally.refuseName(name)
		return dnsmessage.RCodeNameError, nil
	case q.Type != dnsmessage.TypeA:
		return dnsmessage.RCodeSuccess, nil
	}
	a, ok := netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	if !local {
		a, ok = o.names.address(name)
	}
	if !ok {
		return dnsmessage.RCodeServerFailure, nil
	}
	return dnsmessage.RCodeSuccess, []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: nameTTL},
		Body:   &dnsmessage.AResource{A: a.As4()},
	}}
}
