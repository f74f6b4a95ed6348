package gate

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"sallyport/extproc/secret"
	"sallyport/signer/code"
	"sallyport/signer/contract"
	"sallyport/signer/token"
)

const forwardDoc = `{"policy_kind":"wpc","policy_version":"v1","policy_id":"gate-test","intent":"One small model and two hosts",
 "agent_runtime":"test","tools":{"allow":["provider:sallyport/openai","tool:ticketing.create"],"deny":["tool:shell.exec"],
   "bindings":{"tool:ticketing.create":{"host":"tickets.example","methods":["POST"],"path":"/v1/tickets","secret_class":"ticketing"}}},
 "models":[{"provider":"openai","models":["gpt-small"]}],
 "egress":{"default":"deny","rules":[
   {"host":"data.example","methods":["GET"],"path_prefixes":["/public"]},
   {"host":"plain.example","ports":[80,8080]},
   {"host":"10.0.0.7","cidrs":["10.0.0.0/24"]},{"host":"10.0.1.7"},
   {"host":"printer.local","cidrs":["10.0.0.0/24"]},{"host":"other.local"}]},
 "secrets":{"minting":"cst_required","allowed_secret_classes":["openai_key","ticketing"],"max_ttl_seconds":900},
 "auth":{"pin_policy_hash":true},"model_calls":{"must_route_via":"sallyport","receipts_required":true}}`

const thumbprint = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU" // of nothing, in base64url and in hex
const digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// inside is what a stand-in for address.Allowed says.
func inside(a netip.Addr, prefixes []netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

func newForwardFixture(t testing.TB) *fixture {
	f := newFixture(t, func(c *Config) {
		c.AddressAllowed = inside
		var err error
		c.Secrets, err = secret.New([]secret.Class{
			{Name: "openai_key", Source: secret.Static(realKey), Hosts: []string{"api.example"}},
			{Name: "ticketing", Source: secret.Static("not-a-real-ticket-key"), Hosts: []string{"tickets.example"}, Inject: secret.Inject{Header: "x-ticket-key"}},
		}, secret.WithClock(c.Now))
		if err != nil {
			t.Fatal(err)
		}
	})
	f.publish(forwardDoc)
	return f
}

// at says by which door a request came; nameValue are further attributes.
func at(door string, m *extprocv3.ProcessingRequest, nameValue ...string) *extprocv3.ProcessingRequest {
	fields := map[string]*structpb.Value{"xds.filter_chain_name": structpb.NewStringValue(door), "source.address": structpb.NewStringValue("192.0.2.7:4711")}
	for i := 0; i < len(nameValue); i += 2 {
		fields[nameValue[i]] = structpb.NewStringValue(nameValue[i+1])
	}
	m.Attributes = map[string]*structpb.Struct{"envoy.filters.http.ext_proc": {Fields: fields}}
	return m
}

func connectTo(door, authority, tok string, attributes ...string) *extprocv3.ProcessingRequest {
	headers := []string{":method", "CONNECT", ":authority", authority}
	if tok != "" {
		headers = append(headers, "proxy-authorization", "Bearer "+tok)
	}
	return at(door, requestHeaders(false, headers...), attributes...)
}

// within is a request that came out of a tunnel to host, whose TLS names it too.
func within(host, tok string, last bool, nameValue ...string) *extprocv3.ProcessingRequest {
	name, _, _ := strings.Cut(host, ":")
	return at(doorInner, requestHeaders(last, nameValue...), tunnelToken, tok, tunnelAuthority, host, tunnelPeer, "192.0.2.7", serverName, name)
}

func TestConnect(t *testing.T) {
	bound := func(c *token.Claims) { c.Cnf = &token.Confirmation{X5tS256: thumbprint} }
	for name, tc := range map[string]struct {
		door, authority string
		token           func(*fixture) string
		attributes      []string
		want            code.Code
	}{
		"an egress host":                 {authority: "data.example:443"},
		"in capitals":                    {authority: "DATA.example:443"},
		"a tool's host":                  {authority: "tickets.example:443"},
		"a provider's host":              {authority: "api.example:443"},
		"an address that cidrs name":     {authority: "10.0.0.7:443"},
		"a local name that cidrs name":   {authority: "printer.local:443"},
		"another port of the contract's": {authority: "plain.example:8080"},
		"by the door with certificates":  {door: doorForwardMTLS, authority: "data.example:443"},
		"a bound token with its certificate": {door: doorForwardMTLS, authority: "data.example:443", token: func(f *fixture) string { return f.token(bound) },
			attributes: []string{peerCertificate, digest}},

		"a bound token with another certificate": {door: doorForwardMTLS, authority: "data.example:443", token: func(f *fixture) string { return f.token(bound) },
			attributes: []string{peerCertificate, strings.Repeat("0", 64)}, want: code.JobBindingMismatch},
		"a bound token without a certificate": {authority: "data.example:443", token: func(f *fixture) string { return f.token(bound) },
			attributes: []string{peerCertificate, digest}, want: code.JobBindingMismatch},
		"no token":                      {authority: "data.example:443", token: func(*fixture) string { return "" }, want: code.TokenRequired},
		"a provider's key":              {authority: "data.example:443", token: func(*fixture) string { return "not-a-real-key" }, want: code.TokenNotCST},
		"another host":                  {authority: "evil.example:443", want: code.PolicyEgressNotAllowed},
		"a name below":                  {authority: "a.data.example:443", want: code.PolicyEgressNotAllowed},
		"another port":                  {authority: "data.example:8443", want: code.PolicyEgressNotAllowed},
		"no port":                       {authority: "data.example", want: code.InvalidRequest},
		"user information":              {authority: "data.example:443@evil.example:443", want: code.InvalidRequest},
		"a final dot":                   {authority: "data.example.:443", want: code.InvalidRequest},
		"an empty label":                {authority: "data..example:443", want: code.InvalidRequest},
		"an address that no cidrs name": {authority: "10.0.1.7:443", want: code.AddressNotAllowed},
		"an address in short":           {authority: "10.7:443", want: code.InvalidRequest},
		"an address as a number":        {authority: "167772167:443", want: code.InvalidRequest},
		"an address in hex":             {authority: "0x0a000007:443", want: code.InvalidRequest},
		"an address in IPv6":            {authority: "[::ffff:10.0.0.7]:443", want: code.InvalidRequest},
		"a local name without cidrs":    {authority: "other.local:443", want: code.AddressNotAllowed},
		"localhost":                     {authority: "localhost:443", want: code.PolicyEgressNotAllowed},
		"the gateway's own name":        {authority: GatewayName + ":443", want: code.PolicyEgressNotAllowed},
		"by the reverse door":           {door: doorReverse, authority: "data.example:443", want: code.PathNotCanonical},
		"by a door of another name":     {door: "back", authority: "data.example:443", want: code.GateInternal},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForwardFixture(t)
			tok := f.token()
			if tc.token != nil {
				tok = tc.token(f)
			}
			if tc.door == "" {
				tc.door = doorForward
			}
			k := f.open()
			m := connectTo(tc.door, tc.authority, tok, tc.attributes...)
			if tc.want == code.TokenRequired {
				im := k.must("refusal", m).GetImmediateResponse()
				if im.GetStatus().GetCode() != 407 || !strings.Contains(im.String(), "proxy-authenticate") {
					t.Errorf("git would not send its token: %v", im)
				}
				return
			}
			if tc.want != "" {
				k.mustRefuse(tc.want, m)
				return
			}
			r := k.must("request headers", m)
			common := r.GetRequestHeaders().GetResponse()
			set := map[string]string{}
			for _, h := range common.GetHeaderMutation().GetSetHeaders() {
				set[h.GetHeader().GetKey()] = string(h.GetHeader().GetRawValue())
			}
			meta := r.GetDynamicMetadata().GetFields()["sallyport"].GetStructValue().GetFields()
			if !common.GetClearRouteCache() || set[scopeHeader] != "connect" || set[inspectHeader] != contract.InspectFull {
				t.Errorf("the route is not that of tunnels: %v", set)
			}
			if meta["verdict"].GetStringValue() != "allow" || meta["token"].GetStringValue() != tok || meta["authority"].GetStringValue() != strings.ToLower(tc.authority) || meta["peer"].GetStringValue() != "192.0.2.7" {
				t.Errorf("metadata %v", meta)
			}
			if o := r.GetModeOverride(); o.GetRequestBodyMode() != filterv3.ProcessingMode_NONE || o.GetResponseHeaderMode() != filterv3.ProcessingMode_SKIP {
				t.Errorf("the tunnel would be shown: %v", o)
			}
			if err := k.end(); err != nil || f.recorder.left() != 0 {
				t.Errorf("the stream's end: %v, %d intents", err, f.recorder.left())
			}
		})
	}
}

func TestInside(t *testing.T) {
	get := func(path string, more ...string) []string {
		return append([]string{":method", "GET", ":path", path, ":authority", "data.example"}, more...)
	}
	for name, tc := range map[string]struct {
		host string // of the tunnel
		more []string
		body string
		sni  string
		want code.Code
		set  map[string]string // on an allowed call
	}{
		"data":                  {more: get("/public/a?b=c"), set: map[string]string{":authority": "data.example", ":path": "/public/a?b=c", schemeHeader: "https"}},
		"the port written out":  {more: []string{":method", "GET", ":path", "/public/a", ":authority", "data.example:443"}, set: map[string]string{":authority": "data.example"}},
		"in capitals":           {more: []string{":method", "GET", ":path", "/public/a", ":authority", "Data.Example"}, set: map[string]string{":authority": "data.example"}},
		"a placeholder for key": {more: get("/public/a", "authorization", "Bearer sk-sallyport-placeholder-1"), set: map[string]string{":path": "/public/a"}},
		"a compressed body":     {more: get("/public/a", "content-encoding", "gzip"), set: map[string]string{":path": "/public/a"}},
		"a tool with its credential": {host: "tickets.example:443", more: []string{":method", "POST", ":path", "/v1/tickets", ":authority", "tickets.example"}, body: "{}",
			set: map[string]string{"x-ticket-key": "not-a-real-ticket-key", schemeHeader: "https"}},
		"a model": {host: "api.example:443", more: []string{":method", "POST", ":path", "/v1/chat/completions", ":authority", "api.example", "authorization", "Bearer sk-sallyport-placeholder-1"}, body: goodBody,
			set: map[string]string{"authorization": "Bearer " + realKey, ":path": "/v1/chat/completions"}},

		"another model":                     {host: "api.example:443", more: []string{":method", "POST", ":path", "/v1/chat/completions", ":authority", "api.example"}, body: `{"model":"gpt-large","messages":[]}`, want: code.PolicyModelNotAllowed},
		"a provider's host by another path": {host: "api.example:443", more: []string{":method", "GET", ":path", "/v1/files", ":authority", "api.example"}, want: code.PolicyEgressNotAllowed},
		"another path":                      {more: get("/secret"), want: code.PolicyEgressNotAllowed},
		"a path that begins alike":          {more: get("/publicity"), want: code.PolicyEgressNotAllowed},
		"dot segments":                      {more: get("/public/../secret"), want: code.PolicyEgressNotAllowed},
		"encoded dot segments":              {more: get("/public/%2e%2e/secret"), want: code.PolicyEgressNotAllowed},
		"another method":                    {more: []string{":method", "DELETE", ":path", "/public/a", ":authority", "data.example"}, want: code.PolicyEgressNotAllowed},
		"a host that is not the tunnel's":   {more: []string{":method", "GET", ":path", "/public/a", ":authority", "tickets.example"}, want: code.AuthorityMismatch},
		"a port that is not the tunnel's":   {more: []string{":method", "GET", ":path", "/public/a", ":authority", "data.example:8443"}, want: code.AuthorityMismatch},
		"a TLS name that is not the host's": {more: get("/public/a"), sni: "tickets.example", want: code.AuthorityMismatch},
		"no TLS name":                       {more: get("/public/a"), sni: "-", want: code.AuthorityMismatch},
		"a key of its own":                  {more: get("/public/a", "x-api-key", "not-a-real-key"), want: code.TokenNotCST},
		"a reserved header":                 {more: get("/public/a", "x-sallyport-scope", "x"), want: code.HeaderReserved},
		"a WebSocket":                       {more: get("/public/a", "upgrade", "websocket", "connection", "Upgrade"), want: code.UpgradeNotSupported},
		"a tunnel in the tunnel":            {more: []string{":method", "CONNECT", ":path", "/", ":authority", "data.example"}, want: code.PolicyEgressNotAllowed},
		"two authorities":                   {more: get("/public/a", ":authority", "tickets.example"), want: code.HeaderDuplicate},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForwardFixture(t)
			if tc.host == "" {
				tc.host = "data.example:443"
			}
			tok := f.token()
			m := within(tc.host, tok, tc.body == "", tc.more...)
			if tc.sni != "" {
				m.Attributes["envoy.filters.http.ext_proc"].Fields[serverName] = structpb.NewStringValue(strings.TrimPrefix(tc.sni, "-"))
			}
			k := f.open()
			r, err := k.send(m)
			if err == nil && r.GetImmediateResponse() == nil && tc.body != "" {
				r, err = k.send(requestBody(tc.body))
			}
			if err != nil {
				t.Fatal(err)
			}
			if tc.want != "" {
				if im := r.GetImmediateResponse(); !strings.Contains(string(im.GetBody()), `"`+string(tc.want)+`"`) {
					t.Fatalf("%v, want %s", r, tc.want)
				}
				if f.recorder.left() != 0 {
					t.Error("an intent was recorded")
				}
				return
			}
			mutation := r.GetRequestHeaders().GetResponse().GetHeaderMutation()
			if tc.body != "" {
				mutation = r.GetRequestBody().GetResponse().GetHeaderMutation()
			}
			got := map[string]string{}
			for _, h := range mutation.GetSetHeaders() {
				got[h.GetHeader().GetKey()] = string(h.GetHeader().GetRawValue())
			}
			for name, v := range tc.set {
				if got[name] != v {
					t.Errorf("%s is %q, want %q", name, got[name], v)
				}
			}
			if got[scopeHeader] != f.contract.PayloadHashB64u {
				t.Errorf("the scope is %q", got[scopeHeader])
			}
			k.must("response headers", ok())
			k.must("response body", responseBody("{}", true))
			f.recorder.completion(t)
			i := f.recorder.intents[0]
			if i.Peer != "192.0.2.7" || (i.Action == contract.NetworkEgress) != (got[schemeHeader] != "") {
				t.Errorf("intent %+v", i)
			}
		})
	}
}

// A tunnel whose filter state is missing would be a request without an identity.
func TestInsideWithoutTunnel(t *testing.T) {
	f := newForwardFixture(t)
	for _, missing := range []string{tunnelToken, tunnelAuthority} {
		m := within("data.example:443", f.token(), true, ":method", "GET", ":path", "/public/a", ":authority", "data.example", "authorization", "Bearer "+f.token())
		delete(m.Attributes["envoy.filters.http.ext_proc"].Fields, missing)
		f.open().mustRefuse(code.GateInternal, m)
	}
}

func TestPlainForward(t *testing.T) {
	f := newForwardFixture(t)
	plain := func(authority, path string) *extprocv3.ProcessingRequest {
		return at(doorForward, requestHeaders(true, ":method", "GET", ":path", path, ":authority", authority, "proxy-authorization", "Bearer "+f.token()))
	}
	k := f.open()
	set := map[string]string{}
	for _, h := range k.must("request headers", plain("plain.example", "/a")).GetRequestHeaders().GetResponse().GetHeaderMutation().GetSetHeaders() {
		set[h.GetHeader().GetKey()] = string(h.GetHeader().GetRawValue())
	}
	if set[schemeHeader] != "http" || set[":authority"] != "plain.example" {
		t.Errorf("%v", set)
	}
	if got := f.recorder.intents[0].Resource; got != "GET plain.example:80/a" {
		t.Errorf("resource %q", got)
	}
	f.open().mustRefuse(code.PolicyEgressNotAllowed, plain("data.example", "/public/a"))
	f.open().mustRefuse(code.AddressNotAllowed, plain("169.254.169.254", "/latest/meta-data"))
	f.open().mustRefuse(code.AddressNotAllowed, plain("localhost", "/"))
	f.open().mustRefuse(code.PolicyEgressNotAllowed, plain("plain.example:8080", "/"))
	f.open().mustRefuse(code.PolicyEgressNotAllowed, plain("data.example:443", "/public/a"))
	f.open().mustRefuse(code.UnknownProvider, plain(GatewayName, "/nowhere"))
	// The gateway's own name is the reverse door.
	k = f.open()
	k.must("request headers", at(doorForwardMTLS, requestHeaders(false, ":method", "POST", ":path", "/openai/v1/chat/completions", ":authority", GatewayName, "proxy-authorization", "Bearer "+f.token())))
	k.must("request body", requestBody(goodBody))
}

func FuzzParsePlace(f *testing.F) {
	for _, s := range []string{"a.example:443", "10.0.0.7:1", "[2001:db8::1]:443", "a.example", "127.1:443", ":443", "a:b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, d := parsePlace(s, portHTTPS)
		if d != nil {
			return
		}
		if again, d := parsePlace(p.String(), 0); d != nil || again != p {
			t.Errorf("%q is %v, and that is %v, %v", s, p, again, d)
		}
		if strings.ContainsAny(p.host, "/@%?# \\") || p.host != strings.ToLower(p.host) || p.port < 1 || p.port > 65535 {
			t.Errorf("%q is %+v", s, p)
		}
	})
}
