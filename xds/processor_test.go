package xds_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"sallyport/xds/compile"
)

// processor is an ext_proc server that obeys the request's x-test-* headers.
type processor struct {
	extprocv3.UnimplementedExternalProcessorServer
	path string
	grpc *grpc.Server

	mu       sync.Mutex
	requests []*corev3.HeaderMap
	bodies   []int
	replies  []string // "status details" of each response phase
	attrs    []map[string]string
	back     int // bytes of answers that were shown
	ended    int // exchanges that are over
}

func (p *processor) passed(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.back += n
}

// over is how many exchanges have ended, and how many bytes of answers they were shown, since it was asked last.
func (p *processor) over() (ended, back int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ended, back = p.ended, p.back
	p.ended, p.back = 0, 0
	return ended, back
}

func newProcessor(t testing.TB, path string) *processor {
	p := &processor{path: path}
	p.start(t)
	t.Cleanup(func() { p.grpc.Stop() })
	return p
}

func (p *processor) start(t testing.TB) {
	t.Helper()
	_ = os.Remove(p.path)
	l, err := net.Listen("unix", p.path)
	if err != nil {
		t.Fatal(err)
	}
	p.grpc = grpc.NewServer(grpc.MaxRecvMsgSize(128 << 20))
	extprocv3.RegisterExternalProcessorServer(p.grpc, p)
	go func() { _ = p.grpc.Serve(l) }()
}

func value(h *corev3.HeaderMap, name string) string {
	for _, e := range h.GetHeaders() {
		if e.GetKey() == name {
			return string(e.GetRawValue())
		}
	}
	return ""
}

// Process answers one exchange.
func (p *processor) Process(str extprocv3.ExternalProcessor_ProcessServer) error {
	var h *corev3.HeaderMap
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ended++
	}()
	for {
		req, err := str.Recv()
		if err != nil {
			return nil
		}
		resp := &extprocv3.ProcessingResponse{}
		switch m := req.GetRequest().(type) {
		case *extprocv3.ProcessingRequest_RequestHeaders:
			h = m.RequestHeaders.GetHeaders()
			p.mu.Lock()
			p.requests = append(p.requests, h)
			p.mu.Unlock()
			attrs := p.note(req.GetAttributes())
			switch value(h, "x-test-do") {
			case "close":
				return nil
			case "fail":
				return errors.New("told to fail")
			case "hang":
				<-str.Context().Done()
				return nil
			case "immediate":
				resp.Response = immediate(typev3.StatusCode_PayloadTooLarge, "from processor")
				return str.Send(resp)
			}
			if value(h, ":method") == "CONNECT" {
				if err := str.Send(tunnel(h)); err != nil {
					return err
				}
				continue
			}
			h.Headers = append(h.Headers, seenHeaders(attrs)...)
			common := &extprocv3.CommonResponse{}
			if m.RequestHeaders.GetEndOfStream() {
				common = verdict(h, resp)
			}
			resp.Response = &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{Response: common}}
		case *extprocv3.ProcessingRequest_RequestBody:
			p.mu.Lock()
			p.bodies = append(p.bodies, len(m.RequestBody.GetBody()))
			p.mu.Unlock()
			if value(h, "x-test-do") == "close-at-body" {
				return nil
			}
			resp.Response = &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{Response: verdict(h, resp)}}
		case *extprocv3.ProcessingRequest_ResponseHeaders:
			details := ""
			for _, a := range req.GetAttributes() {
				details = a.GetFields()["response.code_details"].GetStringValue()
			}
			p.mu.Lock()
			p.replies = append(p.replies, value(m.ResponseHeaders.GetHeaders(), ":status")+" "+details)
			p.mu.Unlock()
			if value(h, "x-test-do") == "close-at-response" {
				return nil
			}
			resp.Response = &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{}}
		case *extprocv3.ProcessingRequest_ResponseBody:
			p.passed(len(m.ResponseBody.GetBody()))
			resp.Response = &extprocv3.ProcessingResponse_ResponseBody{ResponseBody: &extprocv3.BodyResponse{}}
		case *extprocv3.ProcessingRequest_ResponseTrailers:
			resp.Response = &extprocv3.ProcessingResponse_ResponseTrailers{ResponseTrailers: &extprocv3.TrailersResponse{}}
		default:
			return fmt.Errorf("unexpected %T", m)
		}
		if err := str.Send(resp); err != nil {
			return err
		}
	}
}

func immediate(status typev3.StatusCode, body string) *extprocv3.ProcessingResponse_ImmediateResponse {
	return &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{
		Status: &typev3.HttpStatus{Code: status}, Body: []byte(body),
		Headers: &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{set("content-type", "text/x-own"), set("x-own", "1")}},
	}}
}

func set(k, v string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: k, RawValue: []byte(v)},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// verdict rewrites the request as the gate does: authority, path and scope in one mutation, the verdict as metadata.
func verdict(h *corev3.HeaderMap, resp *extprocv3.ProcessingResponse) *extprocv3.CommonResponse {
	m := &extprocv3.HeaderMutation{RemoveHeaders: []string{"x-test-authority", "x-test-path", "x-test-scope", "authorization"}}
	for _, e := range h.GetHeaders() {
		if strings.HasPrefix(e.GetKey(), "x-seen-") {
			m.SetHeaders = append(m.SetHeaders, set(e.GetKey(), string(e.GetRawValue())))
		}
	}
	for from, to := range map[string]string{
		"x-test-authority": ":authority", "x-test-path": ":path", "x-test-scope": compile.ScopeHeader, "x-test-scheme": compile.SchemeHeader,
	} {
		if v := value(h, from); v != "" {
			m.SetHeaders = append(m.SetHeaders, set(to, v))
		}
	}
	m.SetHeaders = append(m.SetHeaders, set("authorization", "swapped"))
	if value(h, "x-test-do") != "no-verdict" {
		resp.DynamicMetadata = &structpb.Struct{Fields: map[string]*structpb.Value{
			compile.MetadataNamespace: structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
				compile.VerdictKey: structpb.NewStringValue(compile.VerdictAllow),
				compile.ReceiptKey: structpb.NewStringValue("rcpt_test"),
			}}),
		}}
	}
	return &extprocv3.CommonResponse{HeaderMutation: m, ClearRouteCache: true}
}

func (p *processor) seen() []*corev3.HeaderMap {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.requests
	p.requests = nil
	return out
}

func (p *processor) answers() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.replies
	p.replies = nil
	return out
}

// note keeps the attributes of a request, by name.
func (p *processor) note(all map[string]*structpb.Struct) map[string]string {
	out := map[string]string{}
	for _, group := range all {
		for k, v := range group.GetFields() {
			out[k] = v.GetStringValue()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attrs = append(p.attrs, out)
	return out
}

func (p *processor) attributes() []map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.attrs
	p.attrs = nil
	return out
}

// seen are the attributes that the upstream is told, by the header that it echoes.
var seen = map[string]string{
	"x-seen-chain":     "xds.filter_chain_name",
	"x-seen-sni":       "connection.requested_server_name",
	"x-seen-token":     "filter_state['sallyport.token']",
	"x-seen-authority": "filter_state['sallyport.authority']",
	"x-seen-peer":      "filter_state['sallyport.peer']",
	"x-seen-digest":    "connection.sha256_peer_certificate_digest",
}

func seenHeaders(attrs map[string]string) []*corev3.HeaderValue {
	var out []*corev3.HeaderValue
	for header, attr := range seen {
		if v := attrs[attr]; v != "" {
			out = append(out, &corev3.HeaderValue{Key: header, RawValue: []byte(v)})
		}
	}
	return out
}

// tunnel answers a CONNECT as the gate does: a verdict, who asks for what, and no more phases.
func tunnel(h *corev3.HeaderMap) *extprocv3.ProcessingResponse {
	resp := &extprocv3.ProcessingResponse{ModeOverride: &filterv3.ProcessingMode{
		RequestHeaderMode: filterv3.ProcessingMode_SEND, ResponseHeaderMode: filterv3.ProcessingMode_SKIP,
		RequestBodyMode: filterv3.ProcessingMode_NONE, ResponseBodyMode: filterv3.ProcessingMode_NONE,
		RequestTrailerMode: filterv3.ProcessingMode_SKIP, ResponseTrailerMode: filterv3.ProcessingMode_SKIP,
	}}
	inspect := value(h, "x-test-inspect")
	scope := compile.ConnectScope
	switch inspect {
	case "":
		inspect = compile.InspectFull
	case compile.InspectSNI, compile.InspectNone:
		scope = value(h, "x-test-scope")
		resp.ModeOverride.ResponseHeaderMode, resp.ModeOverride.ResponseBodyMode = filterv3.ProcessingMode_SEND, filterv3.ProcessingMode_STREAMED
	}
	resp.Response = &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{Response: &extprocv3.CommonResponse{
		ClearRouteCache: true,
		HeaderMutation: &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{
			set(compile.ScopeHeader, scope), set(compile.InspectHeader, inspect),
		}},
	}}}
	if value(h, "x-test-do") == "no-verdict" {
		return resp
	}
	fields := map[string]*structpb.Value{}
	metadata := map[string]string{
		compile.VerdictKey: compile.VerdictAllow, compile.ReceiptKey: "rcpt_connect", compile.TokenKey: value(h, "x-test-token"),
		compile.AuthorityKey: value(h, ":authority"), compile.PeerKey: "192.0.2.7",
	}
	if inspect == compile.InspectSNI && value(h, "x-test-do") != "no-host" {
		metadata[compile.HostKey], metadata[compile.PortKey], _ = net.SplitHostPort(value(h, ":authority"))
	}
	for k, v := range metadata {
		fields[k] = structpb.NewStringValue(v)
	}
	resp.DynamicMetadata = &structpb.Struct{Fields: map[string]*structpb.Value{
		compile.MetadataNamespace: structpb.NewStructValue(&structpb.Struct{Fields: fields}),
	}}
	return resp
}
