package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	gomcp "github.com/modelcontextprotocol/go-sdk/mcp"

	"sallyport/tests/harness"
)

// toolServer is a real MCP server from npm, behind a wall that only the gate's credential opens.
type toolServer struct {
	url     string
	refused atomic.Int32 // requests without the credential
	token   atomic.Int32 // requests in which a job's token stood
}

const toolCredential = "planted-value-of-mcp_key"

func startToolServer(t *testing.T, python, node harness.Programs) *toolServer {
	t.Helper()
	addr := harness.FreeAddr(t)
	port := addr[strings.LastIndexByte(addr, ':')+1:]
	var log harness.Buffer
	cmd := exec.Command(python.Bin("node"), filepath.Join(node.Dir, "node_modules", "@modelcontextprotocol", "server-everything", "dist", "index.js"), "streamableHttp")
	cmd.Env = append(os.Environ(), "PORT="+port)
	cmd.Stdout, cmd.Stderr = &log, &log
	// The wheel's node is a script that starts the real one.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	real, err := url.Parse("http://127.0.0.1:" + port)
	if err != nil {
		t.Fatal(err)
	}
	s := &toolServer{}
	wall := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, vs := range r.Header {
			if strings.Contains(strings.Join(vs, " "), "eyJ") {
				s.token.Add(1)
			}
		}
		if r.Header.Get("Authorization") != "Bearer "+toolCredential {
			s.refused.Add(1)
			http.Error(w, "who are you?", http.StatusForbidden)
			return
		}
		p := httputil.NewSingleHostReverseProxy(real)
		p.FlushInterval = -1
		p.ServeHTTP(w, r)
	}))
	t.Cleanup(wall.Close)
	s.url = wall.URL + "/mcp"
	harness.Eventually(t, "the tool server answers: "+log.Tail(20), func() bool {
		resp, err := http.Get(real.String() + "/mcp")
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil
	})
	return s
}

// mcpContract allows tools of the server by name.
func mcpContract(t *testing.T, tools ...string) map[string]any {
	t.Helper()
	allow, bindings := []string{}, map[string]any{}
	for i, tool := range tools {
		name := fmt.Sprintf("tool:everything.t%d", i)
		allow = append(allow, name)
		bindings[name] = map[string]any{"mcp_server": "everything", "tool": tool}
	}
	return map[string]any{
		"policy_kind": "wpc", "policy_version": "v1", "policy_id": "tools-" + strings.Join(tools, "-"), "intent": "test", "agent_runtime": "test",
		"tools": map[string]any{"allow": allow, "deny": []string{"tool:shell.exec"}, "bindings": bindings}, "models": []any{},
		"egress":  map[string]any{"default": "deny"},
		"secrets": map[string]any{"minting": "cst_required", "allowed_secret_classes": []string{"mcp_key"}, "max_ttl_seconds": 900},
		"auth":    map[string]any{"pin_policy_hash": true}, "model_calls": map[string]any{"must_route_via": "sallyport", "receipts_required": true},
	}
}

// session is what a program saw of a session.
type session map[string]any

// TestToolsOneByOne: the SDKs of three languages, unchanged, before a real MCP server. With a contract that allows everything
// the session is the same as without a gate; with a narrow one the other tools are not listed, a call of one is a tool error
// that says why, and the session goes on.
func TestToolsOneByOne(t *testing.T) {
	t.Parallel()
	python := harness.PythonPackages(t, "programs/requirements.txt")
	node := python.NodePackages(t, "mcp")
	server := startToolServer(t, python, node)
	key := filepath.Join(t.TempDir(), "mcp_key")
	if err := os.WriteFile(key, []byte(toolCredential), 0o600); err != nil {
		t.Fatal(err)
	}
	s := harness.Start(t, harness.Options{Bare: true, Extra: fmt.Sprintf(`loopback_model: {enabled: false}
upstreams:
  - {name: everything, dialect: mcp, url: %q, secret_class: mcp_key}
secret_classes:
  - {name: mcp_key, from: "file:%s", hosts: [%q]}
`, server.url, key, strings.TrimSuffix(strings.TrimPrefix(server.url, "http://"), "/mcp"))})
	all, narrow := s.Publish(mcpContract(t, "*")), s.Publish(mcpContract(t, "echo", "get-sum"))
	through := s.GatewayURL + "/mcp/everything"
	script := filepath.Join(harness.Root(), "tests", "mcp", "session.py")

	var table strings.Builder
	fmt.Fprintf(&table, "%-14s %-8s %5s  %-12s %s\n", "SDK", "contract", "tools", "allowed", "what is not allowed, as a program sees it")
	for _, sdk := range []struct {
		name string
		run  func(url, token string) (session, error)
	}{
		{"Python auto", func(url, token string) (session, error) {
			return sessionOf(python.Bin("python3"), script, url, token, "auto")
		}},
		{"Python legacy", func(url, token string) (session, error) {
			return sessionOf(python.Bin("python3"), script, url, token, "legacy")
		}},
		{"TypeScript v1", func(url, token string) (session, error) {
			return sessionOf(python.Bin("node"), filepath.Join(node.Dir, "session.mjs"), url, token, "v1")
		}},
		{"TypeScript v2", func(url, token string) (session, error) {
			return sessionOf(python.Bin("node"), filepath.Join(node.Dir, "session.mjs"), url, token, "v2")
		}},
		{"TypeScript v2 auto", func(url, token string) (session, error) {
			return sessionOf(python.Bin("node"), filepath.Join(node.Dir, "session.mjs"), url, token, "v2-auto")
		}},
		{"Go", func(url, token string) (session, error) { return goSession(t, url, token) }},
	} {
		direct, err := sdk.run(server.url, toolCredential)
		if err != nil || direct["echo"] != "Echo: hello" {
			t.Errorf("%s without the gate: %v %v", sdk.name, direct, err)
			continue
		}
		got, err := sdk.run(through, s.Issue(harness.Claims{"policy_hash_b64u": all}))
		if err != nil || !reflect.DeepEqual(got, direct) {
			t.Errorf("%s with everything allowed: %v %v\nwithout the gate: %v", sdk.name, got, err, direct)
		}
		fmt.Fprintf(&table, "%-18s all      %5d  %-12v %v\n", sdk.name, len(got["tools"].([]any)), got["echo"], "-")
		got, err = sdk.run(through, s.Issue(harness.Claims{"policy_hash_b64u": narrow}))
		if err != nil || !reflect.DeepEqual(got["tools"], []any{"echo", "get-sum"}) || got["echo"] != direct["echo"] || got["sum"] != direct["sum"] {
			t.Errorf("%s with two tools: %v %v", sdk.name, got, err)
		}
		if said := fmt.Sprint(got["env"]); !strings.Contains(said, "POLICY_ACTION_NOT_ALLOWED") || !strings.Contains(said, "mcp:everything/get-env") {
			t.Errorf("%s sees of a tool that is not allowed: %s", sdk.name, said)
		}
		fmt.Fprintf(&table, "%-18s narrow   %5d  %-12v %.90v\n", sdk.name, len(got["tools"].([]any)), got["echo"], got["env"])
	}
	t.Logf("\n%s", table.String())
	if n := server.token.Load(); n != 0 || server.refused.Load() != 0 {
		t.Errorf("%d requests carried a job's token to the server, %d came without the credential", n, server.refused.Load())
	}
	checkToolEvidence(t, s, narrow)
	t.Run("bad input", func(t *testing.T) { badTools(t, s, narrow) })
}

// sessionOf runs a script that prints a session.
func sessionOf(args ...string) (session, error) {
	var out, problem bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, problem.String())
	}
	var s session
	return s, json.Unmarshal(out.Bytes(), &s)
}

// bearer adds a token to each request.
type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

// goSession is the session by the Go SDK.
func goSession(t *testing.T, url, token string) (session, error) {
	t.Helper()
	client := gomcp.NewClient(&gomcp.Implementation{Name: "session", Version: "1"}, nil)
	c, err := client.Connect(t.Context(), &gomcp.StreamableClientTransport{Endpoint: url, HTTPClient: &http.Client{Transport: bearer(token)}}, nil)
	if err != nil {
		return nil, err
	}
	// At the end of the session and not of the test: until then the stream of the server's own messages is an open call.
	defer func() { _ = c.Close() }() // the answer to DELETE is not what is tested
	seen := session{}
	note := func(what string, v any, err error) {
		if seen[what] = v; err != nil {
			seen[what] = err.Error()
		}
	}
	tools, err := c.ListTools(t.Context(), nil)
	if err != nil {
		return nil, err
	}
	names := []any{}
	for _, tool := range tools.Tools {
		names = append(names, tool.Name)
	}
	note("tools", sortedNames(names), nil)
	resources, err := c.ListResources(t.Context(), nil)
	if err == nil {
		note("resources", len(resources.Resources), nil)
	} else {
		note("resources", nil, err)
	}
	for what, call := range map[string]*gomcp.CallToolParams{
		"echo": {Name: "echo", Arguments: map[string]any{"message": "hello"}}, "env": {Name: "get-env"},
		"sum": {Name: "get-sum", Arguments: map[string]any{"a": 2, "b": 3}},
	} {
		answer, err := c.CallTool(t.Context(), call)
		if err != nil {
			note(what, nil, err)
			continue
		}
		text := answer.Content[0].(*gomcp.TextContent).Text
		if what == "env" {
			text = text[:1]
		}
		note(what, text, nil)
	}
	return seen, nil
}

func sortedNames(names []any) []any {
	for i := range names {
		for j := i; j > 0 && names[j].(string) < names[j-1].(string); j-- {
			names[j], names[j-1] = names[j-1], names[j]
		}
	}
	return names
}

// checkToolEvidence: which tools were called, and with which class of credential, stands in the evidence, and what was refused.
func checkToolEvidence(t *testing.T, s *harness.System, contract string) {
	t.Helper()
	called, refused := 0, 0
	harness.Eventually(t, "every call is settled", func() bool { return len(s.Evidence().Open()) == 0 })
	e := s.Evidence()
	for id, r := range e.Receipts {
		p := r.Payload()
		if p.Binding.PolicyHash != contract {
			continue
		}
		d := p.Metadata.Sallyport
		if d.Action != "tool:execute" || !strings.HasPrefix(d.Resource, "mcp:everything/") || d.SecretClass != "mcp_key" || p.Provider != "mcp:everything" {
			t.Errorf("receipt %s: %+v", id, d)
		}
		if d.Resource == "mcp:everything/echo" {
			called++
		}
		if strings.Contains(d.Resource, "get-env") {
			t.Errorf("receipt %s of a tool that the contract does not allow", id)
		}
	}
	for _, r := range e.Refusals {
		if r.PolicyHash == contract && r.Code == "POLICY_ACTION_NOT_ALLOWED" && r.Resource == "mcp:everything/get-env" {
			refused++
		}
	}
	if called == 0 || refused == 0 {
		t.Errorf("%d calls and %d refusals are recorded", called, refused)
	}
}

// badTools sends what no SDK sends. Nothing of it may reach the server as a call.
func badTools(t *testing.T, s *harness.System, contract string) {
	t.Helper()
	token := s.Issue(harness.Claims{"policy_hash_b64u": contract})
	const call = `{"jsonrpc":"2.0","id":0,"method":"tools/call","params":{"name":"get-env","arguments":{}}}`
	for name, c := range map[string]struct {
		method, body string
		header       http.Header
		status       int
		want         string
	}{
		"a tool that is not allowed": {"POST", call, nil, 200, `"id":0,"error":{"code":-32003`},
		"a batch":                    {"POST", "[" + call + "]", nil, 400, `"id":null,"error":{"code":-32600`},
		"two names":                  {"POST", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","name":"get-env"}}`, nil, 400, "INVALID_REQUEST"},
		"another name in the header": {"POST", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}`, http.Header{"Mcp-Name": {"get-env"}}, 400, "Mcp-Name"},
		"a revision of the future":   {"POST", `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, http.Header{"Mcp-Protocol-Version": {"2031-01-01"}}, 400, "2031-01-01"},
		"an older transport":         {"GET", "", http.Header{"Accept": {"text/event-stream"}}, 405, "MCP_NO_SESSION"},
		"a path below the server's":  {"POST", call, nil, 451, "ENDPOINT_NOT_ALLOWED"},
		"a prompt":                   {"POST", `{"jsonrpc":"2.0","id":"p","method":"prompts/get","params":{"name":"simple-prompt"}}`, nil, 200, `"id":"p","error":{"code":-32003`},
		"a resource":                 {"POST", `{"jsonrpc":"2.0","id":5,"method":"resources/read","params":{"uri":"demo://x"}}`, nil, 200, "method:resources/read"},
		"nothing":                    {"POST", "", nil, 400, "PAYLOAD_EMPTY"},
		"a body that is compressed":  {"POST", call, http.Header{"Content-Encoding": {"gzip"}}, 415, "PAYLOAD_ENCODED"},
		"deep nesting":               {"POST", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":` + strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5001), nil, 400, "INVALID_REQUEST"},
		"no token":                   {"POST", call, http.Header{"Authorization": {""}}, 401, "TOKEN_REQUIRED"},
	} {
		path := "/mcp/everything"
		if strings.HasPrefix(name, "a path below") {
			path += "/admin"
		}
		req := harness.Call{Method: c.method, Path: path, Token: token, Header: c.header, Body: []byte(c.body)}
		if c.header.Get("Authorization") == "" && c.header["Authorization"] != nil {
			req.Token, req.Header = "", nil
		}
		a := s.Do(req)
		if a.Status != c.status || !strings.Contains(string(a.Body), c.want) {
			t.Errorf("%s: %d %s %v", name, a.Status, a.Body, a.Err)
		}
	}
}
