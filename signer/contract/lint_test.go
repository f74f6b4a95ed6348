package contract_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"sallyport/signer/contract"
)

// enterprise makes an enterprise contract of the seed's, with members replaced.
func enterprise(t testing.TB, members string) *contract.Contract {
	t.Helper()
	doc := map[string]any{}
	for _, text := range []string{`{
		"policy_kind":"wpc","policy_version":"v1","tools":{"allow":["provider:sallyport/openai"],"deny":[]},
		"secrets":{"minting":"cst_required","allowed_secret_classes":["k"],"max_ttl_seconds":60},
		"auth":{"pin_policy_hash":true},"model_calls":{"must_route_via":"sallyport","receipts_required":true}}`, members} {
		if err := json.Unmarshal([]byte(text), &doc); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(raw))
}

func TestLint(t *testing.T) {
	ent := func(members string) *contract.Contract { return enterprise(t, members) }
	v1 := func(members string) *contract.Contract {
		return parse(t, `{"policy_version":"1","policy_id":"p","issuer_did":"did:web:x",`+members+`}`)
	}
	v2 := func(text string) *contract.Contract { return statements(t, text) }
	const (
		deny  = `{"sid":"D","effect":"Deny","actions":["model:*"],"resources":["openai/**"]}`
		allow = `{"sid":"A","effect":"Allow","actions":["model:invoke"],"resources":["openai/gpt-4*","google/x"]}`
	)
	for _, x := range []struct {
		name string
		c    *contract.Contract
		want []string // severity rule path
	}{
		{"nothing to say", ent(`{}`), nil},
		{"deny only", v2(deny), []string{"error deny-only $"}},
		{"unreachable under a Deny", v2(allow + "," + deny), []string{"error unreachable $.statements[0]"}},
		{"not unreachable under a Deny with a condition", v2(allow + `,{"sid":"D","effect":"Deny","actions":["model:*"],"resources":["openai/**"],"conditions":{"StringEquals":{"Agent:DID":"x"}}}`), nil},
		{"not unreachable under a narrower Deny", v2(allow + `,{"sid":"D","effect":"Deny","actions":["model:*"],"resources":["openai/gpt-4o"]}`), nil},
		{"tool allowed and denied", ent(`{"tools":{"allow":["provider:sallyport/openai","tool:x"],"deny":["tool:x"],"bindings":{"tool:x":{"host":"x.com"}}}}`),
			[]string{"error unreachable $.tools.allow[1]", "error unreachable $.tools.allow[1]", "error unreachable $.tools.allow[1]"}},
		{"provider allowed and denied", ent(`{"tools":{"allow":["provider:sallyport/openai"],"deny":["provider:other/openai"]}}`), []string{"error unreachable $.tools.allow[0]"}},
		{"models of a provider that tools.allow leaves out", ent(`{"models":[{"provider":"google","models":["a"]}]}`), []string{"error unreachable $.models[0]"}},
		{"egress under tool:http.request", ent(`{"tools":{"allow":["provider:sallyport/openai"],"deny":["tool:http.request"]},"egress":{"default":"deny","rules":[{"host":"x.com"}]}}`),
			[]string{"error unreachable $.egress.rules[0]"}},
		{"egress under tool:http.request where a tool is bound", ent(`{"tools":{"allow":["provider:sallyport/openai","tool:x"],"deny":["tool:http.request"],"bindings":{"tool:x":{"host":"x.com","path":"/a"}}},"egress":{"default":"deny","rules":[{"host":"x.com"}]}}`), nil},
		{"open beginning", ent(`{"models":[{"provider":"openai","models":["*mini","gpt-*","*"]}]}`), []string{"warning unanchored $.models[0]"}},
		{"open beginning in v2", v2(`{"sid":"A","effect":"Allow","actions":["*"],"resources":["**/gpt-4","*"]}`), []string{"warning no-route $.statements[0].resources[0]", "warning no-route $.statements[0].resources[1]", "warning unanchored $.statements[0]"}},
		{"tool bound to nothing", ent(`{"tools":{"allow":["provider:sallyport/openai","tool:x"],"deny":[]}}`), []string{"warning unbound-tool $.tools.allow"}},
		{"key that nobody knows", v2(`{"sid":"A","effect":"Allow","actions":["*"],"resources":["*"],"conditions":{"Bool":{"Request:HasHumanApproval":"true"}}}`), []string{"warning no-route $.statements[0].resources[0]", "error unknown-key $.statements[0]"}},
		{"tier", v1(`"minimum_model_identity_tier":"tee_measured"`), []string{"error cannot-pass $.minimum_model_identity_tier", "error unreachable $.allowed_models"}},
		{"audit packs", v1(`"required_audit_packs":["p"]`), []string{"warning not-enforced $.required_audit_packs"}},
		{"web witnesses", parse(t, `{"policy_version":"2","policy_id":"p","issuer_did":"did:web:x","coverage_enforcement":"warn","witnessed_web_policy":{},"statements":[`+allow+`]}`),
			[]string{"warning not-enforced $.coverage_enforcement", "warning not-enforced $.witnessed_web_policy"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			var got []string
			for _, f := range contract.Lint(x.c) {
				got = append(got, string(f.Severity)+" "+f.Rule+" "+f.Path)
				if f.Message == "" || f.Remedy == "" {
					t.Errorf("%+v says too little", f)
				}
			}
			if strings.Join(got, "\n") != strings.Join(x.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(x.want, "\n"))
			}
		})
	}
}

func TestDiff(t *testing.T) {
	base := `"tools":{"allow":["provider:sallyport/openai","tool:x"],"deny":["tool:y"],"bindings":{"tool:x":{"host":"x.com","path":"/a"}}},
		"models":[{"provider":"openai","models":["gpt-4*"]}],"egress":{"default":"deny","rules":[{"host":"y.com","path_prefixes":["/v1"],"cidrs":["10.0.0.0/8"]}]},"limits":{"max_request_bytes":10}`
	old := enterprise(t, "{"+base+"}")
	for _, x := range []struct {
		name, from, to string
		widens         bool
		says           string
	}{
		{"nothing", "", "", false, ""},
		{"a model within the pattern", `"gpt-4*"`, `"gpt-4o"`, false, "adds: allow model:invoke on openai/gpt-4o"},
		{"a model more", `"gpt-4*"`, `"gpt-4*","gpt-5"`, true, "adds: allow model:invoke on openai/gpt-5"},
		{"any model", `"models":[{"provider":"openai","models":["gpt-4*"]}]`, `"models":[]`, true, "any model, or none"},
		{"a Deny gone", `"deny":["tool:y"]`, `"deny":[]`, true, "removes: deny tool:execute on y"},
		{"a Deny more", `"deny":["tool:y"]`, `"deny":["tool:y","tool:z"]`, false, "adds: deny tool:execute on z"},
		{"a narrower prefix", `"/v1"`, `"/v1/a"`, false, "y.com /v1/a"},
		{"a wider prefix", `"/v1"`, `"/"`, true, "y.com /…"},
		{"names below", `"host":"y.com"`, `"host":"y.com","subdomains":true`, true, "and below"},
		{"a port more", `"host":"y.com"`, `"host":"y.com","ports":[443,80]`, true, "ports 443 80"},
		{"a method named", `"host":"y.com"`, `"host":"y.com","methods":["GET"]`, false, "GET y.com"},
		{"private addresses more", `"10.0.0.0/8"`, `"10.0.0.0/8","192.168.0.0/16"`, true, "private addresses 192.168.0.0/16"},
		{"unread", `"host":"y.com"`, `"host":"y.com","inspect":"none"`, true, "inspection none"},
		{"WebSockets", `"host":"y.com"`, `"host":"y.com","websocket":true`, true, "adds: WebSockets, whose frames nobody reads, on GET y.com /v1…"},
		{"WebSockets said not to be", `"host":"y.com"`, `"host":"y.com","websocket":false`, false, "only names or order"},
		{"a tool's place", `"path":"/a"`, `"path":"/b"`, true, "x.com /b"},
		{"a tool's credential", `"path":"/a"`, `"path":"/a","secret_class":"k"`, true, "tool:x uses the secret class k"},
		{"a larger limit", `"max_request_bytes":10`, `"max_request_bytes":11`, true, "10 becomes 11"},
		{"a smaller limit", `"max_request_bytes":10`, `"max_request_bytes":9`, false, "10 becomes 9"},
		{"no limit", `,"limits":{"max_request_bytes":10}`, ``, true, "10 becomes 0"},
		{"words only", `"limits"`, `"intent":"other","limits"`, false, "is different"},
	} {
		t.Run(x.name, func(t *testing.T) {
			changes := contract.Diff(old, enterprise(t, "{"+strings.Replace(base, x.from, x.to, 1)+"}"))
			var text []string
			for _, c := range changes {
				text = append(text, c.Path+" "+c.Message)
			}
			if widens(changes) != x.widens || !strings.Contains(strings.Join(text, "\n"), x.says) || (x.says == "") != (changes == nil) {
				t.Errorf("%+v", changes)
			}
		})
	}
}

func TestDiffOfTerms(t *testing.T) {
	hash := func(c string) string {
		return `{"auth":{"pin_policy_hash":true,"cst_scope_hash":"sha256:` + strings.Repeat(c, 43) + `"}}`
	}
	socket := func(s string) string {
		return `{"egress":{"default":"deny","rules":[{"host":"y.com","methods":["GET"]` + s + `}]}}`
	}
	secrets := func(s string) string { return `{"secrets":{"minting":"cst_required",` + s + `}}` }
	for _, x := range []struct {
		name, old, new string
		widens         bool
	}{
		{"WebSockets dropped", socket(`,"websocket":true`), socket(``), false},
		{"pin dropped", `{}`, `{"auth":{"pin_policy_hash":false}}`, true},
		{"pin set", `{"auth":{"pin_policy_hash":false}}`, `{}`, false},
		{"scope hash set", `{}`, hash("A"), false},
		{"scope hash dropped", hash("A"), `{}`, true},
		{"scope hash of other jobs", hash("A"), hash("Q"), true},
		{"longer life", `{}`, secrets(`"allowed_secret_classes":["k"],"max_ttl_seconds":61`), true},
		{"class more", `{}`, secrets(`"allowed_secret_classes":["k","l"],"max_ttl_seconds":60`), true},
		{"class less", `{}`, secrets(`"allowed_secret_classes":[],"max_ttl_seconds":60`), false},
	} {
		if got := contract.Diff(enterprise(t, x.old), enterprise(t, x.new)); widens(got) != x.widens || len(got) != 1 {
			t.Errorf("%s: %+v", x.name, got)
		}
	}
	toV1 := contract.Diff(example(t, "enterprise"), example(t, "v1"))
	if !slices.ContainsFunc(toV1, func(c contract.Change) bool { return c.Widens && c.Path == "$.secrets.allowed_secret_classes" }) {
		t.Errorf("a dialect that names no secret classes: %+v", toV1)
	}
	bound := `{"tools":{"allow":["tool:x","tool:z"],"deny":["tool:http.request"],"bindings":{"tool:x":{"host":"x.com"},"tool:z":{"host":"z.com"}}}}`
	unbound := strings.Replace(bound, `,"tool:z":{"host":"z.com"}`, "", 1)
	if got := contract.Diff(enterprise(t, bound), enterprise(t, unbound)); widens(got) || len(got) < 2 {
		t.Errorf("fewer exceptions from tool:http.request: %+v", got)
	}
	if got := contract.Diff(enterprise(t, unbound), enterprise(t, bound)); !slices.ContainsFunc(got, func(c contract.Change) bool {
		return c.Widens && strings.HasPrefix(c.Message, "removes: deny side_effect:network_egress on every endpoint but")
	}) {
		t.Errorf("more exceptions from tool:http.request: %+v", got)
	}
}

func TestDiffOfConditions(t *testing.T) {
	const (
		head  = `"actions":["model:invoke"],"resources":["openai/**"]`
		one   = `,"conditions":{"StringEquals":{"Agent:DID":"a"}}`
		two   = `,"conditions":{"StringEquals":{"Agent:DID":"a","Context:Hour":"12"}}`
		other = `,"conditions":{"StringEquals":{"Agent:DID":"b"}}`
	)
	for _, x := range []struct {
		name, old, new string
		allowing, deny bool // whether the edit widens in an Allow, in a Deny
	}{
		{"dropped", one, "", true, false},
		{"added", "", one, false, true},
		{"one more", one, two, false, true},
		{"one less", two, one, true, false},
		{"another", one, other, true, true},
	} {
		allow := func(when string) string { return `{"sid":"A","effect":"Allow",` + head + when + `}` }
		deny := func(when string) string { return allowAll + `,{"sid":"D","effect":"Deny",` + head + when + `}` }
		if got := contract.Diff(statements(t, allow(x.old)), statements(t, allow(x.new))); widens(got) != x.allowing {
			t.Errorf("%s in an Allow: %+v", x.name, got)
		}
		if got := contract.Diff(statements(t, deny(x.old)), statements(t, deny(x.new))); widens(got) != x.deny {
			t.Errorf("%s in a Deny: %+v", x.name, got)
		}
	}
}
