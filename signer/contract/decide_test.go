package contract_test

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/signer/code"
	"sallyport/signer/contract"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func modelAsk(resource string) contract.Ask {
	provider, model, _ := strings.Cut(resource, "/")
	ctx := map[string]string{"Agent:DID": "did:key:zAgent", "Model:Provider": provider, "Context:Hour": "12", "SideEffect:TargetDomain": "api.example.com"}
	if model != "" {
		ctx["Model:Name"] = model
	}
	return contract.Ask{Action: contract.ModelInvoke, Resource: resource, Context: ctx}
}

func ask(action, resource string) contract.Ask {
	if action == contract.ModelInvoke {
		return modelAsk(resource)
	}
	return contract.Ask{Action: action, Resource: resource, Context: map[string]string{"Agent:DID": "did:key:zAgent", "Context:Hour": "12"}}
}

const allowed = code.Code("")

func outcome(v contract.Verdict) code.Code {
	if v.Allow {
		return allowed
	}
	return v.Denial.Code
}

func TestDecideExamples(t *testing.T) {
	model, tool, net := contract.ModelInvoke, contract.ToolExecute, contract.NetworkEgress
	for _, x := range []struct {
		example, action, resource string
		want                      code.Code
		detail                    string
	}{
		{"enterprise", model, "openai/gpt-4o-mini", allowed, ""},
		{"enterprise", model, "openai/GPT-4.1-nano", allowed, ""},
		{"enterprise", model, "openai/gpt-5", code.PolicyModelNotAllowed, "openai/gpt-5 asked; the contract allows openai: gpt-4o-mini, gpt-4.1*, text-embedding-3-small"},
		{"enterprise", model, "openai/gpt-4o-mini-2", code.PolicyModelNotAllowed, ""},
		{"enterprise", model, "openai/x/gpt-4o-mini", code.PolicyModelNotAllowed, ""},
		{"enterprise", model, "anthropic/claude-3-5-haiku-20241022", allowed, ""},
		{"enterprise", model, "anthropic/claude-opus-4", code.PolicyModelNotAllowed, ""},
		{"enterprise", model, "google/gemini-2.5-flash-lite", allowed, ""},
		{"enterprise", model, "openrouter/gpt-4o-mini", code.PolicyProviderNotAllowed, "openrouter asked; the contract allows anthropic, google, openai"},
		{"enterprise", model, "openai/", code.PolicyModelRequired, ""},
		{"enterprise", tool, "shell.exec", code.PolicyStatementDenied, ""},
		{"enterprise", tool, "tool:shell.exec", code.PolicyStatementDenied, ""},
		{"enterprise", tool, "other", code.PolicyActionNotAllowed, ""},
		{"enterprise", net, "GET example.com/", code.PolicyStatementDenied, ""},
		{"seed", model, "openrouter_via_fal/any/model", allowed, ""},
		{"seed", model, "openrouter_via_fal/", allowed, ""},
		{"seed", model, "openai/gpt-4o-mini", code.PolicyProviderNotAllowed, ""},
		{"seed", tool, "storage.readonly", allowed, ""},
		{"seed", tool, "filesystem.read", code.PolicyStatementDenied, ""},
		{"tools", net, "GET storage.example.com/exports/2026/a/b.csv", allowed, ""},
		{"tools", net, "GET storage.example.com:443/exports/2026/a", allowed, ""},
		{"tools", net, "GET Storage.Example.com./exports/2026/a", allowed, ""},
		{"tools", net, "GET storage.example.com:8443/exports/2026/a", code.PolicyStatementDenied, ""},
		{"tools", net, "PUT storage.example.com/exports/2026/a", code.PolicyStatementDenied, ""},
		{"tools", net, "GET storage.example.com/exports/2025/a", code.PolicyStatementDenied, ""},
		{"tools", net, "GET storage.example.com/exports/2026/../2025/a", code.PolicyStatementDenied, ""},
		{"tools", net, "GET storage.example.com/exports/2026/%2e%2e/2025", code.PolicyStatementDenied, ""},
		{"tools", net, "GET example.com/@storage.example.com/exports/2026/a", code.PolicyStatementDenied, ""},
		{"tools", net, "GET example.com@storage.example.com/exports/2026/a", code.PolicyStatementDenied, ""},
		{"tools", net, "POST tickets.example.com/api/v2/tickets", allowed, ""},
		{"tools", net, "POST tickets.example.com/api/v2/tickets/1", code.PolicyStatementDenied, ""},
		{"tools", tool, "mcp:github/list_issues", allowed, ""},
		{"tools", tool, "mcp:github/create_issue", code.PolicyActionNotAllowed, ""},
		{"egress", net, "GET mirror.example.com/simple/x/", allowed, ""},
		{"egress", net, "HEAD eu.mirror.example.com/packages", allowed, ""},
		{"egress", net, "GET mirror.example.com/simple", code.PolicyEgressNotAllowed, ""},
		{"egress", net, "GET mirror.example.com/packages-private/x", code.PolicyEgressNotAllowed, "GET mirror.example.com/packages-private/x asked; the contract allows GET,HEAD mirror.example.com and below /simple/…, GET,HEAD mirror.example.com and below /packages…, POST build.internal.example.com ports 443 8443 /jobs…"},
		{"egress", net, "GET evilmirror.example.com/simple/x", code.PolicyEgressNotAllowed, ""},
		{"egress", net, "GET .mirror.example.com/simple/x", code.PolicyEgressNotAllowed, ""},
		{"egress", net, "POST build.internal.example.com:8443/jobs/1", allowed, ""},
		{"egress", net, "POST build.internal.example.com:80/jobs/1", code.PolicyEgressNotAllowed, ""},
		{"egress", net, "POST build.internal.example.com:/jobs/1", code.PolicyEgressNotAllowed, ""},
		{"egress", net, "nonsense", code.PolicyEgressNotAllowed, ""},
		{"v1", model, "openai/gpt-4o-mini", allowed, ""},
		{"v1", model, "google/gpt-4o-mini", code.PolicyProviderNotAllowed, ""},
		{"v1", model, "openai/gpt-4o", code.PolicyModelNotAllowed, ""},
		{"v1", model, "openai/", code.PolicyModelRequired, ""},
		{"v1", tool, "anything", code.PolicyActionNotAllowed, ""},
		{"v1", net, "DELETE api.example.com/x", allowed, ""},
		{"v1", net, "GET a.b.files.example.com/x", allowed, ""},
		{"v1", net, "GET files.example.com/x", code.PolicyEgressNotAllowed, ""},
		{"v2", model, "openai/gpt-4o-mini", allowed, ""},
		{"v2", model, "openai/GPT-4o-mini", code.PolicyActionNotAllowed, ""},
		{"v2", model, "openai/gpt-4.1", allowed, ""},
		{"v2", model, "openai/gpt-4.1-preview", code.PolicyStatementDenied, "openai/gpt-4.1-preview asked; NoPreviews denies it"},
		{"v2", model, "openai/", code.PolicyConditionUnknown, "statement NoPreviews cannot be decided on openai/: Model:Name is not known for this call"},
		{"v2", tool, "mcp:github/list_issues", allowed, ""},
		{"v2", tool, "mcp:github/list_a/b", code.PolicyActionNotAllowed, ""},
		{"v2", net, "POST tickets.example.com/api/v2/tickets", allowed, ""},
		{"v2", net, "POST other.example.com/api/v2/tickets", code.PolicyEgressNotAllowed, "POST other.example.com/api/v2/tickets asked; the contract allows POST tickets.example.com/api/**"},
	} {
		t.Run(x.example+" "+x.resource, func(t *testing.T) {
			v := example(t, x.example).Decide(ask(x.action, x.resource), now)
			if got := outcome(v); got != x.want {
				t.Fatalf("got %s %v, want %s", got, v.Denial, x.want)
			}
			if x.detail != "" && v.Denial.Detail != x.detail {
				t.Errorf("got  %s\nwant %s", v.Denial.Detail, x.detail)
			}
			if v.Allow && len(v.SIDs) == 0 {
				t.Error("allowed by no statement")
			}
		})
	}
}

func TestSecretsOfVerdict(t *testing.T) {
	for _, x := range []struct {
		example, action, resource, tool string
		classes                         []string
		silent                          bool
	}{
		{"enterprise", contract.ModelInvoke, "openai/gpt-4o-mini", "", []string{"openai_key", "anthropic_key", "gemini_key"}, false},
		{"tools", contract.NetworkEgress, "POST tickets.example.com/api/v2/tickets", "tool:ticketing.create", []string{"ticketing_write_scoped"}, false},
		{"tools", contract.ToolExecute, "mcp:github/list_issues", "tool:issues.list", []string{"github_read"}, false},
		{"seed", contract.ToolExecute, "storage.readonly", "", nil, false},
		{"egress", contract.NetworkEgress, "GET mirror.example.com/simple/x", "", nil, false},
		{"v1", contract.ModelInvoke, "openai/gpt-4o-mini", "", nil, true},
		{"v2", contract.ModelInvoke, "openai/gpt-4o-mini", "", nil, true},
	} {
		v := example(t, x.example).Decide(ask(x.action, x.resource), now)
		if !v.Allow || v.Tool != x.tool || !slices.Equal(v.SecretClasses, x.classes) || (v.SecretClasses == nil) != x.silent {
			t.Errorf("%s %s: %+v", x.example, x.resource, v)
		}
	}
}

// statements makes a v2 contract of the given statements.
func statements(t testing.TB, text string) *contract.Contract {
	t.Helper()
	return parse(t, `{"policy_version":"2","policy_id":"p","issuer_did":"did:web:x","statements":[`+text+`]}`)
}

const (
	allowAll = `{"sid":"A","effect":"Allow","actions":["*"],"resources":["*"]}`
	on       = `"actions":["model:invoke"],"resources":["*"]`
)

// A tool that is allowed on its own and denied by name: no other spelling of its path leads around the Deny.
func TestDeniedToolOnAnOpenHost(t *testing.T) {
	c := enterprise(t, `{"tools":{"allow":["tool:admin"],"deny":["tool:admin"],"bindings":{"tool:admin":{"host":"x.com","path":"/admin/**"}}},"egress":{"default":"deny","rules":[{"host":"x.com"}]}}`)
	for resource, want := range map[string]code.Code{
		"GET x.com/a": allowed, "GET x.com/a%20b": allowed,
		"GET x.com/admin/x": code.PolicyStatementDenied, "GET x.com/%61dmin/x": code.PolicyStatementDenied,
		"GET X.com/admin/x": code.PolicyStatementDenied, "GET x.com/./admin/x": code.PolicyStatementDenied,
	} {
		if v := c.Decide(ask(contract.NetworkEgress, resource), now); outcome(v) != want {
			t.Errorf("%s: %v", resource, v.Denial)
		}
	}
}

// What upstream would let pass, or would do to a Deny, is told in README.md with the same names.
func TestSaferThanUpstream(t *testing.T) {
	without := func(key string) contract.Ask {
		a := modelAsk("openai/gpt-4o")
		delete(a.Context, key)
		return a
	}
	with := func(key, value string) contract.Ask {
		a := modelAsk("openai/gpt-4o")
		a.Context[key] = value
		return a
	}
	deny := func(cond string) string {
		return allowAll + `,{"sid":"D","effect":"Deny",` + on + `,"conditions":` + cond + `}`
	}
	allow := func(cond string) string {
		return `{"sid":"A","effect":"Allow",` + on + `,"conditions":` + cond + `}`
	}
	for _, x := range []struct {
		name, statements string
		ask              contract.Ask
		want             code.Code
	}{
		{"StringNotEquals in an Allow, key missing", allow(`{"StringNotEquals":{"Agent:DID":"did:key:zBad"}}`), without("Agent:DID"), code.PolicyConditionUnknown},
		{"StringNotLike in an Allow, key missing", allow(`{"StringNotLike":{"Agent:DID":"did:key:zBad*"}}`), without("Agent:DID"), code.PolicyConditionUnknown},
		{"StringNotEquals in an Allow, key there", allow(`{"StringNotEquals":{"Agent:DID":"did:key:zBad"}}`), modelAsk("openai/gpt-4o"), allowed},
		{"StringNotEquals in a Deny, key missing", deny(`{"StringNotEquals":{"Agent:DID":"did:key:zGood"}}`), without("Agent:DID"), code.PolicyConditionUnknown},
		{"StringEquals in a Deny, key missing", deny(`{"StringEquals":{"Model:Name":"gpt-4o"}}`), without("Model:Name"), code.PolicyConditionUnknown},
		{"Bool in a Deny, key that nobody knows", deny(`{"Bool":{"Request:HasHumanApproval":"false"}}`), modelAsk("openai/gpt-4o"), code.PolicyConditionUnknown},
		{"StringEquals in a Deny, key of another kind of action", deny(`{"StringEquals":{"Tool:Name":"shell"}}`), modelAsk("openai/gpt-4o"), allowed},
		{"StringEquals in an Allow, key missing", allow(`{"StringEquals":{"Agent:DID":"x"}}`), without("Agent:DID"), code.PolicyActionNotAllowed},
		{"number in a Deny that cannot be read", deny(`{"NumericGreaterThan":{"Context:Hour":"7"}}`), with("Context:Hour", "9abc"), code.PolicyConditionUnknown},
		{"number in an Allow that cannot be read", allow(`{"NumericGreaterThan":{"Context:Hour":"7"}}`), with("Context:Hour", "9abc"), code.PolicyConditionUnknown},
		{"Bool in a Deny that is neither", deny(`{"Bool":{"Agent:DID":"true"}}`), with("Agent:DID", "yes"), code.PolicyConditionUnknown},
		{"Bool in an Allow that is neither", allow(`{"Bool":{"Agent:DID":"false"}}`), with("Agent:DID", "no"), code.PolicyConditionUnknown},
		{"address in a Deny that cannot be read", deny(`{"IpAddress":{"Agent:DID":"10.0.0.0/8"}}`), with("Agent:DID", "10.0.0.3x"), code.PolicyConditionUnknown},
		{"IPv4 address in IPv6 form in a Deny", deny(`{"IpAddress":{"Agent:DID":"10.0.0.0/8"}}`), with("Agent:DID", "::ffff:10.1.2.3"), code.PolicyStatementDenied},
		{"address with a zone in a Deny", deny(`{"IpAddress":{"Agent:DID":"fe80::/10"}}`), with("Agent:DID", "fe80::1%eth0"), code.PolicyConditionUnknown},
		{"line terminator against ** in a Deny", allowAll + `,{"sid":"D","effect":"Deny","actions":["model:invoke"],"resources":["openai/**"]}`, modelAsk("openai/gpt-4o\n"), code.PolicyConditionUnknown},
		{"U+2028 against StringLike in a Deny", deny(`{"StringLike":{"Agent:DID":"did:**"}}`), with("Agent:DID", "did:key:\u2028"), code.PolicyConditionUnknown},
		{"name that is longer than any", allowAll, modelAsk("openai/" + strings.Repeat("x", 8<<10)), code.PolicyConditionUnknown},
		{"name that is not UTF-8", allowAll, modelAsk("openai/\xff"), code.PolicyConditionUnknown},
	} {
		t.Run(x.name, func(t *testing.T) {
			v := statements(t, x.statements).Decide(x.ask, now)
			if got := outcome(v); got != x.want {
				t.Errorf("got %q %v, want %q", got, v.Denial, x.want)
			}
		})
	}
}

func TestConditions(t *testing.T) {
	for _, x := range []struct {
		op, expected, got string
		want              bool
	}{
		{"StringEquals", "a", "a", true}, {"StringEquals", "a", "A", false},
		{"StringNotEquals", "a", "b", true}, {"StringNotEquals", "a", "a", false},
		{"StringLike", "a*", "ab", true}, {"StringLike", "a*", "a/b", false}, {"StringLike", "a**", "a/b", true},
		{"StringNotLike", "a*", "b", true}, {"StringNotLike", "a*", "ab", false},
		{"NumericEquals", "9", "09", true}, {"NumericEquals", "9", "9.5", false},
		{"NumericLessThan", "9", "8", true}, {"NumericLessThan", "9", "9", false},
		{"NumericGreaterThan", "9", "1e1", true}, {"NumericGreaterThan", "9", "9", false},
		{"Bool", "TRUE", "true", true}, {"Bool", "true", "false", false},
		{"IpAddress", "10.0.0.0/8", "10.9.9.9", true}, {"IpAddress", "10.0.0.1", "10.0.0.2", false}, {"IpAddress", "2001:db8::/32", "2001:db8::1", true},
	} {
		cond, err := json.Marshal(map[string]any{x.op: map[string]string{"Agent:DID": x.expected}})
		if err != nil {
			t.Fatal(err)
		}
		a := modelAsk("openai/gpt-4o")
		a.Context["Agent:DID"] = x.got
		for _, effect := range []string{"Allow", "Deny"} {
			text := `{"sid":"S","effect":"` + effect + `",` + on + `,"conditions":` + string(cond) + `}`
			want := x.want
			if effect == "Deny" {
				text, want = allowAll+","+text, !x.want
			}
			if v := statements(t, text).Decide(a, now); v.Allow != want {
				t.Errorf("%s %s %q on %q: allow is %v", effect, x.op, x.expected, x.got, v.Allow)
			}
		}
	}
}

func TestSIDs(t *testing.T) {
	c := statements(t, `{"sid":"A1","effect":"Allow","actions":["*"],"resources":["*"]},{"sid":"A2","effect":"Allow","actions":["model:*"],"resources":["openai/**"]},
		{"sid":"D1","effect":"Deny","actions":["model:*"],"resources":["*/b*"]},{"sid":"D2","effect":"Deny","actions":["model:*"],"resources":["openai/bad"]}`)
	if v := c.Decide(modelAsk("openai/good"), now); !slices.Equal(v.SIDs, []string{"A1", "A2"}) {
		t.Errorf("%v", v.SIDs)
	}
	if v := c.Decide(modelAsk("openai/bad"), now); !slices.Equal(v.SIDs, []string{"D1", "D2"}) {
		t.Errorf("%v", v.SIDs)
	}
	if v := c.Decide(modelAsk("other/good"), now); !slices.Equal(v.SIDs, []string{"A1"}) {
		t.Errorf("a verdict changed what a later one reads: %v", v.SIDs)
	}
}

func TestWhatIsNotCarriedOutDenies(t *testing.T) {
	for member, want := range map[string]code.Code{
		`"minimum_model_identity_tier":"tee_measured"`:         code.PolicyModelTierTooLow,
		`"redaction_rules":[{"path":"$.x","action":"remove"}]`: allowed,
		`"receipt_privacy_mode":"encrypted"`:                   allowed,
		`"minimum_model_identity_tier":"closed_opaque"`:        allowed,
		`"allowed_models":[]`:                                  allowed,
	} {
		c := parse(t, `{"policy_version":"1","policy_id":"p","issuer_did":"did:web:x",`+member+`}`)
		if v := c.Decide(modelAsk("openai/gpt-4o"), now); outcome(v) != want {
			t.Errorf("%s: %v", member, v.Denial)
		}
	}
}

// A contract that names models and no provider must not take the end of a longer name for a model.
func TestAnyProvider(t *testing.T) {
	c := parse(t, `{"policy_version":"1","policy_id":"p","issuer_did":"did:web:x","allowed_models":["gpt-4*"]}`)
	for resource, want := range map[string]code.Code{"openai/gpt-4o": allowed, "other/GPT-4": allowed, "openai/evil/gpt-4o": code.PolicyModelNotAllowed, "openai/": code.PolicyModelRequired} {
		if v := c.Decide(modelAsk(resource), now); outcome(v) != want {
			t.Errorf("%s: %v", resource, v.Denial)
		}
	}
	if got := c.Providers(); !slices.Equal(got, []string{"*"}) {
		t.Errorf("providers %v", got)
	}
}

func TestProviders(t *testing.T) {
	for text, want := range map[string][]string{
		`{"sid":"A","effect":"Allow","actions":["model:*"],"resources":["openai/**","google/x"]}`:     {"google", "openai"},
		`{"sid":"A","effect":"Allow","actions":["*"],"resources":["open*/x"]}`:                        {"*"},
		`{"sid":"A","effect":"Allow","actions":["tool:execute"],"resources":["**"]}`:                  nil,
		`{"sid":"A","effect":"Deny","actions":["*"],"resources":["openai/x"]}`:                        nil,
		`{"sid":"A","effect":"Allow","actions":["model:invoke"],"resources":["no-provider-in-this"]}`: nil,
	} {
		if got := statements(t, text).Providers(); !slices.Equal(got, want) {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// Clients classify refusals by such words and then retry, cool down or disable a whole provider.
var traps = regexp.MustCompile(`(?i)rate limit|too many requests|quota|usage limit|spending|budget|balance|payment|(daily|weekly|monthly) limit|revoked|not allowed for this|timeout|overloaded|unavailable|forbidden|access denied|unauthori[sz]ed|expired|permission|authenticat|\b40[13]\b`)

func TestDenialsAvoidTrapWords(t *testing.T) {
	for _, name := range []string{"enterprise", "seed", "tools", "egress", "v1", "v2"} {
		c := example(t, name)
		for _, a := range []contract.Ask{
			modelAsk("openai/gpt-5"), modelAsk("other/gpt-5"), modelAsk("openai/"), modelAsk("openai/x\n"), modelAsk("openai/x-preview"),
			ask(contract.ToolExecute, "shell.exec"), ask(contract.ToolExecute, "x"), ask(contract.NetworkEgress, "GET x.example.com/"), ask("other:action", "x"),
			{Action: contract.ModelInvoke, Resource: "openai/gpt-4.1-preview"},
		} {
			v := c.Decide(a, now)
			if v.Allow {
				continue
			}
			if m := v.Denial.Message(); traps.MatchString(m) || len(m) > 600 {
				t.Errorf("%s on %s: %s", name, a.Resource, m)
			}
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, x := range []struct{ example, action, resource string }{
		{"enterprise", contract.ModelInvoke, "anthropic/claude-3-5-haiku-20241022"},
		{"v2", contract.ModelInvoke, "openai/gpt-4.1"},
		{"tools", contract.NetworkEgress, "POST tickets.example.com/api/v2/tickets"},
	} {
		b.Run(x.example, func(b *testing.B) {
			c, a := example(b, x.example), ask(x.action, x.resource)
			b.ReportAllocs()
			for b.Loop() {
				if v := c.Decide(a, now); !v.Allow {
					b.Fatal(v.Denial)
				}
			}
		})
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	for _, x := range []struct{ example, action, resource string }{
		{"enterprise", contract.ModelInvoke, "anthropic/claude-3-5-haiku-20241022"},
		{"v1", contract.ModelInvoke, "anthropic/claude-haiku-4"},
		{"v2", contract.ModelInvoke, "openai/gpt-4o-mini"},
		{"tools", contract.NetworkEgress, "POST tickets.example.com/api/v2/tickets"},
	} {
		c, a := example(t, x.example), ask(x.action, x.resource)
		if n := testing.AllocsPerRun(100, func() { c.Decide(a, now) }); n != 0 {
			t.Errorf("%s: %v allocations", x.example, n)
		}
	}
}
