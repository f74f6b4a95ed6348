package compile

import (
	"net/netip"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacconfv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	upstreamipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/rbac/matchers/upstream_ip_port/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// Names of the filters that a route of a contract may override.
const (
	resolveFilter      = "envoy.filters.http.dynamic_forward_proxy"
	resolveNamedFilter = "sallyport.resolve_named"
	addressFilter      = "sallyport.address_guard"
)

// egressKey marks a contract's egress routes in their metadata, so that the guard can tell them from the upstreams'.
const egressKey = "egress"

// AddressPolicy is the guard's policy; Envoy writes it into the details of the calls that it refuses.
const AddressPolicy = "address"

// addressGuard refuses a call on an egress route whose resolved address lies in refused but not in exempt, and one
// without any address, so that a resolver that was left out does not open the door. Other routes are not looked at: there is
// no address, and Envoy 1.40.0 writes a warning for each prefix that it compares with none.
func addressGuard(refused, exempt []netip.Prefix) (*rbacv3.RBAC, error) {
	bad, err := addressIn(refused)
	if err != nil {
		return nil, err
	}
	if len(exempt) > 0 {
		named, err := addressIn(exempt)
		if err != nil {
			return nil, err
		}
		bad = allOf(bad, not(named))
	}
	some, err := addressIn([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")})
	if err != nil {
		return nil, err
	}
	return &rbacv3.RBAC{Rules: &rbacconfv3.RBAC{
		Action: rbacconfv3.RBAC_DENY,
		Policies: map[string]*rbacconfv3.Policy{AddressPolicy: {
			Permissions: []*rbacconfv3.Permission{allOf(onEgressRoute(), not(some)), allOf(onEgressRoute(), bad)},
			Principals:  []*rbacconfv3.Principal{{Identifier: &rbacconfv3.Principal_Any{Any: true}}},
		}},
	}}, nil
}

func onEgressRoute() *rbacconfv3.Permission {
	return &rbacconfv3.Permission{Rule: &rbacconfv3.Permission_SourcedMetadata{SourcedMetadata: &rbacconfv3.SourcedMetadata{
		MetadataSource: rbacconfv3.MetadataSource_ROUTE,
		MetadataMatcher: &matcherv3.MetadataMatcher{
			Filter: MetadataNamespace,
			Path:   []*matcherv3.MetadataMatcher_PathSegment{{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: egressKey}}},
			Value:  &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_BoolMatch{BoolMatch: true}},
		},
	}}}
}

func egressMetadata() *corev3.Metadata {
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
		MetadataNamespace: {Fields: map[string]*structpb.Value{egressKey: structpb.NewBoolValue(true)}},
	}}
}

func addressIn(ps []netip.Prefix) (*rbacconfv3.Permission, error) {
	set := &rbacconfv3.Permission_Set{}
	for _, r := range cidrRanges(ps) {
		m, err := pack(&upstreamipv3.UpstreamIpPortMatcher{UpstreamIp: r})
		if err != nil {
			return nil, err
		}
		set.Rules = append(set.Rules, &rbacconfv3.Permission{Rule: &rbacconfv3.Permission_Matcher{Matcher: &corev3.TypedExtensionConfig{
			Name: "envoy.rbac.matchers.upstream_ip_port", TypedConfig: m,
		}}})
	}
	return &rbacconfv3.Permission{Rule: &rbacconfv3.Permission_OrRules{OrRules: set}}, nil
}

func allOf(ps ...*rbacconfv3.Permission) *rbacconfv3.Permission {
	return &rbacconfv3.Permission{Rule: &rbacconfv3.Permission_AndRules{AndRules: &rbacconfv3.Permission_Set{Rules: ps}}}
}

func not(p *rbacconfv3.Permission) *rbacconfv3.Permission {
	return &rbacconfv3.Permission{Rule: &rbacconfv3.Permission_NotRule{NotRule: p}}
}

// exemption lets a route reach exactly the refused addresses in cidrs, and resolve through the cache that holds them.
func exemption(refused, cidrs []netip.Prefix) (map[string]*anypb.Any, error) {
	wall, err := addressGuard(refused, cidrs)
	if err != nil {
		return nil, err
	}
	guard, err := pack(&rbacv3.RBACPerRoute{Rbac: wall})
	if err != nil {
		return nil, err
	}
	off, err := pack(&routev3.FilterConfig{Disabled: true})
	if err != nil {
		return nil, err
	}
	on, err := pack(&routev3.FilterConfig{Config: &anypb.Any{}})
	if err != nil {
		return nil, err
	}
	return map[string]*anypb.Any{addressFilter: guard, resolveFilter: off, resolveNamedFilter: on}, nil
}
