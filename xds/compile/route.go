package compile

import (
	"errors"
	"fmt"
	"regexp"
	"sort"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"sallyport/signer/weaken"
)

const (
	// ScopeHeader selects the routes of one contract. Only the processor may set it; it never leaves the gateway.
	ScopeHeader = "x-sallyport-scope"

	// routeIdle ends an exchange in which nothing moved. Model APIs think for minutes before the first byte, and the
	// common SDKs give up after ten.
	routeIdle = 15 * time.Minute
	// maxStream ends any exchange, so that a call cannot outlive its token without bound.
	maxStream = 2 * time.Hour
)

// Resources are what one contract becomes.
type Resources struct {
	Scope  *routev3.ScopedRouteConfiguration
	Routes *routev3.RouteConfiguration
}

// Allow is what of a contract decides its routes.
type Allow struct {
	Hash      string   // policy_hash_b64u, the key of the scope
	Providers []string // names of the providers that some rule could allow; "*" for any
	Egress    []Egress // ways out beside the providers: egress rules and the hosts of bound tools
}

var policyHash = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)

// ErrHash says that a scope's key is no policy hash.
var ErrHash = errors.New("not a policy hash: want 43 base64url characters")

// RoutesName is the name of the RouteConfiguration of the contract with this hash.
func RoutesName(hash string) string { return "routes/" + hash }

// Scope compiles the routes of one contract over the upstreams: for each allowed authority exactly the methods and paths
// that the gateway carries there. An authority, method or path outside them has no route, which Envoy refuses.
//
// The ways out beside the upstreams are compiled only where exit says how they are reached; nil leaves them out, so that
// they are refused.
func Scope(a Allow, ups []Upstream, exit *EgressConfig) (*Resources, error) {
	if !policyHash.MatchString(a.Hash) {
		return nil, fmt.Errorf("scope %q: %w", a.Hash, ErrHash)
	}
	if err := ValidateAll(ups); err != nil {
		return nil, fmt.Errorf("scope %s: %w", a.Hash, err)
	}
	for i := range a.Egress {
		if err := a.Egress[i].Validate(); err != nil {
			return nil, fmt.Errorf("scope %s: %w", a.Hash, err)
		}
	}
	hosts := virtualHosts(allowed(a, ups))
	if exit != nil {
		var err error
		if hosts, err = addEgress(hosts, a.Egress, exit.Refused); err != nil {
			return nil, fmt.Errorf("scope %s: %w", a.Hash, err)
		}
	}
	r := &Resources{
		Scope: &routev3.ScopedRouteConfiguration{
			Name:                   a.Hash,
			OnDemand:               true,
			RouteConfigurationName: RoutesName(a.Hash),
			Key:                    scopeKey(a.Hash),
		},
		Routes: &routev3.RouteConfiguration{
			Name:                   RoutesName(a.Hash),
			VirtualHosts:           hosts,
			RequestHeadersToRemove: requestHeadersToRemove(),
		},
	}
	if err := errors.Join(r.Scope.ValidateAll(), r.Routes.ValidateAll()); err != nil {
		return nil, fmt.Errorf("scope %s: %w", a.Hash, err)
	}
	return r, nil
}

func scopeKey(key string) *routev3.ScopedRouteConfiguration_Key {
	return &routev3.ScopedRouteConfiguration_Key{Fragments: []*routev3.ScopedRouteConfiguration_Key_Fragment{{
		Type: &routev3.ScopedRouteConfiguration_Key_Fragment_StringKey{StringKey: key},
	}}}
}

// allowed picks the upstreams in a stable order, so that the same contract always compiles to the same bytes.
func allowed(a Allow, ups []Upstream) []*Upstream {
	ok := map[string]bool{}
	for _, p := range a.Providers {
		ok[p] = true
	}
	var out []*Upstream
	for i := range ups {
		if weaken.Off("routes") || ok["*"] || ok[ups[i].Provider] {
			out = append(out, &ups[i])
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// virtualHosts groups upstreams by authority, because Envoy refuses a route configuration in which a domain occurs twice.
func virtualHosts(ups []*Upstream) []*routev3.VirtualHost {
	byAuthority := map[string]*routev3.VirtualHost{}
	seen := map[string]bool{}
	var order []string
	for _, u := range ups {
		vh, ok := byAuthority[u.Authority()]
		if !ok {
			vh = &routev3.VirtualHost{Name: u.Authority(), Domains: []string{u.Authority()}}
			byAuthority[u.Authority()] = vh
			order = append(order, u.Authority())
			if weaken.Off("routes") {
				vh.Routes = append(vh.Routes, &routev3.Route{
					Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
					Action: toCluster(u.ClusterName()),
				})
			}
		}
		for _, e := range u.Endpoints {
			key := fmt.Sprint(u.Authority(), " ", e.Method, " ", u.BasePath(), " ", e.Path, " ", e.Prefix, " ", e.Regex)
			if !seen[key] {
				seen[key] = true
				vh.Routes = append(vh.Routes, route(u, e))
			}
		}
	}
	sort.Strings(order)
	out := make([]*routev3.VirtualHost, 0, len(order))
	for _, a := range order {
		if len(byAuthority[a].Routes) > 0 {
			out = append(out, byAuthority[a])
		}
	}
	return out
}

func route(u *Upstream, e Endpoint) *routev3.Route {
	m := &routev3.RouteMatch{Headers: []*routev3.HeaderMatcher{exactHeader(":method", e.Method)}}
	switch base := u.BasePath(); {
	case e.Regex != "":
		m.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{
			Regex: regexp.QuoteMeta(base) + "(?:" + e.Regex + ")",
		}}
	case e.Prefix:
		m.PathSpecifier = &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: base + e.Path}
	default:
		m.PathSpecifier = &routev3.RouteMatch_Path{Path: base + e.Path}
	}
	return &routev3.Route{Match: m, Action: toCluster(u.ClusterName())}
}

// toCluster sets the times of an allowed call. Nothing is retried: a call that reached the upstream once was recorded once.
func toCluster(name string) *routev3.Route_Route {
	return &routev3.Route_Route{Route: &routev3.RouteAction{
		ClusterSpecifier:  &routev3.RouteAction_Cluster{Cluster: name},
		Timeout:           durationpb.New(0), // no limit on the whole answer: the two below bound it
		IdleTimeout:       durationpb.New(routeIdle),
		MaxStreamDuration: &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: durationpb.New(maxStream)},
		// A cluster that is not there is a fault of the gate, not a missing route.
		ClusterNotFoundResponseCode: routev3.RouteAction_SERVICE_UNAVAILABLE,
	}}
}

func exactHeader(name, value string) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
		StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: value}},
	}}
}

// requestHeadersToRemove are headers that tell an upstream about the gateway or the job's network.
func requestHeadersToRemove() []string {
	return []string{
		ScopeHeader, SchemeHeader, InspectHeader, namedHeader, "proxy-authorization", "proxy-connection",
		"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "forwarded", "via",
		"x-envoy-external-address", "x-envoy-internal", "x-envoy-expected-rq-timeout-ms", "x-envoy-attempt-count",
	}
}
