package compile

import (
	"bytes"
	"encoding/json"
	"fmt"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sallyport/signer/code"
)

// reply turns one kind of answer that Envoy makes by itself into a refusal of ours.
type reply struct {
	when string // CEL over Envoy's attributes
	code code.Code
	// status 0: the code's own.
	status uint32
}

// replies are tried in order. Answers that the processor gave (code details "ext_proc_local_response…") are matched by
// none: they carry their own body. Details as Envoy 1.40.0 writes them.
var replies = []reply{
	{when: `response.code_details.startsWith("rbac_access_denied")`, code: code.GateUnavailable},
	{when: `response.code_details.startsWith("ext_proc_error")`, code: code.GateUnavailable},
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
	filter, err := pack(&celv3.ExpressionFilter{Expression: r.when})
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
