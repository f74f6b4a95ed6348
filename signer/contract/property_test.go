package contract_test

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sallyport/signer/contract"
	"sallyport/signer/contract/args"
)

// object is a JSON object whose members keep the order that they were drawn in.
type object []member

type member struct {
	name  string
	value any
}

func (o object) MarshalJSON() ([]byte, error) {
	var b strings.Builder
	b.WriteString("{")
	for i, m := range o {
		name, err := json.Marshal(m.name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		b.WriteString([]string{" ", ",\n"}[min(i, 1)] + string(name) + ": " + string(value))
	}
	return []byte(b.String() + "}"), nil
}

func shuffled(v any, r *rand.Rand) any {
	switch v := v.(type) {
	case map[string]any:
		var o object
		for _, k := range slices.Sorted(maps.Keys(v)) {
			o = append(o, member{k, shuffled(v[k], r)})
		}
		r.Shuffle(len(o), func(i, j int) { o[i], o[j] = o[j], o[i] })
		return o
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = shuffled(v[i], r)
		}
		return out
	}
	return v
}

func TestHashSurvivesKeyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc := drawContract(t, "contract")
		first := mustParse(t, doc)
		seed := rapid.Uint64().Draw(t, "seed")
		again := mustParse(t, shuffled(doc, rand.New(rand.NewPCG(seed, 0))))
		if first.Hash != again.Hash || string(first.Payload) != string(again.Payload) {
			t.Fatalf("%s and %s", first.Hash, again.Hash)
		}
	})
}

func mustParse(t *rapid.T, doc any) *contract.Contract {
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	c, err := contract.Parse(raw)
	if err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	return c
}

// The pools are small, so that patterns and asks meet often.
var (
	actions   = []string{"model:invoke", "tool:execute", "side_effect:network_egress", "model:*", "*", "side_effect:*"}
	resources = []string{"*", "**", "openai/*", "openai/**", "openai/a", "openai/a?", "google/b", "*/a", "mcp:x/*", "tool", "POST *.x.com/**", "POST a.x.com/v1/**"}
	askNames  = []string{"openai/a", "openai/ab", "openai/a/b", "google/b", "google/B", "openai/", "mcp:x/t", "tool", "x", "POST a.x.com/v1/t", "POST a.x.com/v1", "GET a.x.com/v1/t", "POST x.com/", "POST x.com:8443/v2/t", "odd"}
	keys      = []string{"Agent:DID", "Model:Name", "Tool:Name", "Context:Hour", "Other:Key"}
	values    = []string{"a", "b", "9", "12", "true"}
)

func pick(t *rapid.T, name string, from []string, least int) []any {
	list := rapid.SliceOfNDistinct(rapid.SampledFrom(from), least, 3, rapid.ID[string]).Draw(t, name)
	out := make([]any, len(list))
	for i := range list {
		out[i] = list[i]
	}
	return out
}

func drawAsk(t *rapid.T) contract.Ask {
	return contract.Ask{
		Action:   rapid.SampledFrom(actions[:3]).Draw(t, "action"),
		Resource: rapid.SampledFrom(askNames).Draw(t, "resource"),
		Request:  &args.Call{Query: rapid.SampledFrom([]string{"", "q=1", "r=1"}).Draw(t, "query")},
		Context:  rapid.MapOfN(rapid.SampledFrom(keys), rapid.SampledFrom(values), 0, 4).Draw(t, "context"),
	}
}

func drawStatement(t *rapid.T, name string) map[string]any {
	s := map[string]any{
		"sid": name, "effect": rapid.SampledFrom([]string{"Allow", "Allow", "Deny"}).Draw(t, name+" effect"),
		"actions": pick(t, name+" actions", actions, 1), "resources": pick(t, name+" resources", resources, 1),
	}
	if rapid.Bool().Draw(t, name+" has conditions") {
		op := rapid.SampledFrom([]string{"StringEquals", "StringNotEquals", "StringLike", "StringNotLike"}).Draw(t, name+" operator")
		s["conditions"] = map[string]any{op: map[string]any{rapid.SampledFrom(keys).Draw(t, name+" key"): rapid.SampledFrom(values).Draw(t, name+" value")}}
	}
	return s
}

func drawV2(t *rapid.T, name string) map[string]any {
	n := rapid.IntRange(1, 4).Draw(t, name+" statements")
	list := make([]any, n)
	for i := range list {
		list[i] = drawStatement(t, name+string(rune('A'+i)))
	}
	return map[string]any{"policy_version": "2", "policy_id": name, "issuer_did": "did:web:x", "statements": list}
}

func drawV1(t *rapid.T, name string) map[string]any {
	doc := map[string]any{"policy_version": "1", "policy_id": name, "issuer_did": "did:web:x"}
	for _, m := range []member{{"allowed_providers", []string{"openai", "google"}}, {"allowed_models", []string{"*", "a", "a*", "B"}}, {"egress_allowlist", []string{"x.com", "*.x.com", "a.x.com"}}} {
		if rapid.Bool().Draw(t, name+" has "+m.name) {
			doc[m.name] = pick(t, name+" "+m.name, m.value.([]string), 0)
		}
	}
	if rapid.Bool().Draw(t, name+" has tier") {
		doc["minimum_model_identity_tier"] = rapid.SampledFrom([]string{"closed_opaque", "tee_measured"}).Draw(t, name+" tier")
	}
	return doc
}

func drawEnterprise(t *rapid.T, name string) map[string]any {
	capabilities := []string{"provider:sallyport/openai", "provider:sallyport/google", "tool:tool", "tool:t", "tool:http.request"}
	allow := pick(t, name+" allow", capabilities, 0)
	bindings := map[string]any{}
	for i, b := range []map[string]any{{"host": "a.x.com", "path": "/v1/{id}"}, {"mcp_server": "x", "tool": "t"}, {"host": "x.com", "methods": []any{"POST"}}} {
		if b["path"] != nil && rapid.Bool().Draw(t, name+" has args") {
			b["args"] = pick(t, name+" args", []string{"path.id == 't'", "query.all(k, k == 'q')", "method == 'POST'"}, 1)
		}
		if n := capabilities[2+i]; slices.Contains(allow, any(n)) && rapid.Bool().Draw(t, name+" binds "+n) {
			bindings[n] = b
		}
	}
	var models, egress []any
	if rapid.Bool().Draw(t, name+" has models") {
		models = append(models, map[string]any{"provider": rapid.SampledFrom([]string{"openai", "google"}).Draw(t, name+" provider"), "models": pick(t, name+" models", []string{"*", "a", "a*", "b"}, 1)})
	}
	if rapid.Bool().Draw(t, name+" has egress") {
		rule := map[string]any{"host": rapid.SampledFrom([]string{"x.com", "a.x.com"}).Draw(t, name+" host"), "subdomains": rapid.Bool().Draw(t, name+" below")}
		if rapid.Bool().Draw(t, name+" has terms") {
			rule["path_prefixes"], rule["methods"], rule["ports"] = pick(t, name+" prefixes", []string{"/", "/v1", "/v1/", "/v2"}, 1), pick(t, name+" methods", []string{"GET", "POST"}, 1), []any{443, 8443}
		}
		egress = append(egress, rule)
	}
	return map[string]any{
		"policy_kind": "wpc", "policy_version": "v1",
		"tools":  map[string]any{"allow": allow, "deny": pick(t, name+" deny", capabilities, 0), "bindings": bindings},
		"models": append([]any{}, models...), "egress": map[string]any{"default": "deny", "rules": append([]any{}, egress...)},
		"secrets": map[string]any{"minting": "cst_required", "allowed_secret_classes": []any{}, "max_ttl_seconds": 900},
		"auth":    map[string]any{"pin_policy_hash": true}, "model_calls": map[string]any{"must_route_via": "sallyport", "receipts_required": true},
	}
}

func drawContract(t *rapid.T, name string) map[string]any {
	switch rapid.IntRange(0, 2).Draw(t, name+" dialect") {
	case 0:
		return drawV1(t, name)
	case 1:
		return drawV2(t, name)
	}
	return drawEnterprise(t, name)
}

// If a Deny alone, beside an Allow of everything, refuses an ask, then so does every contract that has that Deny.
func TestDenyAlwaysWins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc, a := drawV2(t, "contract"), drawAsk(t)
		all := map[string]any{"sid": "all", "effect": "Allow", "actions": []any{"*"}, "resources": []any{"*"}}
		if !mustParse(t, doc).Decide(a, now).Allow {
			return
		}
		for _, s := range doc["statements"].([]any) {
			if s.(map[string]any)["effect"] != "Deny" {
				continue
			}
			alone := maps.Clone(doc)
			alone["statements"] = []any{all, s}
			if v := mustParse(t, alone).Decide(a, now); !v.Allow {
				t.Fatalf("%v denies %v alone (%v), but not among others", s, a, v.Denial)
			}
		}
	})
}

// An explicit deny stays one whatever Allow is added.
func TestAllowNeverLiftsADeny(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc, a := drawV2(t, "contract"), drawAsk(t)
		doc["statements"] = append(doc["statements"].([]any), map[string]any{"sid": "D", "effect": "Deny", "actions": pick(t, "D actions", actions, 1), "resources": pick(t, "D resources", resources, 1)})
		before := mustParse(t, doc).Decide(a, now)
		if before.Allow || before.SIDs == nil {
			return
		}
		more := drawStatement(t, "more")
		more["effect"] = "Allow"
		doc["statements"] = append(doc["statements"].([]any), more)
		if after := mustParse(t, doc).Decide(a, now); after.Allow && slices.Contains(before.SIDs, "D") {
			t.Fatalf("%v lifts the denial of %v by %v", more, a, before.SIDs)
		}
	})
}

// A verdict has a denial exactly where it does not allow, and every allowance names its statements.
func TestVerdictIsWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := mustParse(t, drawContract(t, "contract")).Decide(drawAsk(t), now)
		if v.Allow != (v.Denial == nil) || v.Allow && len(v.SIDs) == 0 || !v.Allow && v.SecretClasses != nil {
			t.Fatalf("%+v", v)
		}
	})
}

func widens(changes []contract.Change) bool {
	return slices.ContainsFunc(changes, func(c contract.Change) bool { return c.Widens })
}

// altered is a v2 contract that was edited: a statement dropped, turned around, or with other conditions.
func altered(t *rapid.T, doc map[string]any) map[string]any {
	list := slices.Clone(doc["statements"].([]any))
	i := rapid.IntRange(0, len(list)-1).Draw(t, "edited")
	s := maps.Clone(list[i].(map[string]any))
	list[i] = s
	switch rapid.IntRange(0, 3).Draw(t, "edit") {
	case 0:
		delete(s, "conditions")
	case 1:
		s["conditions"] = map[string]any{"StringEquals": map[string]any{"Agent:DID": "a", "Context:Hour": "9"}}
	case 2:
		s["effect"] = rapid.SampledFrom([]string{"Allow", "Deny"}).Draw(t, "new effect")
	case 3:
		if len(list) > 1 {
			list = slices.Delete(list, i, i+1)
		}
	}
	out := maps.Clone(doc)
	out["statements"] = list
	return out
}

// alteredTools is an enterprise contract of which one bound tool was edited: taken out, or without or with other rules about its
// arguments, or at another path.
func alteredTools(t *rapid.T, doc map[string]any) map[string]any {
	tools := maps.Clone(doc["tools"].(map[string]any))
	bindings := maps.Clone(tools["bindings"].(map[string]any))
	name := rapid.SampledFrom(slices.Sorted(maps.Keys(bindings))).Draw(t, "edited tool")
	b := maps.Clone(bindings[name].(map[string]any))
	switch edit := rapid.IntRange(0, 3).Draw(t, "edit of the tool"); {
	case edit == 0:
		delete(bindings, name)
		tools["allow"] = slices.DeleteFunc(slices.Clone(tools["allow"].([]any)), func(x any) bool { return x == name })
	case edit == 1 || b["host"] == nil:
		delete(b, "args")
		bindings[name] = b
	case edit == 2:
		b["args"] = []any{"query.all(k, k == 'r')"}
		bindings[name] = b
	default:
		b["path"] = "/v1/t"
		delete(b, "args")
		bindings[name] = b
	}
	tools["bindings"] = bindings
	out := maps.Clone(doc)
	out["tools"] = tools
	return out
}

func hasTools(doc map[string]any) bool {
	tools, ok := doc["tools"].(map[string]any)
	return ok && len(tools["bindings"].(map[string]any)) > 0
}

// The new contract is the old one edited, or another with some members of the old, or another altogether.
func TestWideningIsVisible(t *testing.T) {
	seen := 0
	rapid.Check(t, func(t *rapid.T) {
		before, after := drawContract(t, "old"), drawContract(t, "new")
		switch {
		case before["policy_version"] == "2" && rapid.Bool().Draw(t, "edited"):
			after = altered(t, before)
		case hasTools(before) && rapid.Bool().Draw(t, "tool edited"):
			after = alteredTools(t, before)
		case before["policy_version"] == after["policy_version"] && rapid.Bool().Draw(t, "merged"):
			merged := maps.Clone(before)
			for _, k := range slices.Sorted(maps.Keys(after)) {
				if rapid.Bool().Draw(t, "takes "+k) {
					merged[k] = after[k]
				}
			}
			after = merged
		}
		old, next := mustParse(t, before), mustParse(t, after)
		changes := contract.Diff(old, next)
		if (old.Hash != next.Hash) != (len(changes) > 0) {
			t.Fatalf("hashes %s and %s, but %d changes", old.Hash, next.Hash, len(changes))
		}
		if widens(changes) {
			return
		}
		seen++
		for range 30 {
			a := drawAsk(t)
			if next.Decide(a, now).Allow && !old.Decide(a, now).Allow {
				t.Fatalf("%+v passes only under the new contract, and no change says so: %+v", a, changes)
			}
		}
	})
	if seen < 10 {
		t.Errorf("only %d pairs were said not to widen; the test proves too little", seen)
	}
}
