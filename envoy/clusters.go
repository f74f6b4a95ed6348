package envoy

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// maxQueuedFrames is how many frames may wait to be written to a process of ours; some 13 bytes each.
const maxQueuedFrames = 1 << 20

const (
	httpOptionsKey = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	connectTimeout = time.Second
	// keepalive finds a peer that vanished without closing, which a Unix socket cannot do but a network can.
	keepalive = 10 * time.Second
	// processorCheck is how soon a processor that died is left out, and one that came back is used again.
	processorCheck = 250 * time.Millisecond
	// maxStreams bounds concurrent calls to the processors; Envoy's default of 1,024 would refuse a load of long streams,
	// because each call holds its stream to the end of its answer.
	maxStreams = 16384
)

func staticClusters(c Config) ([]*clusterv3.Cluster, error) {
	xds, err := grpcCluster(xdsCluster, []Endpoint{c.XDS})
	if err != nil {
		return nil, err
	}
	ep, err := grpcCluster(ExtProcCluster, c.ExtProc)
	if err != nil {
		return nil, err
	}
	ep.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections:     wrapperspb.UInt32(maxStreams),
		MaxPendingRequests: wrapperspb.UInt32(maxStreams),
		MaxRequests:        wrapperspb.UInt32(maxStreams),
	}}}
	if len(c.ExtProc) > 1 {
		checkProcessors(ep)
	}
	return []*clusterv3.Cluster{xds, ep}, nil
}

// checkProcessors leaves out a processor whose socket does not accept. There is no panic mode: with all of them gone
// nothing may pass, and asking the dead only delays the refusal.
func checkProcessors(c *clusterv3.Cluster) {
	c.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
	c.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{Value: 0}}
	c.HealthChecks = []*corev3.HealthCheck{{
		Timeout:            durationpb.New(connectTimeout),
		Interval:           durationpb.New(processorCheck),
		NoTrafficInterval:  durationpb.New(processorCheck),
		UnhealthyThreshold: wrapperspb.UInt32(1),
		HealthyThreshold:   wrapperspb.UInt32(1),
		HealthChecker:      &corev3.HealthCheck_TcpHealthCheck_{TcpHealthCheck: &corev3.HealthCheck_TcpHealthCheck{}},
	}}
}

func grpcCluster(name string, endpoints []Endpoint) (*clusterv3.Cluster, error) {
	c := &clusterv3.Cluster{
		Name:                 name,
		ConnectTimeout:       durationpb.New(connectTimeout),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: name,
			Endpoints:   []*endpointv3.LocalityLbEndpoints{{}},
		},
	}
	for _, e := range endpoints {
		addr, named, err := e.address()
		if err != nil {
			return nil, err
		}
		if named {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
		}
		c.LoadAssignment.Endpoints[0].LbEndpoints = append(c.LoadAssignment.Endpoints[0].LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: addr}},
		})
	}
	opts, err := pack(&httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
				ConnectionKeepalive: &corev3.KeepaliveSettings{
					Interval: durationpb.New(keepalive), Timeout: durationpb.New(keepalive / 2),
				},
				// Clients that drop their requests as fast as they can make Envoy reset streams as fast. Its protection against
				// floods then ends the whole connection, and with it other clients' calls (1.40.0: 1,000 resets that are not
				// written yet); the other end here is ours.
				MaxOutboundControlFrames: wrapperspb.UInt32(maxQueuedFrames),
				MaxOutboundFrames:        wrapperspb.UInt32(maxQueuedFrames),
			}},
		}},
	})
	if err != nil {
		return nil, err
	}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptionsKey: opts}
	if t := endpoints[0].TLS; t != nil {
		if c.TransportSocket, err = clientTLS(t); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// address gives e as Envoy wants it; named says that the host must be resolved.
func (e Endpoint) address() (a *corev3.Address, named bool, err error) {
	if e.Socket != "" {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: e.Socket}}}, false, nil
	}
	host, portText, err := net.SplitHostPort(e.Address)
	if err != nil {
		return nil, false, fmt.Errorf("envoy: address %q: %w", e.Address, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, false, fmt.Errorf("envoy: address %q: port: %w", e.Address, err)
	}
	if _, err := netip.ParseAddr(host); err != nil {
		named = true
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}, named, nil
}

func clientTLS(t *ClientTLS) (*corev3.TransportSocket, error) {
	file := func(path string) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
	}
	cfg, err := pack(&tlsv3.UpstreamTlsContext{
		Sni: t.ServerName,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			// Both ends are ours. The maximum must be named: Envoy's clients stop at TLS 1.2 otherwise (1.40.0).
			TlsParams: &tlsv3.TlsParameters{
				TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			},
			AlpnProtocols:   []string{"h2"},
			TlsCertificates: []*tlsv3.TlsCertificate{{CertificateChain: file(t.CertFile), PrivateKey: file(t.KeyFile)}},
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: file(t.CAFile),
				MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
					SanType: tlsv3.SubjectAltNameMatcher_DNS,
					Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: t.ServerName}},
				}},
			}},
		},
	})
	if err != nil {
		return nil, err
	}
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: cfg},
	}, nil
}

func pack(m proto.Message) (*anypb.Any, error) {
	a, err := anypb.New(m)
	if err != nil {
		return nil, fmt.Errorf("envoy: pack %T: %w", m, err)
	}
	return a, nil
}
