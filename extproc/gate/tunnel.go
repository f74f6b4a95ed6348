package gate

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"

	"sallyport/extproc/dialect"
	"sallyport/extproc/message"
	"sallyport/signer/code"
	"sallyport/signer/contract"
)

const (
	connectScope  = "connect"             // scope of the routes that end tunnels
	inspectHeader = "x-sallyport-inspect" // which of them
	schemeHeader  = "x-sallyport-scheme"  // of an egress call: http or https, ws or wss

	tokenKey     = "token" // metadata that Envoy hands on to the requests inside
	authorityKey = "authority"
	peerKey      = "peer"

	portHTTP, portHTTPS = 80, 443
)

// connect is a CONNECT at a forward door: it finds out who asks, and where to. What goes through the tunnel is decided
// request by request, so here it is enough that the contract could allow something there.
func (x *exchange) connect() *code.Denial {
	x.dest = &destination{door: x.gate.outside}
	to, d := parsePlace(x.req.authority, 0)
	if d != nil {
		return d
	}
	x.to, x.refusal.Host = to, to.String()
	return x.authenticate()
}

// reachable says whether the contract could allow a request to the place at all, and how a tunnel there is inspected.
func (x *exchange) reachable() (contract.Reach, *code.Denial) {
	if dr := x.gate.doors.at(x.to); dr != nil && x.allowsProvider(dr.Provider) {
		return contract.Reach{Inspect: contract.InspectFull}, nil // the operator has declared it
	}
	r, ok := x.contract.Reach(x.to.host, x.to.port)
	if !ok {
		return r, code.Deny(code.PolicyEgressNotAllowed, "CONNECT %s asked; the contract allows nothing there", x.to)
	}
	return r, x.addressed()
}

func (x *exchange) allowsProvider(name string) bool {
	for _, p := range x.contract.Providers() {
		if p == name || p == "*" {
			return true
		}
	}
	return false
}

func (g *Gate) addressAllowed(a netip.Addr, prefixes []netip.Prefix) bool {
	return g.cfg.AddressAllowed != nil && g.cfg.AddressAllowed(a, prefixes)
}

// tunnel answers a CONNECT whose contract is known, if nothing has to be recorded for that.
func (x *exchange) tunnel() (*message.Response, error) {
	r, d := x.reachable()
	switch {
	case d != nil:
		return x.refuse(d), nil
	case r.Inspect != contract.InspectFull:
		return nil, errLater
	}
	return x.open(), nil
}

// tunnelLater is the same where waiting is allowed.
func (x *exchange) tunnelLater(ctx context.Context) *message.Response {
	r, d := x.reachable()
	switch {
	case d != nil:
		return x.refuse(d)
	case r.Inspect != contract.InspectFull:
		return x.pass(ctx, r)
	}
	return x.open()
}

// open lets a tunnel be made whose end is Envoy itself. Nothing leaves by it that is not asked about again, so nothing is
// used up and nothing recorded.
func (x *exchange) open() *message.Response {
	x.phase = phaseTunnel
	return &message.Response{
		Answer: message.RequestHeaders, Unwatched: true,
		Mutation: &message.Mutation{ClearRoute: true, Set: []message.Header{
			{Name: scopeHeader, Value: connectScope}, {Name: inspectHeader, Value: contract.InspectFull},
		}},
		Namespace: metadataNamespace,
		Metadata: []message.Header{
			{Name: verdictKey, Value: verdictAllow}, {Name: receiptKey, Value: x.id},
			{Name: tokenKey, Value: x.raw}, {Name: authorityKey, Value: x.to.String()}, {Name: peerKey, Value: x.req.peer},
		},
	}
}

// agree makes sure that the request inside a tunnel names the host that the tunnel was opened to, and its TLS too: else a
// name that is allowed would carry requests to one that is not (domain fronting).
func (x *exchange) agree() *code.Denial {
	tunnel, d := parsePlace(x.from.authority, portHTTPS)
	if d != nil {
		return d
	}
	to, d := parsePlace(x.req.authority, portHTTPS)
	if d != nil {
		return d
	}
	x.to = to
	wantSNI := to.host
	if to.ip.IsValid() {
		wantSNI = "" // RFC 6066 knows no addresses there
	}
	switch {
	case to != tunnel:
		return code.Deny(code.AuthorityMismatch, "the tunnel is to %s, the request for %s", tunnel, to)
	case x.from.sni != wantSNI:
		return code.Deny(code.AuthorityMismatch, "the request is for %s, its TLS server name is %.64q", to, x.from.sni)
	}
	return nil
}

// outward finds the way out of a request that came by a forward door: a model provider that the operator has declared, else
// the host itself. A provider's host is only one for the paths that its dialect knows.
func (x *exchange) outward(scheme string, port int) (*destination, *code.Denial) {
	switch {
	case scheme == "https":
		if dest := x.gate.doors.model(x.to, x.req); dest != nil {
			return dest, nil
		}
	case x.to.port != port:
		// Contracts do not name a scheme: what they allow at any other port is meant to be TLS.
		return &destination{door: x.gate.outside, scheme: scheme}, code.Deny(code.PolicyEgressNotAllowed, "plain HTTP goes to port %d only, not to %s; use https", port, x.to)
	}
	outside := *x.gate.outside
	outside.name = x.to.without(portHTTPS) // how contracts write it: the port is left out where it is 443
	outside.host = x.to.without(port)
	outside.Provider = outside.name
	return &destination{door: &outside, path: x.req.path, scheme: scheme}, nil
}

// at returns a declared provider with that authority, over TLS.
func (d *doors) at(p place) *door {
	for _, dr := range d.inTurn {
		if dr.URL.Scheme == "https" && dr.at == p {
			return dr
		}
	}
	return nil
}

// model is the destination of a request whose full URL is that of a provider's endpoint, nil where it is none.
func (d *doors) model(p place, r *request) *destination {
	for _, dr := range d.inTurn {
		if dr.URL.Scheme != "https" || dr.at != p {
			continue
		}
		rest, below := belowBase(dr.URL.Path, r.path)
		if dr.mcp() {
			rest, below = "", r.path == cmp.Or(dr.URL.Path, "/")
		}
		if !below || canonicalPath(r.path) != nil {
			continue
		}
		if call, denial := dr.dialect.Route(r.method, rest); denial == nil || denial.Code == code.UpgradeNotSupported && r.upgrade != "" {
			return &destination{door: dr, call: call, path: dr.pathOf(call)}
		}
	}
	return nil
}

// newOutside is what all hosts share that are no provider's.
func newOutside(m *metrics) *door {
	speaker, _ := dialect.ByName("openai") // the most widely understood refusals
	return &door{dialect: speaker, observed: m.of("egress")}
}

// addressed refuses targets that are addresses, or names of this machine, unless the contract names them by cidrs.
func (x *exchange) addressed() *code.Denial {
	if !x.to.ip.IsValid() && !x.to.local() {
		return nil // what the name leads to is Envoy's to look at
	}
	r, _ := x.contract.Reach(x.to.host, x.to.port)
	if x.to.ip.IsValid() && x.gate.addressAllowed(x.to.ip, r.Prefixes) || !x.to.ip.IsValid() && len(r.Prefixes) > 0 {
		return nil
	}
	return code.Deny(code.AddressNotAllowed, "%s", x.to)
}

// isConnect tells a request for a tunnel. Envoy 1.40.0 hands an HTTP/2 extended CONNECT over as the upgrade that it is.
func (x *exchange) isConnect() bool {
	return x.req.method == http.MethodConnect && x.from.proxy()
}
