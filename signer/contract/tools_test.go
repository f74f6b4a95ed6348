package contract_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"sallyport/signer/code"
	"sallyport/signer/contract"
	"sallyport/signer/contract/args"
)

// The example is the seed's own document with nothing but the places of its tools added.
func TestSeedToolsIsTheSeed(t *testing.T) {
	var doc map[string]any
	if err := json.Unmarshal(example(t, "seed-tools").Payload, &doc); err != nil {
		t.Fatal(err)
	}
	delete(doc["tools"].(map[string]any), "bindings")
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if got := parse(t, string(raw)); !bytes.Equal(got.Payload, example(t, "seed").Payload) {
		t.Errorf("%s", got.Payload)
	}
}

func toolAsk(resource, query, body string) contract.Ask {
	a := ask(contract.NetworkEgress, resource)
	a.Request = &args.Call{Query: query, Body: []byte(body), ContentType: "application/json"}
	return a
}

func TestToolsOfExamples(t *testing.T) {
	const ticket = `{"title":"x","text":"x","priority":3}`
	for _, x := range []struct {
		example  string
		ask      contract.Ask
		want     code.Code
		tool     string
		classOne string
	}{
		{"seed-tools", toolAsk("GET storage.example.com/exports/2026/a/b", "", ""), allowed, "tool:storage.readonly", "storage_read_scoped"},
		{"seed-tools", toolAsk("POST tickets.example.com/api/v2/queues/desk/tickets", "", ticket), allowed, "tool:ticketing.create", "ticketing_write_scoped"},
		{"seed-tools", ask(contract.ToolExecute, "storage.readonly"), allowed, "tool:storage.readonly", "storage_read_scoped"},
		{"seed-tools", ask(contract.ToolExecute, "shell.exec"), code.PolicyStatementDenied, "", ""},
		{"seed-tools", ask(contract.ToolExecute, "http.request"), code.PolicyStatementDenied, "", ""},
		{"seed-tools", ask(contract.ToolExecute, "filesystem.read"), code.PolicyStatementDenied, "", ""},
		{"seed-tools", toolAsk("GET evil.example.com/", "", ""), code.PolicyStatementDenied, "", ""},
		{"seed-tools", toolAsk("GET storage.example.com/exports/2025/a", "", ""), code.PolicyToolRuleDenied, "tool:storage.readonly", ""},
		{"seed-tools", toolAsk("POST tickets.example.com/api/v2/queues/desk/tickets", "", `{}`), code.PolicyToolRuleUndecided, "tool:ticketing.create", ""},
		{"seed-tools", toolAsk("POST tickets.example.com/api/v2/queues/desk/tickets", "", `{"a`), code.ToolBodyInvalid, "tool:ticketing.create", ""},
		{"seed-tools", ask(contract.NetworkEgress, "GET storage.example.com/exports/2026/a"), code.PolicyToolRuleUndecided, "tool:storage.readonly", ""},
		{"graph", toolAsk("GET graph.microsoft.com/v1.0/users/agent@example.com/messages", "$top=50", ""), allowed, "tool:graph.messages.list", "graph_read"},
		{"graph", toolAsk("GET graph.microsoft.com/v1.0/users/agent%40example.com/messages", "", ""), allowed, "tool:graph.messages.list", "graph_read"},
		{"graph", toolAsk("GET graph.microsoft.com/v1.0/users/agent@example.com/messages", "$top=51", ""), code.PolicyToolRuleDenied, "tool:graph.messages.list", ""},
		{"graph", toolAsk("GET graph.microsoft.com:8443/v1.0/users/agent@example.com/messages", "", ""), code.PolicyStatementDenied, "", ""},
		{"graph", toolAsk("GET graph.microsoft.com/v1.0/users//messages", "", ""), code.PolicyStatementDenied, "", ""},
	} {
		v := example(t, x.example).Decide(x.ask, now)
		if outcome(v) != x.want || v.Tool != x.tool {
			t.Errorf("%s on %s: %q, tool %q, %v", x.example, x.ask.Resource, outcome(v), v.Tool, v.Denial)
		}
		if x.classOne != "" && (len(v.SecretClasses) != 1 || v.SecretClasses[0] != x.classOne) || x.classOne == "" && v.SecretClasses != nil {
			t.Errorf("%s on %s: classes %v", x.example, x.ask.Resource, v.SecretClasses)
		}
		if v.Denial != nil && traps.MatchString(v.Denial.Message()) {
			t.Errorf("%v", v.Denial)
		}
	}
}

// A host that tools bind is closed beside them, and where a tool is bound no other rule speaks, in whatever spelling the path
// comes.
func TestHostsOfTools(t *testing.T) {
	c := enterprise(t, `{"tools":{"allow":["tool:a","tool:b","tool:c"],"deny":["tool:c"],"bindings":{
			"tool:a":{"host":"a.x.com","methods":["POST"],"path":"/v1/{id}","args":["path.id == 'one'"],"secret_class":"k"},
			"tool:b":{"host":"b.x.com","methods":["POST"],"path":"/v1/{id}","args":["path.id == 'one'"],"secret_class":"k"},
			"tool:c":{"host":"c.x.com","path":"/v1/{id}","args":["path.id == 'one'"]}}},
		"egress":{"default":"deny","rules":[{"host":"x.com","subdomains":true,"ports":[443,8443]},{"host":"b.x.com"},{"host":"c.x.com"}]}}`)
	for resource, want := range map[string]code.Code{
		"POST a.x.com/v1/one":      allowed,
		"POST a.x.com/v1/two":      code.PolicyToolRuleDenied,
		"GET a.x.com/v1/one":       code.PolicyEgressNotAllowed, // the rule for x.com does not open it
		"GET a.x.com/":             code.PolicyEgressNotAllowed,
		"GET a.x.com:8443/":        code.PolicyEgressNotAllowed,
		"GET d.x.com:8443/":        allowed,
		"GET a.a.x.com/":           allowed,
		"POST b.x.com/v1/one":      allowed,
		"POST b.x.com/v1/two":      code.PolicyToolRuleDenied, // although a rule names the host
		"POST b.x.com/%76%31/two":  code.PolicyEgressNotAllowed,
		"POST b.x.com/v1/%74%77o":  code.PolicyToolRuleDenied,
		"GET b.x.com/v1/two":       allowed,
		"POST b.x.com/v1/two/more": allowed,
		"GET b.x.com:8443/":        code.PolicyEgressNotAllowed, // b.x.com is named for 443 alone
		"POST c.x.com/v1/one":      code.PolicyStatementDenied,  // a tool that is denied is so with any arguments
		"POST c.x.com/v1/two":      code.PolicyStatementDenied,
	} {
		v := c.Decide(toolAsk(resource, "", ""), now)
		if outcome(v) != want {
			t.Errorf("%s: %q %v", resource, outcome(v), v.Denial)
		}
		if v.Allow && v.Tool == "" && len(v.SecretClasses) != 0 {
			t.Errorf("%s is no tool and gets %v", resource, v.SecretClasses)
		}
	}
}

// Of two tools at one place a call is the first whose arguments fit, in the order of tools.allow.
func TestToolsAtOnePlace(t *testing.T) {
	c := enterprise(t, `{"tools":{"allow":["tool:z.small","tool:a.large"],"deny":[],"bindings":{
			"tool:a.large":{"host":"x.com","path":"/pay","args":["body.amount <= 100"],"secret_class":"large"},
			"tool:z.small":{"host":"x.com","path":"/pay","args":["body.amount <= 10"],"secret_class":"small"}}},
		"secrets":{"minting":"cst_required","allowed_secret_classes":["small","large"],"max_ttl_seconds":60}}`)
	for body, want := range map[string]string{`{"amount":10}`: "small", `{"amount":11}`: "large", `{"amount":101}`: ""} {
		v := c.Decide(toolAsk("POST x.com/pay", "", body), now)
		if v.Allow != (want != "") || v.Allow && (len(v.SecretClasses) != 1 || v.SecretClasses[0] != want) {
			t.Errorf("%s: %+v", body, v)
		}
		if !v.Allow && (v.Tool != "tool:z.small" || v.Denial.Code != code.PolicyToolRuleDenied) {
			t.Errorf("%s: %s %v", body, v.Tool, v.Denial)
		}
	}
}

// A tool that is denied is so with any arguments, so rules about them change nothing.
func TestRulesOfADeniedTool(t *testing.T) {
	bind := func(rules string) *contract.Contract {
		return enterprise(t, `{"tools":{"allow":["tool:a"],"deny":["tool:a"],"bindings":{"tool:a":{"host":"x.com"`+rules+`}}}}`)
	}
	if changes := contract.Diff(bind(""), bind(`,"args":["method == 'GET'"]`)); widens(changes) {
		t.Errorf("%+v", changes)
	}
}

// A tunnel to a tool's host is never passed unread, and a rule that does not reach the host does not open one.
func TestReachOfTools(t *testing.T) {
	c := enterprise(t, `{"tools":{"allow":["tool:a"],"deny":[],"bindings":{"tool:a":{"host":"a.x.com","ports":[443,8443],"cidrs":["10.1.0.0/16"]}}},
		"egress":{"default":"deny","rules":[{"host":"x.com","subdomains":true,"ports":[443,9443],"cidrs":["10.2.0.0/16"],"inspect":"none"}]}}`)
	for _, x := range []struct {
		host    string
		port    int
		reached bool
		inspect string
		cidr    string
	}{
		{"a.x.com", 443, true, contract.InspectFull, "10.1.0.0/16"},
		{"a.x.com", 8443, true, contract.InspectFull, "10.1.0.0/16"},
		{"a.x.com", 9443, false, "", ""},
		{"b.x.com", 9443, true, contract.InspectNone, "10.2.0.0/16"},
		{"x.com", 443, true, contract.InspectNone, "10.2.0.0/16"},
	} {
		r, ok := c.Reach(x.host, x.port)
		if ok != x.reached || ok && (r.Inspect != x.inspect || len(r.Prefixes) != 1 || r.Prefixes[0].String() != x.cidr) {
			t.Errorf("%s:%d: %v %+v", x.host, x.port, ok, r)
		}
	}
}

// Beside BenchmarkDecide: what ten rules about arguments add to a decision.
func BenchmarkDecideTool(b *testing.B) {
	bind := func(rules string) *contract.Contract {
		return enterprise(b, `{"tools":{"allow":["tool:a"],"deny":["tool:http.request"],"bindings":{"tool:a":{"host":"x.com","methods":["POST"],"path":"/teams/{team}/tickets","secret_class":"k"`+rules+`}}}}`)
	}
	ten := `,"args":["body.priority <= 3","size(body.title) <= 200","body.queue in ['ops', 'desk']","body.watchers.all(w, w.endsWith('@example.com'))",
		"!has(body.admin)","body.all(k, k in ['priority', 'title', 'queue', 'watchers'])","method == 'POST'","path.team == 'infra'",
		"query.all(k, k in ['dry'])","body.title.matches('^[A-Za-z0-9 .,-]+$')"]`
	a := toolAsk("POST x.com/teams/infra/tickets", "dry=1", `{"priority":2,"title":"The printer on floor 3 is out of paper","queue":"desk","watchers":["a@example.com","b@example.com"]}`)
	for name, rules := range map[string]string{"no rule": "", "one rule of the path": `,"args":["path.team == 'infra'"]`, "ten rules": ten} {
		b.Run(name, func(b *testing.B) {
			c := bind(rules)
			b.ReportAllocs()
			for b.Loop() {
				if v := c.Decide(a, now); !v.Allow {
					b.Fatal(v.Denial)
				}
			}
		})
	}
}
