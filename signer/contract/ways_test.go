package contract_test

import (
	"reflect"
	"strings"
	"testing"

	"sallyport/signer/contract"
)

func TestWaysOfStatements(t *testing.T) {
	t.Parallel()
	for resource, want := range map[string]*contract.EgressRule{
		"GET api.example.com/v1/**":              {Host: "api.example.com", Methods: []string{"GET"}, PathPrefixes: []string{"/v1"}},
		"* API.example.com:8443/**":              {Host: "api.example.com", Ports: []int{8443}},
		"** api.example.com/v1/items-*":          {Host: "api.example.com", PathPrefixes: []string{"/v1"}},
		"POST api.example.com/v1/a/b":            {Host: "api.example.com", Methods: []string{"POST"}, PathPrefixes: []string{"/v1/a"}},
		"GET *.example.com/x":                    {Host: "example.com", OnlySubdomains: true, Methods: []string{"GET"}},
		"GET a?i.example.com/x":                  nil,
		"GET api.example.com":                    nil,
		"G* api.example.com/x":                   nil,
		"GET api.example.com:x/":                 nil,
		"GET api.example.com:70000/":             nil,
		"GET user@api.example.com/x":             nil,
		"GET api..example.com/x":                 nil,
		"*":                                      nil,
		"**":                                     nil,
		"openai/gpt-4o":                          nil,
		"GET [::1]/x":                            nil,
		"GET " + strings.Repeat("a", 64) + ".x/": nil,
	} {
		c := statements(t, `{"sid":"A","effect":"Allow","actions":["side_effect:network_egress"],"resources":["`+resource+`"]}`)
		got := c.Ways()
		switch {
		case want == nil && len(got) != 0, want != nil && (len(got) != 1 || !reflect.DeepEqual(&got[0], want)):
			t.Errorf("%s: got %+v, want %+v", resource, got, want)
		}
		warned := false
		for _, f := range contract.Lint(c) {
			warned = warned || f.Rule == "no-route"
		}
		if warned != (want == nil && !strings.Contains(resource, "gpt")) {
			t.Errorf("%s: warned %t", resource, warned)
		}
	}
}

func TestNoWayOfADenyOrAnotherAction(t *testing.T) {
	t.Parallel()
	c := statements(t, `{"sid":"A","effect":"Deny","actions":["*"],"resources":["GET a.example.com/x"]},{"sid":"B","effect":"Allow","actions":["tool:execute"],"resources":["GET b.example.com/x"]}`)
	if got := c.Ways(); len(got) != 0 {
		t.Errorf("got %+v", got)
	}
}
