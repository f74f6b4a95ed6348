package compile

import (
	"errors"
	"strings"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacconfv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	sizev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/body_size_limit/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	ondemandv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/on_demand/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	exprv1 "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sallyport/signer/weaken"
)

// kind is what sets one door's connection manager apart from another's.
type kind struct {
	chain      string   // name of the filter chain, by which the processor tells the doors apart
	stats      string   // prefix of Envoy's statistics
	attributes []string // that the processor is shown beside the headers
	upgrades   []string // that reach the processor; any other gets Envoy's own 403, which agents take for a bad key
	tunnels    bool     // a CONNECT may be opened here, so its identity is handed to what comes out of it
	extended   bool     // HTTP/2 clients may CONNECT, for a tunnel or a WebSocket
	sockets    bool     // a WebSocket may be opened here, if the contract says so
	certified  bool     // only clients that have shown a certificate pass
}

// Names of the filter chains, as the attribute xds.filter_chain_name shows them to the processor.
const (
	ChainReverse     = "reverse"
	ChainForward     = "forward"
	ChainForwardMTLS = "forward-mtls"
	ChainInner       = "inner"
)

const (
	attrChain  = "xds.filter_chain_name"
	attrSource = "source.address"
	attrDigest = "connection.sha256_peer_certificate_digest"
)

var (
	reverse = kind{
		chain: ChainReverse, stats: "door", upgrades: []string{upgradeWebSocket},
		attributes: []string{attrSource, attrChain},
	}
	forward = kind{
		chain: ChainForward, stats: "forward", upgrades: []string{"CONNECT", upgradeWebSocket}, tunnels: true, extended: true, sockets: true,
		attributes: []string{attrSource, attrChain},
	}
	forwardMTLS = kind{
		chain: ChainForwardMTLS, stats: "forward_mtls", upgrades: []string{"CONNECT", upgradeWebSocket}, tunnels: true, extended: true, sockets: true, certified: true,
		attributes: []string{attrSource, attrChain, attrDigest},
	}
	inner = kind{
		chain: ChainInner, stats: "inner", upgrades: []string{upgradeWebSocket}, extended: true, sockets: true,
		attributes: []string{
			attrSource, attrChain, "connection.requested_server_name",
			"filter_state['" + StateToken + "']", "filter_state['" + StateAuthority + "']", "filter_state['" + StatePeer + "']",
		},
	}
)

// filterChain is a door's one filter chain, without a match or TLS.
func filterChain(d Door, k kind) (*listenerv3.FilterChain, error) {
	hcm, err := connectionManager(d, k)
	if err != nil {
		return nil, err
	}
	if err := hcm.ValidateAll(); err != nil {
		return nil, err
	}
	packed, err := pack(hcm)
	if err != nil {
		return nil, err
	}
	return &listenerv3.FilterChain{Name: k.chain, Filters: []*listenerv3.Filter{{
		Name:       "envoy.filters.network.http_connection_manager",
		ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed},
	}}}, nil
}

func connectionManager(d Door, k kind) (*hcmv3.HttpConnectionManager, error) {
	filters, err := httpFilters(d, k)
	if err != nil {
		return nil, err
	}
	logs, err := accessLogs(d.AccessLog)
	if err != nil {
		return nil, err
	}
	replies, err := localReplies()
	if err != nil {
		return nil, err
	}
	return &hcmv3.HttpConnectionManager{
		StatPrefix:       k.stats,
		RouteSpecifier:   scopedRoutes(),
		HttpFilters:      filters,
		AccessLog:        logs,
		LocalReplyConfig: replies,
		UpgradeConfigs:   upgrades(k),

		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			IdleTimeout:     durationpb.New(connectionIdle),
			MaxHeadersCount: wrapperspb.UInt32(maxHeaders),
			// An upstream may read x_api_key as x-api-key, so such headers go no further. They are not refused: on
			// HTTP/1.1 a refusal by the codec closes the connection without an answer (Envoy 1.40.0, measured), and
			// Codex sends session_id with every call.
			HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_DROP_HEADER,
		},
		// Python's http.client opened tunnels by HTTP/1.0 until 3.12.
		HttpProtocolOptions: &corev3.Http1ProtocolOptions{AcceptHttp_10: k.tunnels},
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
			MaxConcurrentStreams: wrapperspb.UInt32(h2Streams),
			AllowConnect:         k.extended,
			// On HTTP/2 the stream's window is also what the processor's BUFFERED mode may hold: with 1 MiB here a
			// body of 2 MiB got 413 although the listener's buffer was larger (Envoy 1.40.0, measured). The
			// connection's window is the same, so that one client cannot fill the memory by opening streams.
			InitialStreamWindowSize:     wrapperspb.UInt32(uint32(d.MaxBody + bufferHeadroom)),
			InitialConnectionWindowSize: wrapperspb.UInt32(uint32(d.MaxBody + bufferHeadroom)),
		},
		MaxRequestHeadersKb:   wrapperspb.UInt32(maxHeadersKB),
		StreamIdleTimeout:     durationpb.New(routeIdle),
		RequestTimeout:        durationpb.New(requestTimeout),
		RequestHeadersTimeout: durationpb.New(headersTimeout),

		// The path reaches the processor as it came: one that means something else to another reader is refused
		// there with a code of ours, never put right in silence.
		NormalizePath:                wrapperspb.Bool(false),
		MergeSlashes:                 false,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_REJECT_REQUEST,

		// The peer's address is the connection's: a client cannot name another one by x-forwarded-for.
		UseRemoteAddress:           wrapperspb.Bool(true),
		SkipXffAppend:              true,
		GenerateRequestId:          wrapperspb.Bool(false),
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
	}, nil
}

// scopedRoutes asks for the routes of the contract that the processor has named. The header a client sends is
// overwritten by the processor on allowed calls and refused by it otherwise.
func scopedRoutes() *hcmv3.HttpConnectionManager_ScopedRoutes {
	return &hcmv3.HttpConnectionManager_ScopedRoutes{ScopedRoutes: &hcmv3.ScopedRoutes{
		Name: scopedRoutesSet,
		ScopeKeyBuilder: &hcmv3.ScopedRoutes_ScopeKeyBuilder{Fragments: []*hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder{{
			Type: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_{
				HeaderValueExtractor: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor{
					Name:        ScopeHeader,
					ExtractType: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_Index{Index: 0},
				},
			},
		}}},
		RdsConfigSource: adsSource(),
		ConfigSpecifier: &hcmv3.ScopedRoutes_ScopedRds{ScopedRds: &hcmv3.ScopedRds{
			ScopedRdsConfigSource: adsSource(),
		}},
	}}
}

// httpFilters is the order in which a request is judged: its size, the processor, the guard that believes only a verdict
// the processor gave, the routes of the contract.
func httpFilters(d Door, k kind) ([]*hcmv3.HttpFilter, error) {
	var out []*hcmv3.HttpFilter
	add := func(name string, cfg proto.Message) error {
		packed, err := pack(cfg)
		if err == nil {
			out = append(out, &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed}})
		}
		return err
	}
	size, err := sizeLimit(d, k)
	if err != nil {
		return nil, err
	}
	errs := []error{
		add("envoy.filters.http.body_size_limit", size),
		add("envoy.filters.http.ext_proc", extProc(d, k)),
	}
	if !weaken.Off("guard") {
		errs = append(errs, add("envoy.filters.http.rbac", guard(k)))
	}
	errs = append(errs, add("envoy.filters.http.on_demand", &ondemandv3.OnDemand{}))
	if k.tunnels {
		errs = append(errs, add("envoy.filters.http.set_filter_state", handOver()))
	}
	if d.Egress != nil {
		errs = append(errs, addEgressFilters(*d.Egress, add))
	}
	errs = append(errs, add("envoy.filters.http.router", &routerv3.Router{SuppressEnvoyHeaders: true}))
	return out, errors.Join(errs...)
}

func upgrades(k kind) []*hcmv3.HttpConnectionManager_UpgradeConfig {
	out := make([]*hcmv3.HttpConnectionManager_UpgradeConfig, 0, len(k.upgrades))
	for _, u := range k.upgrades {
		out = append(out, &hcmv3.HttpConnectionManager_UpgradeConfig{UpgradeType: u})
	}
	return out
}

// sizeLimit bounds a body, but not what passes through a tunnel or a WebSocket: that is no body, and the limit counts all of
// it. The processor refuses whatever names the upgrade and is no WebSocket, so nothing else gets around the limit by that.
func sizeLimit(d Door, k kind) (proto.Message, error) {
	limit := &sizev3.BodySizeLimit{MaxRequestBytes: wrapperspb.UInt64(uint64(d.MaxBody))}
	const filter = "envoy.filters.http.body_size_limit"
	switch {
	case k.tunnels:
		return skipWhere(filter, limit, where{":method", "CONNECT"}, where{"upgrade", upgradeWebSocket})
	case k.sockets:
		return skipWhere(filter, limit, where{"upgrade", upgradeWebSocket})
	}
	return limit, nil
}

func extProc(d Door, k kind) *extprocv3.ExternalProcessor {
	return &extprocv3.ExternalProcessor{
		GrpcService: &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
			EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: d.ExtProcCluster},
		}},
		FailureModeAllow: false,
		StatusOnError:    &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		MessageTimeout:   durationpb.New(d.MessageTimeout),
		ProcessingMode: &extprocv3.ProcessingMode{
			RequestHeaderMode:   extprocv3.ProcessingMode_SEND,
			RequestBodyMode:     extprocv3.ProcessingMode_BUFFERED,
			RequestTrailerMode:  extprocv3.ProcessingMode_SKIP,
			ResponseHeaderMode:  extprocv3.ProcessingMode_SEND,
			ResponseBodyMode:    extprocv3.ProcessingMode_STREAMED,
			ResponseTrailerMode: extprocv3.ProcessingMode_SEND,
		},
		AllowModeOverride: true,
		MutationRules: &mutationv3.HeaderMutationRules{
			AllowAllRouting: wrapperspb.Bool(true),
			// Without this a mutation that is not allowed is dropped in silence and the call goes on unchanged.
			DisallowIsError: wrapperspb.Bool(true),
		},
		MetadataOptions: &extprocv3.MetadataOptions{
			ReceivingNamespaces: &extprocv3.MetadataOptions_MetadataNamespaces{Untyped: []string{MetadataNamespace}},
		},
		RequestAttributes: k.attributes,
		// Tells an answer of the upstream ("via_upstream") from one that Envoy made after the processor had allowed
		// the call, such as a missing route: only the first kind means that something left.
		ResponseAttributes: []string{"response.code_details"},
	}
}

// guard passes only what the processor has marked. It is needed: a processor that closes its stream cleanly without an
// answer lets the request through unchanged, whatever failure_mode_allow says (Envoy 1.40.0, measured).
func guard(k kind) *rbacv3.RBAC {
	verdict := &rbacconfv3.SourcedMetadata{MetadataMatcher: &matcherv3.MetadataMatcher{
		Filter: MetadataNamespace,
		Path: []*matcherv3.MetadataMatcher_PathSegment{{
			Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: VerdictKey},
		}},
		Value: &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{
			StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: VerdictAllow}},
		}},
	}}
	policy := &rbacconfv3.Policy{
		Permissions: []*rbacconfv3.Permission{{Rule: &rbacconfv3.Permission_SourcedMetadata{SourcedMetadata: verdict}}},
		Principals:  []*rbacconfv3.Principal{{Identifier: &rbacconfv3.Principal_Any{Any: true}}},
	}
	if k.certified {
		policy.Condition = hasCertificate()
	}
	return &rbacv3.RBAC{Rules: &rbacconfv3.RBAC{
		Action: rbacconfv3.RBAC_ALLOW, Policies: map[string]*rbacconfv3.Policy{VerdictKey: policy},
	}}
}

// hasCertificate is the CEL expression connection.sha256_peer_certificate_digest != "". It is needed: with any issuer
// accepted, require_client_certificate lets a client without one in (Envoy 1.40.0, measured).
func hasCertificate() *exprv1.Expr {
	return call("_!=_", member("connection", strings.TrimPrefix(attrDigest, "connection.")), text(""))
}
