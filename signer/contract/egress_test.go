package contract_test

import (
	"testing"

	"sallyport/signer/code"
	"sallyport/signer/contract"
)

// One place on the network can be written in several ways. v2's patterns are matched against its one plain form, so
// that no other way leads around a Deny or out of an Allow's path.
func TestStatementsOnTheNetwork(t *testing.T) {
	allow := `{"sid":"A","effect":"Allow","actions":["side_effect:*"],"resources":["* x.example.com/api/**","* x.example.com:8443/api/**"]}`
	deny := allowAll + `,{"sid":"D","effect":"Deny","actions":["side_effect:*"],"resources":["* x.example.com/api/**"]}`
	for _, x := range []struct {
		name, statements, resource string
		want                       code.Code
	}{
		{"plain", allow, "GET x.example.com/api/a", allowed},
		{"host in capitals", allow, "GET X.Example.com/api/a", allowed},
		{"default port", allow, "GET x.example.com:443/api/a", allowed},
		{"named port", allow, "GET x.example.com:8443/api/a", allowed},
		{"port that is not named", allow, "GET x.example.com:8444/api/a", code.PolicyEgressNotAllowed},
		{"out of the path by dots", allow, "GET x.example.com/api/../admin", code.PolicyEgressNotAllowed},
		{"out of the path by encoded dots", allow, "GET x.example.com/api/%2e%2e/admin", code.PolicyEgressNotAllowed},
		{"out of the path by an encoded slash", allow, "GET x.example.com/api/..%2fadmin", code.PolicyEgressNotAllowed},
		{"user in front of the host", allow, "GET x.example.com@evil.example/api/a", code.PolicyEgressNotAllowed},
		{"denied", deny, "GET x.example.com/api/a", code.PolicyStatementDenied},
		{"around a Deny by capitals", deny, "GET X.example.com/api/a", code.PolicyStatementDenied},
		{"around a Deny by a trailing dot", deny, "GET x.example.com./api/a", code.PolicyStatementDenied},
		{"around a Deny by the default port", deny, "GET x.example.com:443/api/a", code.PolicyStatementDenied},
		{"around a Deny by a padded port", deny, "GET x.example.com:0443/api/a", code.PolicyStatementDenied},
		{"around a Deny by dots", deny, "GET x.example.com/b/../api/a", code.PolicyStatementDenied},
		{"around a Deny by two slashes", deny, "GET x.example.com//api/a", code.PolicyStatementDenied},
		{"around a Deny by two trailing dots", deny, "GET x.example.com../api/a", code.PolicyStatementDenied},
		{"around a Deny by an escape", deny, "GET x.example.com/%61pi/a", code.PolicyStatementDenied},
		{"around a Deny by a method in small letters", deny, "get x.example.com/api/a", code.PolicyStatementDenied},
		{"around a Deny by a letter that folds", deny, "GET \u212Ax.example.com/api/a", code.PolicyStatementDenied},
		{"no endpoint at all", deny, "nonsense", code.PolicyStatementDenied},
		{"a Deny that names the default port", allowAll + `,{"sid":"D","effect":"Deny","actions":["*"],"resources":["* x.example.com:443/**"]}`, "GET x.example.com/a", code.PolicyStatementDenied},
		{"another place", deny, "GET x.example.com/b", allowed},
	} {
		t.Run(x.name, func(t *testing.T) {
			v := statements(t, x.statements).Decide(ask(contract.NetworkEgress, x.resource), now)
			if got := outcome(v); got != x.want {
				t.Errorf("got %q %v, want %q", got, v.Denial, x.want)
			}
		})
	}
}

// A WebSocket needs a rule that says so for the very place; that its GET is allowed is another question.
func TestWebSocket(t *testing.T) {
	c := enterprise(t, `{"tools":{"allow":["tool:x"],"deny":[],"bindings":{"tool:x":{"host":"tool.example.com"}}},"egress":{"default":"deny","rules":[
		{"host":"live.example.com","path_prefixes":["/feed"],"methods":["GET","POST"],"websocket":true},
		{"host":"live.example.com"},{"host":"below.example.com","subdomains":true,"ports":[8443],"websocket":true},{"host":"said.example.com","websocket":false}]}}`)
	for resource, want := range map[string]bool{
		"GET live.example.com/feed":              true,
		"GET live.example.com:443/feed/a":        true,
		"GET LIVE.example.com./feed":             true,
		"GET a.below.example.com:8443/any":       true,
		"POST live.example.com/feed":             false,
		"GET live.example.com/feeds":             false,
		"GET live.example.com/":                  false,
		"GET live.example.com/other":             false,
		"GET live.example.com/feed/../other":     false,
		"GET live.example.com/feed/%2e%2e/x":     false,
		"GET live.example.com:8443/feed":         false,
		"GET a.live.example.com/feed":            false,
		"GET below.example.com/any":              false,
		"GET said.example.com/":                  false,
		"GET tool.example.com/":                  false,
		"GET evil.example/live.example.com/feed": false,
		"nonsense":                               false,
		"GET live.example.com/feed\x00":          false,
	} {
		if got := c.WebSocket(resource); got != want {
			t.Errorf("%q: %v", resource, got)
		}
	}
}
