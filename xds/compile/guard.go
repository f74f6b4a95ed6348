package compile

import (
	"errors"
	"net/netip"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacconfv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	headerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	upstreamipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/rbac/matchers/upstream_ip_port/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// Names of filters. A route of a contract overrides the first two.
const (
	nameFilter         = "sallyport.named"
	addressFilter      = "sallyport.address_guard"
	resolveFilter      = "sallyport.resolve"
	resolveNamedFilter = "sallyport.resolve_named"
	proxyExtension     = "envoy.filters.http.dynamic_forward_proxy"
)

// namedHeader tells the two caches' filters which of them is meant: 0, or 1 where the route says so. Whatever a client
// sent is overwritten. A filter that a route enables would not do: the contract's route is chosen after the chain of filters was
// built (Envoy 1.40.0, measured).
const namedHeader = "x-sallyport-named"

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
	some, err := addressIn(everywhere())
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
	mark, err := pack(&headerv3.HeaderMutationPerRoute{Mutations: setNamed("1")})
	if err != nil {
		return nil, err
	}
	return map[string]*anypb.Any{addressFilter: guard, nameFilter: mark}, nil
}

// addEgressFilters find the address of a host, in the cache that the route says, and refuse it if it is not to be reached.
func addEgressFilters(e EgressConfig, add func(string, proto.Message) error) error {
	public, err := skipWhere(proxyExtension, resolve(e.cache(publicCache)), where{namedHeader, "1"})
	if err != nil {
		return err
	}
	named, err := skipWhere(proxyExtension, resolve(e.cache(namedCache)), where{namedHeader, "0"})
	if err != nil {
		return err
	}
	wall, err := addressGuard(e.Refused, nil)
	if err != nil {
		return err
	}
	return errors.Join(add(nameFilter, &headerv3.HeaderMutation{Mutations: setNamed("0")}), add(resolveFilter, public), add(resolveNamedFilter, named), add(addressFilter, wall))
}

func setNamed(value string) *headerv3.Mutations {
	return &headerv3.Mutations{RequestMutations: []*mutationv3.HeaderMutation{{
		Action: &mutationv3.HeaderMutation_Append{Append: &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: namedHeader, Value: value},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}},
	}}}
}
