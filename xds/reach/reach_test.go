package reach_test

import (
	"fmt"
	"net/netip"
	"testing"

	"sallyport/xds/reach"
)

func TestIndex(t *testing.T) {
	ten, lan := netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.168.0.0/16")
	x := reach.New()
	x.Put("a", []reach.Place{
		{Host: "api.example.com", Open: true, CIDRs: []netip.Prefix{ten}},
		{Host: "example.org", Below: true, Open: true},
		{Host: "example.net", OnlyBelow: true, Open: true},
		{Host: "sealed.example.com"},
	})
	x.Put("b", []reach.Place{{Host: "api.example.com", CIDRs: []netip.Prefix{lan, ten}}, {Host: "sealed.example.com", Below: true}})
	for host, want := range map[string]struct {
		open    bool
		named   bool // though not open
		private string
	}{
		"api.example.com":       {true, false, "[10.0.0.0/8 192.168.0.0/16]"},
		"below.api.example.com": {false, false, "[]"},
		"example.com":           {false, false, "[]"},
		"example.org":           {true, false, "[]"},
		"a.b.example.org":       {true, false, "[]"},
		"notexample.org":        {false, false, "[]"},
		"example.net":           {false, false, "[]"},
		"a.example.net":         {true, false, "[]"},
		"sealed.example.com":    {false, true, "[]"},
		"":                      {false, false, "[]"},
		"org":                   {false, false, "[]"},
	} {
		if got := x.Open(host); got != want.open {
			t.Errorf("%q: open %v", host, got)
		}
		if got := x.Named(host); got != (want.open || want.named) {
			t.Errorf("%q: named %v", host, got)
		}
		if got := fmt.Sprint(x.Private(host)); got != want.private {
			t.Errorf("%q: private %s, want %s", host, got, want.private)
		}
	}

	x.Put("a", []reach.Place{{Host: "api.example.com"}}) // a new word replaces the old one
	if x.Open("api.example.com") || x.Open("example.org") {
		t.Error("what a contract no longer says is still there")
	}
	x.Remove("b")
	if got := x.Private("api.example.com"); len(got) != 0 {
		t.Errorf("a contract that is gone still speaks: %v", got)
	}
}

// One host named twice by one contract, by two rules, is taken out as one.
func TestTwoRulesOfOneHost(t *testing.T) {
	x := reach.New()
	x.Put("a", []reach.Place{{Host: "api.example.com"}, {Host: "api.example.com", Open: true}})
	if !x.Open("api.example.com") {
		t.Error("the second rule is lost")
	}
	x.Remove("a")
	if x.Open("api.example.com") {
		t.Error("still open after the contract was taken out")
	}
}
