package gate

import (
	"strings"
	"testing"

	"sallyport/extproc/secret"
	"sallyport/signer/code"
	"sallyport/signer/contract"
)

const toolsDoc = `{"policy_kind":"wpc","policy_version":"v1","policy_id":"gate-test","intent":"Tickets","agent_runtime":"test",
 "tools":{"allow":["tool:ticketing.create","tool:ticketing.read","tool:ticketing.other"],"deny":["tool:shell.exec"],"bindings":{
   "tool:ticketing.create":{"host":"tickets.example","methods":["POST"],"path":"/v1/{queue}/tickets","args":["path.queue == 'desk'","body.priority <= 3"],"secret_class":"ticketing"},
   "tool:ticketing.read":{"host":"tickets.example","methods":["GET"],"path":"/v1/{queue}/tickets","args":["query.all(k, k == 'page')"]},
   "tool:ticketing.other":{"host":"tickets.example","ports":[8443],"methods":["GET"],"path":"/v1","args":["host == 'tickets.example:8443'"],"secret_class":"undeclared"}}},
 "egress":{"default":"deny","rules":[{"host":"example","subdomains":true},{"host":"tickets.example","path_prefixes":["/v1","/public"]}]},
 "secrets":{"minting":"cst_required","allowed_secret_classes":["ticketing","undeclared"],"max_ttl_seconds":900},
 "auth":{"pin_policy_hash":true},"model_calls":{"must_route_via":"sallyport","receipts_required":true}}`

func newToolsFixture(t *testing.T) *fixture {
	f := newFixture(t, func(c *Config) {
		var err error
		c.Secrets, err = secret.New([]secret.Class{{
			Name: "ticketing", Source: secret.Static("not-a-real-ticket-key"), Hosts: []string{"tickets.example"}, NeedsTool: true,
			Inject: secret.Inject{Header: "x-ticket-key"},
		}}, secret.WithClock(c.Now))
		if err != nil {
			t.Fatal(err)
		}
	})
	f.publish(toolsDoc)
	return f
}

// What the gate sees of a request is what the rules get, and the evidence names the tool, of a refusal too.
func TestToolArguments(t *testing.T) {
	const good = `{"priority":3}`
	for name, tc := range map[string]struct {
		method, path, body string
		more               []string
		port               string
		want               code.Code
		resource           string // in the evidence
		class              string
	}{
		"a tool":                        {method: "POST", path: "/v1/desk/tickets", body: good, resource: "tool:ticketing.create", class: "ticketing"},
		"with a charset":                {method: "POST", path: "/v1/desk/tickets", body: good, more: []string{"content-type", "application/json; charset=utf-8"}, resource: "tool:ticketing.create", class: "ticketing"},
		"a tool without a class":        {method: "GET", path: "/v1/any/tickets?page=2", resource: "tool:ticketing.read"},
		"no tool, by a rule for egress": {method: "GET", path: "/public/a", resource: "GET tickets.example/public/a"},

		"another queue":           {method: "POST", path: "/v1/payroll/tickets", body: good, want: code.PolicyToolRuleDenied, resource: "tool:ticketing.create"},
		"a priority too high":     {method: "POST", path: "/v1/desk/tickets", body: `{"priority":4}`, want: code.PolicyToolRuleDenied, resource: "tool:ticketing.create"},
		"no priority":             {method: "POST", path: "/v1/desk/tickets", body: `{}`, want: code.PolicyToolRuleUndecided, resource: "tool:ticketing.create"},
		"another parameter":       {method: "GET", path: "/v1/desk/tickets?page=2&all=1", want: code.PolicyToolRuleDenied, resource: "tool:ticketing.read"},
		"a form":                  {method: "POST", path: "/v1/desk/tickets", body: good, more: []string{"content-type", "application/x-www-form-urlencoded"}, want: code.ToolBodyInvalid, resource: "tool:ticketing.create"},
		"two types":               {method: "POST", path: "/v1/desk/tickets", body: good, more: []string{"content-type", "application/json", "content-type", "text/plain"}, want: code.HeaderDuplicate},
		"a compressed body":       {method: "POST", path: "/v1/desk/tickets", body: good, more: []string{"content-encoding", "br"}, want: code.ToolBodyInvalid, resource: "tool:ticketing.create"},
		"another method on top":   {method: "POST", path: "/v1/desk/tickets", body: good, more: []string{"x-http-method-override", "DELETE"}, want: code.InvalidRequest, resource: "tool:ticketing.create"},
		"another path on top":     {method: "POST", path: "/v1/desk/tickets", body: good, more: []string{"x-original-url", "/admin"}, want: code.InvalidRequest, resource: "tool:ticketing.create"},
		"a class not declared":    {method: "GET", path: "/v1", port: ":8443", want: code.SecretUnavailable, resource: "tool:ticketing.other"},
		"the host beside a tool":  {method: "GET", path: "/admin", want: code.PolicyEgressNotAllowed, resource: "GET tickets.example/admin"},
		"an escape around a tool": {method: "POST", path: "/%76%31/desk/tickets", body: good, want: code.PolicyEgressNotAllowed, resource: "POST tickets.example/%76%31/desk/tickets"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newToolsFixture(t)
			headers := append([]string{":method", tc.method, ":path", tc.path, ":authority", "tickets.example" + tc.port}, tc.more...)
			if tc.body != "" && !strings.Contains(strings.Join(tc.more, " "), "content-type") {
				headers = append(headers, "content-type", "application/json")
			}
			port := tc.port
			if port == "" {
				port = ":443"
			}
			k := f.open()
			r, err := k.send(within("tickets.example"+port, f.token(), tc.body == "", headers...))
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
				if len(f.recorder.refusals) != 1 || f.recorder.refusals[0].Resource != tc.resource || f.recorder.left() != 0 {
					t.Errorf("recorded: %+v", f.recorder.refusals)
				}
				return
			}
			if r.GetImmediateResponse() != nil {
				t.Fatalf("refused: %v", r)
			}
			i := f.recorder.intents[0]
			action := contract.ToolExecute
			if !strings.HasPrefix(tc.resource, "tool:") {
				action = contract.NetworkEgress
			}
			if i.Action != action || i.Resource != tc.resource || i.SecretClass != tc.class || i.Host != "tickets.example" || i.Method != tc.method {
				t.Errorf("intent %+v", i)
			}
		})
	}
}
