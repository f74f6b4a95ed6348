package message

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

func headerMap(nameValue ...string) *corev3.HeaderMap {
	m := &corev3.HeaderMap{}
	for i := 0; i < len(nameValue); i += 2 {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: nameValue[i], RawValue: []byte(nameValue[i+1])})
	}
	return m
}

func attributes(nameValue ...string) map[string]*structpb.Struct {
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for i := 0; i < len(nameValue); i += 2 {
		s.Fields[nameValue[i]] = structpb.NewStringValue(nameValue[i+1])
	}
	return map[string]*structpb.Struct{"envoy.filters.http.ext_proc": s}
}

// generated are messages as the generated types write them.
var generated = map[string]*extprocv3.ProcessingRequest{
	"request headers": {
		Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{
			Headers: headerMap(":method", "POST", ":path", "/v1/x?y=1", "x-empty", "", "x-twice", "a", "x-twice", "b", "x-bytes", "\xff\x00"), EndOfStream: true}},
		Attributes: attributes("source.address", "192.0.2.7:4711", "other", "x"),
	},
	"text instead of raw": {Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{
		Headers: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: ":status", Value: "200"}}}}}},
	"no headers":        {Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{}}},
	"request body":      {Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: bytes.Repeat([]byte("x"), 70_000), EndOfStream: true}}},
	"response body":     {Request: &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: &extprocv3.HttpBody{Body: []byte("chunk")}}},
	"empty last chunk":  {Request: &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: &extprocv3.HttpBody{EndOfStream: true}}},
	"request trailers":  {Request: &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: &extprocv3.HttpTrailers{Trailers: headerMap("a", "b")}}},
	"response trailers": {Request: &extprocv3.ProcessingRequest_ResponseTrailers{ResponseTrailers: &extprocv3.HttpTrailers{}}},
	"first of a stream": {
		Request:         &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{Headers: headerMap(":method", "GET"), EndOfStream: true}},
		ProtocolConfig:  &extprocv3.ProtocolConfiguration{RequestBodyMode: filterv3.ProcessingMode_BUFFERED, SendBodyWithoutWaitingForHeaderResponse: true},
		MetadataContext: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"a": {}}}, ObservabilityMode: true,
	},
}

// same holds what was read against the generated types.
func same(t *testing.T, want *extprocv3.ProcessingRequest, got *Request) {
	t.Helper()
	var kind Kind
	var end bool
	var headers *corev3.HeaderMap
	var body []byte
	switch m := want.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		kind, end, headers = RequestHeaders, m.RequestHeaders.GetEndOfStream(), m.RequestHeaders.GetHeaders()
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		kind, end, headers = ResponseHeaders, m.ResponseHeaders.GetEndOfStream(), m.ResponseHeaders.GetHeaders()
	case *extprocv3.ProcessingRequest_RequestBody:
		kind, end, body = RequestBody, m.RequestBody.GetEndOfStream(), m.RequestBody.GetBody()
	case *extprocv3.ProcessingRequest_ResponseBody:
		kind, end, body = ResponseBody, m.ResponseBody.GetEndOfStream(), m.ResponseBody.GetBody()
	case *extprocv3.ProcessingRequest_RequestTrailers:
		kind = RequestTrailers
	case *extprocv3.ProcessingRequest_ResponseTrailers:
		kind = ResponseTrailers
	}
	if got.Kind != kind || got.EndOfStream != end || !bytes.Equal(got.Body, body) || len(got.Headers) != len(headers.GetHeaders()) {
		t.Fatalf("read %v, end %t, %d bytes, %d headers; want %v, %t, %d, %d",
			got.Kind, got.EndOfStream, len(got.Body), len(got.Headers), kind, end, len(body), len(headers.GetHeaders()))
	}
	for i, h := range headers.GetHeaders() {
		value := string(h.GetRawValue())
		if value == "" {
			value = h.GetValue()
		}
		if got.Headers[i] != (Header{h.GetKey(), value}) {
			t.Errorf("header %d is %q, want %q: %q", i, got.Headers[i], h.GetKey(), value)
		}
	}
	for _, s := range want.GetAttributes() {
		for name, v := range s.GetFields() {
			if _, isText := v.GetKind().(*structpb.Value_StringValue); isText && len(want.GetAttributes()) == 1 && got.Attribute(name) != v.GetStringValue() {
				t.Errorf("attribute %q is %q, want %q", name, got.Attribute(name), v.GetStringValue())
			}
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for name, want := range generated {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := proto.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			same(t, want, got)
		})
	}
}

// Two messages in one would be one for us and another for whoever reads them differently.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	body, err := proto.Marshal(generated["request body"])
	if err != nil {
		t.Fatal(err)
	}
	headers, err := proto.Marshal(generated["request headers"])
	if err != nil {
		t.Fatal(err)
	}
	grpcMode, err := proto.Marshal(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{
		RequestBody: &extprocv3.HttpBody{EndOfStreamWithoutMessage: true}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"nothing": {}, "two messages": append(append([]byte{}, headers...), body...), "cut off": headers[:len(headers)-3],
		"a number for headers": protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.VarintType), 1),
		"a mode of gRPC":       grpcMode,
		"no message":           {8<<3 | 2, 0},
	} {
		if r, err := Parse(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: read as %v, %v", name, r, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, m := range generated {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := Parse(b)
		want := new(extprocv3.ProcessingRequest)
		if bad := proto.Unmarshal(b, want); bad != nil || err != nil {
			return // stricter than the generated types in UTF-8 they are, and in repetitions we are
		}
		if !repeats(b) {
			same(t, want, got)
		}
	})
}

// repeats tells whether a field that is to come once comes more often anywhere: protobuf merges those, and Envoy never
// writes them.
func repeats(b []byte) bool {
	seen := map[protowire.Number]bool{}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return true
		}
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		if m < 0 || seen[num] {
			return true
		}
		seen[num] = true
		if typ == protowire.BytesType {
			inner, _ := protowire.ConsumeBytes(b[n:])
			if num >= 2 && num <= 9 && deepRepeats(inner, 0) {
				return true
			}
		} else {
			return true // an unknown shape at the top
		}
		b = b[n+m:]
	}
	return false
}

// deepRepeats is the same below the top, where lists of headers and map entries (field 1) may repeat.
func deepRepeats(b []byte, depth int) bool {
	seen := map[protowire.Number]bool{}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false // not a message: a text or a body
		}
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		if m < 0 {
			return false
		}
		if seen[num] || typ != protowire.BytesType && typ != protowire.VarintType {
			return true
		}
		seen[num] = num != 1 || depth != 1
		if typ == protowire.BytesType && depth < 6 {
			inner, _ := protowire.ConsumeBytes(b[n:])
			if deepRepeats(inner, depth+1) {
				return true
			}
		}
		b = b[n+m:]
	}
	return false
}

func option(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, RawValue: []byte(value)},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

func text1(s string) *structpb.Value { return structpb.NewStringValue(s) }

// What we write is what the generated types would have written.
func TestAppend(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("v", 20_000)
	mutation := &extprocv3.CommonResponse{ClearRouteCache: true, HeaderMutation: &extprocv3.HeaderMutation{
		SetHeaders: []*corev3.HeaderValueOption{option("authorization", "Bearer x"), option("x-long", long)}, RemoveHeaders: []string{"cookie", "x-cst"}}}
	ours := &Mutation{Set: []Header{{"authorization", "Bearer x"}, {"x-long", long}}, Remove: []string{"cookie", "x-cst"}, ClearRoute: true}
	metadata := &structpb.Struct{Fields: map[string]*structpb.Value{"sallyport": structpb.NewStructValue(&structpb.Struct{
		Fields: map[string]*structpb.Value{"verdict": text1("allow"), "receipt": text1("rcpt_1")}})}}
	for name, c := range map[string]struct {
		ours Response
		want *extprocv3.ProcessingResponse
	}{
		"request headers": {Response{Answer: RequestHeaders}, &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{}}}},
		"response body":   {Response{Answer: ResponseBody}, &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{ResponseBody: &extprocv3.BodyResponse{}}}},
		"trailers":        {Response{Answer: ResponseTrailers}, &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseTrailers{ResponseTrailers: &extprocv3.TrailersResponse{}}}},
		"replaced chunk": {
			Response{Answer: ResponseBody, Body: &Body{Bytes: []byte(long)}},
			&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{ResponseBody: &extprocv3.BodyResponse{Response: &extprocv3.CommonResponse{
				BodyMutation: &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_Body{Body: []byte(long)}}}}}},
		},
		"chunk held back": {
			Response{Answer: ResponseBody, Body: &Body{}},
			&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{ResponseBody: &extprocv3.BodyResponse{Response: &extprocv3.CommonResponse{
				BodyMutation: &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_ClearBody{ClearBody: true}}}}}},
		},
		"rewritten request": {
			Response{Answer: RequestBody, Mutation: ours, Namespace: "sallyport", Metadata: []Header{{"verdict", "allow"}, {"receipt", "rcpt_1"}}},
			&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{Response: mutation}}, DynamicMetadata: metadata},
		},
		"rewritten request without a body": {
			Response{Answer: RequestHeaders, Mutation: ours},
			&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{Response: mutation}}},
		},
		"rest of the answer not shown": {
			Response{Answer: ResponseHeaders, Mutation: &Mutation{Set: []Header{{"a", "b"}}}, SkipResponseBody: true},
			&extprocv3.ProcessingResponse{
				Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{Response: &extprocv3.CommonResponse{
					HeaderMutation: &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{option("a", "b")}}}}},
				ModeOverride: &filterv3.ProcessingMode{
					ResponseHeaderMode: filterv3.ProcessingMode_SEND, ResponseBodyMode: filterv3.ProcessingMode_NONE, ResponseTrailerMode: filterv3.ProcessingMode_SKIP},
			},
		},
		"an answer that became a tunnel": {
			Response{Answer: ResponseHeaders, Mutation: &Mutation{Set: []Header{{"a", "b"}}}, Unshown: true},
			&extprocv3.ProcessingResponse{
				Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{Response: &extprocv3.CommonResponse{
					HeaderMutation: &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{option("a", "b")}}}}},
				ModeOverride: &filterv3.ProcessingMode{
					ResponseHeaderMode: filterv3.ProcessingMode_SEND, ResponseBodyMode: filterv3.ProcessingMode_NONE, ResponseTrailerMode: filterv3.ProcessingMode_SEND},
			},
		},
		"a tunnel": {
			Response{Answer: RequestHeaders, Mutation: &Mutation{ClearRoute: true}, Unwatched: true},
			&extprocv3.ProcessingResponse{
				Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{Response: &extprocv3.CommonResponse{
					HeaderMutation: &extprocv3.HeaderMutation{}, ClearRouteCache: true}}},
				ModeOverride: &filterv3.ProcessingMode{
					RequestTrailerMode: filterv3.ProcessingMode_SKIP, ResponseHeaderMode: filterv3.ProcessingMode_SKIP, ResponseTrailerMode: filterv3.ProcessingMode_SKIP},
			},
		},
		"a tunnel that passes unread": {
			Response{Answer: RequestHeaders, Mutation: &Mutation{ClearRoute: true}, HalfWatched: true},
			&extprocv3.ProcessingResponse{
				Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{Response: &extprocv3.CommonResponse{
					HeaderMutation: &extprocv3.HeaderMutation{}, ClearRouteCache: true}}},
				ModeOverride: &filterv3.ProcessingMode{
					ResponseHeaderMode: filterv3.ProcessingMode_SEND, ResponseBodyMode: filterv3.ProcessingMode_STREAMED,
					RequestTrailerMode: filterv3.ProcessingMode_SKIP, ResponseTrailerMode: filterv3.ProcessingMode_SKIP},
			},
		},
		"refusal": {
			Response{Immediate: &Immediate{Status: 451, Headers: []Header{{"x-should-retry", "false"}}, Body: []byte(long), Details: "sallyport_x"}},
			&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{
				Status: &typev3.HttpStatus{Code: typev3.StatusCode(451)}, Body: []byte(long), Details: "sallyport_x",
				Headers: &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{option("x-should-retry", "false")}}}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := c.ours.Append([]byte("kept"))
			got := new(extprocv3.ProcessingResponse)
			if err := proto.Unmarshal(b[4:], got); err != nil || !bytes.Equal(b[:4], []byte("kept")) {
				t.Fatal(err)
			}
			if !proto.Equal(got, c.want) {
				t.Errorf("wrote\n%v\nwant\n%v", got, c.want)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	raw, err := proto.Marshal(generated["request headers"])
	if err != nil {
		b.Fatal(err)
	}
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Parse(raw); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("generated", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := proto.Unmarshal(raw, new(extprocv3.ProcessingRequest)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
