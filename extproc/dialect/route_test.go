package dialect

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sallyport/signer/code"
)

func TestRoute(t *testing.T) {
	for _, c := range []struct {
		dialect, method, path string
		kind                  Kind
		up, model             string
		stream                bool
	}{
		{"openai", "POST", "/v1/chat/completions", Chat, "/v1/chat/completions", "", false},
		{"openai", "POST", "/chat/completions", Chat, "/v1/chat/completions", "", false},
		{"openai", "POST", "/api/v1/chat/completions", Chat, "/v1/chat/completions", "", false},
		{"openai", "POST", "/v1/responses", Responses, "/v1/responses", "", false},
		{"openai", "POST", "/v1/embeddings", Embeddings, "/v1/embeddings", "", false},
		{"openai", "GET", "/models", ListModels, "/v1/models", "", false},
		{"anthropic", "POST", "/v1/messages", Messages, "/v1/messages", "", false},
		{"anthropic", "POST", "/messages", Messages, "/v1/messages", "", false},
		{"anthropic", "POST", "/v1/messages/count_tokens", CountTokens, "/v1/messages/count_tokens", "", false},
		{"anthropic", "GET", "/v1/models", ListModels, "/v1/models", "", false},
		{"gemini", "POST", "/v1beta/models/gemini-3.5-flash-lite:generateContent", Generate, "/v1beta/models/gemini-3.5-flash-lite:generateContent", "gemini-3.5-flash-lite", false},
		{"gemini", "POST", "/v1/models/gemini-3:streamGenerateContent", Generate, "/v1/models/gemini-3:streamGenerateContent", "gemini-3", true},
		{"gemini", "POST", "/models/gemini-3:embedContent", Embeddings, "/v1beta/models/gemini-3:embedContent", "gemini-3", false},
		{"gemini", "POST", "/models/gemini-3:batchEmbedContents", Embeddings, "/v1beta/models/gemini-3:batchEmbedContents", "gemini-3", false},
		{"gemini", "POST", "/v1beta/models/gemini-3:countTokens", CountTokens, "/v1beta/models/gemini-3:countTokens", "gemini-3", false},
		{"gemini", "GET", "/v1beta/models", ListModels, "/v1beta/models", "", false},
	} {
		t.Run(c.dialect+c.path, func(t *testing.T) {
			d, ok := ByName(c.dialect)
			if !ok {
				t.Fatal("no such dialect")
			}
			call, denial := d.Route(c.method, c.path)
			if denial != nil {
				t.Fatal(denial)
			}
			if call.Kind != c.kind || call.UpstreamPath != c.up || call.ModelInPath != c.model || call.StreamByPath != c.stream {
				t.Errorf("%+v", call)
			}
			if call.NeedsBody != (c.method == http.MethodPost) || call.Endpoint.Kind != c.kind || call.Endpoint.Method != c.method {
				t.Errorf("%+v", call)
			}
			if !covers(call.Endpoint, call.UpstreamPath) {
				t.Errorf("the endpoint %+v does not cover %s", call.Endpoint, call.UpstreamPath)
			}
		})
	}
}

func covers(e Endpoint, path string) bool {
	if e.Regex != "" {
		return regexp.MustCompile(`^(?:` + e.Regex + `)$`).MatchString(path)
	}
	return e.Path == path
}

func TestRouteRefuses(t *testing.T) {
	for _, c := range []struct {
		dialect, method, path string
		code                  code.Code
	}{
		{"openai", "POST", "/v1/files", code.EndpointNotAllowed},
		{"openai", "GET", "/v1/chat/completions", code.EndpointNotAllowed},
		{"openai", "DELETE", "/v1/responses", code.EndpointNotAllowed},
		{"openai", "GET", "/v1/responses", code.UpgradeNotSupported},
		{"openai", "GET", "/responses", code.UpgradeNotSupported},
		{"openai", "GET", "/v1/responses/resp_1", code.EndpointNotAllowed},
		{"openai", "POST", "/v1/chat/completions/", code.EndpointNotAllowed},
		{"openai", "POST", "/v1/v1/chat/completions", code.EndpointNotAllowed},
		{"openai", "POST", "/V1/chat/completions", code.EndpointNotAllowed},
		{"openai", "POST", "/", code.EndpointNotAllowed},
		{"openai", "POST", "", code.EndpointNotAllowed},
		{"anthropic", "POST", "/api/v1/messages", code.EndpointNotAllowed},
		{"anthropic", "HEAD", "/api/hello", code.EndpointNotAllowed},
		{"anthropic", "POST", "/v1/messages/batches", code.EndpointNotAllowed},
		{"gemini", "POST", "/v1beta/models/a/b:generateContent", code.EndpointNotAllowed},
		{"gemini", "POST", "/v1beta/models/..:generateContent", code.EndpointNotAllowed},
		{"gemini", "POST", "/v1beta/models/gemini-3:generateContent:countTokens", code.EndpointNotAllowed},
		{"gemini", "POST", "/v1beta/models/gemini-3:predict", code.EndpointNotAllowed},
		{"gemini", "POST", "/v1beta/tunedModels/x:generateContent", code.EndpointNotAllowed},
		{"gemini", "POST", "/v1alpha/models/gemini-3:generateContent", code.EndpointNotAllowed},
		{"gemini", "GET", "/v1beta/models/gemini-3:generateContent", code.EndpointNotAllowed},
		{"gemini", "POST", "/v1beta/models", code.EndpointNotAllowed},
		{"gemini", "POST", "/v1beta/models/" + strings.Repeat("m", maxModel+1) + ":generateContent", code.EndpointNotAllowed},
	} {
		t.Run(c.method+c.path, func(t *testing.T) {
			d, _ := ByName(c.dialect)
			call, denial := d.Route(c.method, c.path)
			if denial == nil || denial.Code != c.code {
				t.Fatalf("got %+v, %v; want %s", call, denial, c.code)
			}
		})
	}
}

func TestByNameUnknown(t *testing.T) {
	if _, ok := ByName("smoke-signals"); ok {
		t.Error("found")
	}
}

func TestJoinPath(t *testing.T) {
	for _, c := range []struct{ base, up, want string }{
		{"", "/v1/chat/completions", "/v1/chat/completions"},
		{"/", "/v1/chat/completions", "/v1/chat/completions"},
		{"/v1", "/v1/chat/completions", "/v1/chat/completions"},
		{"/v1/", "/v1/messages", "/v1/messages"},
		{"/api/v1", "/v1/chat/completions", "/api/v1/chat/completions"},
		{"/api/paas/v4", "/v1/chat/completions", "/api/paas/v4/chat/completions"},
		{"/v1beta/openai", "/v1/chat/completions", "/v1beta/openai/chat/completions"},
		{"/proxy/openai", "/v1/chat/completions", "/proxy/openai/v1/chat/completions"},
		{"/v1beta", "/v1/models/gemini-3:generateContent", "/v1beta/models/gemini-3:generateContent"},
		{"/v1beta", "/v1beta/models", "/v1beta/models"},
		{"/vault", "/v1/models", "/vault/v1/models"},
	} {
		if got := JoinPath(c.base, c.up); got != c.want {
			t.Errorf("JoinPath(%q, %q) = %q, want %q", c.base, c.up, got, c.want)
		}
	}
}

// What the allowlist matches below a base path must be what JoinPath makes, for every endpoint and every base.
func TestUnderAgreesWithJoinPath(t *testing.T) {
	paths := map[string][]string{
		"openai":    {"/chat/completions", "/v1/responses", "/embeddings"},
		"anthropic": {"/v1/messages", "/messages/count_tokens"},
		"gemini":    {"/v1/models/m-1:generateContent", "/models/m-1:streamGenerateContent", "/v1beta/models/m-1:countTokens"},
	}
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.SampledFrom([]string{"", "/v1", "/api/v1", "/v1beta", "/x", "/x/v2", "/v1beta/openai", "/deep/er/path"}).Draw(t, "base")
		name := rapid.SampledFrom([]string{"openai", "anthropic", "gemini"}).Draw(t, "dialect")
		d, _ := ByName(name)
		call, denial := d.Route("POST", rapid.SampledFrom(paths[name]).Draw(t, "path"))
		if denial != nil {
			t.Fatal(denial)
		}
		e := call.Endpoint.Under(base)
		full := JoinPath(base, call.UpstreamPath)
		if e.Regex != "" {
			e.Regex = regexp.QuoteMeta(base) + `(?:` + e.Regex + `)`
		} else {
			e.Path = base + e.Path
		}
		if !covers(e, full) {
			t.Fatalf("%+v does not cover %s", e, full)
		}
	})
}

func TestEndpointsAreOneOfPathAndRegex(t *testing.T) {
	for name, d := range spoken {
		for _, e := range d.Endpoints() {
			if (e.Path == "") == (e.Regex == "") || e.Method == "" || e.Kind == "" {
				t.Errorf("%s: %+v", name, e)
			}
		}
	}
}

func TestCleanQuery(t *testing.T) {
	for _, c := range []struct{ raw, want string }{
		{"", ""},
		{"alt=sse", "alt=sse"},
		{"beta=true&api-version=2026-01-01", "beta=true&api-version=2026-01-01"},
		{"key=not-a-real-key", ""},
		{"alt=sse&key=not-a-real-key&beta=true", "alt=sse&beta=true"},
		{"KEY=a&Api_Key=b&ACCESS_TOKEN=c&x=1", "x=1"},
		{"k%65y=a&%61ccess_token=b&x=1", "x=1"},
		{"+key=a&key%20=b&x=1", "x=1"},
		{"alt=sse;key=a", ""},
		{"alt=sse#key=a", ""},
		{"bad=%zz&x=1", "x=1"},
		{"%zz=1&x=1", "x=1"},
		{"$httpMethod=DELETE&$alt=json&%24req=x", "$alt=json"},
		{"&&x=1&", "x=1"},
		{"x=%C3%A9&x=\u00e9", "x=%C3%A9"},
		{"pageToken=abc%3D%3D", "pageToken=abc%3D%3D"},
	} {
		if got := CleanQuery(c.raw); got != c.want {
			t.Errorf("CleanQuery(%q) = %q, want %q", c.raw, got, c.want)
		}
	}
}

func FuzzCleanQuery(f *testing.F) {
	f.Add("alt=sse&key=a&k%65y=b;c")
	f.Fuzz(func(t *testing.T, raw string) {
		got := CleanQuery(raw)
		if CleanQuery(got) != got {
			t.Errorf("cleaning %q again changes it", got)
		}
		u, err := http.NewRequest("GET", "http://upstream.example/?"+got, nil)
		if err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		for name := range u.URL.Query() {
			if neverUpstream[name] {
				t.Errorf("%q holds %q", got, name)
			}
		}
	})
}
