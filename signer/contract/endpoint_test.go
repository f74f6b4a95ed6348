package contract

import (
	"testing"

	"pgregory.net/rapid"
)

func TestPlainPath(t *testing.T) {
	for path, want := range map[string]bool{
		"/": true, "/a/b": true, "/a/": true, "/a%20b": true, "/a%C3%A9": true, "/a%c3%a9": false, "/...": true, "/.well-known": true, "/a.": true,
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
		"GET a.com/":           {true, "GET", "a.com", "/", "/", 443},
		"GET A.com.:8443/x":    {true, "GET", "a.com", "/x", "/x", 8443},
		"GET a.com/%61%C3%A9":  {true, "GET", "a.com", "/%61%C3%A9", "/aé", 443},
		"GET [::1]/x":          {true, "GET", "[::1]", "/x", "/x", 443},
		"GET [::1]:80/x":       {true, "GET", "[::1]", "/x", "/x", 80},
		"GET a.com:443443/x":   {},
		"GET a.com":            {},
		"GET /x":               {},
		"a.com/x":              {},
		" a.com/x":             {},
		"GET ./x":              {},
		"GET .a.com/x":         {},
		"GET a..com/x":         {},
		"GET user@a.com/x":     {},
		"GET b.com/ a.com/x":   {},
		"GET b.com?x=a.com/.x": {},
		"GET a.com/%zz":        {},
		"GET a.com/%0A":        {},
		"GET a.com/%C3":        {},
		"get a.com/x":          {},
	} {
		if got := parseTarget(resource); got.plain != want.plain || got.plain && got != want {
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
				rapid.SampledFrom([]string{"/", "/v1", "/v1/", "/v1/a", "/v1/a/b", "/v1x", "/v2/a"}).Draw(t, "path"), "", rapid.SampledFrom([]int{443, 80}).Draw(t, "port")}
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

// Every pair of names, and every pair of paths, over all that they could differ on.
func TestEndpointCoversOverAll(t *testing.T) {
	var names, paths []endpoint
	for _, host := range []string{"x.com", "a.x.com", "xx.com"} {
		for _, e := range []EgressRule{{Host: host}, {Host: host, Subdomains: true}, {Host: host, OnlySubdomains: true}} {
			names = append(names, endpointsOf(e)...)
		}
	}
	for _, prefix := range []string{"/", "/v", "/v/", "/v/a", "/w"} {
		paths = append(paths, endpointsOf(EgressRule{Host: "x.com", PathPrefixes: []string{prefix}})...)
	}
	for _, path := range []string{"/v/*", "/v/**", "/v*", "/v**", "/v", "/**", "/v/a", "**", "/*/a", "/v/{x}", "/{x}/a", "/{x}/{y}"} {
		e, err := endpointOf(Binding{Host: "x.com", Path: path})
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, e)
	}
	check := func(list []endpoint, targets []target) {
		for i := range list {
			for j := range list {
				e, f := &list[i], &list[j]
				all := true
				for k := range targets {
					all = all && (!f.match(&targets[k]) || e.match(&targets[k]))
				}
				if e.covers(f) && !all {
					t.Errorf("%s is said to cover %s", e, f)
				}
				if i == j && !e.covers(f) {
					t.Errorf("%s does not cover itself", e)
				}
			}
		}
	}
	var hosts, ways []target
	for _, host := range []string{"x.com", "a.x.com", "b.x.com", "b.a.x.com", "xx.com", "a.xx.com"} {
		hosts = append(hosts, target{true, "GET", host, "/", "/", 443})
	}
	for _, path := range []string{"/", "/v", "/v/", "/v/a", "/v/a/b", "/vx", "/vx/y", "/w", "/w/a"} {
		ways = append(ways, target{true, "GET", "x.com", path, path, 443})
	}
	check(names, hosts)
	check(paths, ways)
}
