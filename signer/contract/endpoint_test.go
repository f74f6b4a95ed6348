package contract

import (
	"testing"

	"pgregory.net/rapid"
)

func TestPlainPath(t *testing.T) {
	for path, want := range map[string]bool{
		"/": true, "/a/b": true, "/a/": true, "/a%20b": true, "/...": true, "/.well-known": true, "/a.": true,
		"": false, "a": false, "//": false, "/a//b": false, "/.": false, "/..": false, "/a/./b": false, "/a/..": false,
		"/a%2eb": false, "/a%2Fb": false, "/a%5cb": false, "/%252e": false, "/a%3Bb": false, "/a;b": false, "/a\\b": false, "/a?b": false, "/a#b": false, "/%": false, "/%2": false,
	} {
		if plainPath(path) != want {
			t.Errorf("%q: want %v", path, want)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for resource, want := range map[string]target{
		"GET a.com/":            {true, "GET", "a.com", "/", 443},
		"GET A.com.:8443/x":     {true, "GET", "a.com", "/x", 8443},
		"GET [::1]/x":           {true, "GET", "[::1]", "/x", 443},
		"GET [::1]:80/x":        {true, "GET", "[::1]", "/x", 80},
		"GET a.com:443443/x":    {false, "GET", "a.com:443443", "/x", 443},
		"GET a.com":             {},
		"GET /x":                {},
		"a.com/x":               {},
		" a.com/x":              {},
		"GET ./x":               {false, "GET", "", "/x", 443},
		"GET user@a.com/x":      {false, "GET", "user@a.com", "/x", 443},
		"GET b.com/ a.com/x":    {false, "GET", "b.com", "/ a.com/x", 443},
		"GET b.com?x=a.com/..x": {false, "GET", "b.com?x=a.com", "/..x", 443},
	} {
		if got := parseTarget(resource); got != want {
			t.Errorf("%q: got %+v, want %+v", resource, got, want)
		}
	}
}

func drawEndpoint(t *rapid.T, name string) endpoint {
	e := EgressRule{Host: rapid.SampledFrom([]string{"x.com", "a.x.com"}).Draw(t, name+" host")}
	switch rapid.IntRange(0, 2).Draw(t, name+" names") {
	case 1:
		e.Subdomains = true
	case 2:
		e.OnlySubdomains = true
	}
	e.Methods = rapid.SliceOfDistinct(rapid.SampledFrom([]string{"GET", "POST"}), rapid.ID[string]).Draw(t, name+" methods")
	e.Ports = rapid.SliceOfDistinct(rapid.SampledFrom([]int{443, 80}), rapid.ID[int]).Draw(t, name+" ports")
	out := endpointsOf(e)[0]
	out.prefix = rapid.SampledFrom([]string{"/", "/v1", "/v1/", "/v1/a", "/v2"}).Draw(t, name+" prefix")
	if rapid.Bool().Draw(t, name+" has path") {
		g := v2Glob(rapid.SampledFrom([]string{"/v1/*", "/v1/**", "/v1*", "/v1", "/**", "/v1/a", "**"}).Draw(t, name+" path"))
		out.path = &g
	}
	return out
}

// As for patterns: covers decides what counts as widening, so it must never say yes where it is no.
func TestEndpointCoversIsSound(t *testing.T) {
	covered := 0
	rapid.Check(t, func(t *rapid.T) {
		e, f := drawEndpoint(t, "e"), drawEndpoint(t, "f")
		if !e.covers(&f) {
			return
		}
		covered++
		for range 10 {
			x := target{true, rapid.SampledFrom([]string{"GET", "POST"}).Draw(t, "method"), rapid.SampledFrom([]string{"x.com", "a.x.com", "b.a.x.com"}).Draw(t, "host"),
				rapid.SampledFrom([]string{"/", "/v1", "/v1/", "/v1/a", "/v1/a/b", "/v1x", "/v2/a"}).Draw(t, "path"), rapid.SampledFrom([]int{443, 80}).Draw(t, "port")}
			if f.match(&x) && !e.match(&x) {
				t.Fatalf("%s is said to cover %s, but not on %+v", e.String(), f.String(), x)
			}
			if f.match(&x) && !e.overlaps(&f) {
				t.Fatalf("%s and %s are said not to overlap, but do on %+v", e.String(), f.String(), x)
			}
		}
	})
	if covered == 0 {
		t.Error("no endpoint covered another; the test proves nothing")
	}
}
