package compile

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	dfpclusterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/dynamic_forward_proxy/v3"
	dfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/dynamic_forward_proxy/v3"
	caresv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/network/dns_resolver/cares/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Names of the two caches of resolved names. Addresses of Refused never get into the public one, so neither a second
// address of an answer nor a later answer can lead there. The named one serves the routes whose contract names addresses.
const (
	publicCache = "egress"
	namedCache  = "egress/named"
)

const (
	dnsMinRefresh = time.Second     // an answer may live as briefly as this
	dnsHostTTL    = time.Minute     // a name that nobody asks for is forgotten
	dnsTimeout    = 5 * time.Second // for one answer
	maxHosts      = 4096            // names per cache; a call to one more gets 503 until others are forgotten
	maxPendingDNS = 1024            // calls that wait for a name, per cache
	egressConnect = 5 * time.Second // one address

	// SchemeHeader says on an allowed call whether it goes on over TLS (https) or plain (http). Only the processor may
	// set it.
	SchemeHeader = "x-sallyport-scheme"
)

// EgressConfig says how hosts beside the upstreams are reached.
type EgressConfig struct {
	Resolver netip.AddrPort // the only DNS server that is asked, over UDP and TCP
	CAFile   string         // PEM bundle that vouches for the hosts; Envoy reads it
	Refused  []netip.Prefix // addresses that no name may lead to unless a contract's rule names them
}

// Validate reports everything that is wrong with e, joined.
func (e EgressConfig) Validate() error {
	var errs []error
	if !e.Resolver.IsValid() || e.Resolver.Port() == 0 {
		errs = append(errs, errors.New("egress: the address of the resolver is missing; without one Envoy would ask the machine's"))
	}
	if !filepath.IsAbs(e.CAFile) {
		errs = append(errs, fmt.Errorf("egress: ca file %q must be an absolute path, because Envoy reads it", e.CAFile))
	}
	if len(e.Refused) == 0 {
		errs = append(errs, errors.New("egress: the list of refused addresses is empty; name at least the private ones"))
	}
	for _, p := range e.Refused {
		if !p.IsValid() {
			errs = append(errs, fmt.Errorf("egress: refused prefix %q is not valid", p))
		}
	}
	return errors.Join(errs...)
}

// EgressClusters compiles the clusters that reach a host by its name in the request: over TLS, over TLS
// for WebSockets, plain, and as a tunnel's bytes, for each cache.
func EgressClusters(e EgressConfig) ([]*clusterv3.Cluster, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	var out []*clusterv3.Cluster
	for _, named := range []bool{false, true} {
		for _, scheme := range []string{"https", SchemeWSS, "http", tunnelScheme} {
			c, err := e.cluster(scheme, named)
			if err != nil {
				return nil, err
			}
			out = append(out, c)
		}
	}
	return out, nil
}

func egressCluster(scheme string, named bool) string {
	if named {
		return "egress/named/" + scheme
	}
	return "egress/" + scheme
}

func (e EgressConfig) cluster(scheme string, named bool) (*clusterv3.Cluster, error) {
	secure := scheme == "https" || scheme == SchemeWSS
	cache := publicCache
	if named {
		cache = namedCache
	}
	cfg, err := pack(&dfpclusterv3.ClusterConfig{
		ClusterImplementationSpecifier: &dfpclusterv3.ClusterConfig_DnsCacheConfig{DnsCacheConfig: e.cache(cache)},
		AllowInsecureClusterOptions:    !secure, // it means that there is no TLS whose name could be checked
	})
	if err != nil {
		return nil, err
	}
	c := &clusterv3.Cluster{
		Name:                          egressCluster(scheme, named),
		ConnectTimeout:                durationpb.New(egressConnect),
		LbPolicy:                      clusterv3.Cluster_CLUSTER_PROVIDED,
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(upstreamBuffer),
		CircuitBreakers:               breakers(),
		ClusterDiscoveryType: &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
			Name: "envoy.clusters.dynamic_forward_proxy", TypedConfig: cfg,
		}},
	}
	opts := protocolOptions(scheme)
	if secure {
		// The name in the hello and the one that the certificate must carry are the request's host.
		opts.UpstreamHttpProtocolOptions = &corev3.UpstreamHttpProtocolOptions{AutoSni: true, AutoSanValidation: true}
		if c.TransportSocket, err = e.tls(scheme); err != nil {
			return nil, err
		}
	}
	packed, err := pack(opts)
	if err != nil {
		return nil, err
	}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptionsKey: packed}
	if err := c.ValidateAll(); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", c.GetName(), err)
	}
	return c, nil
}

func (e EgressConfig) tls(scheme string) (*corev3.TransportSocket, error) {
	var offers []string // else Envoy's own, for the protocols that the cluster speaks
	if scheme == SchemeWSS {
		offers = []string{"http/1.1"}
	}
	return tlsSocket(&tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		AlpnProtocols: offers,
		// The maximum must be named: Envoy's clients stop at TLS 1.2 otherwise (1.40.0).
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		},
		ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: e.CAFile}},
		}},
	}})
}

// cache is the configuration of one cache; Envoy insists that cluster and filter agree on every field of it.
func (e EgressConfig) cache(name string) *cachev3.DnsCacheConfig {
	resolver, err := pack(&caresv3.CaresDnsResolverConfig{
		Resolvers:          []*corev3.Address{socketAddress(e.Resolver)},
		DnsResolverOptions: &corev3.DnsResolverOptions{NoDefaultSearchDomain: true},
	})
	if err != nil {
		panic(err) // unreachable: a message without cycles always packs
	}
	c := &cachev3.DnsCacheConfig{
		Name:                   name,
		DnsLookupFamily:        clusterv3.Cluster_V4_PREFERRED,
		DnsRefreshRate:         durationpb.New(dnsRefresh),
		DnsMinRefreshRate:      durationpb.New(dnsMinRefresh),
		HostTtl:                durationpb.New(dnsHostTTL),
		MaxHosts:               wrapperspb.UInt32(maxHosts),
		DnsQueryTimeout:        durationpb.New(dnsTimeout),
		DnsCacheCircuitBreaker: &cachev3.DnsCacheCircuitBreakers{MaxPendingRequests: wrapperspb.UInt32(maxPendingDNS)},
		TypedDnsResolverConfig: &corev3.TypedExtensionConfig{Name: "envoy.network.dns_resolver.cares", TypedConfig: resolver},
	}
	if name == publicCache {
		c.ResolvedAddressFilter = &matcherv3.AddressMatcher{Ranges: xdsRanges(e.Refused)}
	}
	return c
}

// resolve waits for the host's address before the address guard looks at it.
func resolve(c *cachev3.DnsCacheConfig) *dfpv3.FilterConfig {
	return &dfpv3.FilterConfig{
		ImplementationSpecifier: &dfpv3.FilterConfig_DnsCacheConfig{DnsCacheConfig: c},
		SaveUpstreamAddress:     true,
	}
}

func socketAddress(a netip.AddrPort) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: a.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port())},
	}}}
}

func cidrRanges(ps []netip.Prefix) []*corev3.CidrRange {
	out := make([]*corev3.CidrRange, len(ps))
	for i, p := range ps {
		out[i] = &corev3.CidrRange{AddressPrefix: p.Masked().Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits()))}
	}
	return out
}

// xdsRanges is cidrRanges in the type of the common xDS API, which the address filter uses.
func xdsRanges(ps []netip.Prefix) []*xdscorev3.CidrRange {
	out := make([]*xdscorev3.CidrRange, len(ps))
	for i, r := range cidrRanges(ps) {
		out[i] = &xdscorev3.CidrRange{AddressPrefix: r.GetAddressPrefix(), PrefixLen: r.GetPrefixLen()}
	}
	return out
}
