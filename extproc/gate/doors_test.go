package gate

import (
	"net/url"
	"strings"
	"testing"

	"sallyport/signer/code"
)

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func up(t testing.TB, name, provider, dialect, base string) Upstream {
	return Upstream{Name: name, Provider: provider, Dialect: dialect, URL: mustURL(t, base)}
}

func testDoors(t *testing.T) *doors {
	t.Helper()
	d, err := newDoors([]Upstream{
		up(t, "mirror", "openai", "openai", "http://Mirror.example:80/base/"),
		up(t, "openai", "openai", "openai", "https://api.openai.example:443"),
		up(t, "claude", "anthropic", "anthropic", "https://claude.example:8443"),
		up(t, "claude2", "anthropic", "anthropic", "https://claude2.example"),
		up(t, "google", "google", "gemini", "https://google.example"),
		up(t, "router", "openrouter", "openai", "https://router.example/api/v1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRoute(t *testing.T) {
	d := testDoors(t)
	const post, get = "POST", "GET"
	for _, tc := range []struct {
		method, path, api string
		door, host, to    string
		want              code.Code
	}{
		// A door by its name.
		{method: post, path: "/openai/v1/chat/completions", door: "openai", host: "api.openai.example:443", to: "/v1/chat/completions"},
		{method: post, path: "/openai/chat/completions", door: "openai", host: "api.openai.example:443", to: "/v1/chat/completions"},
		{method: get, path: "/openai/v1/models", door: "openai", host: "api.openai.example:443", to: "/v1/models"},
		{method: post, path: "/claude/v1/messages", door: "claude", host: "claude.example:8443", to: "/v1/messages"},
		{method: post, path: "/claude2/v1/messages", door: "claude2", host: "claude2.example", to: "/v1/messages"},
		{method: post, path: "/google/v1beta/models/gemini-flash:generateContent", door: "google", host: "google.example", to: "/v1beta/models/gemini-flash:generateContent"},
		// A base path, and one that names the version itself.
		{method: post, path: "/mirror/v1/responses", door: "mirror", host: "mirror.example:80", to: "/base/v1/responses"},
		{method: post, path: "/router/v1/chat/completions", door: "router", host: "router.example", to: "/api/v1/chat/completions"},
		{method: post, path: "/router/api/v1/chat/completions", door: "router", host: "router.example", to: "/api/v1/chat/completions"},
		// Bare paths go to the upstream named like the dialect, else to the first that speaks it.
		{method: post, path: "/v1/chat/completions", door: "openai", host: "api.openai.example:443", to: "/v1/chat/completions"},
		{method: post, path: "/v1/responses", door: "openai", host: "api.openai.example:443", to: "/v1/responses"},
		{method: post, path: "/v1/embeddings", door: "openai", host: "api.openai.example:443", to: "/v1/embeddings"},
		{method: get, path: "/v1/models", door: "openai", host: "api.openai.example:443", to: "/v1/models"},
		{method: post, path: "/v1/messages", door: "claude", host: "claude.example:8443", to: "/v1/messages"},
		{method: post, path: "/v1/messages/count_tokens", door: "claude", host: "claude.example:8443", to: "/v1/messages/count_tokens"},
		// The ecosystem's own path.
		{method: post, path: "/v1/proxy/openai", door: "openai", host: "api.openai.example:443", to: "/v1/chat/completions"},
		{method: post, path: "/v1/proxy/openai", api: "responses", door: "openai", host: "api.openai.example:443", to: "/v1/responses"},
		{method: post, path: "/v1/proxy/mirror", door: "mirror", host: "mirror.example:80", to: "/base/v1/chat/completions"},
		{method: post, path: "/v1/proxy/anthropic", door: "claude", host: "claude.example:8443", to: "/v1/messages"},
		{method: post, path: "/v1/proxy/openrouter", door: "router", host: "router.example", to: "/api/v1/chat/completions"},
		{method: get, path: "/v1/proxy/openai", door: "openai", want: code.EndpointNotAllowed},
		{method: post, path: "/v1/proxy/google", want: code.UnknownProvider}, // its model is in the path, which this one has not
		{method: post, path: "/v1/proxy/", want: code.UnknownProvider},
		{method: post, path: "/v1/proxy/elsewhere", want: code.UnknownProvider},
		{method: post, path: "/v1/proxy/openai/v1/files", want: code.UnknownProvider},
		// What is no door, or no endpoint behind one.
		{method: get, path: "/", want: code.UnknownProvider},
		{method: get, path: "/v1", want: code.UnknownProvider},
		{method: post, path: "/v1/files", want: code.UnknownProvider},
		{method: post, path: "/v1/chat/completions/", want: code.UnknownProvider},
		{method: post, path: "/OpenAI/v1/chat/completions", want: code.UnknownProvider},
		{method: post, path: "/openai2/v1/chat/completions", want: code.UnknownProvider},
		{method: post, path: "/openai", door: "openai", want: code.EndpointNotAllowed},
		{method: post, path: "/openai/v1/files", door: "openai", want: code.EndpointNotAllowed},
		{method: get, path: "/openai/v1/chat/completions", door: "openai", want: code.EndpointNotAllowed},
		{method: get, path: "/v1/responses", door: "openai", want: code.UpgradeNotSupported},
	} {
		t.Run(tc.method+" "+tc.path+" "+tc.api, func(t *testing.T) {
			dest, denial := d.route(&request{method: tc.method, path: tc.path, openAIAPI: tc.api})
			wantCode(t, denial, tc.want)
			if tc.door == "" {
				if dest != nil {
					t.Errorf("went to %q", dest.Name)
				}
				return
			}
			if dest == nil || dest.Name != tc.door {
				t.Fatalf("went to %+v, want %q", dest, tc.door)
			}
			if tc.want == "" && (dest.host != tc.host || dest.path != tc.to) {
				t.Errorf("goes to %s %s, want %s %s", dest.host, dest.path, tc.host, tc.to)
			}
		})
	}
}

// Two upstreams of one provider: which one is meant must not be left to chance.
func TestProxiedIsTheFirstDeclared(t *testing.T) {
	for range 50 {
		d, err := newDoors([]Upstream{
			up(t, "first", "openai", "openai", "https://first.example"),
			up(t, "second", "openai", "openai", "https://second.example"),
			up(t, "third", "openai", "openai", "https://third.example"),
		})
		if err != nil {
			t.Fatal(err)
		}
		if dr, _ := d.proxied("openai", &request{}); dr == nil || dr.Name != "first" {
			t.Fatalf("went to %+v", dr)
		}
	}
}

func TestUnknownProviderNamesTheDoors(t *testing.T) {
	_, denial := testDoors(t).route(&request{method: "GET", path: "/elsewhere/" + strings.Repeat("x", 1000)})
	wantCode(t, denial, code.UnknownProvider)
	if !strings.Contains(denial.Detail, "/claude /claude2 /google /mirror /openai /router") || len(denial.Detail) > 400 {
		t.Errorf("detail: %q", denial.Detail)
	}
}

func TestNewDoorsRefuses(t *testing.T) {
	ok := up(t, "a", "p", "openai", "https://a.example")
	for name, tc := range map[string]struct {
		ups  []Upstream
		want string
	}{
		"unknown dialect": {[]Upstream{up(t, "b", "p", "klingon", "https://b.example")}, `unknown dialect "klingon"`},
		"no URL":          {[]Upstream{{Name: "b", Dialect: "openai"}}, "no URL"},
		"no host":         {[]Upstream{up(t, "b", "p", "openai", "/only/a/path")}, "no URL"},
		"twice":           {[]Upstream{ok, ok}, "used twice"},
		"no name":         {[]Upstream{up(t, "", "p", "openai", "https://b.example")}, "empty"},
		"reserved":        {[]Upstream{up(t, "v1", "p", "openai", "https://b.example")}, "reserved"},
		"all at once":     {[]Upstream{up(t, "b", "p", "klingon", "https://b.example"), {Name: "c", Dialect: "openai"}}, `"c": no URL`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newDoors(tc.ups)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q in it", err, tc.want)
			}
		})
	}
}

func TestNameOf(t *testing.T) {
	for in, want := range map[string]string{
		"https://A.example":      "a.example",
		"https://a.example:443":  "a.example",
		"https://a.example:8443": "a.example:8443",
		"https://a.example:80":   "a.example:80",
		"http://a.example:80":    "a.example",
		"http://a.example:443":   "a.example:443",
		"https://[::1]:443":      "[::1]",
		"https://a.example:1443": "a.example:1443",
	} {
		if got := nameOf(mustURL(t, in)); got != want {
			t.Errorf("%s gives %q, want %q", in, got, want)
		}
	}
}
