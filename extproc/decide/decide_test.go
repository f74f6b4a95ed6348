package decide_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/extproc/decide"
	"sallyport/signer/code"
	"sallyport/signer/contract"
	"sallyport/signer/contract/args"
	"sallyport/signer/token"
)

var now = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// enterprise is a contract for gpt-small of openai; change may edit it before it is read.
func enterprise(t *testing.T, change func(doc map[string]any)) *contract.Contract {
	t.Helper()
	doc := map[string]any{
		"policy_kind": "wpc", "policy_version": "v1", "policy_id": "decide-test", "intent": "One small model",
		"agent_runtime": "test",
		"tools":         map[string]any{"allow": []string{"provider:sallyport/openai"}, "deny": []string{"tool:shell.exec"}},
		"models":        []any{map[string]any{"provider": "openai", "models": []string{"gpt-small"}}},
		"egress":        map[string]any{"default": "deny"},
		"secrets":       map[string]any{"minting": "cst_required", "allowed_secret_classes": []string{"openai_key"}, "max_ttl_seconds": 900},
		"auth":          map[string]any{"pin_policy_hash": true},
		"model_calls":   map[string]any{"must_route_via": "sallyport", "receipts_required": true},
	}
	if change != nil {
		change(doc)
	}
	return parse(t, doc)
}

func parse(t *testing.T, doc any) *contract.Contract {
	t.Helper()
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	c, err := contract.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tokenFor(c *contract.Contract, scope ...string) *token.Token {
	if len(scope) == 0 {
		scope = []string{"proxy:call"}
	}
	return &token.Token{Claims: token.Claims{Sub: "did:web:agent.example", Aud: token.Audience{"gate"}, Scope: scope, PolicyHash: c.Hash}}
}

func small() decide.Ask {
	return decide.Ask{Provider: "openai", Model: "gpt-small", Method: "POST", Host: "api.example", Path: "/v1/chat/completions", SecretClass: "openai_key", BodyBytes: 100}
}

func TestDecide(t *testing.T) {
	plain := enterprise(t, nil)
	other := enterprise(t, func(doc map[string]any) { doc["intent"] = "Another one" })
	limited := enterprise(t, func(doc map[string]any) { doc["limits"] = map[string]any{"max_request_bytes": 99} })
	jobToken := tokenFor(plain).Claims
	scoped := enterprise(t, func(doc map[string]any) {
		doc["auth"] = map[string]any{"pin_policy_hash": true, "cst_scope_hash": "sha256:" + token.ScopeHashWithoutPin(jobToken)}
	})
	with := func(change func(a *decide.Ask)) decide.Ask {
		a := small()
		change(&a)
		return a
	}
	unpinned := tokenFor(plain)
	unpinned.PolicyHash = ""

	for name, tc := range map[string]struct {
		contract *contract.Contract
		token    *token.Token
		ask      decide.Ask
		want     code.Code
	}{
		"allowed":                    {plain, tokenFor(plain), small(), ""},
		"allowed by provider scope":  {plain, tokenFor(plain, "proxy:provider:openai"), small(), ""},
		"no credential needed":       {plain, tokenFor(plain), with(func(a *decide.Ask) { a.SecretClass = "" }), ""},
		"no pin":                     {plain, unpinned, small(), code.PolicyRequired},
		"pinned to another contract": {plain, tokenFor(other), small(), code.PolicyHashMismatch},
		"scope hash fits":            {scoped, tokenFor(scoped), small(), ""},
		"scope hash of a wider job":  {scoped, tokenFor(scoped, "proxy:call", "control:*"), small(), code.PolicyScopeHashMismatch},
		"scope of another provider":  {plain, tokenFor(plain, "proxy:provider:anthropic"), small(), code.TokenInsufficientScope},
		"scope of something else":    {plain, tokenFor(plain, "billing:read"), small(), code.TokenInsufficientScope},
		"another model":              {plain, tokenFor(plain), with(func(a *decide.Ask) { a.Model = "gpt-large" }), code.PolicyModelNotAllowed},
		"another provider":           {plain, tokenFor(plain), with(func(a *decide.Ask) { a.Provider = "anthropic" }), code.PolicyProviderNotAllowed},
		"secret class not allowed":   {plain, tokenFor(plain), with(func(a *decide.Ask) { a.SecretClass = "payroll_key" }), code.PolicySecretNotAllowed},
		"at the size limit":          {limited, tokenFor(limited), with(func(a *decide.Ask) { a.BodyBytes = 99 }), ""},
		"above the size limit":       {limited, tokenFor(limited), small(), code.PayloadTooLarge},
		// What is not the token's is not said: a pin is looked at before scope, scope before the model, the model before the class.
		"pin before scope":   {plain, tokenFor(other, "billing:read"), small(), code.PolicyHashMismatch},
		"scope before model": {plain, tokenFor(plain, "billing:read"), with(func(a *decide.Ask) { a.Model = "gpt-large" }), code.TokenInsufficientScope},
		"model before class": {plain, tokenFor(plain), with(func(a *decide.Ask) { a.Model, a.SecretClass = "gpt-large", "payroll_key" }), code.PolicyModelNotAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			v := decide.Decide(tc.contract, tc.token, tc.ask, now)
			var got code.Code
			if v.Denial != nil {
				got = v.Denial.Code
			}
			if got != tc.want {
				t.Fatalf("code %q, want %q (%v)", got, tc.want, v.Denial)
			}
			switch {
			case tc.want == "" && v.SecretMaxTTL != 900*time.Second:
				t.Errorf("the credential may live %v, want the contract's 15 minutes", v.SecretMaxTTL)
			case tc.want == "" && len(v.SIDs) == 0:
				t.Error("no statement is named for an allowed call")
			case tc.want != "" && v.SecretMaxTTL != 0:
				t.Error("a refusal speaks of a credential")
			}
		})
	}
}

// The ecosystem's dialects have no secret classes: the operator's own bounds are all there is, and no life is bounded.
func TestDecideWithoutClasses(t *testing.T) {
	c := parse(t, map[string]any{
		"policy_version": "2", "policy_id": "plain", "issuer_did": "did:web:policy.example.com",
		"statements": []any{map[string]any{"sid": "Small", "effect": "Allow", "actions": []string{decide.ModelInvoke}, "resources": []string{"openai/gpt-small"}}},
	})
	v := decide.Decide(c, tokenFor(c), small(), now)
	if v.Denial != nil || v.SecretMaxTTL != 0 || !slices.Equal(v.SIDs, []string{"Small"}) {
		t.Errorf("verdict %+v", v)
	}
}

// Each key of the context must reach the contract as it is, and one that is unknown must be missing.
func TestContextReachesTheContract(t *testing.T) {
	when := func(operator, key, value string) *contract.Contract {
		return parse(t, map[string]any{
			"policy_version": "2", "policy_id": "context", "issuer_did": "did:web:policy.example.com",
			"statements": []any{map[string]any{
				"sid": "If", "effect": "Allow", "actions": []string{"model:*"}, "resources": []string{"**"},
				"conditions": map[string]any{operator: map[string]string{key: value}},
			}},
		})
	}
	for _, tc := range []struct {
		operator, key, value string
		allow                bool
	}{
		{"StringEquals", "Agent:DID", "did:web:agent.example", true},
		{"StringEquals", "Agent:DID", "did:web:other.example", false},
		{"StringEquals", "Model:Provider", "openai", true},
		{"StringEquals", "Model:Name", "gpt-small", true},
		{"StringLike", "Model:Name", "gpt-*", true},
		{"StringEquals", "SideEffect:TargetDomain", "api.example", true},
		{"NumericGreaterThan", "Context:Hour", "11", true},
		{"NumericLessThan", "Context:Hour", "12", false},
		{"StringEquals", "SideEffect:Class", "", false},
	} {
		t.Run(fmt.Sprint(tc.operator, tc.key, tc.value), func(t *testing.T) {
			c := when(tc.operator, tc.key, tc.value)
			if v := decide.Decide(c, tokenFor(c), small(), now); (v.Denial == nil) != tc.allow {
				t.Errorf("denial %v, want allowed %v", v.Denial, tc.allow)
			}
		})
	}
	// The hour is UTC's, wherever the gate runs.
	c := when("NumericGreaterThan", "Context:Hour", "11")
	abroad := now.In(time.FixedZone("west", -8*3600))
	if v := decide.Decide(c, tokenFor(c), small(), abroad); v.Denial != nil {
		t.Errorf("another zone decides otherwise: %v", v.Denial)
	}
	// A call without a model, as the list of models, has no Model:Name to compare with.
	listing := small()
	listing.Model, listing.Method, listing.Path = "", "GET", "/v1/models"
	c = when("StringEquals", "Model:Name", "")
	if v := decide.Decide(c, tokenFor(c), listing, now); v.Denial == nil {
		t.Error("a missing name equals an empty one")
	}
}

func TestDecideIsPure(t *testing.T) {
	c := enterprise(t, nil)
	tok, ask := tokenFor(c), small()
	before := fmt.Sprint(*tok, ask, string(c.Payload))
	first := decide.Decide(c, tok, ask, now)
	second := decide.Decide(c, tok, ask, now)
	if fmt.Sprint(first) != fmt.Sprint(second) || before != fmt.Sprint(*tok, ask, string(c.Payload)) {
		t.Error("a decision leaves traces")
	}
}

func TestResource(t *testing.T) {
	if got := small().Resource(); got != "openai/gpt-small" {
		t.Errorf("%q", got)
	}
	if v := (decide.Ask{Provider: "openai"}).Resource(); !strings.HasSuffix(v, "/") {
		t.Errorf("%q", v)
	}
}

// Which tool names the class of a call: that alone opens classes that are for tools.
func TestToolThatNamesTheClass(t *testing.T) {
	c := enterprise(t, func(doc map[string]any) {
		doc["tools"] = map[string]any{
			"allow": []string{"provider:sallyport/openai", "tool:tickets", "tool:plain", "tool:issues", "tool:bare"}, "deny": []string{},
			"bindings": map[string]any{
				"tool:tickets": map[string]any{"host": "t.example", "path": "/{q}", "args": []string{"path.q == 'a'"}, "secret_class": "t_key"},
				"tool:plain":   map[string]any{"host": "p.example"},
				"tool:issues":  map[string]any{"mcp_server": "git", "tool": "list", "secret_class": "m_key"},
				"tool:bare":    map[string]any{"mcp_server": "git", "tool": "show"},
			},
		}
		doc["egress"] = map[string]any{"default": "deny", "rules": []any{map[string]any{"host": "e.example"}}}
		doc["secrets"] = map[string]any{"minting": "cst_required", "allowed_secret_classes": []string{"openai_key", "t_key", "m_key"}, "max_ttl_seconds": 900}
	})
	egress := func(host, path string) decide.Ask {
		return decide.Ask{Provider: host, Egress: true, Method: "GET", Host: host, Path: path, Request: &args.Call{}}
	}
	mcp := func(tool string, session bool, class string) decide.Ask {
		return decide.Ask{Provider: "mcp:git", Tool: "mcp:git/" + tool, Session: session, Method: "POST", Host: "m.example", Path: "/", SecretClass: class}
	}
	for name, x := range map[string]struct {
		ask         decide.Ask
		tool, named string
		class       string
		denied      code.Code
	}{
		"a tool at an endpoint":             {egress("t.example", "/a"), "tool:tickets", "tool:tickets", "t_key", ""},
		"refused by its arguments":          {egress("t.example", "/b"), "tool:tickets", "", "", code.PolicyToolRuleDenied},
		"a tool without a class":            {egress("p.example", "/"), "tool:plain", "", "", ""},
		"no tool":                           {egress("e.example", "/"), "", "", "", ""},
		"a model":                           {small(), "", "", "openai_key", ""},
		"a tool of a server":                {mcp("list", false, "m_key"), "tool:issues", "tool:issues", "m_key", ""},
		"with another class than it names":  {mcp("list", false, "t_key"), "tool:issues", "", "t_key", ""},
		"a tool of a server without class":  {mcp("show", false, "m_key"), "tool:bare", "", "m_key", ""},
		"what a session with it needs":      {mcp("method:initialize", true, "m_key"), "", "tool:issues", "m_key", ""},
		"a session with a class not named":  {mcp("method:initialize", true, "t_key"), "", "", "t_key", ""},
		"a server that needs no credential": {mcp("list", false, ""), "tool:issues", "", "", ""},
	} {
		v := decide.Decide(c, tokenFor(c), x.ask, now)
		var got code.Code
		if v.Denial != nil {
			got = v.Denial.Code
		}
		if got != x.denied || v.Tool != x.tool || v.NamedBy != x.named || v.SecretClass != x.class {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// What a WebSocket carries is seen by no rule about arguments, so no tool is called by one, whatever else allows it there.
func TestWebSocketAtATool(t *testing.T) {
	c := enterprise(t, func(doc map[string]any) {
		doc["tools"] = map[string]any{"allow": []string{"tool:live"}, "deny": []string{}, "bindings": map[string]any{
			"tool:live": map[string]any{"host": "t.example", "path": "/live/{q}"},
		}}
		doc["egress"] = map[string]any{"default": "deny", "rules": []any{map[string]any{"host": "t.example", "websocket": true}}}
	})
	for path, want := range map[string]code.Code{"/live/a": code.UpgradeNotSupported, "/feed": ""} {
		v := decide.Decide(c, tokenFor(c), decide.Ask{Provider: "t.example", Egress: true, WebSocket: true, Method: "GET", Host: "t.example", Path: path}, now)
		if (v.Denial == nil) != (want == "") || v.Denial != nil && v.Denial.Code != want {
			t.Errorf("%s: %v", path, v.Denial)
		}
	}
}
