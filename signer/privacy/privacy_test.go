package privacy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sallyport/signer/jcs"
	"sallyport/signer/privacy"
)

const noLimit = 1 << 30

func compile(t testing.TB, rules ...privacy.Rule) *privacy.Rules {
	t.Helper()
	r, err := privacy.Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func secret(t testing.TB, digit string) *privacy.Secret {
	t.Helper()
	s, err := privacy.ParseSecret([]byte(strings.Repeat(digit, 64) + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRedact(t *testing.T) {
	for _, tt := range []struct {
		name, path string
		action     privacy.Action
		body, want string
	}{
		{"mask keeps all else", "$.b", privacy.Mask, ` { "z" : 1.50 , "b":{"x":[1]}, "a":1.0 } `, ` { "z" : 1.50 , "b":"[REDACTED]", "a":1.0 } `},
		{"without $", "b", privacy.Mask, `{"b":1}`, `{"b":"[REDACTED]"}`},
		{"every element", "m[*].content", privacy.Mask, `{"m":[{"content":"a"},{"role":"x"},{"content":["b"]}]}`, `{"m":[{"content":"[REDACTED]"},{"role":"x"},{"content":"[REDACTED]"}]}`},
		{"elements themselves", "m[*]", privacy.Mask, `{"m":[1,"a"]}`, `{"m":["[REDACTED]","[REDACTED]"]}`},
		{"remove the first", "a", privacy.Remove, `{"a":1, "b":2,"c":3}`, `{"b":2,"c":3}`},
		{"remove one within", "b", privacy.Remove, `{"a":1, "b":2,"c":3}`, `{"a":1, "c":3}`},
		{"remove the last", "c", privacy.Remove, `{"a":1, "b":2 , "c":3 }`, `{"a":1, "b":2 }`},
		{"remove the only", "a", privacy.Remove, `{ "a":1 }`, `{ }`},
		{"remove elements", "a[*]", privacy.Remove, `{"a":[1, {"b":[]} ,3],"b":[1]}`, `{"a":[],"b":[1]}`},
		{"remove in a nested object", "a[*].x.y", privacy.Remove, `{"a":[{"x":{"y":1,"z":2}},{"x":{"z":1,"y":"},]"}}]}`, `{"a":[{"x":{"z":2}},{"x":{"z":1}}]}`},
		{"an escaped name", "content", privacy.Mask, `{"\u0063ontent":"a"}`, `{"\u0063ontent":"[REDACTED]"}`},
		{"another case", "content", privacy.Mask, `{"CONTENT":"a","content\u0000":1}`, `{"CONTENT":"[REDACTED]","content\u0000":1}`},
		{"a look-alike that folds", "key", privacy.Mask, `{"\u212aey":"a"}`, `{"\u212aey":"[REDACTED]"}`},
		{"quotes and escapes", "b", privacy.Mask, `{"a":"\\\"b\":{","b":"\\"}`, `{"a":"\\\"b\":{","b":"[REDACTED]"}`},
		{"not a list", "a[*].b", privacy.Mask, `{"a":{"b":1}}`, `{"a":{"b":1}}`},
		{"not an object", "a.b", privacy.Mask, `{"a":[{"b":1}]}`, `{"a":[{"b":1}]}`},
		{"only at its place", "a", privacy.Mask, `{"b":{"a":1},"c":[{"a":1}]}`, `{"b":{"a":1},"c":[{"a":1}]}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := compile(t, privacy.Rule{Path: tt.path, Action: tt.action}).Redact([]byte(tt.body), nil, noLimit)
			if err != nil || string(got) != tt.want {
				t.Errorf("got %s, %v; want %s", got, err, tt.want)
			}
		})
	}
}

func TestRedactSeveral(t *testing.T) {
	r := compile(t, privacy.Rule{Path: "a.b", Action: privacy.Mask}, privacy.Rule{Path: "a", Action: privacy.Remove},
		privacy.Rule{Path: "c[*].d", Action: privacy.Remove}, privacy.Rule{Path: "c[*].e", Action: privacy.Mask}, privacy.Rule{Path: "c.f", Action: privacy.Mask})
	got, err := r.Redact([]byte(`{"a":{"b":1},"c":[{"d":1,"e":2,"d2":3},{"e":2,"d":1}],"g":[]}`), nil, noLimit)
	if want := `{"c":[{"e":"[REDACTED]","d2":3},{"e":"[REDACTED]"}],"g":[]}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestRedactRefuses(t *testing.T) {
	r := compile(t, privacy.Rule{Path: "a", Action: privacy.Mask})
	for _, body := range []string{``, ` `, `[]`, `"a"`, `{`, `{"a":1}x`, `{"a":1,"a":2}`, `{"b":{"c":1,"c":2}}`, "--boundary\r\n", "{\"a\":\"\xff\"}", "\x1f\x8b"} {
		if got, err := r.Redact([]byte(body), nil, noLimit); !errors.Is(err, privacy.ErrNotObject) || got != nil {
			t.Errorf("%q: %q, %v", body, got, err)
		}
	}
	if _, err := r.Redact([]byte(`{"a":1}`), nil, 10); !errors.Is(err, privacy.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	many := []byte(`{"a":[` + strings.Repeat("1,", 9999) + `1]}`)
	if _, err := compile(t, privacy.Rule{Path: "a[*]", Action: privacy.Mask}).Redact(many, nil, len(many)); !errors.Is(err, privacy.ErrTooLarge) {
		t.Errorf("grown too large: %v", err)
	}
	if _, err := compile(t, privacy.Rule{Path: "a", Action: privacy.Hash}).Redact([]byte(`{}`), nil, noLimit); !errors.Is(err, privacy.ErrNoKey) {
		t.Errorf("no key: %v", err)
	}
}

func TestNothingFoundIsTheSameBody(t *testing.T) {
	body := []byte(`{"b":[{"a":1}]}`)
	got, err := compile(t, privacy.Rule{Path: "a", Action: privacy.Mask}).Redact(body, nil, noLimit)
	if err != nil || &got[0] != &body[0] {
		t.Errorf("copied: %s, %v", got, err)
	}
}

// A hash is told apart by value, job and secret, by nothing else; and can be confirmed.
func TestHash(t *testing.T) {
	r := compile(t, privacy.Rule{Path: "v", Action: privacy.Hash})
	key := secret(t, "a").For("job-1")
	hashed := func(k *privacy.Key, value string) string {
		t.Helper()
		out, err := r.Redact([]byte(`{"v":`+value+`}`), k, noLimit)
		var doc struct{ V string }
		if err != nil || json.Unmarshal(out, &doc) != nil {
			t.Fatalf("%s: %s, %v", value, out, err)
		}
		return doc.V
	}
	want, err := key.Text([]byte(`"ab"`))
	if got := hashed(key, `"a\u0062"`); err != nil || got != want || !strings.HasPrefix(got, "[HASH:hmac-sha256:") || len(got) != len("[HASH:hmac-sha256:]")+43 {
		t.Errorf("got %s, want %s, %v", got, want, err)
	}
	if hashed(key, `{"x":1,"y":2}`) != hashed(key, `{ "y":2, "x":1.0 }`) {
		t.Error("the same value has two hashes")
	}
	seen := map[string]string{}
	for name, h := range map[string]string{
		"this": want, "another value": hashed(key, `"ac"`), "another job": hashed(secret(t, "a").For("job-2"), `"ab"`),
		"another secret": hashed(secret(t, "b").For("job-1"), `"ab"`), "a number": hashed(key, `1`), "its text": hashed(key, `"1"`),
	} {
		if other, ok := seen[h]; ok {
			t.Errorf("%s and %s have the same hash", name, other)
		}
		seen[h] = name
	}
	if _, err := key.Text([]byte(`ab`)); err == nil {
		t.Error("a value that is no JSON has a hash")
	}
}

func TestSecret(t *testing.T) {
	s := secret(t, "c")
	if text := fmt.Sprintf("%v %+v %#v", s, s, s); strings.Contains(text, "cc") || strings.Contains(text, "204") {
		t.Errorf("the secret shows: %s", text)
	}
	for _, bad := range []string{"", "ab", strings.Repeat("g", 64), strings.Repeat("a", 66)} {
		if _, err := privacy.ParseSecret([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	for _, path := range []string{"", "$", "$.", "a..b", ".a", "a.", "a[0]", "a[*][*]", "a[*", "[*]", "$[*]", "*", "a.*", "a[*]b"} {
		_, err := privacy.Compile([]privacy.Rule{{Path: "ok", Action: privacy.Mask}, {Path: path, Action: privacy.Mask}})
		var e *privacy.RuleError
		if !errors.As(err, &e) || e.Index != 1 || !errors.Is(err, privacy.ErrRule) {
			t.Errorf("%q: %v", path, err)
		}
	}
	if _, err := privacy.Compile([]privacy.Rule{{Path: "a", Action: "drop"}}); err == nil {
		t.Error("an unknown action is taken")
	}
	if _, err := privacy.Compile([]privacy.Rule{{Path: "a", Action: privacy.Mask}, {Path: "$.A", Action: privacy.Hash}}); err == nil {
		t.Error("two actions for one place are taken")
	}
	if r, err := privacy.Compile(nil); r != nil || err != nil {
		t.Errorf("no rules: %v, %v", r, err)
	}
}

var names = []string{"a", "A", "b", "c", "content", "é", "\u212a", "a.b"}

// document is any JSON value of a few levels.
func document(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		switch kind := rapid.IntRange(0, 5).Draw(t, "kind"); {
		case kind <= 1 && depth > 0:
			return any(rapid.MapOfN(rapid.SampledFrom(names), document(depth-1), 0, 4).Draw(t, "object"))
		case kind == 2 && depth > 0:
			return any(rapid.SliceOfN(document(depth-1), 0, 4).Draw(t, "list"))
		case kind == 3:
			return any(rapid.SampledFrom([]string{"", "x", "\"}", "\\", "],[", "é"}).Draw(t, "text"))
		case kind == 4:
			return any(float64(rapid.IntRange(-5, 5).Draw(t, "number")))
		}
		return any(rapid.Bool().Draw(t, "truth"))
	})
}

// oracle carries the rules out on a tree, as plainly as can be.
func oracle(v any, rules []privacy.Rule, key *privacy.Key) any {
	for _, r := range rules {
		if r.Path == "" {
			switch r.Action {
			case privacy.Mask:
				return privacy.MaskText
			case privacy.Hash:
				raw, _ := jcs.Marshal(v)
				text, _ := key.Text(raw)
				return text
			case privacy.Remove:
				return nil
			}
		}
	}
	within := func(step string) (out []privacy.Rule, remove bool) {
		for _, r := range rules {
			first, rest, more := strings.Cut(r.Path, ".")
			if !strings.EqualFold(first, step) {
				continue
			}
			if !more && r.Action == privacy.Remove {
				remove = true
			}
			out = append(out, privacy.Rule{Path: rest, Action: r.Action})
		}
		return out, remove
	}
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, value := range v {
			if strings.Contains(k, ".") {
				out[k] = value
				continue
			}
			if inner, remove := within(k); !remove {
				out[k] = oracle(value, inner, key)
			}
		}
		return out
	case []any:
		out := []any{}
		for _, value := range v {
			if inner, remove := within("[*]"); !remove {
				out = append(out, oracle(value, inner, key))
			}
		}
		return out
	}
	return v
}

// Redact does what its rules say and nothing else: it agrees with a plain tree walk, and keeps the order of members.
func TestRedactAgreesWithTree(t *testing.T) {
	key := secret(t, "d").For("job")
	rapid.Check(t, func(t *rapid.T) {
		doc := rapid.MapOfN(rapid.SampledFrom(names), document(3), 0, 5).Draw(t, "doc")
		path := rapid.Custom(func(t *rapid.T) string {
			var steps []string
			for range rapid.IntRange(1, 3).Draw(t, "steps") {
				steps = append(steps, rapid.SampledFrom([]string{"a", "B", "content", "c", "k", "É"}).Draw(t, "name")+rapid.SampledFrom([]string{"", "[*]"}).Draw(t, "each"))
			}
			return strings.Join(steps, ".")
		})
		var rules []privacy.Rule
		taken := map[string]bool{}
		for range rapid.IntRange(1, 4).Draw(t, "rules") {
			r := privacy.Rule{Path: path.Draw(t, "path"), Action: rapid.SampledFrom([]privacy.Action{privacy.Remove, privacy.Mask, privacy.Hash}).Draw(t, "action")}
			if !taken[r.Path] {
				rules = append(rules, r)
			}
			taken[r.Path] = true
		}
		compiled, err := privacy.Compile(rules)
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.MarshalIndent(doc, "", rapid.SampledFrom([]string{"", " "}).Draw(t, "indent"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := compiled.Redact(body, key, noLimit)
		if err != nil {
			t.Fatal(err)
		}
		var steps []privacy.Rule
		for _, r := range rules {
			steps = append(steps, privacy.Rule{Path: strings.ReplaceAll(r.Path, "[*]", ".[*]"), Action: r.Action})
		}
		var tree, redacted any
		if err := json.Unmarshal(body, &tree); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(got, &redacted); err != nil {
			t.Fatalf("%v: %s", err, got)
		}
		if want := oracle(tree, steps, key); !reflect.DeepEqual(redacted, want) {
			t.Fatalf("rules %v on %s:\n got %s\nwant %v", rules, body, got, want)
		}
		if again, err := compiled.Redact(got, key, noLimit); err != nil || len(again) < len(got) && !bytes.Contains(got, []byte("{")) {
			t.Fatalf("what is redacted is no longer a document: %v", err)
		}
	})
}

// Any path and any body: no panic, and what comes out is again a strict object or an error.
func FuzzRedact(f *testing.F) {
	f.Add("$.messages[*].content", "mask", []byte(`{"messages":[{"content":"a"}]}`))
	f.Add("a", "remove", []byte(`{"a":1,"b":[{}],"c":"\\\""}`))
	f.Add("a.b[*]", "hash", []byte(`{"a":{"b":[1,"x",null]}}`))
	key := secret(f, "e").For("job")
	f.Fuzz(func(t *testing.T, path, action string, body []byte) {
		r, err := privacy.Compile([]privacy.Rule{{Path: path, Action: privacy.Action(action)}})
		if err != nil {
			return
		}
		out, err := r.Redact(body, key, noLimit)
		if err != nil {
			return
		}
		if err := jcs.Scan(out, func(_, _ []byte) error { return nil }); err != nil {
			t.Errorf("%s %s on %q gives %q: %v", action, path, body, out, err)
		}
	})
}

func BenchmarkRedact(b *testing.B) {
	body := []byte(`{"model":"m","messages":[` + strings.Repeat(`{"role":"user","content":"`+strings.Repeat("some words of a prompt ", 40)+`"},`, 63) + `{"role":"user","content":"x"}]}`)
	r := compile(b, privacy.Rule{Path: "metadata.user", Action: privacy.Remove}, privacy.Rule{Path: "messages[*].name", Action: privacy.Mask})
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Redact(body, nil, noLimit); err != nil {
			b.Fatal(err)
		}
	}
}
