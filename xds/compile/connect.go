package compile

import (
	"errors"
	"fmt"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	internalv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/internal_upstream/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	// ConnectScope is the scope of an allowed CONNECT: no contract's, because the tunnel's requests are decided inside.
	ConnectScope = "connect"
	// InspectHeader says on an allowed CONNECT how the tunnel is inspected. Only the processor may set it.
	InspectHeader = "x-sallyport-inspect"
	// InspectFull ends the tunnel's TLS here.
	InspectFull = "full"

	innerCluster = "inner"
	innerConnect = time.Second // it is this process
)

// Connect compiles where an allowed CONNECT goes. A kind of inspection without a route here is refused.
func Connect() (*Resources, error) {
	r := &Resources{
		// Not on demand: every Envoy needs it, and it is the same for all contracts.
		Scope: &routev3.ScopedRouteConfiguration{
			Name: ConnectScope, RouteConfigurationName: RoutesName(ConnectScope), Key: scopeKey(ConnectScope),
		},
		Routes: &routev3.RouteConfiguration{
			Name: RoutesName(ConnectScope),
			VirtualHosts: []*routev3.VirtualHost{{Name: ConnectScope, Domains: []string{"*"}, Routes: []*routev3.Route{
				tunnel(InspectFull, innerCluster),
			}}},
			RequestHeadersToRemove: requestHeadersToRemove(),
		},
	}
	if err := errors.Join(r.Scope.ValidateAll(), r.Routes.ValidateAll()); err != nil {
		return nil, fmt.Errorf("scope %s: %w", ConnectScope, err)
	}
	return r, nil
}

// tunnel ends CONNECT and passes what is in it to cluster.
func tunnel(inspect, cluster string) *routev3.Route {
	action := toCluster(cluster)
	action.Route.UpgradeConfigs = []*routev3.RouteAction_UpgradeConfig{{
		UpgradeType: "CONNECT", ConnectConfig: &routev3.RouteAction_UpgradeConfig_ConnectConfig{},
	}}
	return &routev3.Route{
		Match: &routev3.RouteMatch{
			PathSpecifier: &routev3.RouteMatch_ConnectMatcher_{ConnectMatcher: &routev3.RouteMatch_ConnectMatcher{}},
			Headers:       []*routev3.HeaderMatcher{exactHeader(InspectHeader, inspect)},
		},
		Action: action,
	}
}

// Inner compiles the cluster that leads from a CONNECT to the inner door.
func Inner() (*clusterv3.Cluster, error) { return internalCluster(innerCluster, innerName) }

// internalCluster leads to an internal listener, and hands the filter state over to it.
func internalCluster(name, listener string) (*clusterv3.Cluster, error) {
	raw, err := pack(&rawv3.RawBuffer{})
	if err != nil {
		return nil, err
	}
	// Only this transport socket hands the filter state over.
	socket, err := pack(&internalv3.InternalUpstreamTransport{TransportSocket: &corev3.TransportSocket{
		Name: "envoy.transport_sockets.raw_buffer", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: raw},
	}})
	if err != nil {
		return nil, err
	}
	c := &clusterv3.Cluster{
		Name:                          name,
		ConnectTimeout:                durationpb.New(innerConnect),
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(upstreamBuffer),
		CircuitBreakers:               breakers(),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
				Address: &corev3.Address{Address: &corev3.Address_EnvoyInternalAddress{EnvoyInternalAddress: &corev3.EnvoyInternalAddress{
					AddressNameSpecifier: &corev3.EnvoyInternalAddress_ServerListenerName{ServerListenerName: listener},
				}}},
			}}}},
		}}},
		TransportSocket: &corev3.TransportSocket{
			Name: "envoy.transport_sockets.internal_upstream", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: socket},
		},
	}
	if err := c.ValidateAll(); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", name, err)
	}
	return c, nil
}
