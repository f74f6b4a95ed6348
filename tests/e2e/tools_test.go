package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sallyport/signer/token"
	"sallyport/tests/harness"
)

// toolSystem is a system with a forward door before services that tools are bound to, each on a loopback port of its own.
type toolSystem struct {
	*harness.System
	services map[string]*harness.Upstream // by host
}

// toolClasses are secret classes by name, with the one host that each is for.
type toolClasses map[string]string

// startTools starts a service for each host of the classes, answering with handle, and the system before them. Extra is
// further YAML for the lists of upstreams and secret classes.
func startTools(t *testing.T, weaken string, classes toolClasses, handle http.HandlerFunc, upstreams, more string) *toolSystem {
	t.Helper()
	dir := t.TempDir()
	s := &toolSystem{services: map[string]*harness.Upstream{}}
	harness.WriteCertificates(t, dir, slices.Collect(maps.Values(classes))...)
	var hosts, secrets strings.Builder
	for class, host := range classes {
		if s.services[host] == nil {
			s.services[host] = harness.SecureUpstream(t, dir)
			s.services[host].Handle = handle
			fmt.Fprintf(&hosts, "    %s: [127.0.0.1]\n", host)
		}
		file := filepath.Join(dir, class)
		if err := os.WriteFile(file, []byte(harness.Credential(class)), 0o600); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&secrets, "  - {name: %s, from: \"file:%s\", hosts: [\"%s:%s\"], needs_tool: true, inject: {header: authorization, format: \"Bearer %%s\"}}\n",
			class, file, host, s.services[host].Port())
	}
	s.System = harness.Start(t, harness.Options{Bare: true, Weaken: weaken, Extra: fmt.Sprintf("loopback_model: {enabled: false}\nupstreams:\n%ssecret_classes:\n%s%segress:\n  ca_file: %q\n  hosts:\n%s",
		upstreams, secrets.String(), more, filepath.Join(dir, "ca.pem"), hosts.String())})
	return s
}

// example is a contract of the repository's examples, with the ports and addresses of the test's services.
func (s *toolSystem) example(t *testing.T, name string) map[string]any {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(harness.Root(), "signer", "contract", "examples", name))
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	for _, b := range bindingsOf(doc) {
		var port int
		if _, err := fmt.Sscan(s.services[b["host"].(string)].Port(), &port); err != nil {
			t.Fatal(err)
		}
		b["ports"], b["cidrs"] = []int{port}, []string{"127.0.0.0/8"}
	}
	if auth := doc["auth"].(map[string]any); auth["cst_scope_hash"] != nil {
		auth["cst_scope_hash"] = "sha256:" + scopeHash(t, s.Issue(nil))
	}
	return doc
}

func bindingsOf(doc map[string]any) map[string]map[string]any {
	out := map[string]map[string]any{}
	for name, b := range doc["tools"].(map[string]any)["bindings"].(map[string]any) {
		out[name] = b.(map[string]any)
	}
	return out
}

// scopeHash is what a contract has to name for the tokens of the same job.
func scopeHash(t *testing.T, raw string) string {
	t.Helper()
	var claims token.Claims
	part, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err == nil {
		err = json.Unmarshal(part, &claims)
	}
	if err != nil {
		t.Fatal(err)
	}
	return token.ScopeHashWithoutPin(claims)
}

// under publishes a contract and gives a client and a token for it.
func (s *toolSystem) under(t *testing.T, doc map[string]any) (*http.Client, string) {
	t.Helper()
	hash := s.Publish(doc)
	tok := s.Issue(harness.Claims{"policy_hash_b64u": hash})
	return s.Proxied(t, tok, hash, nil), hash
}

// toolRun is the run of all calls of a test.
const toolRun = "run-tools"

// audited has the run's archive written and verified: the contract is replayed over each call at its tool.
func (s *toolSystem) audited(t *testing.T) {
	t.Helper()
	out, err := s.Run("evidence", "verify", "--trust-file", filepath.Join(s.Dir, "data", "trust.json"), archiveOf(t, s.System, toolRun))
	if err != nil || !strings.HasPrefix(out, "PASS") {
		t.Errorf("the run's archive: %v\n%s", err, out)
	}
}

// toolCall is one call of a test.
type toolCall struct {
	name, method, host, path, body string
	header                         http.Header
	status                         int
	code, says                     string // of a refusal
	tool, class                    string // of a call that passes
}

func (s *toolSystem) send(t *testing.T, client *http.Client, c *toolCall) harness.Answer {
	t.Helper()
	req, err := http.NewRequest(c.method, "https://"+c.host+":"+s.services[c.host].Port()+c.path, strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	if c.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("X-Run-Id", toolRun)
	for k, v := range c.header {
		req.Header[k] = v
	}
	return harness.Send(client, req)
}

// check makes the calls: each either reaches its service with its class's credential and is in the evidence under its tool's
// name, or is refused with its code and does not leave.
func (s *toolSystem) check(t *testing.T, client *http.Client, hash string, calls []toolCall) {
	t.Helper()
	receipts := map[string]*toolCall{}
	for i := range calls {
		c := &calls[i]
		t.Run(c.name, func(t *testing.T) {
			service := s.services[c.host]
			before := service.Count()
			a := s.send(t, client, c)
			if a.Err != nil || a.Status != c.status || a.Code != c.code || !strings.Contains(a.Message, c.says) {
				t.Fatalf("%d %s %v, want %d %s %s: %.500s", a.Status, a.Code, a.Err, c.status, c.code, c.says, a.Body)
			}
			if reached := service.Count() - before; reached != map[bool]int{true: 1}[c.tool != ""] {
				t.Fatalf("%d requests reached the service", reached)
			}
			if c.tool == "" {
				return
			}
			if got := service.Requests()[before].Header.Get("Authorization"); got != "Bearer "+harness.Credential(c.class) {
				t.Errorf("the service got Authorization %q, want that of %s", got, c.class)
			}
			receipts[a.Receipt()] = c
		})
	}
	harness.Eventually(t, "every call is settled", func() bool { return len(s.Evidence().Open()) == 0 })
	e := s.Evidence()
	for id, c := range receipts {
		r, ok := e.Receipts[id]
		if !ok {
			t.Errorf("%s: no receipt %q", c.name, id)
			continue
		}
		if err := r.Verify(s.GatewaySignerDID); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if d := r.Payload().Metadata.Sallyport; d.Action != "tool:execute" || d.Resource != c.tool || d.SecretClass != c.class || r.Payload().Binding.PolicyHash != hash {
			t.Errorf("%s: the receipt says %s %s with %q", c.name, d.Action, d.Resource, d.SecretClass)
		}
	}
	harness.Eventually(t, "every refusal is in the evidence", func() bool {
		refused := map[string]int{}
		for _, r := range s.Evidence().Refusals {
			if r.PolicyHash == hash {
				refused[r.Code+" "+r.Method+" "+r.Path]++
			}
		}
		for i := range calls {
			path, _, _ := strings.Cut(calls[i].path, "?")
			key := calls[i].code + " " + calls[i].method + " " + path
			if refused[key]--; calls[i].code != "" && refused[key] < 0 {
				return false
			}
		}
		return true
	})
}

// TestToolsOfTheSeed: the example that the product was set as its task, word for word, before two services. The two tools work,
// each with its own class, within what their rules say; the three that are denied do not, and neither does anything else.
func TestToolsOfTheSeed(t *testing.T) {
	t.Parallel()
	runtime := harness.NewUpstream(t) // a server of tools that the contract does not name
	const storage, tickets = "storage.example.com", "tickets.example.com"
	key := filepath.Join(t.TempDir(), "runtime_key")
	if err := os.WriteFile(key, []byte(harness.Credential("runtime_key")), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startTools(t, "", toolClasses{"storage_read_scoped": storage, "ticketing_write_scoped": tickets}, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "this is %s\n", r.URL.Path)
	}, fmt.Sprintf("  - {name: runtime, dialect: mcp, url: %q, secret_class: runtime_key}\n", runtime.URL("runtime")+"/mcp"),
		fmt.Sprintf("  - {name: runtime_key, from: \"file:%s\", hosts: [%q], needs_tool: true}\n", key, runtime.Hosts()[0]))
	doc := s.example(t, "seed-tools.json")
	client, hash := s.under(t, doc)
	const good = `{"title":"Printer","text":"It is out of paper.","priority":3}`
	const queue = "/api/v2/queues/desk/tickets"
	ticket := func(name, body, code, says string) toolCall {
		status := 451
		if strings.HasPrefix(code, "TOOL_") {
			status = 400
		}
		return toolCall{name: name, method: "POST", host: tickets, path: queue, body: body, status: status, code: code, says: says}
	}
	s.check(t, client, hash, []toolCall{
		{name: "storage.readonly", method: "GET", host: storage, path: "/exports/2026/q1/report.csv?version=3", status: 200, tool: "tool:storage.readonly", class: "storage_read_scoped"},
		{name: "ticketing.create", method: "POST", host: tickets, path: queue, body: good, status: 200, tool: "tool:ticketing.create", class: "ticketing_write_scoped"},

		// http.request: any call that is neither of them.
		{name: "another method", method: "PUT", host: storage, path: "/exports/2026/q1/report.csv", body: "{}", status: 451, code: "POLICY_STATEMENT_DENIED", says: "tools.deny:tool:http.request"},
		{name: "another path of the tool's host", method: "GET", host: storage, path: "/admin", status: 451, code: "POLICY_STATEMENT_DENIED", says: "tools.deny:tool:http.request"},
		{name: "a segment too many", method: "POST", host: tickets, path: queue + "/1", body: good, status: 451, code: "POLICY_STATEMENT_DENIED"},
		{name: "a slash too many", method: "POST", host: tickets, path: queue + "/", body: good, status: 451, code: "POLICY_STATEMENT_DENIED"},

		{name: "another year", method: "GET", host: storage, path: "/exports/2025/q1/report.csv", status: 451, code: "POLICY_TOOL_RULE_DENIED", says: "tool:storage.readonly, args[0] path.year == '2026'"},
		{name: "a parameter more", method: "GET", host: storage, path: "/exports/2026/q1?acl", status: 451, code: "POLICY_TOOL_RULE_DENIED", says: "args[1]"},
		{name: "another queue", method: "POST", host: tickets, path: "/api/v2/queues/payroll/tickets", body: good, status: 451, code: "POLICY_TOOL_RULE_DENIED", says: "tool:ticketing.create, args[0]"},
		ticket("a member more", `{"title":"x","text":"x","priority":3,"assignee":"root"}`, "POLICY_TOOL_RULE_DENIED", "args[1] body.all(k, k in ['title', 'text', 'priority'])"),
		ticket("a priority too high", `{"title":"x","text":"x","priority":1}`, "POLICY_TOOL_RULE_DENIED", "args[2]"),
		ticket("a member missing", `{"title":"x","text":"x"}`, "POLICY_TOOL_RULE_UNDECIDABLE", "no such key: priority"),
		ticket("a key twice", `{"title":"x","text":"x","priority":3,"priority":1}`, "TOOL_BODY_INVALID", "duplicate key"),
		ticket("a key in capitals too", `{"title":"x","text":"x","priority":3,"Priority":1}`, "TOOL_BODY_INVALID", "differ only in case"),
		ticket("no JSON", `title=x`, "TOOL_BODY_INVALID", ""),
		ticket("no body", ``, "TOOL_BODY_INVALID", "empty"),
		ticket("a nesting bomb", strings.Repeat(`{"a":`, 50_000)+"1"+strings.Repeat("}", 50_000), "TOOL_BODY_INVALID", "nested too deep"),
		{name: "a form", method: "POST", host: tickets, path: queue, body: good, header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, status: 400, code: "TOOL_BODY_INVALID", says: "send application/json"},
		{name: "a method in a header", method: "POST", host: tickets, path: queue, body: good, header: http.Header{"X-Http-Method-Override": {"DELETE"}}, status: 400, code: "INVALID_REQUEST", says: "x-http-method-override"},

		{name: "ticketing.create again", method: "POST", host: tickets, path: "/api/v2/queues/%6Eetwork/tickets", body: good, status: 200, tool: "tool:ticketing.create", class: "ticketing_write_scoped"},
	})
	s.audited(t)
	// shell.exec and filesystem.read, where a network can see them: as tools of a server.
	tok := s.Issue(harness.Claims{"policy_hash_b64u": hash})
	call := func(tok, tool string) harness.Answer {
		return s.Do(harness.Call{Path: "/mcp/runtime", Token: tok, Body: fmt.Appendf(nil, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":{}}}`, tool)})
	}
	for _, tool := range []string{"shell.exec", "http.request", "filesystem.read"} {
		if a := call(tok, tool); !strings.Contains(string(a.Body), "POLICY_ACTION_NOT_ALLOWED") {
			t.Errorf("%s: %d %s", tool, a.Status, a.Body)
		}
	}
	// What the operator declared holds against any contract.
	bindings := bindingsOf(doc)
	bindings["tool:storage.readonly"]["secret_class"] = "ticketing_write_scoped"
	bindings["tool:ticketing.create"]["secret_class"] = "never_declared"
	secrets := doc["secrets"].(map[string]any)
	secrets["allowed_secret_classes"] = append(secrets["allowed_secret_classes"].([]any), "never_declared", "runtime_key")
	tools := doc["tools"].(map[string]any)
	tools["allow"] = append(tools["allow"].([]any), "tool:runtime.echo")
	tools["bindings"].(map[string]any)["tool:runtime.echo"] = map[string]any{"mcp_server": "runtime", "tool": "echo"}
	wrong, hash := s.under(t, doc)
	s.check(t, wrong, hash, []toolCall{
		{name: "a class of another host", method: "GET", host: storage, path: "/exports/2026/q1", status: 451, code: "SECRET_CLASS_HOST_NOT_ALLOWED"},
		{name: "a class that is not declared", method: "POST", host: tickets, path: queue, body: good, status: 503, code: "SECRET_UNAVAILABLE"},
	})
	if a := call(s.Issue(harness.Claims{"policy_hash_b64u": hash}), "echo"); !strings.Contains(string(a.Body), "POLICY_TOOL_REQUIRED") {
		t.Errorf("a class for tools goes out with a tool that does not name it: %d %s", a.Status, a.Body)
	}
	if n := runtime.Count(); n != 0 {
		t.Errorf("%d requests reached the server of tools", n)
	}
	for _, class := range []string{"storage_read_scoped", "ticketing_write_scoped"} {
		if strings.Contains(s.Log.String(), harness.Credential(class)) {
			t.Errorf("the credential of %s is in the log", class)
		}
	}
	if !s.EnvoyConfigHas(`/api/v2/queues/[^/]+/tickets`) {
		t.Error("Envoy's own route is wider than the tool's path")
	}
}

// noUpstream is the upstream that a configuration must have.
const noUpstream = "  - {name: unused, dialect: openai, url: \"http://127.0.0.1:9\"}\n"

// TestToolRoutes: without the decision, Envoy's own routes still keep a tool's host to the tool's methods and paths. Arguments
// they do not know, and such calls show that the decision is gone; but they go without a credential.
func TestToolRoutes(t *testing.T) {
	t.Parallel()
	const storage = "storage.example.com"
	s := startTools(t, "decision", toolClasses{"storage_read_scoped": storage, "ticketing_write_scoped": "tickets.example.com"},
		func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "this is %s\n", r.URL.Path) }, noUpstream, "")
	doc := s.example(t, "seed-tools.json")
	doc["egress"] = map[string]any{"default": "deny", "rules": []any{map[string]any{"host": "example.com", "subdomains": true}}}
	client, _ := s.under(t, doc)
	for _, c := range []toolCall{
		{name: "arguments that are not allowed", method: "GET", host: storage, path: "/exports/2025/a", status: 200},
		{name: "another path", method: "GET", host: storage, path: "/admin", status: 451, code: "ROUTE_NOT_ALLOWED"},
		{name: "a path cut short", method: "GET", host: storage, path: "/exports/2026", status: 451, code: "ROUTE_NOT_ALLOWED"},
		{name: "another method", method: "DELETE", host: storage, path: "/exports/2026/a", status: 451, code: "ROUTE_NOT_ALLOWED"},
		{name: "a segment too many", method: "POST", host: "tickets.example.com", path: "/api/v2/queues/desk/x/tickets", body: "{}", status: 451, code: "ROUTE_NOT_ALLOWED"},
	} {
		before := s.services[c.host].Count()
		if a := s.send(t, client, &c); a.Err != nil || a.Status != c.status || a.Code != c.code {
			t.Errorf("%s: %d %s %v, want %d %s", c.name, a.Status, a.Code, a.Err, c.status, c.code)
		}
		seen := s.services[c.host].Requests()[before:]
		if (len(seen) == 1) != (c.status == 200) {
			t.Errorf("%s: %d requests reached the service", c.name, len(seen))
		}
		for _, r := range seen {
			if r.Header.Get("Authorization") != "" {
				t.Errorf("%s: with Authorization %q", c.name, r.Header.Get("Authorization"))
			}
		}
	}
}

// TestGraphByTwoApps: one host, two apps. What reads goes out with the one's token and what writes with the other's, and the
// upstream, as Microsoft Graph would, refuses what the app was not granted.
func TestGraphByTwoApps(t *testing.T) {
	t.Parallel()
	const graph = "graph.microsoft.com"
	granted := map[string]string{"Bearer " + harness.Credential("graph_read"): "GET", "Bearer " + harness.Credential("graph_write"): "POST"}
	s := startTools(t, "", toolClasses{"graph_read": graph, "graph_write": graph}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch method, known := granted[r.Header.Get("Authorization")]; {
		case !known:
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"error":{"code":"InvalidAuthenticationToken","message":"Access token is empty."}}`)
		case method != r.Method:
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"error":{"code":"ErrorAccessDenied","message":"Access is denied."}}`)
		case method == http.MethodPost:
			w.WriteHeader(http.StatusAccepted)
		default:
			fmt.Fprint(w, `{"value":[]}`)
		}
	}, noUpstream, "")
	client, hash := s.under(t, s.example(t, "graph.json"))
	const mail = "/v1.0/users/agent@example.com/sendMail"
	to := func(addresses ...string) string {
		var list []any
		for _, a := range addresses {
			list = append(list, map[string]any{"emailAddress": map[string]any{"address": a}})
		}
		raw, err := json.Marshal(map[string]any{"message": map[string]any{"subject": "Hello", "body": map[string]any{"contentType": "Text", "content": "…"}, "toRecipients": list}})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	s.check(t, client, hash, []toolCall{
		{name: "messages", method: "GET", host: graph, path: "/v1.0/users/agent@example.com/messages?$top=10&$select=subject", status: 200, tool: "tool:graph.messages.list", class: "graph_read"},
		{name: "messages of an escaped name", method: "GET", host: graph, path: "/v1.0/users/agent%40example.com/messages", status: 200, tool: "tool:graph.messages.list", class: "graph_read"},
		{name: "events", method: "GET", host: graph, path: "/v1.0/users/agent@example.com/events", status: 200, tool: "tool:graph.events.list", class: "graph_read"},
		{name: "mail", method: "POST", host: graph, path: mail, body: to("a@example.com", "b@example.com"), status: 202, tool: "tool:graph.mail.send", class: "graph_write"},

		{name: "another user's messages", method: "GET", host: graph, path: "/v1.0/users/ceo@example.com/messages", status: 451, code: "POLICY_TOOL_RULE_DENIED", says: "path.user"},
		{name: "too many", method: "GET", host: graph, path: "/v1.0/users/agent@example.com/messages?$top=999", status: 451, code: "POLICY_TOOL_RULE_DENIED", says: "args[1]"},
		{name: "too many in capitals", method: "GET", host: graph, path: "/v1.0/users/agent@example.com/messages?$top=9&$TOP=999", status: 400, code: "TOOL_QUERY_INVALID"},
		{name: "a filter", method: "GET", host: graph, path: "/v1.0/users/agent@example.com/messages?$search=secret", status: 451, code: "POLICY_TOOL_RULE_DENIED"},
		{name: "mail to somebody else", method: "POST", host: graph, path: mail, body: to("a@example.com", "b@evil.example"), status: 451, code: "POLICY_TOOL_RULE_DENIED", says: "args[2]"},
		{name: "mail to many", method: "POST", host: graph, path: mail, body: to(strings.Split(strings.Repeat("a@example.com ", 10)+"b@example.com", " ")...), status: 451, code: "POLICY_TOOL_RULE_DENIED"},
		{name: "all users", method: "GET", host: graph, path: "/v1.0/users", status: 451, code: "POLICY_STATEMENT_DENIED"},
		{name: "another version", method: "GET", host: graph, path: "/beta/users/agent@example.com/messages", status: 451, code: "POLICY_STATEMENT_DENIED"},
		{name: "a message deleted", method: "DELETE", host: graph, path: "/v1.0/users/agent@example.com/messages/1", status: 451, code: "POLICY_STATEMENT_DENIED"},
	})
	s.audited(t)
}
