package compile

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	commondnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	// upstreamIdle closes pooled connections before common load balancers do (60 s and up), so that a call is not
	// sent into a connection that the other side is closing: nothing is retried here.
	upstreamIdle = 50 * time.Second
	// upstreamBuffer bounds what Envoy holds of an answer that the client does not read, in bytes.
	upstreamBuffer = 1 << 20
	// maxConnections and maxRequests bound one upstream per Envoy worker set; far above what one gateway carries, and
	// Envoy's default of 1,024 would cut a load of long streams.
	maxConnections = 16384
	maxRequests    = 16384

	// dnsRefresh is how often a name is asked for again where its answer names no time to live.
	dnsRefresh = 30 * time.Second

	httpOptionsKey = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
)

// Clusters compiles one cluster per upstream. An https upstream must present a certificate for exactly its host,
// from the upstream's CA file or else from systemCA.
func Clusters(ups []Upstream, systemCA string) ([]*clusterv3.Cluster, error) {
	if err := ValidateAll(ups); err != nil {
		return nil, err
	}
	out := make([]*clusterv3.Cluster, 0, len(ups))
	for i := range ups {
		c, err := cluster(&ups[i], systemCA)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func cluster(u *Upstream, systemCA string) (*clusterv3.Cluster, error) {
	host := u.URL.Hostname()
	timeout := u.ConnectTimeout
	if timeout == 0 {
		timeout = DefaultConnectTimeout
	}
	c := &clusterv3.Cluster{
		Name:                          u.ClusterName(),
		AltStatName:                   u.Name,
		ConnectTimeout:                durationpb.New(timeout),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(upstreamBuffer),
		CircuitBreakers:               breakers(),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: u.ClusterName(),
			Endpoints:   []*endpointv3.LocalityLbEndpoints{{LbEndpoints: u.endpoints()}},
		},
	}
	if err := setDiscovery(c, host, len(u.Addresses) > 0); err != nil {
		return nil, err
	}
	opts, err := pack(protocolOptions(u.URL.Scheme))
	if err != nil {
		return nil, err
	}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptionsKey: opts}
	if u.URL.Scheme == "https" {
		if c.TransportSocket, err = upstreamTLS(u, systemCA); err != nil {
			return nil, err
		}
	}
	if err := c.ValidateAll(); err != nil {
		return nil, fmt.Errorf("upstream %q: %w", u.Name, err)
	}
	return c, nil
}

// setDiscovery picks how the host becomes an address. One logical endpoint keeps pooled connections when a large
// provider's DNS rotates its addresses; one endpoint per address would drain them at each answer.
func setDiscovery(c *clusterv3.Cluster, host string, known bool) error {
	if _, err := netip.ParseAddr(host); err == nil || known {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		return nil
	}
	cfg, err := pack(&dnsv3.DnsCluster{
		DnsRefreshRate:               durationpb.New(dnsRefresh),
		RespectDnsTtl:                true,
		DnsLookupFamily:              commondnsv3.DnsLookupFamily_V4_PREFERRED,
		AllAddressesInSingleEndpoint: true,
	})
	if err != nil {
		return err
	}
	c.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
		Name: "envoy.clusters.dns", TypedConfig: cfg,
	}}
	// An upstream whose name does not resolve must not keep the others, or the listener, from coming up.
	c.WaitForWarmOnInit = wrapperspb.Bool(false)
	return nil
}

// endpoints are where the upstream is: its name, or the addresses that the operator gave it.
func (u *Upstream) endpoints() []*endpointv3.LbEndpoint {
	if len(u.Addresses) == 0 {
		return []*endpointv3.LbEndpoint{lbEndpoint(u.URL.Hostname(), u.port())}
	}
	out := make([]*endpointv3.LbEndpoint, 0, len(u.Addresses))
	for _, a := range u.Addresses {
		out = append(out, lbEndpoint(a.String(), u.port()))
	}
	return out
}

func lbEndpoint(host string, port uint32) *endpointv3.LbEndpoint {
	return &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}},
	}}}
}

func breakers() *clusterv3.CircuitBreakers {
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections:     wrapperspb.UInt32(maxConnections),
		MaxPendingRequests: wrapperspb.UInt32(maxRequests),
		MaxRequests:        wrapperspb.UInt32(maxRequests),
		MaxRetries:         wrapperspb.UInt32(0),
	}}}
}

// protocolOptions speaks what the other side offers over TLS, and HTTP/1.1 otherwise.
func protocolOptions(scheme string) *httpv3.HttpProtocolOptions {
	o := &httpv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(upstreamIdle)},
	}
	if scheme == "https" {
		o.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_AutoConfig{AutoConfig: &httpv3.HttpProtocolOptions_AutoHttpConfig{
			HttpProtocolOptions:  &corev3.Http1ProtocolOptions{},
			Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
		}}
	} else {
		o.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}},
		}}
	}
	return o
}

// ErrNoCA says that an https upstream has nobody to vouch for it.
var ErrNoCA = errors.New("no certificate authorities: give the upstream a ca file or the machine a system bundle")

// upstreamTLS verifies the chain and the name. Envoy verifies neither unless told to: without a trusted CA it accepts any
// certificate, and without a name matcher any name.
func upstreamTLS(u *Upstream, systemCA string) (*corev3.TransportSocket, error) {
	ca := u.CAFile
	if ca == "" {
		ca = systemCA
	}
	if ca == "" {
		return nil, fmt.Errorf("upstream %q: %w", u.Name, ErrNoCA)
	}
	host := u.URL.Hostname()
	san, sni := tlsv3.SubjectAltNameMatcher_DNS, host
	if _, err := netip.ParseAddr(host); err == nil {
		san, sni = tlsv3.SubjectAltNameMatcher_IP_ADDRESS, "" // a server name must not be an address (RFC 6066)
	}
	ctx := &tlsv3.UpstreamTlsContext{
		Sni: sni,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			// The maximum must be named: Envoy's clients stop at TLS 1.2 otherwise (1.40.0).
			TlsParams: &tlsv3.TlsParameters{
				TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			},
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: ca}},
				MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
					SanType: san,
					Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: host}},
				}},
			}},
		},
	}
	return tlsSocket(ctx)
}

// pack wraps m deterministically, so that an unchanged resource keeps its version and is not sent again.
func pack(m proto.Message) (*anypb.Any, error) {
	a := new(anypb.Any)
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, fmt.Errorf("pack %T: %w", m, err)
	}
	return a, nil
}
