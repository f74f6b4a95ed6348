package compile

import (
	"net/netip"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacconfv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	snidfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_dynamic_forward_proxy/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	exprv1 "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Kinds of inspection whose tunnels pass unread.
const (
	InspectSNI  = "sni"  // once the TLS server name in the client's hello was seen to be the tunnel's host
	InspectNone = "none" // as they are
)

// Keys of the processor's metadata on a CONNECT with InspectSNI: where it leads, in two parts. They become the filter state
// that Envoy's own filters take the destination from, so that the client's hello can only agree with it.
const (
	HostKey = "host"
	PortKey = "port"

	stateHost = "envoy.upstream.dynamic_host"
	statePort = "envoy.upstream.dynamic_port"
)

const (
	sniName      = "door/sni"
	sniCluster   = "sni"
	tunnelScheme = "tunnel" // of the egress clusters: bytes that pass unread
	// maxHello is how much of a client may wait for the connection to its host; a larger hello waits in the socket.
	maxHello = 64 << 10
)

// SNI compiles the cluster that leads from a CONNECT to the door that reads only the TLS server name.
func SNI() (*clusterv3.Cluster, error) { return internalCluster(sniCluster, sniName) }

// unread is the rule's route for tunnels to one of its authorities. A rule about methods or paths has none: they cannot be seen.
//
// With InspectNone the rule may name private addresses, as for any call. With InspectSNI it cannot: the name is looked up
// behind the internal door, where the rule is not known any more.
func (w way) unread(refused []netip.Prefix) ([]*routev3.Route, error) {
	if len(w.rule.Methods) > 0 || len(w.rule.PathPrefixes) > 0 || w.rule.PathPattern != "" {
		return nil, nil
	}
	if w.rule.Inspect == InspectSNI {
		return []*routev3.Route{tunnel(InspectSNI, sniCluster)}, nil
	}
	named := len(w.rule.CIDRs) > 0
	r := tunnel(InspectNone, egressCluster(tunnelScheme, named))
	r.Metadata = egressMetadata()
	if named {
		var err error
		if r.TypedPerFilterConfig, err = exemption(refused, w.rule.CIDRs); err != nil {
			return nil, err
		}
	}
	return []*routev3.Route{r}, nil
}

// sniListener passes a tunnel on to the host that the processor named, if the client's hello names it too. Whatever is no
// TLS, or names another server or none (as for addresses, or with the name encrypted), is closed before anything of it
// leaves: the connection to the host is made only after both guards have seen the hello.
func sniListener(d Door) (*listenerv3.Listener, error) {
	wall, err := connectionGuard(d.Egress.Refused)
	if err != nil {
		return nil, err
	}
	chain := &listenerv3.FilterChain{Name: "sni", FilterChainMatch: &listenerv3.FilterChainMatch{TransportProtocol: "tls"}}
	for _, f := range []struct {
		name string
		cfg  proto.Message
	}{
		{"sallyport.server_name", serverNameGuard()},
		{"envoy.filters.network.sni_dynamic_forward_proxy", &snidfpv3.FilterConfig{
			DnsCacheConfig: d.Egress.cache(publicCache), SaveUpstreamAddress: true,
		}},
		{addressFilter, wall},
		{"envoy.filters.network.tcp_proxy", passOn()},
	} {
		packed, err := pack(f.cfg)
		if err != nil {
			return nil, err
		}
		chain.Filters = append(chain.Filters, &listenerv3.Filter{Name: f.name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed}})
	}
	d.Address = netip.AddrPort{}
	l, err := listener(sniName, d, chain)
	if err != nil {
		return nil, err
	}
	l.PerConnectionBufferLimitBytes = wrapperspb.UInt32(upstreamBuffer) // no body is held here
	return inspected(l)
}

func passOn() *tcpproxyv3.TcpProxy {
	return &tcpproxyv3.TcpProxy{
		StatPrefix:          "sni",
		ClusterSpecifier:    &tcpproxyv3.TcpProxy_Cluster{Cluster: egressCluster(tunnelScheme, false)},
		IdleTimeout:         durationpb.New(routeIdle),
		UpstreamConnectMode: tcpproxyv3.UpstreamConnectMode_ON_DOWNSTREAM_DATA,
		MaxEarlyDataBytes:   wrapperspb.UInt32(maxHello),
	}
}

// serverNameGuard passes a connection whose TLS server name is the host that the processor named. A host that is missing is
// an error of the expression, and with it a refusal.
func serverNameGuard() *rbacv3.RBAC {
	name := member("connection", "requested_server_name")
	host := call("_[_]", identifier("filter_state"), text(stateHost))
	return &rbacv3.RBAC{StatPrefix: "server_name.", Rules: &rbacconfv3.RBAC{
		Action: rbacconfv3.RBAC_ALLOW,
		Policies: map[string]*rbacconfv3.Policy{"server_name": {
			Permissions: []*rbacconfv3.Permission{{Rule: &rbacconfv3.Permission_Any{Any: true}}},
			Principals:  []*rbacconfv3.Principal{{Identifier: &rbacconfv3.Principal_Any{Any: true}}},
			Condition:   call("_==_", name, call("string", host)), // the object comes as bytes
			CelConfig:   &corev3.CelExpressionConfig{EnableStringConversion: true},
		}},
	}}
}

// connectionGuard is addressGuard for a connection: it must have an address, and not one of refused.
func connectionGuard(refused []netip.Prefix) (*rbacv3.RBAC, error) {
	bad, err := addressIn(refused)
	if err != nil {
		return nil, err
	}
	some, err := addressIn(everywhere())
	if err != nil {
		return nil, err
	}
	return &rbacv3.RBAC{StatPrefix: "address.", Rules: &rbacconfv3.RBAC{
		Action: rbacconfv3.RBAC_ALLOW,
		Policies: map[string]*rbacconfv3.Policy{AddressPolicy: {
			Permissions: []*rbacconfv3.Permission{allOf(some, not(bad))},
			Principals:  []*rbacconfv3.Principal{{Identifier: &rbacconfv3.Principal_Any{Any: true}}},
		}},
	}}, nil
}

// everywhere is all addresses.
func everywhere() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
}

// Expressions of CEL.

func identifier(name string) *exprv1.Expr {
	return &exprv1.Expr{ExprKind: &exprv1.Expr_IdentExpr{IdentExpr: &exprv1.Expr_Ident{Name: name}}}
}

func member(of, field string) *exprv1.Expr {
	return &exprv1.Expr{ExprKind: &exprv1.Expr_SelectExpr{SelectExpr: &exprv1.Expr_Select{Operand: identifier(of), Field: field}}}
}

func text(s string) *exprv1.Expr {
	return &exprv1.Expr{ExprKind: &exprv1.Expr_ConstExpr{ConstExpr: &exprv1.Constant{
		ConstantKind: &exprv1.Constant_StringValue{StringValue: s},
	}}}
}

func call(function string, args ...*exprv1.Expr) *exprv1.Expr {
	return &exprv1.Expr{ExprKind: &exprv1.Expr_CallExpr{CallExpr: &exprv1.Expr_Call{Function: function, Args: args}}}
}
