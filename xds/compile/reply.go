package compile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sallyport/signer/code"
)

// reply turns one kind of answer that Envoy makes by itself into a refusal of ours.
type reply struct {
	details []string // beginnings of %RESPONSE_CODE_DETAILS%, as Envoy 1.40.0 writes them
	code    code.Code
	status  uint32 // 0: the code's own
}

// ProcessorDetails begins the details of every answer that the processor gives itself, if it gives any. Such answers
// carry their own body, so no entry of the table below may match them.
const ProcessorDetails = "sallyport"

// replies are tried in order; an answer that none of them knows is a fault of the gate.
var replies = []reply{
	{details: []string{"request_payload_too_large"}, code: code.PayloadTooLarge},
	{details: []string{"path_normalization_failed"}, code: code.PathNotCanonical},
	{details: []string{"rbac_access_denied_matched_policy[" + AddressPolicy + "]", "dns_resolution_failure{address_denied"}, code: code.PolicyEgressNotAllowed},
	{details: []string{"rbac_access_denied", "ext_proc_error", "cluster_not_found", "overload"}, code: code.GateUnavailable},
	{details: []string{"route_not_found", "direct_response"}, code: code.RouteNotAllowed},
	{details: []string{"response_timeout", "upstream_response_timeout", "upstream_per_try", "upstream_max_stream_duration",
		"max_duration_timeout", "stream_idle_timeout"}, code: code.UpstreamTimeout},
	{details: []string{"upstream_", "no_healthy_upstream", "early_upstream", "dns_resolution_failure"}, code: code.UpstreamUnreachable},
	{details: []string{"request_overall_timeout", "request_header_timeout"}, code: code.InvalidRequest, status: http.StatusRequestTimeout},
	{details: []string{"http1.", "http2.", "missing_host_header", "missing_path", "absolute_path_rejected", "low_version",
		"invalid_"}, code: code.InvalidRequest},
	{code: code.GateInternal},
}

// when is the CEL expression that is true for r's answers.
func (r reply) when() string {
	if len(r.details) == 0 {
		// An answer of the processor without details has an empty string here.
		return fmt.Sprintf("response.code_details != '' && !response.code_details.startsWith('%s')", ProcessorDetails)
	}
	terms := make([]string, len(r.details))
	for i, d := range r.details {
		terms[i] = fmt.Sprintf("response.code_details.startsWith('%s')", d)
	}
	return strings.Join(terms, " || ")
}

// localReplies gives every answer that Envoy makes by itself a code, a JSON body that OpenAI, Anthropic and Gemini
// clients can show, and the header that tells SDKs not to retry.
func localReplies() (*hcmv3.LocalReplyConfig, error) {
	mappers := make([]*hcmv3.ResponseMapper, 0, len(replies))
	for _, r := range replies {
		m, err := r.mapper()
		if err != nil {
			return nil, err
		}
		mappers = append(mappers, m)
	}
	return &hcmv3.LocalReplyConfig{
		Mappers: mappers,
		BodyFormat: &corev3.SubstitutionFormatString{
			ContentType: "application/json",
			Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
				Specifier: &corev3.DataSource_InlineString{InlineString: "%LOCAL_REPLY_BODY%"},
			}},
		},
	}, nil
}

func (r reply) mapper() (*hcmv3.ResponseMapper, error) {
	filter, err := pack(&celv3.ExpressionFilter{Expression: r.when()})
	if err != nil {
		return nil, err
	}
	body, err := denialBody(r.code)
	if err != nil {
		return nil, err
	}
	status := r.status
	if status == 0 {
		status = uint32(code.Lookup(r.code).Status)
	}
	return &hcmv3.ResponseMapper{
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{
			ExtensionFilter: &accesslogv3.ExtensionFilter{
				Name:       "envoy.access_loggers.extension_filters.cel",
				ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: filter},
			},
		}},
		StatusCode: wrapperspb.UInt32(status),
		Body:       &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: body}},
		HeadersToAdd: []*corev3.HeaderValueOption{{
			Header:       &corev3.HeaderValue{Key: "x-should-retry", Value: "false"},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}},
	}, nil
}

// denialBody is the shape that the gateway's own refusals have on model routes.
func denialBody(c code.Code) (string, error) {
	type detail struct {
		Type    string    `json:"type"`
		Code    code.Code `json:"code"`
		Message string    `json:"message"`
		Param   *string   `json:"param"`
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(struct {
		Type  string `json:"type"`
		Error detail `json:"error"`
	}{"error", detail{"policy_denied", c, code.Lookup(c).Help, nil}})
	if err != nil {
		return "", fmt.Errorf("reply %s: %w", c, err)
	}
	return b.String(), nil
}
