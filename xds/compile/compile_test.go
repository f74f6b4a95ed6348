package compile

import (
	"errors"
	"flag"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"sallyport/signer/code"
)

var update = flag.Bool("update", false, "write the golden files")

const hash = "abcdefghijklmnopqrstuvwxyz_ABCDEFGHIJ-01234"

func target(t testing.TB, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func example(t testing.TB) []Upstream {
	t.Helper()
	return []Upstream{
		{Name: "openai", Provider: "openai", URL: target(t, "https://api.openai.com"), Endpoints: []Endpoint{
			{Method: "POST", Path: "/v1/chat/completions"}, {Method: "GET", Path: "/v1/models", Prefix: true}}},
		{Name: "gemini", Provider: "google", URL: target(t, "https://generativelanguage.googleapis.com/"), Endpoints: []Endpoint{
			{Method: "POST", Regex: `/v1beta/models/[^/]+:generateContent`}}},
		{Name: "local-a", Provider: "openai", URL: target(t, "http://127.0.0.1:9000/base"), Endpoints: []Endpoint{
			{Method: "POST", Path: "/v1/chat/completions"}}},
		{Name: "local-b", Provider: "anthropic", URL: target(t, "http://127.0.0.1:9000/base"), Endpoints: []Endpoint{
			{Method: "POST", Path: "/v1/messages"}, {Method: "POST", Path: "/v1/chat/completions"}}},
	}
}

// golden compares m with a file. protojson's spacing is random on purpose, so both sides are read back.
func golden(t *testing.T, name string, m proto.Message) {
	t.Helper()
	path := filepath.Join("testdata", name+".json")
	if *update {
		data, err := protojson.MarshalOptions{Multiline: true, UseProtoNames: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := m.ProtoReflect().New().Interface()
	if err := protojson.Unmarshal(data, want); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(m, want) {
		t.Errorf("%s differs; run with -update and look at the difference", path)
	}
}

func TestGolden(t *testing.T) {
	r, err := Scope(Allow{Hash: hash, Providers: []string{"openai", "anthropic", "unknown"}}, example(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "scope", r.Scope)
	golden(t, "routes", r.Routes)
	clusters, err := Clusters(example(t), "/etc/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range clusters {
		golden(t, "cluster-"+strings.TrimPrefix(c.GetName(), "upstream/"), c)
	}
	l, err := Listener(Door{Address: netip.MustParseAddrPort("127.0.0.1:8080"), ExtProcCluster: "processors", AccessLog: "/var/log/access.log"})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "listener", l)
}

func TestUpstreamProblems(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Upstream)
		want   string
	}{
		"name":          {func(u *Upstream) { u.Name = "a/b" }, "name must be"},
		"no name":       {func(u *Upstream) { u.Name = "" }, "name must be"},
		"provider":      {func(u *Upstream) { u.Provider = "" }, "provider is missing"},
		"no url":        {func(u *Upstream) { u.URL = nil }, "url is missing"},
		"scheme":        {func(u *Upstream) { u.URL = target(t, "ftp://x") }, "must be http or https"},
		"no host":       {func(u *Upstream) { u.URL = target(t, "http:///x") }, "no host"},
		"wildcard":      {func(u *Upstream) { u.URL = target(t, "http://*.example.com") }, "plain name"},
		"trailing dot":  {func(u *Upstream) { u.URL = target(t, "http://example.com.") }, "plain name"},
		"zone":          {func(u *Upstream) { u.URL = target(t, "http://[fe80::1%25eth0]") }, "plain name"},
		"user":          {func(u *Upstream) { u.URL = target(t, "http://u:p@x") }, "user information"},
		"query":         {func(u *Upstream) { u.URL = target(t, "http://x/?a=1") }, "user information, query"},
		"dots":          {func(u *Upstream) { u.URL = target(t, "http://x/a/../b") }, "must be plain"},
		"encoded":       {func(u *Upstream) { u.URL = target(t, "http://x/a%2fb") }, "must be plain"},
		"doubled":       {func(u *Upstream) { u.URL = target(t, "http://x//a") }, "must be plain"},
		"port":          {func(u *Upstream) { u.URL = target(t, "http://x:70000") }, "port"},
		"port 0":        {func(u *Upstream) { u.URL = target(t, "http://x:0") }, "port"},
		"ca":            {func(u *Upstream) { u.CAFile = "ca.pem" }, "absolute path"},
		"timeout":       {func(u *Upstream) { u.ConnectTimeout = -1 }, "negative"},
		"method":        {func(u *Upstream) { u.Endpoints = []Endpoint{{Method: "post", Path: "/x"}} }, "endpoint 0: method"},
		"nothing":       {func(u *Upstream) { u.Endpoints = []Endpoint{{Method: "POST"}} }, "exactly one"},
		"both":          {func(u *Upstream) { u.Endpoints = []Endpoint{{Method: "POST", Path: "/x", Regex: "/x"}} }, "exactly one"},
		"regex":         {func(u *Upstream) { u.Endpoints = []Endpoint{{Method: "POST", Regex: "("}} }, "regex:"},
		"regex prefix":  {func(u *Upstream) { u.Endpoints = []Endpoint{{Method: "POST", Regex: "/x", Prefix: true}} }, "cannot be a prefix"},
		"relative":      {func(u *Upstream) { u.Endpoints = []Endpoint{{Method: "POST", Path: "x"}} }, "start with a slash"},
		"path encoded":  {func(u *Upstream) { u.Endpoints = []Endpoint{{Method: "POST", Path: "/x%20"}} }, "be plain"},
		"prefix of all": {func(u *Upstream) { u.Endpoints = []Endpoint{{Method: "POST", Path: "/", Prefix: true}} }, "must name a segment"},
	} {
		t.Run(name, func(t *testing.T) {
			u := example(t)[0]
			tc.change(&u)
			if err := u.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			ups := append(example(t)[1:], u)
			if _, err := Clusters(ups, "/etc/ca.pem"); err == nil {
				t.Error("Clusters took it")
			}
			if _, err := Scope(Allow{Hash: hash}, ups, nil); err == nil {
				t.Error("Scope took it")
			}
		})
	}
}

func TestUpstreamsAmongThemselves(t *testing.T) {
	ups := example(t)
	twice := append(ups, ups[0])
	if err := ValidateAll(twice); err == nil || !strings.Contains(err.Error(), "used twice") {
		t.Errorf("the same name: %v", err)
	}
	other := ups[3]
	other.Name, other.URL = "other", target(t, "https://127.0.0.1:9000")
	if err := ValidateAll(append(example(t), other)); err == nil || !strings.Contains(err.Error(), "another scheme") {
		t.Errorf("two ways to one authority: %v", err)
	}
	if _, err := Clusters(ups, ""); !errors.Is(err, ErrNoCA) {
		t.Errorf("https without authorities: %v", err)
	}
}

func TestDoorProblems(t *testing.T) {
	if _, err := Listener(Door{MaxBody: -1, MessageTimeout: -1, AccessLog: "x"}); err == nil || strings.Count(err.Error(), "\n") != 4 {
		t.Errorf("want five joined problems, got %v", err)
	}
}

func TestScopeNeedsAHash(t *testing.T) {
	for _, h := range []string{"", "short", strings.Repeat("=", 43), hash + "x"} {
		if _, err := Scope(Allow{Hash: h}, nil, nil); !errors.Is(err, ErrHash) {
			t.Errorf("%q: %v", h, err)
		}
	}
}

// Every route of a contract belongs to an upstream of a provider it allows, each authority is there once, and a
// contract that allows nothing has no routes.
func TestScopeHoldsNothingElse(t *testing.T) {
	names := []string{"openai", "anthropic", "google", "other"}
	rapid.Check(t, func(t *rapid.T) {
		providers := rapid.SliceOfDistinct(rapid.SampledFrom(append(names, "absent")), rapid.ID).Draw(t, "providers")
		var ups []Upstream
		for i := range rapid.IntRange(0, 8).Draw(t, "n") {
			u, err := url.Parse("http://h" + string(rune('0'+rapid.IntRange(0, 3).Draw(t, "host"))) + ".example/b")
			if err != nil {
				t.Fatal(err)
			}
			ups = append(ups, Upstream{Name: "u" + string(rune('0'+i)), Provider: rapid.SampledFrom(names).Draw(t, "provider"), URL: u,
				Endpoints: []Endpoint{{Method: "POST", Path: "/p" + string(rune('0'+rapid.IntRange(0, 2).Draw(t, "path")))}}})
		}
		r, err := Scope(Allow{Hash: hash, Providers: providers}, ups, nil)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		got := map[string]bool{}
		for _, vh := range r.Routes.GetVirtualHosts() {
			for _, d := range vh.GetDomains() {
				if seen[d] || d == "*" {
					t.Fatalf("domain %q", d)
				}
				seen[d] = true
				for _, route := range vh.GetRoutes() {
					got[d+" "+route.GetMatch().GetPath()] = true
				}
			}
		}
		want := map[string]bool{}
		for i := range ups {
			if slices.Contains(providers, ups[i].Provider) {
				want[ups[i].Authority()+" /b"+ups[i].Endpoints[0].Path] = true
			}
		}
		if len(got) != len(want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		for k := range want {
			if !got[k] {
				t.Fatalf("no route for %s", k)
			}
		}
		shuffled := append([]Upstream(nil), ups...)
		slices.Reverse(shuffled)
		again, err := Scope(Allow{Hash: hash, Providers: providers}, shuffled, nil)
		if err != nil || !proto.Equal(r.Routes, again.Routes) {
			t.Fatalf("the order of the upstreams shows: %v", err)
		}
	})
}

func TestRepliesUseKnownCodes(t *testing.T) {
	known := map[code.Code]bool{}
	for _, i := range code.All() {
		known[i.Code] = true
	}
	for i, r := range replies {
		if !known[r.code] {
			t.Errorf("%s is not in the list", r.code)
		}
		if last := i == len(replies)-1; (len(r.details) == 0) != last {
			t.Errorf("only the last entry may match everything: %d", i)
		}
		for _, d := range r.details {
			if strings.HasPrefix(ProcessorDetails, d) || strings.ContainsAny(d, `'\`) {
				t.Errorf("details %q", d)
			}
		}
	}
	body, err := denialBody(code.RouteNotAllowed)
	if err != nil || !strings.HasPrefix(body, `{"type":"error","error":{"type":"policy_denied","code":"ROUTE_NOT_ALLOWED","message":"`) || strings.Contains(body, "%") {
		t.Errorf("%q, %v: a %% would be read as one of Envoy's operators", body, err)
	}
}
