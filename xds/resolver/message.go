package resolver

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// answer reads one DNS message and returns the answer to it; nil means that it deserves none: it is no question at all.
//
// A name without an address is NXDOMAIN, whyever it has none. c-ares ends with that at once and, since there is no SOA
// record beside it, keeps nothing; REFUSED and SERVFAIL it takes for a fault of the server and asks again, several times.
// SERVFAIL is for lookups that failed, which may succeed if asked again. Envoy 1.40 itself keeps NXDOMAIN as a host without
// addresses for dns_refresh_rate of its cache, a minute unless it is told otherwise, so that is to be set to seconds.
func (g *guard) answer(ctx context.Context, packet []byte) []byte {
	var p dnsmessage.Parser
	header, err := p.Start(packet)
	if err != nil || header.Response {
		return nil
	}
	g.metrics.questions.Inc()
	question, err := p.Question()
	if err != nil {
		return reply(header, nil, dnsmessage.RCodeFormatError, nil, 0)
	}
	if _, err := p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return reply(header, nil, dnsmessage.RCodeFormatError, nil, 0)
	}
	if header.OpCode != 0 || question.Class != dnsmessage.ClassINET {
		return reply(header, &question, dnsmessage.RCodeNotImplemented, nil, 0)
	}
	if t := question.Type; t != dnsmessage.TypeA && t != dnsmessage.TypeAAAA {
		// HTTPS and SVCB records among others: they could name another host and another port.
		return reply(header, &question, dnsmessage.RCodeSuccess, nil, 0)
	}
	host := strings.ToLower(strings.TrimSuffix(question.Name.String(), "."))
	found, err := g.resolve(ctx, host)
	code := dnsmessage.RCodeSuccess
	switch {
	case errors.Is(err, errNone):
		code = dnsmessage.RCodeNameError
	case err != nil:
		code = dnsmessage.RCodeServerFailure
	}
	return reply(header, &question, code, ofType(found, question.Type), uint32(g.cfg.TTL.Seconds()))
}

// busy answers a question that there is no room to work on.
func (g *guard) busy(packet []byte) []byte {
	var p dnsmessage.Parser
	header, err := p.Start(packet)
	if err != nil || header.Response {
		return nil
	}
	g.metrics.refused(refusedBusy)
	question, err := p.Question()
	if err != nil {
		return reply(header, nil, dnsmessage.RCodeFormatError, nil, 0)
	}
	return reply(header, &question, dnsmessage.RCodeServerFailure, nil, 0)
}

// ofType picks the addresses that a question of that type asks for, in the order in which they were found.
func ofType(found []netip.Addr, t dnsmessage.Type) []netip.Addr {
	var out []netip.Addr
	for _, a := range found {
		if a.Is4() == (t == dnsmessage.TypeA) && len(out) < maxAddresses {
			out = append(out, a)
		}
	}
	return out
}

// reply writes a message; nil where it cannot be written, which no question that was read brings about. A name that was
// asked in other letters is answered in the same ones: c-ares compares them.
func reply(asked dnsmessage.Header, question *dnsmessage.Question, code dnsmessage.RCode, found []netip.Addr, ttl uint32) []byte {
	m := dnsmessage.Message{Header: dnsmessage.Header{
		ID: asked.ID, Response: true, OpCode: asked.OpCode, RecursionDesired: asked.RecursionDesired, RecursionAvailable: true, RCode: code,
	}}
	if question != nil {
		m.Questions = []dnsmessage.Question{*question}
	}
	for _, a := range found {
		h := dnsmessage.ResourceHeader{Name: question.Name, Type: question.Type, Class: question.Class, TTL: ttl}
		var body dnsmessage.ResourceBody
		if a.Is4() {
			body = &dnsmessage.AResource{A: a.As4()}
		} else {
			body = &dnsmessage.AAAAResource{AAAA: a.As16()}
		}
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: body})
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}
