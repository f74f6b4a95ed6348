package contract

import (
	"maps"
	"strings"
	"testing"
)

func TestTemplate(t *testing.T) {
	for _, x := range []struct {
		template, path string
		want           map[string]string // nil: no match
	}{
		{"/v1.0/users/{user}/messages", "/v1.0/users/me/messages", map[string]string{"user": "me"}},
		{"/v1.0/users/{user}/messages", "/v1.0/users/a%40b.c/messages", map[string]string{"user": "a@b.c"}},
		{"/v1.0/users/{user}/messages", "/v1.0/users/a+b/messages", map[string]string{"user": "a+b"}},
		{"/v1.0/users/{user}/messages", "/v1.0/users//messages", nil},
		{"/v1.0/users/{user}/messages", "/v1.0/users/a/b/messages", nil},
		{"/v1.0/users/{user}/messages", "/v1.0/users/a/messages/", nil},
		{"/v1.0/users/{user}/messages", "/v1x0/users/a/messages", nil},
		{"/{a}", "/x", map[string]string{"a": "x"}},
		{"/{a}", "/", nil},
		{"/{a}/{b_2}", "/x/y", map[string]string{"a": "x", "b_2": "y"}},
		{"/{a}/**", "/x/y/z", map[string]string{"a": "x"}},
		{"/{a}/**", "/x", nil},
		{"/*/{a}", "/x/y", map[string]string{"a": "y"}},
		{"/v*/{a}", "/v1/y", map[string]string{"a": "y"}},
		{"/v*/{a}", "/w1/y", nil},
		{"/a/**", "/a/b/c", map[string]string{}},
	} {
		e, err := endpointOf(Binding{Host: "x.com", Path: x.template})
		if err != nil {
			t.Errorf("%s: %v", x.template, err)
			continue
		}
		to := parseTarget("GET x.com" + x.path)
		switch matched := e.match(&to); {
		case matched != (x.want != nil):
			t.Errorf("%s on %s: %v", x.template, x.path, matched)
		case matched:
			if got := values(e.vars, to.path); !maps.Equal(got, x.want) {
				t.Errorf("%s on %s: %v", x.template, x.path, got)
			}
		}
	}
	for template, want := range map[string]string{
		"/a{b}":      `"a{b}" is no variable`,
		"/{b}c":      "is no variable",
		"/{}":        "is no variable",
		"/{1}":       "is no variable",
		"/{a-b}":     "is no variable",
		"/{a":        "is no variable",
		"/a}":        "is no variable",
		"/{{a}}":     "is no variable",
		"/{a}/{a}":   "{a} stands there twice",
		"/**/{a}":    "{a} stands behind **",
		"/x**y/{a}":  "{a} stands behind **",
		"/{a}/**{b}": "is no variable",
	} {
		if _, _, err := readTemplate(template); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", template, err, want)
		}
	}
}

// A template and a path that it matches give each variable one segment that is not empty; nothing makes it panic.
func FuzzTemplate(f *testing.F) {
	f.Add("/v1/{a}/*/{b}/**", "/v1/x/y/z/w")
	f.Add("/{a}", "/%41")
	f.Fuzz(func(t *testing.T, template, path string) {
		if !plainPath(template) || len(template) > 512 {
			return
		}
		e, err := endpointOf(Binding{Host: "x.com", Path: template})
		to := parseTarget("GET x.com" + path)
		if err != nil || !to.plain || !e.match(&to) {
			return
		}
		got := values(e.vars, to.path)
		for _, v := range e.vars {
			if value, ok := got[v.name]; !ok || value == "" || strings.Contains(value, "/") {
				t.Errorf("%s on %s: %v", template, path, got)
			}
		}
	})
}
