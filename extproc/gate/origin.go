package gate

import (
	"crypto/subtle"
	"encoding/hex"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"sallyport/extproc/message"
	"sallyport/signer/code"
	"sallyport/signer/jcs"
	"sallyport/signer/token"
)

// Attributes in which Envoy says by which door a request came, and what it knows of the connection. The filter state was
// set when the CONNECT of the tunnel was let through; no client can write it.
const (
	chainName       = "xds.filter_chain_name"
	sourceAddress   = "source.address"
	serverName      = "connection.requested_server_name"
	peerCertificate = "connection.sha256_peer_certificate_digest"
	tunnelToken     = "filter_state['sallyport.token']"
	tunnelAuthority = "filter_state['sallyport.authority']"
	tunnelPeer      = "filter_state['sallyport.peer']"
)

// Doors, by the name of Envoy's filter chain.
const (
	doorReverse     = "reverse"      // base URL
	doorForward     = "forward"      // HTTP proxy
	doorForwardMTLS = "forward-mtls" // the same with a client certificate
	doorInner       = "inner"        // what comes out of a tunnel of a forward door
)

// GatewayName is the forward doors' own authority: requests for it are those of the reverse door.
const GatewayName = "gateway.sallyport.internal"

// origin is where a request came from.
type origin struct {
	door        string
	certificate string // hex SHA-256 of the client's certificate, at doorForwardMTLS
	sni         string // at doorInner
	token       string // of the tunnel, at doorInner
	authority   string // of the tunnel, host:port
	peer        string // the client's address, as Envoy writes it
}

func originOf(m *message.Request) (origin, *code.Denial) {
	o := origin{door: m.Attribute(chainName), peer: m.Attribute(sourceAddress)}
	switch o.door {
	case "", doorReverse:
		o.door = doorReverse
	case doorForward:
	case doorForwardMTLS:
		o.certificate = m.Attribute(peerCertificate)
	case doorInner:
		o.sni, o.token, o.authority = strings.ToLower(m.Attribute(serverName)), m.Attribute(tunnelToken), m.Attribute(tunnelAuthority)
		o.peer = m.Attribute(tunnelPeer)
		if o.token == "" || o.authority == "" {
			return o, code.Deny(code.GateInternal, "a tunnel without its token")
		}
	default:
		return o, code.Deny(code.GateInternal, "a door of the name %.32q is not known", o.door)
	}
	return o, nil
}

// proxy says whether clients speak to this door as to a proxy.
func (o *origin) proxy() bool { return o.door == doorForward || o.door == doorForwardMTLS }

// holds says whether the token may be used by whoever is at this door: one that is bound to a client certificate (RFC 8705)
// only by its holder. Out of a tunnel it was looked at when the tunnel was opened.
func (o *origin) holds(t *token.Token) bool {
	if t.Cnf == nil || t.Cnf.X5tS256 == "" || o.door == doorInner {
		return true
	}
	got, err := hex.DecodeString(o.certificate)
	want, decodeErr := jcs.DecodeHash(t.Cnf.X5tS256)
	return err == nil && decodeErr == nil && subtle.ConstantTimeCompare(got, want[:]) == 1
}

// place is a host and port, as one reader can have them only.
type place struct {
	host string // lower case, no final dot, IPv6 without brackets
	port int
	ip   netip.Addr // where host is an address
}

// parsePlace reads an authority. What another reader could take for another host is refused: user information, odd forms of
// addresses, empty labels.
func parsePlace(authority string, defaultPort int) (place, *code.Denial) {
	bad := func(why string) (place, *code.Denial) {
		return place{}, code.Deny(code.InvalidRequest, "authority %.64q %s", authority, why)
	}
	p := place{host: strings.ToLower(authority), port: defaultPort}
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && !strings.HasSuffix(authority, "]") {
		n, err := strconv.ParseUint(authority[i+1:], 10, 16)
		if err != nil || n == 0 || authority[i+1] == '+' || authority[i+1] == '0' {
			return bad("has no port from 1 to 65535")
		}
		p.host, p.port = p.host[:i], int(n)
	}
	if p.port == 0 {
		return bad("has no port")
	}
	if inner, ok := strings.CutPrefix(p.host, "["); ok {
		inner, closed := strings.CutSuffix(inner, "]")
		ip, err := netip.ParseAddr(inner)
		if !closed || err != nil || !ip.Is6() || ip.Zone() != "" || ip.Is4In6() {
			return bad("has no plain IPv6 address in its brackets")
		}
		p.ip, p.host = ip, ip.String()
		return p, nil
	}
	if ip, err := netip.ParseAddr(p.host); err == nil && ip.Is4() {
		p.ip = ip
		return p, nil
	}
	if !isHostName(p.host) {
		return bad("is no plain host name or address")
	}
	return p, nil
}

// isHostName takes names whose last label is not a number: those are addresses in forms that readers differ about, such
// as 127.1 or 0x7f000001.
func isHostName(h string) bool {
	if len(h) == 0 || len(h) > 253 {
		return false
	}
	for label := range strings.SplitSeq(h, ".") {
		if label == "" || len(label) > 63 || !isOf(label, "-_") || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	last := h[strings.LastIndexByte(h, '.')+1:]
	_, err := strconv.ParseUint(last, 0, 64)
	return err != nil && !strings.HasPrefix(last, "0x")
}

// String is host:port.
func (p place) String() string { return net.JoinHostPort(p.host, strconv.Itoa(p.port)) }

// without is the authority with the port left out where it is the given one.
func (p place) without(port int) string {
	switch {
	case p.port != port:
		return p.String()
	case p.ip.Is6():
		return "[" + p.host + "]"
	}
	return p.host
}

// local holds for names that mean this machine or its network to common resolvers.
func (p place) local() bool {
	for _, end := range []string{"localhost", "local", "internal", "localdomain", "home.arpa"} {
		if p.host == end || strings.HasSuffix(p.host, "."+end) {
			return true
		}
	}
	return false
}
