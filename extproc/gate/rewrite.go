package gate

import (
	"fmt"
	"net/url"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"sallyport/extproc/dialect"
	"sallyport/extproc/secret"
)

// Dynamic metadata that the guard filter reads: without it nothing passes, whatever else went wrong.
const (
	metadataNamespace = "sallyport"
	verdictKey        = "verdict"
	verdictAllow      = "allow"
	receiptKey        = "receipt"
)

func allowed(receipt string) *structpb.Struct {
	text := func(s string) *structpb.Value { return structpb.NewStringValue(s) }
	inner := &structpb.Struct{Fields: map[string]*structpb.Value{verdictKey: text(verdictAllow), receiptKey: text(receipt)}}
	return &structpb.Struct{Fields: map[string]*structpb.Value{metadataNamespace: structpb.NewStructValue(inner)}}
}

// rewrite makes the request that leaves: the upstream's authority and path, the contract's scope, the real credential;
// everything that carried the token or spoke to the gateway is gone.
func (x *exchange) rewrite(cred secret.Credential, inject secret.Inject) *extprocv3.CommonResponse {
	path := x.dest.path
	query := dialect.CleanQuery(x.req.query)
	hm := &extprocv3.HeaderMutation{}
	set := func(name, value string) { hm.SetHeaders = append(hm.SetHeaders, setHeader(name, value)) }
	keep := ""
	if x.dest.SecretClass != "" {
		switch {
		case inject.Query != "":
			if query != "" {
				query += "&"
			}
			query += url.QueryEscape(inject.Query) + "=" + url.QueryEscape(cred.Value.Reveal())
		default:
			name, value := x.credentialHeader(cred, inject)
			keep = name
			set(name, value)
		}
	}
	if query != "" {
		path += "?" + query
	}
	set(":authority", x.dest.host)
	set(":path", path)
	set(scopeHeader, x.contract.Hash)
	// The answer is measured for token usage, so it must come uncompressed.
	set("accept-encoding", "identity")
	for _, h := range x.req.strip {
		if h != keep {
			hm.RemoveHeaders = append(hm.RemoveHeaders, h)
		}
	}
	return &extprocv3.CommonResponse{HeaderMutation: hm, ClearRouteCache: true}
}

// credentialHeader is the class's own header, or the provider's canonical one.
func (x *exchange) credentialHeader(cred secret.Credential, inject secret.Inject) (name, value string) {
	format := inject.Format
	if name = inject.Header; name == "" {
		name, format = x.dest.dialect.CredentialHeader()
	}
	if format == "" {
		format = "%s"
	}
	return name, fmt.Sprintf(format, cred.Value.Reveal())
}

func httpStatus(s int) *typev3.HttpStatus {
	return &typev3.HttpStatus{Code: typev3.StatusCode(int32(s))} //nolint:gosec // an HTTP status fits
}

// responseHeader finds one header of an answer.
func responseHeader(hm *corev3.HeaderMap, name string) string {
	for _, h := range hm.GetHeaders() {
		if h.GetKey() == name {
			return headerValue(h)
		}
	}
	return ""
}
