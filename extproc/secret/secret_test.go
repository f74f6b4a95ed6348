package secret_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"sallyport/extproc/secret"
	"sallyport/signer/code"
)

const planted = "not-a-real-key-7f3a"

// A value must not show through any of the usual ways of printing, nor when it lies deep in somebody else's struct.
func TestValueIsNeverPrinted(t *testing.T) {
	v := secret.NewValue(planted)
	type hidden struct{ inner secret.Value }
	type exported struct {
		Value secret.Value
		Creds []secret.Credential
		Map   map[string]secret.Value
	}
	holders := []any{
		v, &v, hidden{v}, &hidden{v}, secret.Credential{Value: v}, []secret.Value{v}, secret.Static(planted),
		exported{v, []secret.Credential{{Value: v}}, map[string]secret.Value{"k": v}},
		secret.Class{Name: "c", Source: secret.Static(planted)},
	}
	for _, h := range holders {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%10.3s"} {
			mustNotShow(t, fmt.Sprintf("%T with %s", h, verb), fmt.Sprintf(verb, h))
		}
		if j, err := json.Marshal(h); err == nil {
			mustNotShow(t, fmt.Sprintf("%T as JSON", h), string(j))
		}
		var text, js bytes.Buffer
		slog.New(slog.NewTextHandler(&text, nil)).Info("m", slog.Any("a", h))
		slog.New(slog.NewJSONHandler(&js, nil)).Info("m", slog.Any("a", h))
		mustNotShow(t, fmt.Sprintf("%T in a log", h), text.String()+js.String())
	}
	y, err := yaml.Marshal(map[string]secret.Value{"v": v})
	if err != nil {
		t.Fatal(err)
	}
	mustNotShow(t, "YAML", string(y))
	mustNotShow(t, "an error", fmt.Errorf("failed with %v", v).Error())
	if v.Reveal() != planted || v.Empty() {
		t.Error("the value itself is lost")
	}
	if (secret.Value{}).Reveal() != "" || !(secret.Value{}).Empty() {
		t.Error("the zero value reveals something")
	}
}

func mustNotShow(t *testing.T, where, text string) {
	t.Helper()
	for _, form := range []string{planted, planted[4:12], fmt.Sprintf("%x", planted), fmt.Sprintf("%X", planted), fmt.Sprintf("%d", []byte(planted))} {
		if strings.Contains(text, form) {
			t.Errorf("%s shows the credential: %s", where, text)
		}
	}
}

func class(change func(c *secret.Class)) secret.Class {
	c := secret.Class{Name: "model", Source: secret.Static(planted), Hosts: []string{"api.example.com"}}
	if change != nil {
		change(&c)
	}
	return c
}

func broker(t *testing.T, c secret.Class, opts ...secret.Option) *secret.Broker {
	t.Helper()
	b, err := secret.New([]secret.Class{c}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBounds(t *testing.T) {
	bounded := class(func(c *secret.Class) {
		c.Hosts = []string{"api.example.com", "*.wild.example", "127.0.0.1:9000", "[::1]:9000"}
		c.Methods = []string{"GET", "POST"}
		c.PathPrefixes = []string{"/v1", "/files/"}
	})
	target := func(host, method, path string) secret.Target {
		return secret.Target{Host: host, Method: method, Path: path}
	}
	tests := map[string]struct {
		t  secret.Target
		ok bool
	}{
		"the host":                        {target("api.example.com", "POST", "/v1/chat"), true},
		"capitals in the host":            {target("API.Example.COM", "POST", "/v1"), true},
		"below a wildcard":                {target("a.b.wild.example", "GET", "/v1/x"), true},
		"an address with its port":        {target("127.0.0.1:9000", "GET", "/files/a"), true},
		"an IPv6 address":                 {target("[::1]:9000", "GET", "/files/a"), true},
		"a colon in the last segment":     {target("api.example.com", "POST", "/v1/models/m:generate"), true},
		"another host":                    {target("evil.example", "POST", "/v1"), false},
		"the host as a suffix":            {target("api.example.com.evil.example", "POST", "/v1"), false},
		"the host as a prefix":            {target("notapi.example.com", "POST", "/v1"), false},
		"a host below a plain one":        {target("x.api.example.com", "POST", "/v1"), false},
		"a trailing dot":                  {target("api.example.com.", "POST", "/v1"), false},
		"the wildcard's own name":         {target("wild.example", "GET", "/v1"), false},
		"a name that only ends alike":     {target("xwild.example", "GET", "/v1"), false},
		"a URL that ends like a wildcard": {target("evil.example/x.wild.example", "GET", "/v1"), false},
		"user info before a wildcard":     {target("evil@x.wild.example", "GET", "/v1"), false},
		"an empty label":                  {target("a..wild.example", "GET", "/v1"), false},
		"a lone dot below a wildcard":     {target(".wild.example", "GET", "/v1"), false},
		"another port":                    {target("api.example.com:8443", "POST", "/v1"), false},
		"no port where one is named":      {target("127.0.0.1", "GET", "/v1"), false},
		"user info before the host":       {target("api.example.com@evil.example", "GET", "/v1"), false},
		"no host":                         {target("", "GET", "/v1"), false},
		"another method":                  {target("api.example.com", "DELETE", "/v1"), false},
		"a method in lower case":          {target("api.example.com", "post", "/v1"), false},
		"another path":                    {target("api.example.com", "POST", "/admin"), false},
		"a path that only begins alike":   {target("api.example.com", "POST", "/v10"), false},
		"dot segments":                    {target("api.example.com", "POST", "/v1/../admin"), false},
		"encoded dots":                    {target("api.example.com", "POST", "/v1/%2E%2e/admin"), false},
		"an encoded slash":                {target("api.example.com", "POST", "/v1/..%2Fadmin"), false},
		"a backslash":                     {target("api.example.com", "POST", `/v1/..\admin`), false},
		"a doubled slash":                 {target("api.example.com", "POST", "/v1//x"), false},
		"a path parameter":                {target("api.example.com", "POST", "/v1/;x"), false},
		"a query":                         {target("api.example.com", "POST", "/v1?x"), false},
		"no path":                         {target("api.example.com", "POST", ""), false},
	}
	b := broker(t, bounded)
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			cred, _, d := b.Get(t.Context(), "model", tc.t, 0)
			switch {
			case tc.ok && (d != nil || cred.Value.Reveal() != planted):
				t.Errorf("refused: %v", d)
			case !tc.ok && (d == nil || d.Code != code.SecretClassHostNotAllowed || !cred.Value.Empty()):
				t.Errorf("%v with a credential of %d bytes, want %s and none", d, len(cred.Value.Reveal()), code.SecretClassHostNotAllowed)
			}
		})
	}
	if _, _, d := b.Get(t.Context(), "other", target("api.example.com", "POST", "/v1"), 0); d == nil || d.Code != code.SecretUnavailable {
		t.Errorf("an unknown class: %v", d)
	}
	if _, _, d := broker(t, class(nil)).Get(t.Context(), "model", target("api.example.com", "PATCH", "/any"), 0); d != nil {
		t.Errorf("a class without methods and paths: %v", d)
	}
}

func TestInjection(t *testing.T) {
	to := secret.Target{Host: "api.example.com", Method: "GET", Path: "/"}
	tests := map[string]struct{ declared, given secret.Inject }{
		"the provider's own": {},
		"a header":           {secret.Inject{Header: "x-api-key"}, secret.Inject{Header: "x-api-key"}},
		"a format":           {secret.Inject{Header: "authorization", Format: "Bearer %s"}, secret.Inject{Header: "authorization", Format: "Bearer %s"}},
		"a query":            {secret.Inject{Query: "key"}, secret.Inject{Query: "key"}},
		"basic":              {secret.Inject{Basic: "user"}, secret.Inject{Header: "authorization", Format: "Basic %s"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			cred, given, d := broker(t, class(func(c *secret.Class) { c.Inject = tc.declared })).Get(t.Context(), "model", to, 0)
			if d != nil || given != tc.given {
				t.Errorf("%+v and %v, want %+v", given, d, tc.given)
			}
			want := planted
			if tc.declared.Basic != "" {
				want = "dXNlcjpub3QtYS1yZWFsLWtleS03ZjNh" // user:not-a-real-key-7f3a
			}
			if cred.Value.Reveal() != want {
				t.Errorf("value %q, want %q", cred.Value.Reveal(), want)
			}
		})
	}
}

func TestClassesAreChecked(t *testing.T) {
	tests := map[string]struct {
		change func(c *secret.Class)
		says   string
	}{
		"no name":                    {func(c *secret.Class) { c.Name = "" }, "the name"},
		"a name in capitals":         {func(c *secret.Class) { c.Name = "Model" }, "the name"},
		"no source":                  {func(c *secret.Class) { c.Source = nil }, "no source"},
		"no host":                    {func(c *secret.Class) { c.Hosts = nil }, "no host"},
		"any host":                   {func(c *secret.Class) { c.Hosts = []string{"*"} }, "host"},
		"any host under a top level": {func(c *secret.Class) { c.Hosts = []string{"*.com"} }, "two labels"},
		"a star inside":              {func(c *secret.Class) { c.Hosts = []string{"a.*.example.com"} }, "host"},
		"a URL for a host":           {func(c *secret.Class) { c.Hosts = []string{"https://api.example.com"} }, "host"},
		"a host in capitals":         {func(c *secret.Class) { c.Hosts = []string{"API.example.com"} }, "lower-case"},
		"a port out of range":        {func(c *secret.Class) { c.Hosts = []string{"a.example:70000"} }, "port"},
		"a method in lower case":     {func(c *secret.Class) { c.Methods = []string{"post"} }, "capitals"},
		"a path without slash":       {func(c *secret.Class) { c.PathPrefixes = []string{"v1"} }, "path prefix"},
		"a path with dots":           {func(c *secret.Class) { c.PathPrefixes = []string{"/a/../b"} }, "path prefix"},
		"a negative ttl":             {func(c *secret.Class) { c.TTL = -1 }, "ttl"},
		"a header in capitals":       {func(c *secret.Class) { c.Inject.Header = "X-Api-Key" }, "lower case"},
		"the host header":            {func(c *secret.Class) { c.Inject.Header = "host" }, "may go in"},
		"a reserved header":          {func(c *secret.Class) { c.Inject.Header = "x-sallyport-scope" }, "may go in"},
		"a header with a line break": {func(c *secret.Class) { c.Inject.Header = "x\r\ny" }, "may go in"},
		"two ways":                   {func(c *secret.Class) { c.Inject = secret.Inject{Header: "a", Query: "b"} }, "choose one"},
		"a format without header":    {func(c *secret.Class) { c.Inject.Format = "%s" }, "needs a header"},
		"a format without place":     {func(c *secret.Class) { c.Inject = secret.Inject{Header: "a", Format: "Bearer"} }, "%s once"},
		"a format with two places":   {func(c *secret.Class) { c.Inject = secret.Inject{Header: "a", Format: "%s%s"} }, "%s once"},
		"a format with a number":     {func(c *secret.Class) { c.Inject = secret.Inject{Header: "a", Format: "%d"} }, "%s once"},
		"a query with an equal sign": {func(c *secret.Class) { c.Inject.Query = "a=b" }, "plain name"},
		"a user with a colon":        {func(c *secret.Class) { c.Inject.Basic = "a:b" }, "colon"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := secret.New([]secret.Class{class(tc.change)})
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, want it to say %q", err, tc.says)
			}
		})
	}
	_, err := secret.New([]secret.Class{class(func(c *secret.Class) { c.TTL = -1; c.Hosts = nil }), class(nil)})
	for _, says := range []string{"ttl", "no host", "twice"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want all problems at once, among them %q", err, says)
		}
	}
}

// A class for tools goes out only with a call that a tool of the contract names it for.
func TestNeedsTool(t *testing.T) {
	b := broker(t, class(func(c *secret.Class) { c.NeedsTool = true }))
	to := secret.Target{Host: "api.example.com", Method: "GET", Path: "/"}
	if c, _, d := b.Get(t.Context(), "model", to, 0); d == nil || d.Code != code.PolicyToolRequired || !c.Value.Empty() {
		t.Errorf("without a tool: %v", d)
	}
	to.Tool = "tool:a"
	if _, _, d := b.Get(t.Context(), "model", to, 0); d != nil {
		t.Errorf("with a tool: %v", d)
	}
	to.Host = "evil.example"
	if _, _, d := b.Get(t.Context(), "model", to, 0); d == nil || d.Code != code.SecretClassHostNotAllowed {
		t.Errorf("with a tool, elsewhere: %v", d)
	}
}

func TestSourcesAreParsed(t *testing.T) {
	for _, good := range []string{"env:SOME_KEY", "file:/some/where", "file:C:/some"} {
		s, err := secret.ParseSource(good)
		if err != nil || s.String() != good {
			t.Errorf("%s: %v, %v", good, s, err)
		}
	}
	for _, bad := range []string{"", "env", "env:", "file:", "vault:x", "env:A=B", planted + planted} {
		s, err := secret.ParseSource(bad)
		if err == nil {
			t.Errorf("%q gave %v", bad, s)
		} else if len(bad) > 20 && strings.Contains(err.Error(), planted) {
			t.Errorf("the error repeats what may be a credential: %v", err)
		}
	}
}

func TestEnv(t *testing.T) {
	to := secret.Target{Host: "api.example.com", Method: "GET", Path: "/"}
	b := broker(t, class(func(c *secret.Class) { c.Source = secret.Env("SALLYPORT_TEST_SECRET") }))
	if _, _, d := b.Get(t.Context(), "model", to, 0); d == nil || d.Code != code.SecretUnavailable {
		t.Errorf("unset: %v", d)
	}
	t.Setenv("SALLYPORT_TEST_SECRET", "")
	if _, _, d := b.Get(t.Context(), "model", to, 0); d == nil || d.Code != code.SecretUnavailable {
		t.Errorf("empty: %v", d)
	}
	t.Setenv("SALLYPORT_TEST_SECRET", planted)
	if c, _, d := b.Get(t.Context(), "model", to, 0); d != nil || c.Value.Reveal() != planted {
		t.Errorf("set: %v", d)
	}
	if err := b.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	to := secret.Target{Host: "api.example.com", Method: "GET", Path: "/"}
	var logged bytes.Buffer
	b := broker(t, class(func(c *secret.Class) { c.Source = secret.File(path) }), secret.WithLog(slog.New(slog.NewTextHandler(&logged, nil))))
	write := func(text string, mode os.FileMode, age time.Duration) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	get := func() (string, *code.Denial) {
		c, _, d := b.Get(t.Context(), "model", to, 0)
		return c.Value.Reveal(), d
	}
	wantValue := func(want string) {
		t.Helper()
		if v, d := get(); d != nil || v != want {
			t.Errorf("%q and %v, want %q", v, d, want)
		}
	}
	wantNone := func(why string) {
		t.Helper()
		if v, d := get(); d == nil || d.Code != code.SecretUnavailable || v != "" {
			t.Errorf("%s: %q and %v, want %s", why, v, d, code.SecretUnavailable)
		}
	}

	wantNone("missing")
	write("first\n", 0o600, time.Hour)
	wantValue("first")
	wantValue("first")
	write("other\r\n", 0o444, 0) // same length but for the line break, rewritten in place
	wantValue("other")
	write("third\r\n", 0o444, 0) // the same size at the same moment
	wantValue("third")
	write("fourth", 0o600, time.Hour)
	wantValue("fourth")
	for name, text := range map[string]string{
		"empty": "", "a line break only": "\n", "two lines": "a\nb\n", "a space before": " a", "a control character": "a\x00b",
		"not ASCII": "schlüssel", "too long": strings.Repeat("a", secret.MaxBytes+1), "far too long": strings.Repeat("a", secret.MaxBytes+9),
	} {
		write(text, 0o600, time.Minute)
		wantNone(name)
	}
	write(planted, 0o602, time.Hour)
	wantNone("writable by everybody")
	write(strings.Repeat("a", secret.MaxBytes)+"\n", 0o600, time.Hour)
	wantValue(strings.Repeat("a", secret.MaxBytes))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantNone("removed")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	wantNone("a directory")
	if err := b.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), `"model"`) {
		t.Errorf("ready: %v", err)
	}
	if !strings.Contains(logged.String(), "file:"+path) || strings.Contains(logged.String(), planted) {
		t.Errorf("the log must name the source and not the credential: %s", logged.String())
	}
}

// leased is a source whose credentials end.
type leased struct {
	mu      sync.Mutex
	now     func() time.Time
	life    time.Duration
	err     error
	fetches int
}

func (l *leased) String() string { return "leased" }

func (l *leased) Fetch(context.Context) (secret.Credential, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fetches++
	if l.err != nil {
		return secret.Credential{}, l.err
	}
	return secret.Credential{Value: secret.NewValue(fmt.Sprint("lease-", l.fetches)), Expires: l.now().Add(l.life)}, nil
}

func TestTheShortestLifeWins(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	now := func() time.Time { return at }
	to := secret.Target{Host: "api.example.com", Method: "GET", Path: "/"}
	tests := map[string]struct{ lease, class, contract, want time.Duration }{
		"nobody's":       {0, 0, 0, 0},
		"the lease's":    {time.Minute, time.Hour, time.Hour, time.Minute},
		"the class's":    {time.Hour, time.Minute, time.Hour, time.Minute},
		"the contract's": {time.Hour, time.Hour, time.Minute, time.Minute},
		"without lease":  {0, time.Hour, time.Minute, time.Minute},
		"class alone":    {0, time.Hour, 0, time.Hour},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := class(func(c *secret.Class) { c.TTL = tc.class })
			if tc.lease > 0 {
				c.Source = &leased{now: now, life: tc.lease}
			}
			cred, _, d := broker(t, c, secret.WithClock(now)).Get(t.Context(), "model", to, tc.contract)
			if d != nil {
				t.Fatal(d)
			}
			want := time.Time{}
			if tc.want > 0 {
				want = at.Add(tc.want)
			}
			if !cred.Expires.Equal(want) {
				t.Errorf("expires %v, want %v", cred.Expires, want)
			}
		})
	}
}

func TestLeaseIsKeptAndRenewed(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	now := func() time.Time { return at }
	to := secret.Target{Host: "api.example.com", Method: "GET", Path: "/"}
	src := &leased{now: now, life: time.Minute}
	b := broker(t, class(func(c *secret.Class) { c.Source = src }), secret.WithClock(now))
	get := func(maxTTL time.Duration) (string, *code.Denial) {
		c, _, d := b.Get(t.Context(), "model", to, maxTTL)
		return c.Value.Reveal(), d
	}
	steps := []struct {
		name   string
		pass   time.Duration
		maxTTL time.Duration
		err    error
		want   string // "" for a denial
	}{
		{"first", 0, 0, nil, "lease-1"},
		{"kept", 30 * time.Second, 0, nil, "lease-1"},
		{"too old for a stricter contract", 0, 20 * time.Second, nil, "lease-2"},
		{"kept for everybody", 10 * time.Second, 0, nil, "lease-2"},
		{"close to its end, and no other to be had", 47 * time.Second, 0, errors.New("source is down"), "lease-2"},
		{"at its end", 3 * time.Second, 0, errors.New("source is down"), ""},
		{"the source is back", 0, 0, nil, "lease-5"},
	}
	for _, s := range steps {
		at = at.Add(s.pass)
		src.err = s.err
		v, d := get(s.maxTTL)
		if v != s.want || (d == nil) != (s.want != "") {
			t.Errorf("%s: %q and %v, want %q", s.name, v, d, s.want)
		}
	}
	src.life, at = 0, at.Add(time.Hour)
	if v, d := get(0); d == nil || d.Code != code.SecretUnavailable {
		t.Errorf("a source that gives what has ended: %q and %v", v, d)
	}
}

// stuck never answers before its context ends.
type stuck struct{}

func (stuck) String() string { return "stuck" }
func (stuck) Fetch(ctx context.Context) (secret.Credential, error) {
	<-ctx.Done()
	return secret.Credential{}, ctx.Err()
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	b := broker(t, class(func(c *secret.Class) { c.Source = stuck{} }))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			_, _, d := b.Get(ctx, "model", secret.Target{Host: "api.example.com", Method: "GET", Path: "/"}, 0)
			if d == nil || d.Code != code.SecretUnavailable {
				t.Errorf("%v, want %s", d, code.SecretUnavailable)
			}
		})
	}
	cancel()
	wg.Wait()
}

func TestOneFetchForManyCallers(t *testing.T) {
	src := &leased{now: time.Now, life: time.Hour}
	b := broker(t, class(func(c *secret.Class) { c.Source = src }))
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			c, _, d := b.Get(t.Context(), "model", secret.Target{Host: "api.example.com", Method: "GET", Path: "/"}, 0)
			if d != nil || c.Value.Reveal() != "lease-1" {
				t.Errorf("%v", d)
			}
		})
	}
	wg.Wait()
	if src.fetches != 1 {
		t.Errorf("%d fetches, want one", src.fetches)
	}
}

func FuzzBoundsHold(f *testing.F) {
	f.Add("api.example.com", "/v1/x")
	f.Add("api.example.com.evil.example", "/v1/../x")
	f.Add("x.wild.example", "/v1/%2e%2e/x")
	b, err := secret.New([]secret.Class{class(func(c *secret.Class) {
		c.Hosts, c.PathPrefixes = []string{"api.example.com", "*.wild.example"}, []string{"/v1"}
	})})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, host, path string) {
		if b.Allowed("model", secret.Target{Host: host, Method: "GET", Path: path}) != nil {
			return
		}
		lower := strings.ToLower(host)
		if lower != "api.example.com" && (!strings.HasSuffix(lower, ".wild.example") || strings.Trim(lower, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "") {
			t.Errorf("host %q passed", host)
		}
		if filepath.Clean(path) != strings.TrimSuffix(path, "/") || (path != "/v1" && !strings.HasPrefix(path, "/v1/")) {
			t.Errorf("path %q passed", path)
		}
	})
}
