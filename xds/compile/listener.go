package compile

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

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
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sallyport/signer/weaken"
)

// Defaults of a Door.
const (
	DefaultMaxBody        = 32 << 20         // bytes; prompts with images stay below, and each call may hold this much in Envoy
	DefaultMessageTimeout = 10 * time.Second // one answer of the processor; Envoy's own default is 200 ms

	// MetadataNamespace is where the processor puts what Envoy's own filters and its access log read.
	MetadataNamespace = "sallyport"
	// VerdictKey must hold VerdictAllow in that namespace, or the guard filter stops the request.
	VerdictKey   = "verdict"
	VerdictAllow = "allow"
	// ReceiptKey is written to the access log.
	ReceiptKey = "receipt"

	// maxHeadersKB lets a token of 8 KiB, the SDKs' own headers and cookies through; more gets 431.
	maxMaxBody = 1 << 30 // bytes; HTTP/2 windows end at 2 GiB

	maxHeadersKB    = 96
	maxHeaders      = 128
	requestTimeout  = 5 * time.Minute // for the whole request to arrive; a 32 MiB body over a slow line needs 2
	headersTimeout  = 10 * time.Second
	connectionIdle  = 15 * time.Minute
	h2Streams       = 256
	bufferHeadroom  = 64 << 10
	listenerName    = "door/reverse"
	scopedRoutesSet = "contracts"
)

// Door says how the reverse door (base URL) listens and with which processor.
type Door struct {
	Address        netip.AddrPort
	ExtProcCluster string        // the bootstrap's cluster of processors
	MaxBody        int64         // bytes; 0: DefaultMaxBody
	MessageTimeout time.Duration // 0: DefaultMessageTimeout
	AccessLog      string        // absolute path of the access log; empty: standard output of Envoy
}

// Validate reports everything that is wrong with d, joined.
func (d Door) Validate() error {
	var errs []error
	if !d.Address.IsValid() {
		errs = append(errs, errors.New("door: the listen address is missing"))
	}
	if d.ExtProcCluster == "" {
		errs = append(errs, errors.New("door: the processor's cluster is missing"))
	}
	if d.MaxBody < 0 || d.MaxBody > maxMaxBody {
		errs = append(errs, errors.New("door: the body limit must be between 1 byte and 1 GiB"))
	}
	if d.MessageTimeout < 0 {
		errs = append(errs, errors.New("door: the processor's timeout is negative"))
	}
	if d.AccessLog != "" && !filepath.IsAbs(d.AccessLog) {
		errs = append(errs, fmt.Errorf("door: access log %q must be an absolute path, because Envoy writes it", d.AccessLog))
	}
	return errors.Join(errs...)
}

func (d Door) withDefaults() Door {
	if d.MaxBody == 0 {
		d.MaxBody = DefaultMaxBody
	}
	if d.MessageTimeout == 0 {
		d.MessageTimeout = DefaultMessageTimeout
	}
	return d
}

// Listener compiles the reverse door.
func Listener(d Door) (*listenerv3.Listener, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	d = d.withDefaults()
	hcm, err := connectionManager(d)
	if err != nil {
		return nil, err
	}
	packed, err := pack(hcm)
	if err != nil {
		return nil, err
	}
	l := &listenerv3.Listener{
		Name: listenerName,
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address:       d.Address.Addr().String(),
			PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(d.Address.Port())},
		}}},
		// The processor reads the whole body before it decides, so Envoy must be able to hold it.
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(uint32(d.MaxBody + bufferHeadroom)),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed},
		}}}},
	}
	if err := errors.Join(l.ValidateAll(), hcm.ValidateAll()); err != nil {
		return nil, fmt.Errorf("door: %w", err)
	}
	return l, nil
}

func connectionManager(d Door) (*hcmv3.HttpConnectionManager, error) {
	filters, err := httpFilters(d)
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
		StatPrefix:       "door",
		RouteSpecifier:   scopedRoutes(),
		HttpFilters:      filters,
		AccessLog:        logs,
		LocalReplyConfig: replies,
		// Any upgrade that is not configured here gets Envoy's own 403, which agents take for a bad key.
		// Configured, it reaches the processor, which answers 426.
		UpgradeConfigs: []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},

		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			IdleTimeout:     durationpb.New(connectionIdle),
			MaxHeadersCount: wrapperspb.UInt32(maxHeaders),
			// An upstream may read x_api_key as x-api-key, so such headers go no further. They are not refused: on
			// HTTP/1.1 a refusal by the codec closes the connection without an answer (Envoy 1.40.0, measured), and
			// Codex sends session_id with every call.
			HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_DROP_HEADER,
		},
		HttpProtocolOptions: &corev3.Http1ProtocolOptions{},
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
			MaxConcurrentStreams: wrapperspb.UInt32(h2Streams),
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
	ads := &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
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
		RdsConfigSource: ads,
		ConfigSpecifier: &hcmv3.ScopedRoutes_ScopedRds{ScopedRds: &hcmv3.ScopedRds{
			ScopedRdsConfigSource: proto.Clone(ads).(*corev3.ConfigSource),
		}},
	}}
}

// httpFilters is the order in which a request is judged: its size, the processor, the guard that believes only a verdict
// the processor gave, the routes of the contract.
func httpFilters(d Door) ([]*hcmv3.HttpFilter, error) {
	chain := []struct {
		name string
		cfg  proto.Message
	}{
		{"envoy.filters.http.body_size_limit", &sizev3.BodySizeLimit{MaxRequestBytes: wrapperspb.UInt64(uint64(d.MaxBody))}},
		{"envoy.filters.http.ext_proc", extProc(d)},
		{"envoy.filters.http.rbac", guard()},
		{"envoy.filters.http.on_demand", &ondemandv3.OnDemand{}},
		{"envoy.filters.http.router", &routerv3.Router{SuppressEnvoyHeaders: true}},
	}
	out := make([]*hcmv3.HttpFilter, 0, len(chain))
	for _, f := range chain {
		if f.name == "envoy.filters.http.rbac" && weaken.Off("guard") {
			continue
		}
		cfg, err := pack(f.cfg)
		if err != nil {
			return nil, err
		}
		out = append(out, &hcmv3.HttpFilter{Name: f.name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: cfg}})
	}
	return out, nil
}

func extProc(d Door) *extprocv3.ExternalProcessor {
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
		RequestAttributes: []string{"source.address"},
		// Tells an answer of the upstream ("via_upstream") from one that Envoy made after the processor had allowed
		// the call, such as a missing route: only the first kind means that something left.
		ResponseAttributes: []string{"response.code_details"},
	}
}

// guard passes only what the processor has marked. It is needed: a processor that closes its stream cleanly without an
// answer lets the request through unchanged, whatever failure_mode_allow says (Envoy 1.40.0, measured).
func guard() *rbacv3.RBAC {
	verdict := &rbacconfv3.SourcedMetadata{MetadataMatcher: &matcherv3.MetadataMatcher{
		Filter: MetadataNamespace,
		Path: []*matcherv3.MetadataMatcher_PathSegment{{
			Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: VerdictKey},
		}},
		Value: &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{
			StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: VerdictAllow}},
		}},
	}}
	return &rbacv3.RBAC{Rules: &rbacconfv3.RBAC{
		Action: rbacconfv3.RBAC_ALLOW,
		Policies: map[string]*rbacconfv3.Policy{VerdictKey: {
			Permissions: []*rbacconfv3.Permission{{Rule: &rbacconfv3.Permission_SourcedMetadata{SourcedMetadata: verdict}}},
			Principals:  []*rbacconfv3.Principal{{Identifier: &rbacconfv3.Principal_Any{Any: true}}},
		}},
	}}
}
