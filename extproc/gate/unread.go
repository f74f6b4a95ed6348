package gate

import (
	"context"
	"net/http"
	"strconv"

	"sallyport/extproc/decide"
	"sallyport/extproc/dialect"
	"sallyport/extproc/message"
	"sallyport/signer/code"
	"sallyport/signer/contract"
	"sallyport/signer/record"
)

// Metadata that tells Envoy where a tunnel leads whose TLS server name it has to compare: in two parts, as it wants them.
const (
	hostKey = "host"
	portKey = "port"
)

// pass lets a tunnel through whose content nobody reads. It is a call of its own: decided, claimed and recorded once for all
// that will go through it.
func (x *exchange) pass(ctx context.Context, reach contract.Reach) *message.Response {
	outside := *x.gate.outside
	outside.name, outside.host = x.to.without(portHTTPS), x.to.String()
	outside.Provider = outside.name
	x.dest = &destination{door: &outside, path: "/", scheme: "https"}
	ask := decide.Ask{Provider: outside.name, Method: http.MethodConnect, Host: outside.name, Path: x.dest.path, Egress: true}
	d := x.passable(reach)
	if d == nil {
		d = x.decideUnread(ask)
	}
	if d == nil {
		x.intent = x.newIntent(ask, dialect.Body{}, nil)
		d = x.claimAndRecord(ctx)
	}
	if d != nil {
		return x.refuse(d)
	}
	x.phase, x.unread = phaseUpstream, reach.Inspect
	x.gate.metrics.allowed.Inc()
	x.gate.watch.add(x)
	return x.passing()
}

// passable refuses what Envoy could not carry.
func (x *exchange) passable(reach contract.Reach) *code.Denial {
	if d := x.stillTrusted(); d != nil || reach.Inspect != contract.InspectSNI {
		return d
	}
	switch {
	case x.to.ip.IsValid():
		return code.Deny(code.RouteNotAllowed, "%s is an address, for which TLS names no server; let the contract say inspect: none for it", x.to)
	case len(reach.Prefixes) > 0:
		return code.Deny(code.AddressNotAllowed, "the contract names cidrs for %s, and tunnels with inspect: sni lead to public addresses only; let it say full or none", x.to)
	}
	return nil
}

// decideUnread asks the contract about the tunnel as a whole.
func (x *exchange) decideUnread(ask decide.Ask) *code.Denial {
	d := decide.Decide(x.contract, x.token, ask, x.gate.cfg.Now()).Denial
	if d == nil || d.Code != code.PolicyEgressNotAllowed {
		return d
	}
	// The contract's rule reaches the host, or the tunnel had been refused before: it is about methods or paths.
	return code.Deny(d.Code, "CONNECT %s asked; its rule names methods or path_prefixes, which cannot be seen in a tunnel that passes unread: leave them out, or say inspect: full", x.to)
}

// passing is the answer to an allowed CONNECT. Of the tunnel Envoy shows what comes back, so that the record can say whether
// anything did.
func (x *exchange) passing() *message.Response {
	m := &message.Mutation{ClearRoute: true, Remove: x.req.strip, Set: []message.Header{
		{Name: ":authority", Value: x.dest.host}, {Name: scopeHeader, Value: x.contract.Hash}, {Name: inspectHeader, Value: x.unread},
	}}
	metadata := []message.Header{
		{Name: verdictKey, Value: verdictAllow}, {Name: receiptKey, Value: x.id}, {Name: authorityKey, Value: x.dest.host},
	}
	if x.unread == contract.InspectSNI {
		metadata = append(metadata, message.Header{Name: hostKey, Value: x.to.host}, message.Header{Name: portKey, Value: strconv.Itoa(x.to.port)})
	}
	return &message.Response{
		Answer: message.RequestHeaders, HalfWatched: true, Mutation: m, Namespace: metadataNamespace, Metadata: metadata,
	}
}

// passed is how a tunnel ended that passed unread. Whether what was in it was complete nobody can tell; but where nothing came
// back its host was not reached, or had nothing to say.
func (x *exchange) passed() *record.Completion {
	if x.unread == webSocket {
		return x.completion(record.Completed, "a WebSocket, whose frames were neither read nor counted; hash and size are of none of them")
	}
	if x.answer.ResponseBytes == 0 {
		return x.completion(record.Cut, "nothing came back through the tunnel: its host was not reached, or the client did not name it in its TLS hello")
	}
	return x.completion(record.Completed, "the content was not read (inspect: "+x.unread+"); hash and size are those of the bytes that came back")
}
