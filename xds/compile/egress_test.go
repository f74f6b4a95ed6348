package compile

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

func exampleExit() *EgressConfig {
	return &EgressConfig{
		Resolver: netip.MustParseAddrPort("127.0.0.1:5353"), CAFile: "/etc/ssl/ca.pem",
		Refused: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")},
	}
}

func TestGoldenEgress(t *testing.T) {
	r, err := Scope(Allow{Hash: hash, Providers: []string{"openai"}, Egress: []Egress{
		{Host: "api.openai.com", PathPrefixes: []string{"/extra"}},
		{Host: "example.com", Subdomains: true, Ports: []uint16{443, 80, 8443}, Methods: []string{"GET", "HEAD"}, PathPrefixes: []string{"/a", "/b/"}},
		{Host: "internal.example.com", CIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, PathPattern: "/v1/*/x/**"},
		{Host: "pinned.example.org", Inspect: "sni"},
		{Host: "sealed.example.org", Subdomains: true, Ports: []uint16{8443}, Inspect: "none"},
		{Host: "sealed.internal.example", CIDRs: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}, Inspect: "none"},
		{Host: "live.example.org", Ports: []uint16{443, 8080}, Methods: []string{"GET", "POST"}, PathPrefixes: []string{"/feed"}, WebSocket: true},
		{Host: "live.internal.example", CIDRs: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}, WebSocket: true},
		{Host: "methods.example.org", Methods: []string{"GET"}, Inspect: "none"},
	}}, example(t), exampleExit())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "egress-routes", r.Routes)
	clusters, err := EgressClusters(*exampleExit())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "egress-cluster", clusters[0])
	golden(t, "websocket-cluster", clusters[1])
	connect, err := Connect()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "connect-routes", connect.Routes)
	passing, err := sniListener(Door{ExtProcCluster: "extproc", Egress: exampleExit()}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "sni-listener", passing)
}

func TestEgressProblems(t *testing.T) {
	for name, tc := range map[string]struct {
		rule Egress
		want string
	}{
		"no host":              {Egress{}, "plain name"},
		"upper case":           {Egress{Host: "A.example"}, "lower case"},
		"wildcard":             {Egress{Host: "*.example"}, "plain name"},
		"empty label":          {Egress{Host: "a..example"}, "plain name"},
		"port in host":         {Egress{Host: "a.example:443"}, "plain name"},
		"zone":                 {Egress{Host: "fe80::1%eth0"}, "zone"},
		"below an address":     {Egress{Host: "192.0.2.1", Subdomains: true}, "no subdomains"},
		"method":               {Egress{Host: "a.example", Methods: []string{"get"}}, "upper-case"},
		"prefix without slash": {Egress{Host: "a.example", PathPrefixes: []string{"x"}}, "slash"},
		"prefix and pattern":   {Egress{Host: "a.example", PathPrefixes: []string{"/x"}, PathPattern: "/y"}, "either"},
		"port":                 {Egress{Host: "a.example", Ports: []uint16{0}}, "port 0"},
		"cidr":                 {Egress{Host: "a.example", CIDRs: []netip.Prefix{{}}}, "cidr"},
		"unread WebSocket":     {Egress{Host: "a.example", Inspect: "sni", WebSocket: true}, "could ask for a WebSocket"},
		"inspect":              {Egress{Host: "a.example", Inspect: "some"}, "full, sni or none"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Scope(Allow{Hash: hash, Egress: []Egress{tc.rule}}, nil, exampleExit())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

func TestEgressConfigProblems(t *testing.T) {
	for name, change := range map[string]func(*EgressConfig){
		"resolver": func(e *EgressConfig) { e.Resolver = netip.AddrPort{} },
		"ca file":  func(e *EgressConfig) { e.CAFile = "ca.pem" },
		"refused":  func(e *EgressConfig) { e.Refused = nil },
		"prefix":   func(e *EgressConfig) { e.Refused = []netip.Prefix{{}} },
	} {
		t.Run(name, func(t *testing.T) {
			e := exampleExit()
			change(e)
			if err := e.Validate(); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestForwardProblems(t *testing.T) {
	door := Door{Address: netip.MustParseAddrPort("127.0.0.1:3128"), ExtProcCluster: "p"}
	for name, f := range map[string]Forward{
		"certificate": {Door: door, Certificate: &Certificate{ChainPEM: []byte("x"), KeyPEM: []byte("secret")}},
		"door":        {},
		"egress":      {Door: Door{Address: door.Address, ExtProcCluster: "p", Egress: &EgressConfig{}}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ForwardListeners(f); err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v", err)
			}
		})
	}
	ls, err := ForwardListeners(Forward{Door: door})
	if err != nil || len(ls) != 2 {
		t.Fatalf("%d listeners, %v", len(ls), err)
	}
	golden(t, "inner", ls[1])
}

// Each domain is there once, carries every rule that covers it, and the order of the rules does not show.
func TestEgressDomains(t *testing.T) {
	hosts := []string{"example.com", "a.example.com", "b.a.example.com", "xexample.com", "other.org"}
	rapid.Check(t, func(t *rapid.T) {
		var rules []Egress
		for range rapid.IntRange(0, 6).Draw(t, "n") {
			r := Egress{
				Host:       rapid.SampledFrom(hosts).Draw(t, "host"),
				Subdomains: rapid.Bool().Draw(t, "below"),
				Ports:      rapid.SampledFrom([][]uint16{nil, {443}, {80, 443}, {8443}}).Draw(t, "ports"),
			}
			if rapid.Bool().Draw(t, "named") {
				r.CIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}
			}
			rules = append(rules, r)
		}
		got, err := addEgress(nil, rules, exampleExit().Refused)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, vh := range got {
			d := vh.GetDomains()[0]
			if seen[d] || d == "*" {
				t.Fatalf("domain %q", d)
			}
			seen[d] = true
			want := 0
			for i := range rules {
				for _, w := range rules[i].ways() {
					if w.domain == d || covers(w.domain, d) {
						want++
					}
				}
			}
			if len(vh.GetRoutes()) != want {
				t.Fatalf("%s has %d routes, want %d", d, len(vh.GetRoutes()), want)
			}
		}
		slices.Reverse(rules)
		again, err := addEgress(nil, rules, exampleExit().Refused)
		if err != nil || len(again) != len(got) {
			t.Fatalf("%d hosts, then %d: %v", len(got), len(again), err)
		}
		for i := range got {
			if !proto.Equal(got[i], again[i]) {
				t.Fatalf("the order of the rules shows in %s", got[i].GetName())
			}
		}
	})
}

func TestPatternRegex(t *testing.T) {
	for pattern, want := range map[string]string{
		"*": ".*", "/a.b": `/a\.b`, "/a/*": "/a/[^/]*", "/a/**": "/a/.*", "/a/**/b": "/a/.*b", "/a?": "/a[^/]",
	} {
		if got := patternRegex(pattern); got != want {
			t.Errorf("%s: %s, want %s", pattern, got, want)
		}
	}
	long := "/" + strings.Repeat("a", 200)
	if m := patternMatch(long + "/*"); m.GetPrefix() != long+"/" {
		t.Errorf("a pattern too long for Envoy: %v", m)
	}
	if m := patternMatch(long); m.GetPath() != long {
		t.Errorf("a long literal: %v", m)
	}
}
