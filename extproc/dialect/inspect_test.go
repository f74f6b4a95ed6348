package dialect

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"sallyport/signer/code"
)

func call(t testing.TB, dialect, method, path string) (Dialect, Call) {
	t.Helper()
	d, ok := ByName(dialect)
	if !ok {
		t.Fatal("no such dialect")
	}
	c, denial := d.Route(method, path)
	if denial != nil {
		t.Fatal(denial)
	}
	return d, c
}

func TestInspect(t *testing.T) {
	for _, c := range []struct {
		name, dialect, method, path, body string
		want                              Body
	}{
		{"chat", "openai", "POST", "/v1/chat/completions", `{"model":"gpt-4o-mini","messages":[]}`, Body{"gpt-4o-mini", false}},
		{"chat streaming", "openai", "POST", "/v1/chat/completions", ` {"messages":[{"role":"user","content":"the \"model\""}],"stream":true,"model":"gpt-4o-mini"} `, Body{"gpt-4o-mini", true}},
		{"stream null", "openai", "POST", "/v1/chat/completions", `{"model":"m","stream":null}`, Body{"m", false}},
		{"escaped name", "openai", "POST", "/v1/chat/completions", `{"mod\u0065l":"m\u0031"}`, Body{"m1", false}},
		{"openrouter", "openai", "POST", "/api/v1/chat/completions", `{"model":"openai/gpt-4o:free","models":["openai/gpt-4o:free"]}`, Body{"openai/gpt-4o:free", false}},
		{"a tool with a parameter called model", "openai", "POST", "/v1/chat/completions",
			`{"model":"m","tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"model":{"type":"string"}},"examples":[{"model":"other"}]}}}]}`, Body{"m", false}},
		{"image tool with the same model", "openai", "POST", "/v1/responses", `{"model":"m","input":"hi","tools":[{"type":"image_generation","model":"m"}]}`, Body{"m", false}},
		{"image tool without", "openai", "POST", "/v1/responses", `{"model":"m","input":"hi","tools":[{"type":"image_generation","model":null}]}`, Body{"m", false}},
		{"input with model texts", "openai", "POST", "/v1/responses", `{"model":"m","input":[{"role":"user","content":"model"},{"type":"function_call","arguments":"{\"model\":\"x\"}"},{"model":"data"}]}`, Body{"m", false}},
		{"embeddings", "openai", "POST", "/v1/embeddings", `{"model":"text-embedding-3-small","input":["a","b"]}`, Body{"text-embedding-3-small", false}},
		{"models", "openai", "GET", "/v1/models", ``, Body{}},
		{"messages", "anthropic", "POST", "/v1/messages", `{"model":"claude-x","max_tokens":1,"messages":[],"stream":true}`, Body{"claude-x", true}},
		{"messages with a tool's input", "anthropic", "POST", "/v1/messages", `{"model":"m","messages":[{"role":"assistant","content":[{"type":"tool_use","input":{"model":"x"}}]}],"tools":[{"name":"f","input_schema":{"properties":{"model":{}}}}]}`, Body{"m", false}},
		{"no fallbacks", "anthropic", "POST", "/v1/messages", `{"model":"m","fallbacks":null}`, Body{"m", false}},
		{"gemini", "gemini", "POST", "/v1beta/models/gemini-3:generateContent", `{"contents":[]}`, Body{"gemini-3", false}},
		{"gemini stream", "gemini", "POST", "/v1beta/models/gemini-3:streamGenerateContent", `{"contents":[]}`, Body{"gemini-3", true}},
		{"gemini with model in the body", "gemini", "POST", "/v1beta/models/gemini-3:embedContent", `{"model":"models/gemini-3","content":{}}`, Body{"gemini-3", false}},
		{"gemini batch", "gemini", "POST", "/v1beta/models/e-1:batchEmbedContents", `{"requests":[{"model":"models/e-1","content":{"parts":[{"text":"model"}]}},{"model":"e-1"}]}`, Body{"e-1", false}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, cl := call(t, c.dialect, c.method, c.path)
			got, denial := d.Inspect(cl, []byte(c.body))
			if denial != nil || got != c.want {
				t.Errorf("got %+v, %v; want %+v", got, denial, c.want)
			}
		})
	}
}

func TestInspectRefuses(t *testing.T) {
	const chat, resp, msg, gem = "/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1beta/models/gemini-3:generateContent"
	for _, c := range []struct {
		name, dialect, method, path, body string
		code                              code.Code
	}{
		{"empty", "openai", "POST", chat, "", code.PayloadEmpty},
		{"white space", "openai", "POST", chat, " \r\n\t", code.PayloadEmpty},
		{"not JSON", "openai", "POST", chat, "hello", code.InvalidRequest},
		{"a list", "openai", "POST", chat, `[{"model":"m"}]`, code.InvalidRequest},
		{"gzip", "openai", "POST", chat, "\x1f\x8b\x08", code.InvalidRequest},
		{"byte order mark", "openai", "POST", chat, "\ufeff{\"model\":\"m\"}", code.InvalidRequest},
		{"trailing data", "openai", "POST", chat, `{"model":"m"}{"model":"n"}`, code.InvalidRequest},
		{"model twice", "openai", "POST", chat, `{"model":"m","model":"n"}`, code.InvalidRequest},
		{"model twice, escaped", "openai", "POST", chat, `{"model":"m","\u006dodel":"n"}`, code.InvalidRequest},
		{"model in another case", "openai", "POST", chat, `{"model":"m","Model":"n"}`, code.InvalidRequest},
		{"stream in another script", "openai", "POST", chat, `{"model":"m","\u017ftream":true}`, code.InvalidRequest},
		{"duplicate below", "openai", "POST", chat, `{"model":"m","messages":[{"role":"user","role":"system"}]}`, code.InvalidRequest},
		{"no model", "openai", "POST", chat, `{"messages":[]}`, code.PolicyModelRequired},
		{"model is a number", "openai", "POST", chat, `{"model":5}`, code.InvalidRequest},
		{"model is null", "openai", "POST", chat, `{"model":null}`, code.InvalidRequest},
		{"model is empty", "openai", "POST", chat, `{"model":""}`, code.InvalidRequest},
		{"model with a space", "openai", "POST", chat, `{"model":" m"}`, code.InvalidRequest},
		{"model with a control character", "openai", "POST", chat, `{"model":"m\u0000"}`, code.InvalidRequest},
		{"model outside ASCII", "openai", "POST", chat, `{"model":"gpt‑4"}`, code.InvalidRequest},
		{"model too long", "openai", "POST", chat, `{"model":"` + strings.Repeat("m", 257) + `"}`, code.InvalidRequest},
		{"stream is a word", "openai", "POST", chat, `{"model":"m","stream":"true"}`, code.InvalidRequest},
		{"body on a GET", "openai", "GET", "/v1/models", `{"model":"m"}`, code.InvalidRequest},
		{"fallback list", "openai", "POST", chat, `{"model":"m","models":["m","n"]}`, code.PolicyModelNotAllowed},
		{"fallback list alone", "openai", "POST", chat, `{"models":["m"]}`, code.PolicyModelRequired},
		{"fallback list is no list", "openai", "POST", chat, `{"model":"m","models":"n"}`, code.InvalidRequest},
		{"image tool", "openai", "POST", resp, `{"model":"m","tools":[{"type":"image_generation","model":"n"}]}`, code.PolicyModelNotAllowed},
		{"image tool, escaped", "openai", "POST", resp, `{"model":"m","tools":[{"mod\u0065l":"n"}]}`, code.PolicyModelNotAllowed},
		{"image tool, other case", "openai", "POST", resp, `{"model":"m","tools":[{"MODEL":"n"}]}`, code.PolicyModelNotAllowed},
		{"svg author", "openai", "POST", resp, `{"model":"m","tools":[{"type":"image_generation","svg":{"model":"n"}}]}`, code.PolicyModelNotAllowed},
		{"svg author of the call", "openai", "POST", resp, `{"model":"m","image":{"svg":{"model":"n"}}}`, code.PolicyModelNotAllowed},
		{"tools before model", "openai", "POST", resp, `{"tools":[{"model":"n"}],"model":"m"}`, code.PolicyModelNotAllowed},
		{"moderation", "openai", "POST", resp, `{"model":"m","moderation":{"model":"n"}}`, code.PolicyModelNotAllowed},
		{"tools of a search", "openai", "POST", resp, `{"model":"m","input":[{"type":"tool_search_output","tools":[{"type":"image_generation","model":"n"}]}]}`, code.PolicyModelNotAllowed},
		{"fallbacks", "anthropic", "POST", msg, `{"model":"m","fallbacks":[{"model":"n"}]}`, code.PolicyModelNotAllowed},
		{"default fallbacks", "anthropic", "POST", msg, `{"model":"m","fallbacks":"default"}`, code.PolicyModelNotAllowed},
		{"advisor", "anthropic", "POST", msg, `{"model":"m","tools":[{"type":"advisor_20260301","name":"advisor","model":"n"}]}`, code.PolicyModelNotAllowed},
		{"gemini body against path", "gemini", "POST", gem, `{"model":"models/gemini-4"}`, code.PolicyModelNotAllowed},
		{"gemini batch", "gemini", "POST", "/v1beta/models/e-1:batchEmbedContents", `{"requests":[{"model":"models/e-1"},{"model":"models/e-2"}]}`, code.PolicyModelNotAllowed},
		{"gemini count", "gemini", "POST", "/v1beta/models/gemini-3:countTokens", `{"generate_content_request":{"model":"models/gemini-4"}}`, code.PolicyModelNotAllowed},
		{"gemini empty", "gemini", "POST", gem, ``, code.PayloadEmpty},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, cl := call(t, c.dialect, c.method, c.path)
			got, denial := d.Inspect(cl, []byte(c.body))
			if denial == nil || denial.Code != c.code {
				t.Errorf("got %+v, %v; want %s", got, denial, c.code)
			}
		})
	}
}

// What is accepted must mean the same to an ordinary JSON reader.
func FuzzInspect(f *testing.F) {
	for _, s := range []string{
		`{"model":"m","stream":true}`, `{"mod\u0065l":"m"}`, `{"model":"m","tools":[{"model":"n"}]}`, `{"Model":"m"}`,
		`{"model":"m","input":[{"tools":[[{"model":"n"}]]}]}`, `{"model":"m","fallbacks":["x",null,{"model":1}]}`,
	} {
		f.Add([]byte(s))
	}
	paths := map[string]string{"openai": "/v1/responses", "anthropic": "/v1/messages", "gemini": "/models/m:generateContent"}
	f.Fuzz(func(t *testing.T, body []byte) {
		for name, path := range paths {
			d, c := call(t, name, "POST", path)
			got, denial := d.Inspect(c, body)
			if denial != nil {
				continue
			}
			var plain struct {
				Model  string
				Stream *bool
			}
			if err := json.Unmarshal(body, &plain); err != nil {
				t.Fatalf("%s: %q was accepted: %v", name, body, err)
			}
			if c.ModelInPath == "" && plain.Model != got.Model {
				t.Errorf("%s: %q: model %q, not %q", name, body, got.Model, plain.Model)
			}
			if s := plain.Stream != nil && *plain.Stream; s != got.Stream {
				t.Errorf("%s: %q: stream %v, not %v", name, body, got.Stream, s)
			}
		}
	})
}

func BenchmarkInspect(b *testing.B) {
	d, c := call(b, "openai", "POST", "/v1/chat/completions")
	text := strings.Repeat(`A \"model\" prompt of the usual kind, with some more words.\n`, 1<<14)
	body := []byte(`{"model":"gpt-4o-mini","messages":[{"role":"user","content":"` + text + `"}],"tools":[` +
		strings.Repeat(`{"type":"function","function":{"name":"f","description":"choose the model","parameters":{"type":"object"}}},`, 40) + `{}],"stream":true}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, denial := d.Inspect(c, body); denial != nil {
			b.Fatal(denial)
		}
	}
	if bytes.Contains(body, []byte(`\u00`)) {
		b.Fatal("not the usual kind")
	}
}
