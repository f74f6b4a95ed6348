package gate

import (
	"errors"
	"slices"
	"strings"
	"testing"

	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"sallyport/signer/code"
	"sallyport/signer/contract"
	"sallyport/signer/record"
	"sallyport/signer/token"
	"sallyport/signer/trust"
)

func newSocketFixture(t *testing.T) *fixture {
	t.Helper()
	f := newForwardFixture(t)
	f.publish(strings.Replace(forwardDoc, `"rules":[`, `"rules":[{"host":"live.example","path_prefixes":["/feed"],"websocket":true},
	  {"host":"live.example","ports":[80],"websocket":true},{"host":"api.example","websocket":true},{"host":"tickets.example","websocket":true},`, 1))
	return f
}

// ask is a request for a WebSocket; more replaces a header, or adds one.
func upgradeTo(tok, host, path string, more ...string) *extprocv3.ProcessingRequest {
	headers := []string{":method", "GET", ":path", path, ":authority", strings.TrimSuffix(host, ":443"), "connection", "keep-alive, Upgrade", "upgrade", "websocket"}
	for i := 0; i < len(more); i += 2 {
		if j := slices.Index(headers, more[i]); j >= 0 {
			headers[j+1] = more[i+1]
			continue
		}
		headers = append(headers, more[i:i+2]...)
	}
	return within(host, tok, false, headers...)
}

func TestUpgrade(t *testing.T) {
	for name, tc := range map[string]struct {
		host, path string
		more       []string
		want       code.Code
		says       string
	}{
		"allowed":              {host: "live.example:443", path: "/feed/a?x=1"},
		"with a challenge":     {host: "live.example:443", path: "/feed", more: []string{keyHeader, "dGhlIHNhbXBsZSBub25jZQ=="}},
		"the option alone":     {host: "live.example:443", path: "/feed", more: []string{"connection", "upgrade"}},
		"a rule without it":    {host: "data.example:443", path: "/public/a", want: code.UpgradeNotSupported, says: "says websocket: true"},
		"another path":         {host: "live.example:443", path: "/other", want: code.PolicyEgressNotAllowed},
		"dot segments":         {host: "live.example:443", path: "/feed/../other", want: code.PolicyEgressNotAllowed},
		"another host":         {host: "live.example:443", path: "/feed", more: []string{":authority", "data.example"}, want: code.AuthorityMismatch},
		"a model":              {host: "api.example:443", path: "/v1/responses", want: code.UpgradeNotSupported},
		"another protocol":     {host: "live.example:443", path: "/feed", more: []string{"upgrade", "tcp"}, want: code.UpgradeNotSupported, says: "in small letters"},
		"another spelling":     {host: "live.example:443", path: "/feed", more: []string{"upgrade", "WebSocket"}, want: code.UpgradeNotSupported, says: "in small letters"},
		"another method":       {host: "live.example:443", path: "/feed", more: []string{":method", "POST"}, want: code.InvalidRequest},
		"without the option":   {host: "live.example:443", path: "/feed", more: []string{"connection", "keep-alive"}, want: code.InvalidRequest},
		"with a length":        {host: "live.example:443", path: "/feed", more: []string{"content-length", "3"}, want: code.InvalidRequest},
		"with chunks":          {host: "live.example:443", path: "/feed", more: []string{"transfer-encoding", "chunked"}, want: code.InvalidRequest},
		"a key of its own":     {host: "live.example:443", path: "/feed", more: []string{"authorization", "Bearer not-a-real-key"}, want: code.TokenNotCST},
		"a plain one over TLS": {host: "live.example:80", path: "/feed", more: []string{":authority", "live.example:80"}},
		"a path of a tool's":   {host: "tickets.example:443", path: "/v1/tickets"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newSocketFixture(t)
			k := f.open()
			m := upgradeTo(f.token(), tc.host, tc.path, tc.more...)
			if tc.want != "" {
				if im := k.mustRefuse(tc.want, m); !strings.Contains(string(im.GetBody()), tc.says) {
					t.Errorf("the refusal does not say %q: %s", tc.says, im.GetBody())
				}
				if f.recorder.left() != 0 {
					t.Error("an intent was recorded")
				}
				return
			}
			r := k.must("request headers", m)
			set := map[string]string{}
			for _, h := range r.GetRequestHeaders().GetResponse().GetHeaderMutation().GetSetHeaders() {
				set[h.GetHeader().GetKey()] = string(h.GetHeader().GetRawValue())
			}
			if key := set[keyHeader]; (key != "") != !slices.Contains(tc.more, keyHeader) || key != "" && len(key) != 24 {
				t.Errorf("the challenge is %q", key)
			}
			if set[schemeHeader] != "wss" || set[":path"] != tc.path || set["authorization"] != "" {
				t.Errorf("leaves with %v", set)
			}
			if o := r.GetModeOverride(); o.GetRequestBodyMode() != filterv3.ProcessingMode_NONE || o.GetResponseHeaderMode() != filterv3.ProcessingMode_SEND {
				t.Errorf("Envoy would show %v", o)
			}
			path, _, _ := strings.Cut(tc.path, "?")
			if i := f.recorder.intents[0]; i.Action != contract.NetworkEgress || i.Method != "GET" || i.Path != path || i.RequestHash != record.EmptyHash {
				t.Errorf("intent %+v", i)
			}
		})
	}
}

// A token that is good for one request is good for one WebSocket.
func TestUpgradeUsesUp(t *testing.T) {
	f := newSocketFixture(t)
	tok := f.token(func(c *token.Claims) { c.Nonce = "n-1" })
	f.open().must("request headers", upgradeTo(tok, "live.example:443", "/feed"))
	f.open().mustRefuse(code.TokenReplayed, upgradeTo(tok, "live.example:443", "/feed"))
}

func TestUpgradeEnds(t *testing.T) {
	switched := func(k *talk) {
		r := k.must("response headers", responseHeaders(false, viaUpstream, ":status", "101", "upgrade", "websocket"))
		o := r.GetModeOverride()
		if o.GetResponseBodyMode() != filterv3.ProcessingMode_NONE || o.GetResponseTrailerMode() != filterv3.ProcessingMode_SEND {
			k.f.t.Errorf("Envoy would show %v", o)
		}
	}
	revoke := func(k *talk) { k.f.setTrust(trust.State{RevokedTokens: []string{k.f.recorder.intents[0].TokenHash}}) }
	for name, tc := range map[string]struct {
		happens func(*talk)
		outcome record.Outcome
		reason  string
		status  int
		bytes   int64
	}{
		"either side ends it": {func(k *talk) { switched(k); _ = k.end() }, record.Completed, "neither read nor counted", 101, 0},
		"the stream breaks":   {func(k *talk) { switched(k); _ = k.hangUp() }, record.Completed, "neither read nor counted", 101, 0},
		"the token is withdrawn": {func(k *talk) {
			switched(k)
			revoke(k)
			if err := k.result(); !errors.Is(err, errWithdrawn) {
				k.f.t.Errorf("ended with %v", err)
			}
		}, record.Cut, "withdrawn", 101, 0},
		"the host refuses": {func(k *talk) {
			k.must("response headers", responseHeaders(false, viaUpstream, ":status", "403"))
			k.must("response body", responseBody("no", true))
			_ = k.end()
		}, record.Completed, "", 403, 2},
		"the host says nothing": {func(k *talk) { _ = k.end() }, record.Cut, "before the answer was complete", 0, 0},
		"the host does not switch": {func(k *talk) {
			k.must("response headers", responseHeaders(false, "upgrade_failed", ":status", "503"))
			_ = k.end()
		}, record.Cut, "envoy: upgrade_failed", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := newSocketFixture(t)
			k := f.open()
			k.must("request headers", upgradeTo(f.token(), "live.example:443", "/feed"))
			tc.happens(k)
			c := f.recorder.completion(t)
			if c.Outcome != tc.outcome || !strings.Contains(c.Reason, tc.reason) || c.Status != tc.status || c.ResponseBytes != tc.bytes {
				t.Errorf("%s %q %d, %d bytes; want %s %q %d, %d", c.Outcome, c.Reason, c.Status, c.ResponseBytes, tc.outcome, tc.reason, tc.status, tc.bytes)
			}
			if c.ResponseBytes == 0 && c.ResponseHash != record.EmptyHash {
				t.Errorf("hash %s", c.ResponseHash)
			}
		})
	}
}
