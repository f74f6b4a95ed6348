package args_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"sallyport/signer/code"
	"sallyport/signer/contract/args"
)

func TestCompile(t *testing.T) {
	nested := "body.a" + strings.Repeat(".all(x, x", 30) + " == 1" + strings.Repeat(")", 30)
	for _, x := range []struct{ rule, want string }{
		{"path.user == 'me'", ""},
		{"path['user'] == 'me'", ""},
		{"method == 'GET' && host == 'a.example'", ""},
		{"body.priority <= 3", ""},
		{"size(body.title) <= 80", ""},
		{"has(body.x) ? body.x < 3 : true", ""},
		{"query.all(k, k in ['$top', '$select'])", ""},
		{"int(query['$top'][0]) <= 50", ""},
		{"body.to.all(r, r.address.endsWith('@example.com'))", ""},
		{"body.to.exists_one(r, r.address.matches('^[a-z]+@example[.]com$'))", ""},

		{"", "line 1 column 1: Syntax error: mismatched input '<EOF>'"},
		{"1 +", "line 1 column 4: Syntax error: mismatched input '<EOF>'"},
		{"body.priority", "it is of type dyn; a rule is true or false"},
		{"size(body) + 1", "it is of type int; a rule is true or false"},
		{"method == 3", "line 1 column 8: found no matching overload for '_==_' applied to '(string, int)'"},
		{"path.user == 3", "line 1 column 11: found no matching overload for '_==_' applied to '(string, int)'"},
		{"pth.user == 'x'", "line 1 column 1: undeclared reference to 'pth'"},
		{"now() < 3", "line 1 column 4: undeclared reference to 'now'"},
		{"path.usr == 'x'", `line 1 column 1: the path has no variable "usr"; it has user`},
		{"path['usr'] == 'x'", `line 1 column 1: the path has no variable "usr"; it has user`},
		{"'user' in path", "line 1 column 11: write path.NAME with one of the template's variables: user"},
		{"path.all(k, k == 'user')", "line 1 column 1: write path.NAME"},
		{"body.all(path, path == 1)", "line 1 column 9: path is the name of a part of the call"},
		{"body.a.map(x, x).size() < 3", "line 1 column 11: undeclared reference to 'map'"},
		{"body.a.filter(x, x > 3) == []", "undeclared reference to 'filter'"},
		{"body.a.matches(body.b)", "line 1 column 20: the pattern of matches must be written out"},
		{"matches(body.a, method)", "the pattern of matches must be written out"},
		{"body.a.matches('(')", "line 1 column 16: invalid matches argument"},
		{"body.a.matches('(((a{1,100}){1,10})')", "invalid matches argument"},
		{"body.a.matches('((a{1,100}){1,9})')", "regex program"},
		{"body.a.all(x, body.b.all(y, x < y))", "it could cost 2033155 for lists, maps and strings of 256 elements; all rules of a tool may cost 100000 together"},
		{nested, "it could cost without bound"},
		{strings.Repeat("(", 64) + "true" + strings.Repeat(")", 64), "line 1 column 1: expression recursion limit exceeded: 32"},
		{"true" + strings.Repeat(" ", args.MaxBytes), "it has 1028 bytes; a rule has at most 1024"},
	} {
		_, err := args.Compile([]string{"true", x.rule}, []string{"user"})
		if x.want == "" {
			if err != nil {
				t.Errorf("%s: %v", x.rule, err)
			}
			continue
		}
		var e *args.Error
		if err == nil || !errors.Is(err, args.ErrInvalid) || !errors.As(err, &e) || e.Index != 1 || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%.80s: %v, want %s", x.rule, err, x.want)
		}
	}
	// What each may cost counts together, and so do the rules.
	costly := "body.a.all(x, x.b.all(y, y.size() > 3) || true) || body.c.all(x, x.matches('^[a-z]+$'))"
	if _, err := args.Compile([]string{"body.c.all(x, x.matches('^[a-z]+$'))"}, nil); err != nil {
		t.Errorf("one is within the bound: %v", err)
	}
	if _, err := args.Compile([]string{"true", costly}, nil); err == nil {
		t.Error("nested loops are within the bound")
	}
	many := strings.Split(strings.Repeat("body.c.all(x, x.matches('^[a-z]+$'))|", args.MaxRules), "|")[:args.MaxRules]
	if _, err := args.Compile(many, nil); err == nil || strings.Count(err.Error(), "together") != 1 {
		t.Errorf("sixteen of what one may do: %v", err)
	}
	if _, err := args.Compile(append(many, "true"), nil); !errors.Is(err, args.ErrInvalid) {
		t.Errorf("seventeen: %v", err)
	}
}

func compile(t testing.TB, variables []string, rules ...string) *args.Set {
	t.Helper()
	s, err := args.Compile(rules, variables)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCheck(t *testing.T) {
	long := `{"a":[` + strings.Repeat("1,", 9999) + `1]}`
	deep := strings.Repeat(`{"a":[`, 10) + strings.Repeat("1,", 3000) + "1" + strings.Repeat(`]}`, 10)
	for _, x := range []struct {
		name, rule string
		call       args.Call
		want       code.Code
		says       string
	}{
		{"a number", "body.priority <= 3", args.Call{Body: []byte(`{"priority":3}`)}, "", ""},
		{"a fraction", "body.priority <= 3", args.Call{Body: []byte(`{"priority":3.5}`)}, code.PolicyToolRuleDenied, "args[0] body.priority <= 3"},
		{"a variable of the path", "path.user == 'me@example.com'", args.Call{}, "", ""},
		{"another", "path.user == 'you'", args.Call{}, code.PolicyToolRuleDenied, ""},
		{"method and host", "method == 'POST' && host == 'a.example:8443'", args.Call{}, "", ""},
		{"a parameter", "query['$top'].all(v, int(v) <= 50)", args.Call{Query: "$top=50"}, "", ""},
		{"a parameter, escaped", "query['$top'].all(v, int(v) <= 50)", args.Call{Query: "%24top=51"}, code.PolicyToolRuleDenied, ""},
		{"a parameter twice", "query['$top'].all(v, int(v) <= 50)", args.Call{Query: "$top=1&$top=51"}, code.PolicyToolRuleDenied, ""},
		{"parameters that may stand", "query.all(k, k in ['$top'])", args.Call{Query: "$top=1&$skip=2"}, code.PolicyToolRuleDenied, ""},
		{"nothing of them", "query.all(k, k in ['$top'])", args.Call{}, "", ""},
		{"a list", "body.to.all(r, r.endsWith('@example.com'))", args.Call{Body: []byte(`{"to":["a@example.com","b@example.com"]}`)}, "", ""},
		{"a list with another", "body.to.all(r, r.endsWith('@example.com'))", args.Call{Body: []byte(`{"to":["a@example.com","b@evil.example"]}`)}, code.PolicyToolRuleDenied, ""},
		{"members of an object", "body.all(k, k in ['title', 'text'])", args.Call{Body: []byte(`{"title":"x","admin":true}`)}, code.PolicyToolRuleDenied, ""},
		{"a whole object", "body == {'a': 1, 'b': ['x']}", args.Call{Body: []byte(`{"b":["x"],"a":1}`)}, "", ""},
		{"its size", "size(body) == 2 && size(body.b) == 1", args.Call{Body: []byte(`{"b":["x"],"a":1}`)}, "", ""},

		{"a member that is missing", "body.priority <= 3", args.Call{Body: []byte(`{}`)}, code.PolicyToolRuleUndecided, "no such key: priority"},
		{"a member of another type", "body.priority <= 3", args.Call{Body: []byte(`{"priority":"1"}`)}, code.PolicyToolRuleUndecided, "no such overload"},
		{"no object", "body.priority <= 3", args.Call{Body: []byte(`[1]`)}, code.PolicyToolRuleUndecided, ""},
		{"a parameter that is missing", "query['$top'][0] == '1'", args.Call{}, code.PolicyToolRuleUndecided, "no such key: $top"},
		{"a parameter that is no number", "int(query['$top'][0]) < 5", args.Call{Query: "$top=x"}, code.PolicyToolRuleUndecided, ""},
		{"too long a list", "body.a.all(x, x < 2)", args.Call{Body: []byte(long)}, "", ""},
		{"a text that fits its pattern", "body.a.matches('^[a-z]+$')", args.Call{Body: []byte(`{"a":"` + strings.Repeat("a", 10_000) + `"}`)}, "", ""},
		{"a text too long for its pattern", "body.a.matches('[a-z]{1,300}Z')", args.Call{Body: []byte(`{"a":"` + strings.Repeat("a", 100_000) + `"}`)}, code.PolicyToolRuleUndecided, "share of steps"},
		{"a member that is no text", "body.a.matches('^[a-z]+$')", args.Call{Body: []byte(`{"a":1}`)}, code.PolicyToolRuleUndecided, ""},
		{"the function as the method", "matches(body.a, '^[a-z]+$')", args.Call{Body: []byte(`{"a":"A"}`)}, code.PolicyToolRuleDenied, ""},
		{"deep values compared again and again", "body.l.all(x, body.a == body.b)", args.Call{Body: []byte(`{"l":[` + strings.Repeat("1,", 99) + `1],"a":` + deep + `,"b":` + deep + `}`)}, code.PolicyToolRuleUndecided, "share of steps"},
		{"deep values compared once", "body.a == body.b", args.Call{Body: []byte(`{"a":` + deep + `,"b":` + deep + `}`)}, "", ""},
		{"a value looked for among deep ones", "body.l.all(x, body.a in body.b)", args.Call{Body: []byte(`{"l":[` + strings.Repeat("1,", 99) + `1],"a":` + deep + `,"b":[` + deep + `]}`)}, code.PolicyToolRuleUndecided, "share of steps"},
		{"far too long a list", "body.a.all(x, x + 1.0 + 1.0 + 1.0 < 9 && body.a[0] == 1)", args.Call{Body: []byte(long)}, code.PolicyToolRuleUndecided, "share of steps"},

		{"no body", "body.a == 1", args.Call{}, code.ToolBodyInvalid, "empty"},
		{"no JSON", "body.a == 1", args.Call{Body: []byte(`a=1`)}, code.ToolBodyInvalid, "unexpected character"},
		{"a key twice", "body.a == 1", args.Call{Body: []byte(`{"a":1,"a":2}`)}, code.ToolBodyInvalid, "duplicate key"},
		{"a key twice by an escape", "body.a == 1", args.Call{Body: []byte(`{"a":1,"\u0061":2}`)}, code.ToolBodyInvalid, "duplicate key"},
		{"a key in capitals too", "body.a == 1", args.Call{Body: []byte(`{"a":1,"A":2}`)}, code.ToolBodyInvalid, `"A" and "a" differ only in case`},
		{"a key with a look-alike below", "body.x.k == 1", args.Call{Body: []byte(`{"x":{"k":1,"` + "\u212a" + `":2}}`)}, code.ToolBodyInvalid, "differ only in case"},
		{"trailing data", "body.a == 1", args.Call{Body: []byte(`{"a":1}{"a":2}`)}, code.ToolBodyInvalid, "trailing data"},
		{"a number that no reader keeps", "body.a < 1e17", args.Call{Body: []byte(`{"a":9007199254740993}`)}, code.ToolBodyInvalid, ""},
		{"the deepest", "body == body", args.Call{Body: []byte(strings.Repeat("[", args.MaxDepth) + strings.Repeat("]", args.MaxDepth))}, "", ""},
		{"deeper", "body == body", args.Call{Body: []byte(strings.Repeat("[", args.MaxDepth+1) + strings.Repeat("]", args.MaxDepth+1))}, code.ToolBodyInvalid, "64 deep"},
		{"a bomb", "body == body", args.Call{Body: []byte(strings.Repeat("[", 1<<19) + strings.Repeat("]", 1<<19))}, code.ToolBodyInvalid, "nested too deep"},
		{"the largest", "body.size() > 3", args.Call{Body: []byte(`"` + strings.Repeat("x", args.MaxBodyBytes-2) + `"`)}, "", ""},
		{"larger", "body.size() > 3", args.Call{Body: []byte(`"` + strings.Repeat("x", args.MaxBodyBytes-1) + `"`)}, code.ToolBodyInvalid, "at most 1048576"},
		{"a form", "body.a == 1", args.Call{Body: []byte(`{"a":1}`), ContentType: "application/x-www-form-urlencoded"}, code.ToolBodyInvalid, "send application/json"},
		{"no type", "body.a == 1", args.Call{Body: []byte(`{"a":1}`), ContentType: "-"}, code.ToolBodyInvalid, "send application/json"},
		{"a kind of JSON", "body.a == 1", args.Call{Body: []byte(`{"a":1}`), ContentType: "application/merge-patch+json; charset=UTF-8"}, "", ""},
		{"another charset", "body.a == 1", args.Call{Body: []byte(`{"a":1}`), ContentType: "application/json; charset=utf-7"}, code.ToolBodyInvalid, "send UTF-8"},
		{"compressed", "body.a == 1", args.Call{Body: []byte(`{"a":1}`), ContentEncoding: "gzip"}, code.ToolBodyInvalid, "without Content-Encoding"},
		{"a broken escape", "query.all(k, k == 'a')", args.Call{Query: "%zz"}, code.ToolQueryInvalid, ""},
		{"a semicolon", "query.all(k, k == 'a')", args.Call{Query: "a=1;b=2"}, code.ToolQueryInvalid, ""},
		{"a parameter in capitals too", "query['top'][0] == '1'", args.Call{Query: "top=1&TOP=999"}, code.ToolQueryInvalid, "differ only in case"},

		{"a body that no rule names", "path.user != ''", args.Call{Body: []byte(`{"a":1,"a"`), Query: "%zz"}, "", ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			set := compile(t, []string{"user"}, x.rule)
			x.call.Method, x.call.Host, x.call.Path = "POST", "a.example:8443", map[string]string{"user": "me@example.com"}
			switch x.call.ContentType {
			case "":
				x.call.ContentType = "application/json"
			case "-":
				x.call.ContentType = ""
			}
			d := set.Check("tool:t", &x.call)
			switch {
			case d == nil && x.want != "", d != nil && (d.Code != x.want || !strings.Contains(d.Detail, x.says)):
				t.Errorf("%v, want %s %s", d, x.want, x.says)
			case d != nil && d.Code != code.ToolBodyInvalid && d.Code != code.ToolQueryInvalid && !strings.HasPrefix(d.Detail, "tool:t, args[0] "):
				t.Errorf("%v names no rule", d)
			case d != nil && len(d.Message()) > 600:
				t.Errorf("%d bytes: %v", len(d.Message()), d)
			}
		})
	}
}

func TestSet(t *testing.T) {
	var none *args.Set
	if none.ReadsBody() || none.Sources() != nil || none.Constant() != nil || none.Check("t", &args.Call{}) != nil {
		t.Error("no rules say something")
	}
	s := compile(t, nil, "method == 'GET'", "1 < 2", "body.a == 1")
	if !s.ReadsBody() || len(s.Sources()) != 3 || len(s.Constant()) != 1 || s.Constant()[0] != 1 {
		t.Errorf("%v %v %v", s.ReadsBody(), s.Sources(), s.Constant())
	}
	// All must hold, and the first that does not is named.
	d := s.Check("t", &args.Call{Method: "GET", Body: []byte(`{"a":2}`), ContentType: "application/json"})
	if d == nil || !strings.Contains(d.Detail, "args[2] body.a == 1") {
		t.Errorf("%v", d)
	}
}

// The bound is for all rules of a tool together: what one has used up the next cannot.
func TestRulesShareTheirSteps(t *testing.T) {
	one := "body.a.all(x, x + 1.0 < 9)"
	call := args.Call{ContentType: "application/json", Body: []byte(`{"a":[` + strings.Repeat("1,", 9000) + `1]}`)}
	if d := compile(t, nil, one).Check("t", &call); d != nil {
		t.Errorf("one alone: %v", d)
	}
	d := compile(t, nil, one, one, one).Check("t", &call)
	if d == nil || d.Code != code.PolicyToolRuleUndecided || !strings.Contains(d.Detail, "share of steps") || strings.Contains(d.Detail, "args[0]") {
		t.Errorf("three: %v", d)
	}
}

// What a rule costs, and so whether it is decided at all, must not hang on the order of a map.
func TestSameOutcomeEveryTime(t *testing.T) {
	var b strings.Builder
	for i := range 2000 {
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString(`"k` + strings.Repeat("x", i%7) + strings.Repeat("y", i) + `":1`)
	}
	calls := []args.Call{{Body: []byte(`{` + strings.ReplaceAll(b.String(), "yyy", "z") + `}`), ContentType: "application/json"}}
	set := compile(t, nil, "body.exists(k, k.endsWith('kz') && k.size() > 1 && k.contains('z') && body[k] == 1 && k.startsWith('kz'))")
	first := set.Check("t", &calls[0])
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				if again := set.Check("t", &calls[0]); (again == nil) != (first == nil) || again != nil && *again != *first {
					t.Errorf("%v, then %v", first, again)
				}
			}
		})
	}
	wg.Wait()
}

// No rule and no call makes the evaluation panic, and none costs more than its bound: the library panics when it stops, so
// that an error of its own would show as "internal error".
func FuzzCheck(f *testing.F) {
	f.Add("body.a.all(x, x < 3) || path.user == method", `{"a":[1,2]}`, "a=1")
	f.Add("query.exists(k, query[k].size() > 1)", `{}`, "a=1&a=2")
	f.Add("body.a[int(body.i)].matches('^a+$') && size(body) < 4", `{"a":["aa"],"i":0}`, "")
	f.Add("string(body) == '' || bytes(body) == b'' || type(body) == map", `[]`, "%")
	f.Add("timestamp(body.t) < timestamp('2020-01-01T00:00:00Z')", `{"t":"2019-01-01T00:00:00Z"}`, "")
	f.Fuzz(func(t *testing.T, source, body, query string) {
		set, err := args.Compile([]string{source}, []string{"user"})
		if err != nil {
			if !errors.Is(err, args.ErrInvalid) {
				t.Errorf("%v", err)
			}
			return
		}
		call := args.Call{Method: "GET", Host: "h", Path: map[string]string{"user": "u"}, Query: query, Body: []byte(body), ContentType: "application/json"}
		first, again := set.Check("t", &call), set.Check("t", &call)
		if (first == nil) != (again == nil) || first != nil && *first != *again {
			t.Errorf("%v, then %v", first, again)
		}
		if first != nil && strings.Contains(first.Detail, "internal error") {
			t.Errorf("%v", first)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	ten := []string{
		"body.priority <= 3", "size(body.title) <= 200", "body.queue in ['ops', 'desk']", "body.watchers.all(w, w.endsWith('@example.com'))",
		"!has(body.admin)", "body.all(k, k in ['priority', 'title', 'queue', 'watchers'])", "method == 'POST'", "path.team == 'infra'",
		"query.all(k, k in ['dry'])", "body.title.matches('^[A-Za-z0-9 .,-]+$')",
	}
	body := []byte(`{"priority":2,"title":"The printer on floor 3 is out of paper","queue":"desk","watchers":["a@example.com","b@example.com"]}`)
	for name, rules := range map[string][]string{"one of the path": ten[7:8], "one of the body": ten[:1], "ten": ten} {
		b.Run(name, func(b *testing.B) {
			set := compile(b, []string{"team"}, rules...)
			call := args.Call{Method: "POST", Path: map[string]string{"team": "infra"}, Query: "dry=1", ContentType: "application/json", Body: body}
			b.ReportAllocs()
			for b.Loop() {
				if d := set.Check("t", &call); d != nil {
					b.Fatal(d)
				}
			}
		})
	}
	b.Run("a pattern up to the bound", func(b *testing.B) {
		set := compile(b, nil, "body.a.matches('[a-z]{1,300}Z')")
		call := args.Call{ContentType: "application/json", Body: []byte(`{"a":"` + strings.Repeat("a", 8_000) + `"}`)}
		for b.Loop() {
			if d := set.Check("t", &call); d == nil || d.Code != code.PolicyToolRuleDenied {
				b.Fatal(d)
			}
		}
	})
	// The dearest that a call can ask for: everything up to the bound.
	b.Run("the bound", func(b *testing.B) {
		set := compile(b, nil, "body.a.all(x, x + 1.0 < 9)")
		call := args.Call{ContentType: "application/json", Body: []byte(`{"a":[` + strings.Repeat("1,", 1<<15) + `1]}`)}
		for b.Loop() {
			if d := set.Check("t", &call); d == nil || d.Code != code.PolicyToolRuleUndecided {
				b.Fatal(d)
			}
		}
	})
}
