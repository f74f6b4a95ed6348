package gate

import (
	"errors"
	"strings"
	"testing"

	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"

	"sallyport/signer/code"
	"sallyport/signer/contract"
	"sallyport/signer/record"
	"sallyport/signer/token"
	"sallyport/signer/trust"
)

// unreadRules stand instead of forwardDoc's egress rules.
const unreadRules = `{"host":"sealed.example","inspect":"sni"},{"host":"dark.example","ports":[443,8443],"inspect":"none"},
   {"host":"methods.example","methods":["GET"],"inspect":"none"},{"host":"paths.example","path_prefixes":["/public"],"inspect":"sni"},
   {"host":"tickets.example","inspect":"none"},{"host":"api.example","inspect":"none"},
   {"host":"private.example","cidrs":["10.0.0.0/24"],"inspect":"sni"},{"host":"inside.example","cidrs":["10.0.0.0/24"],"inspect":"none"},
   {"host":"10.0.0.7","cidrs":["10.0.0.0/24"],"inspect":"none"},{"host":"10.0.0.8","cidrs":["10.0.0.0/24"],"inspect":"sni"},{"host":"10.0.1.7","inspect":"none"},
   {"host":"other.local","inspect":"none"}`

func newUnreadFixture(t *testing.T) *fixture {
	t.Helper()
	f := newForwardFixture(t)
	before, rest, _ := strings.Cut(forwardDoc, `"rules":[`)
	_, after, _ := strings.Cut(rest, `]},`+"\n"+` "secrets"`)
	f.publish(before + `"rules":[` + unreadRules + `]},` + "\n" + ` "secrets"` + after)
	return f
}

func TestUnread(t *testing.T) {
	once := func(c *token.Claims) { c.Nonce = "n-1" }
	for name, tc := range map[string]struct {
		authority string
		token     func(*fixture) string
		inspect   string
		resource  string
		want      code.Code
		says      string
	}{
		"by the server name": {authority: "sealed.example:443", inspect: contract.InspectSNI, resource: "CONNECT sealed.example/"},
		"in capitals":        {authority: "SEALED.example:443", inspect: contract.InspectSNI, resource: "CONNECT sealed.example/"},
		"without a look":     {authority: "dark.example:443", inspect: contract.InspectNone, resource: "CONNECT dark.example/"},
		"another port":       {authority: "dark.example:8443", inspect: contract.InspectNone, resource: "CONNECT dark.example:8443/"},
		"a private name":     {authority: "inside.example:443", inspect: contract.InspectNone, resource: "CONNECT inside.example/"},
		"a private address":  {authority: "10.0.0.7:443", inspect: contract.InspectNone, resource: "CONNECT 10.0.0.7/"},
		"a tool's host":      {authority: "tickets.example:443", inspect: contract.InspectFull},
		"a provider's host":  {authority: "api.example:443", inspect: contract.InspectFull},

		"a rule about methods":      {authority: "methods.example:443", want: code.PolicyEgressNotAllowed, says: "leave them out, or say inspect: full"},
		"a rule about paths":        {authority: "paths.example:443", want: code.PolicyEgressNotAllowed, says: "leave them out, or say inspect: full"},
		"another host":              {authority: "evil.example:443", want: code.PolicyEgressNotAllowed, says: "allows nothing there"},
		"a port of another host":    {authority: "sealed.example:8443", want: code.PolicyEgressNotAllowed, says: "allows nothing there"},
		"an address by server name": {authority: "10.0.0.8:443", want: code.RouteNotAllowed, says: "TLS names no server"},
		"private by server name":    {authority: "private.example:443", want: code.AddressNotAllowed, says: "public addresses only"},
		"an address without cidrs":  {authority: "10.0.1.7:443", want: code.AddressNotAllowed},
		"a local name":              {authority: "other.local:443", want: code.AddressNotAllowed},
		"a token that was used": {authority: "sealed.example:443", token: func(f *fixture) string {
			tok := f.token(once)
			f.open().must("request headers", connectTo(doorForward, "sealed.example:443", tok))
			return tok
		}, want: code.TokenReplayed},
		"the scope of another purpose": {authority: "sealed.example:443", token: func(f *fixture) string { return f.token(func(c *token.Claims) { c.Scope = []string{"billing:read"} }) }, want: code.TokenInsufficientScope},
	} {
		t.Run(name, func(t *testing.T) {
			f := newUnreadFixture(t)
			tok := f.token()
			if tc.token != nil {
				tok = tc.token(f)
			}
			before := f.recorder.left()
			k := f.open()
			m := connectTo(doorForward, tc.authority, tok)
			if tc.want != "" {
				if im := k.mustRefuse(tc.want, m); !strings.Contains(string(im.GetBody()), tc.says) {
					t.Errorf("the refusal does not say %q: %s", tc.says, im.GetBody())
				}
				if f.recorder.left() != before {
					t.Error("an intent was recorded")
				}
				return
			}
			r := k.must("request headers", m)
			set := map[string]string{}
			for _, h := range r.GetRequestHeaders().GetResponse().GetHeaderMutation().GetSetHeaders() {
				set[h.GetHeader().GetKey()] = string(h.GetHeader().GetRawValue())
			}
			if set[inspectHeader] != tc.inspect {
				t.Fatalf("inspected by %q, want %q", set[inspectHeader], tc.inspect)
			}
			if tc.inspect == contract.InspectFull {
				return
			}
			meta := r.GetDynamicMetadata().GetFields()["sallyport"].GetStructValue().GetFields()
			host, port, _ := strings.Cut(strings.ToLower(tc.authority), ":")
			if tc.inspect == contract.InspectNone {
				host, port = "", ""
			}
			if meta["host"].GetStringValue() != host || meta["port"].GetStringValue() != port || meta["verdict"].GetStringValue() != "allow" || meta["token"] != nil {
				t.Errorf("metadata %v", meta)
			}
			if set[scopeHeader] != f.contract.PayloadHashB64u || set[":authority"] != strings.ToLower(tc.authority) {
				t.Errorf("the route is not the contract's: %v", set)
			}
			if o := r.GetModeOverride(); o.GetRequestBodyMode() != filterv3.ProcessingMode_NONE || o.GetResponseHeaderMode() != filterv3.ProcessingMode_SEND || o.GetResponseBodyMode() != filterv3.ProcessingMode_STREAMED {
				t.Errorf("Envoy would show %v", o)
			}
			i := f.recorder.intents[0]
			if i.Action != contract.NetworkEgress || i.Method != "CONNECT" || i.Resource != tc.resource || i.RequestHash != record.EmptyHash || i.SecretClass != "" {
				t.Errorf("intent %+v", i)
			}
		})
	}
}

// How a tunnel ended is recorded once, and never as completed where its host was not reached.
func TestUnreadEnds(t *testing.T) {
	answered := func(k *talk) { k.must("response headers", responseHeaders(false, viaUpstream, ":status", "200")) }
	spoke := func(k *talk) { answered(k); k.must("response body", responseBody("hello", false)) }
	for name, tc := range map[string]struct {
		happens func(*talk)
		outcome record.Outcome
		reason  string
		bytes   int64
	}{
		"the host ends it":               {func(k *talk) { spoke(k); k.must("response body", responseBody("", true)); _ = k.end() }, record.Completed, "content was not read (inspect: sni)", 5},
		"the client ends it":             {func(k *talk) { spoke(k); _ = k.end() }, record.Completed, "content was not read", 5},
		"the stream breaks":              {func(k *talk) { spoke(k); _ = k.hangUp() }, record.Completed, "content was not read", 5},
		"nothing came back, host ends":   {func(k *talk) { answered(k); k.must("response body", responseBody("", true)); _ = k.end() }, record.Cut, "nothing came back", 0},
		"nothing came back, client ends": {func(k *talk) { answered(k); _ = k.end() }, record.Cut, "nothing came back", 0},
		"no answer at all":               {func(k *talk) { _ = k.end() }, record.Cut, "nothing came back", 0},
		"refused by Envoy": {func(k *talk) {
			k.must("response headers", responseHeaders(false, "dns_resolution_failure{address_denied}", ":status", "451"))
			_ = k.end()
		}, record.Cut, "envoy: dns_resolution_failure{address_denied}", 0},
		"the token is withdrawn": {func(k *talk) {
			spoke(k)
			k.f.setTrust(trust.State{RevokedTokens: []string{k.f.recorder.intents[0].TokenHash}})
			_ = k.mustEnd(responseBody("more", false))
		}, record.Cut, "withdrawn", 5},
		"the token is withdrawn while nothing moves": {func(k *talk) {
			spoke(k)
			k.f.setTrust(trust.State{RevokedTokens: []string{k.f.recorder.intents[0].TokenHash}})
			if err := k.result(); !errors.Is(err, errWithdrawn) {
				k.f.t.Errorf("ended with %v", err)
			}
		}, record.Cut, "withdrawn", 5},
	} {
		t.Run(name, func(t *testing.T) {
			f := newUnreadFixture(t)
			k := f.open()
			k.must("request headers", connectTo(doorForward, "sealed.example:443", f.token()))
			tc.happens(k)
			c := f.recorder.completion(t)
			if c.Outcome != tc.outcome || !strings.Contains(c.Reason, tc.reason) || c.ResponseBytes != tc.bytes {
				t.Errorf("%s %q, %d bytes; want %s %q, %d", c.Outcome, c.Reason, c.ResponseBytes, tc.outcome, tc.reason, tc.bytes)
			}
			if f.recorder.left() != 1 || len(f.recorder.done) != 0 {
				t.Errorf("%d intents, %d more completions", f.recorder.left(), len(f.recorder.done))
			}
		})
	}
}
