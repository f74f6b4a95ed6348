package gate

import (
	"encoding/base64"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"sallyport/signer/jcs"
	"sallyport/signer/record"
)

// answering brings an exchange as far as its answer.
func (f *fixture) answering(headers ...string) (*talk, *extprocv3.CommonResponse) {
	k := f.open()
	k.must("request headers", chat(f.token()))
	k.must("request body", requestBody(goodBody))
	r := k.must("response headers", responseHeaders(false, viaUpstream, append([]string{":status", "200", "content-type", "text/plain"}, headers...)...))
	return k, r.GetResponseHeaders().GetResponse()
}

func sent(t *testing.T, chunk string, r *extprocv3.ProcessingResponse) string {
	t.Helper()
	m := r.GetResponseBody().GetResponse().GetBodyMutation()
	switch {
	case m == nil:
		return chunk
	case m.GetClearBody():
		return ""
	}
	return string(m.GetBody())
}

// TestEchoesAreMasked: headers and body, over chunk borders, before anything is hashed; and the receipt says so.
func TestEchoesAreMasked(t *testing.T) {
	f := newFixture(t)
	k, common := f.answering("x-debug", "auth was Bearer "+realKey, "x-other", "nothing")
	masked := strings.Repeat("*", len(realKey))
	set := map[string]string{}
	for _, o := range common.GetHeaderMutation().GetSetHeaders() {
		if o.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			t.Error(o)
		}
		set[o.GetHeader().GetKey()] = string(o.GetHeader().GetRawValue())
	}
	if set["x-debug"] != "auth was Bearer "+masked || len(set) != 2 {
		t.Errorf("%v", set)
	}
	coded := base64.StdEncoding.EncodeToString([]byte(realKey))
	text := "you sent " + realKey + ", coded " + coded + ", and that was it"
	var got string
	for cut := 0; cut < len(text); cut += 7 {
		chunk := text[cut:min(cut+7, len(text))]
		got += sent(t, chunk, k.must("response body", responseBody(chunk, false)))
	}
	got += sent(t, "", k.must("response body", responseBody("", true)))
	if len(got) != len(text) || strings.Contains(got, realKey[3:]) || strings.Contains(got, coded[3:len(coded)-4]) || !strings.HasSuffix(got, "and that was it") {
		t.Errorf("%q", got)
	}
	c := f.recorder.completion(t)
	if c.Outcome != record.Completed || c.ResponseHash != jcs.Hash([]byte(got)) || c.ResponseBytes != int64(len(text)) || c.Reason != "the host echoed the credential 3 times, which was masked" {
		t.Errorf("%+v", c)
	}
}

// TestEncodedAnswerToACredential: an echo could hide in it.
func TestEncodedAnswerToACredential(t *testing.T) {
	f := newFixture(t)
	k := f.open()
	k.must("request headers", chat(f.token()))
	k.must("request body", requestBody(goodBody))
	_ = k.mustEnd(responseHeaders(false, viaUpstream, ":status", "200", "content-encoding", "gzip"))
	if c := f.recorder.completion(t); c.Outcome != record.Cut || !strings.Contains(c.Reason, "encoded as gzip") {
		t.Errorf("%+v", c)
	}
}

// TestTrailersAfterAnEcho: what is held back cannot go in front of trailers, and trailers can echo too.
func TestTrailersAfterAnEcho(t *testing.T) {
	for name, c := range map[string]struct{ chunk, trailer, reason string }{
		"the body ends as an echo begins": {"so " + realKey[:len(realKey)-1], "0", "held back"},
		"an echo in a trailer":            {"so", "0; " + realKey, "a trailer echoes"},
		"neither":                         {"so", "0", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			k, _ := f.answering()
			k.must("response body", responseBody(c.chunk, false))
			trailers := &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseTrailers{ResponseTrailers: &extprocv3.HttpTrailers{Trailers: headersOf("grpc-status", c.trailer)}}}
			if c.reason == "" {
				k.must("response trailers", trailers)
			} else {
				_ = k.mustEnd(trailers)
			}
			if got := f.recorder.completion(t); !strings.Contains(got.Reason, c.reason) || (got.Outcome == record.Cut) != (c.reason != "") {
				t.Errorf("%+v", got)
			}
		})
	}
}
