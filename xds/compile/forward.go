package compile

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	statev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	sniv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/cert_mappers/sni/v3"
	ondemandv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/cert_selectors/on_demand_secret/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Keys of the processor's metadata on an allowed CONNECT, and the filter state objects that carry their values into the
// tunnel, where the processor reads them as attributes.
const (
	TokenKey     = "token"
	AuthorityKey = "authority" // host:port, in lower case, always with the port
	PeerKey      = "peer"

	StateToken     = "sallyport.token"
	StateAuthority = "sallyport.authority"
	StatePeer      = "sallyport.peer"
)

// ForwardDoor is the name of the forward door's listener.
const ForwardDoor = "door/forward"

const (
	innerName = "door/inner"
	hashable  = "envoy.hashable_string"
	// handshakeTimeout is longer than the control plane takes to ask the signer.
	handshakeTimeout = 15 * time.Second
	// NoServerName is the secret that is asked for when a client names no server: a name that can never be a host.
	NoServerName = "no-server-name.invalid"
)

// Certificate is a chain and its private key, both PEM. The key is never logged; Envoy leaves it out of its dumps.
type Certificate struct{ ChainPEM, KeyPEM []byte }

// Forward says how the forward door (proxy) listens. Its inner side, which ends the tunnels' TLS, has the same limits.
type Forward struct {
	Door
	Certificate *Certificate // of the TLS side, which asks every client for a certificate; nil: plaintext only
}

// Validate reports everything that is wrong with f, joined.
func (f Forward) Validate() error {
	errs := []error{f.Door.Validate()}
	if c := f.Certificate; c != nil {
		if _, err := tls.X509KeyPair(c.ChainPEM, c.KeyPEM); err != nil {
			errs = append(errs, fmt.Errorf("door: the forward door's certificate: %w", err))
		}
	}
	return errors.Join(errs...)
}

// ForwardListeners compiles the forward door, and those inside that only the clusters of Inner and SNI reach.
func ForwardListeners(f Forward) ([]*listenerv3.Listener, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	f.Door = f.withDefaults()
	outside, err := forwardListener(f)
	if err != nil {
		return nil, err
	}
	inside, err := innerListener(f.Door)
	if err != nil {
		return nil, err
	}
	if f.Egress == nil {
		return []*listenerv3.Listener{outside, inside}, nil
	}
	passing, err := sniListener(f.Door)
	if err != nil {
		return nil, err
	}
	return []*listenerv3.Listener{outside, inside, passing}, nil
}

func forwardListener(f Forward) (*listenerv3.Listener, error) {
	plain, err := filterChain(f.Door, forward)
	if err != nil {
		return nil, fmt.Errorf("door: %w", err)
	}
	if f.Certificate == nil {
		return listener(ForwardDoor, f.Door, plain)
	}
	secure, err := filterChain(f.Door, forwardMTLS)
	if err != nil {
		return nil, fmt.Errorf("door: %w", err)
	}
	plain.FilterChainMatch = &listenerv3.FilterChainMatch{TransportProtocol: "raw_buffer"}
	secure.FilterChainMatch = &listenerv3.FilterChainMatch{TransportProtocol: "tls"}
	secure.TransportSocketConnectTimeout = durationpb.New(handshakeTimeout)
	if secure.TransportSocket, err = tlsSocket(clientCertificate(f.Certificate)); err != nil {
		return nil, err
	}
	l, err := listener(ForwardDoor, f.Door, secure, plain)
	if err != nil {
		return nil, err
	}
	return inspected(l)
}

// inspected reads the beginning of each connection, for the choice between TLS and plain and for the client's server name:
// the attribute connection.requested_server_name is this filter's, and empty without it although TLS ends here (Envoy
// 1.40.0, measured).
func inspected(l *listenerv3.Listener) (*listenerv3.Listener, error) {
	inspector, err := pack(&inspectorv3.TlsInspector{})
	if err != nil {
		return nil, err
	}
	l.ListenerFilters = []*listenerv3.ListenerFilter{{
		Name:       "envoy.filters.listener.tls_inspector",
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: inspector},
	}}
	return l, nil
}

// clientCertificate takes any client certificate: which one a token is bound to, the token says (RFC 8705), and the
// processor compares. Nothing is resumed, so that each connection proves the key anew.
func clientCertificate(c *Certificate) *tlsv3.DownstreamTlsContext {
	inline := func(b []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
	}
	t := downstreamTLS()
	t.RequireClientCertificate = wrapperspb.Bool(true)
	t.CommonTlsContext.TlsCertificates = []*tlsv3.TlsCertificate{{CertificateChain: inline(c.ChainPEM), PrivateKey: inline(c.KeyPEM)}}
	t.CommonTlsContext.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{
		ValidationContext: &tlsv3.CertificateValidationContext{TrustChainVerification: tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED},
	}
	return t
}

func downstreamTLS() *tlsv3.DownstreamTlsContext {
	return &tlsv3.DownstreamTlsContext{
		DisableStatefulSessionResumption: true,
		// Required with the certificate selector: Envoy 1.40.0 refuses the listener otherwise.
		SessionTicketKeysType: &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true},
		CommonTlsContext: &tlsv3.CommonTlsContext{
			AlpnProtocols: []string{"h2", "http/1.1"},
			TlsParams: &tlsv3.TlsParameters{
				TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			},
		},
	}
}

func innerListener(d Door) (*listenerv3.Listener, error) {
	chain, err := filterChain(d, inner)
	if err != nil {
		return nil, fmt.Errorf("door: %w", err)
	}
	t := downstreamTLS()
	if t.CommonTlsContext.CustomTlsCertificateSelector, err = leafBySNI(); err != nil {
		return nil, err
	}
	if chain.TransportSocket, err = tlsSocket(t); err != nil {
		return nil, err
	}
	// A handshake waits for its leaf, but not for ever.
	chain.TransportSocketConnectTimeout = durationpb.New(handshakeTimeout)
	d.Address = netip.AddrPort{}
	l, err := listener(innerName, d, chain)
	if err != nil {
		return nil, err
	}
	return inspected(l)
}

// leafBySNI asks the control plane for the certificate of the name in the client's hello, while the handshake waits. A
// name that is refused fails the handshake, and Envoy drops the subscription (1.40.0).
func leafBySNI() (*corev3.TypedExtensionConfig, error) {
	mapper, err := pack(&sniv3.SNI{DefaultValue: NoServerName})
	if err != nil {
		return nil, err
	}
	selector, err := pack(&ondemandv3.Config{
		ConfigSource:      adsSource(),
		CertificateMapper: &corev3.TypedExtensionConfig{Name: "envoy.tls.certificate_mappers.sni", TypedConfig: mapper},
	})
	if err != nil {
		return nil, err
	}
	return &corev3.TypedExtensionConfig{Name: "envoy.tls.certificate_selectors.on_demand_secret", TypedConfig: selector}, nil
}

func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

func tlsSocket(m proto.Message) (*corev3.TransportSocket, error) {
	packed, err := pack(m)
	if err != nil {
		return nil, err
	}
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed},
	}, nil
}

// handOver copies who asked for a tunnel, and where to, into filter state that the tunnel's inner connection shares. The
// objects are hashable, so that the pool of inner connections is one per identity and authority: with plain strings, a
// connection that was opened for one client could be given to another (Envoy pools by the hashable objects alone).
//
// The host and port of Envoy's own are not hashable, and all connections of a pool have those with which the pool began
// (1.40.0, measured). They are the authority's two parts, which is hashable: with one authority there is one host.
func handOver() *setstatev3.Config {
	out := &setstatev3.Config{}
	for _, o := range []struct{ object, key, factory string }{
		{StateToken, TokenKey, hashable}, {StateAuthority, AuthorityKey, hashable}, {StatePeer, PeerKey, hashable},
		{stateHost, HostKey, stateHost}, {statePort, PortKey, statePort},
	} {
		out.OnRequestHeaders = append(out.OnRequestHeaders, &statev3.FilterStateValue{
			Key:        &statev3.FilterStateValue_ObjectKey{ObjectKey: o.object},
			FactoryKey: o.factory,
			Value: &statev3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
				OmitEmptyValues: true,
				Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
					Specifier: &corev3.DataSource_InlineString{InlineString: "%DYNAMIC_METADATA(" + MetadataNamespace + ":" + o.key + ")%"},
				}},
			}},
			SharedWithUpstream: statev3.FilterStateValue_ONCE,
			SkipIfEmpty:        true,
		})
	}
	return out
}
