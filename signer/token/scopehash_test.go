package token

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"sallyport/signer/jcs"
)

// TestScopeHashVector is the one vector of the ecosystem's own code.
func TestScopeHashVector(t *testing.T) {
	c, err := parseClaims([]byte(`{"sub":"did:key:zAgent","aud":"clawproxy.com","scope":["proxy:call"],"mission_id":"m1","policy_hash_b64u":"Dz1r1UbKtJq3--RwaKBG5zeSnloNEBE6oZ5ba3-sJgc"}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := ScopeHash(c), "EW-SRh3E2OGlrICOZfPQ8-rZVeDkXEla0dDKLFCrqz4"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	unpinned := c
	unpinned.PolicyHash = ""
	if ScopeHashWithoutPin(c) != ScopeHash(unpinned) || ScopeHashWithoutPin(c) == ScopeHash(c) {
		t.Error("the form without the pin still covers it")
	}
}

func TestScopeHashNormalises(t *testing.T) {
	base := claims()
	want := ScopeHash(base)
	for name, same := range map[string]func(*Claims){
		"times":              func(c *Claims) { c.Iat, c.Exp = 1, 2 },
		"jti and nonce":      func(c *Claims) { c.JTI, c.Nonce = "a", "b" },
		"lane":               func(c *Claims) { c.TokenLane = "legacy" },
		"certificate":        func(c *Claims) { c.Cnf = &Confirmation{X5tS256: pin} },
		"the hash itself":    func(c *Claims) { c.TokenScopeHash = pin },
		"white space":        func(c *Claims) { c.Sub = "\ufeff\u2003" + c.Sub + "\t\n"; c.MissionID += "\u00a0" },
		"scope given twice":  func(c *Claims) { c.Scope = []string{" proxy:call", "proxy:call", ""} },
		"blank claim":        func(c *Claims) { c.OwnerRef = " " },
		"cap not in digits":  func(c *Claims) { c.DelegationSpendCapMinor = "1e3" },
		"delegation ended 0": func(c *Claims) { c.DelegationExpiresAt = 0 },
	} {
		c := base
		same(&c)
		if ScopeHash(c) != want {
			t.Errorf("%s changes the hash", name)
		}
	}
	// U+0085 is white space to Go and not to JavaScript.
	c := base
	c.MissionID += "\u0085"
	if ScopeHash(c) == want {
		t.Error("U+0085 is trimmed")
	}
}

// TestScopeHashAgainstTheDefinition builds the object as the definition says and lets package jcs order it.
func TestScopeHashAgainstTheDefinition(t *testing.T) {
	text := rapid.OneOf(rapid.Just(""), rapid.StringMatching(`[a-z" \x{e000}😀\\]{1,5}`))
	list := rapid.SliceOf(text)
	rapid.Check(t, func(t *rapid.T) {
		c := Claims{Sub: text.Draw(t, "sub"), Aud: list.Draw(t, "aud"), Scope: list.Draw(t, "scope")}
		want := map[string]any{"token_version": "1", "sub": trim(c.Sub), "aud": normal(c.Aud), "scope": normal(c.Scope)}
		for _, f := range c.texts() {
			if slices.Contains([]string{"sub", "delegation_spend_cap_minor", "token_lane", "jti", "nonce"}, f.name) {
				continue
			}
			if *f.value = text.Draw(t, f.name); trim(*f.value) != "" {
				want[f.name] = trim(*f.value)
			}
		}
		if c.DelegationSpendCapMinor = rapid.StringMatching(`[0-9]{0,3}x?`).Draw(t, "minor"); c.DelegationSpendCapMinor != "" && c.DelegationSpendCapMinor[len(c.DelegationSpendCapMinor)-1] != 'x' {
			want["delegation_spend_cap_minor"] = c.DelegationSpendCapMinor
		}
		if c.DelegationExpiresAt = rapid.Int64Range(-1, 1e10).Draw(t, "end"); c.DelegationExpiresAt > 0 {
			want["delegation_expires_at"] = c.DelegationExpiresAt
		}
		if rapid.Bool().Draw(t, "has a cap") {
			spend := rapid.Float64Range(-1, 1e9).Draw(t, "cap")
			if c.SpendCap = &spend; spend >= 0 {
				want["spend_cap"] = spend
			}
		}
		data, err := jcs.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if got := ScopeHash(c); got != jcs.Hash(data) {
			t.Fatalf("got %s; the definition gives %s for %s", got, jcs.Hash(data), data)
		}
	})
}

func normal(list []string) []string {
	set := map[string]bool{}
	for _, s := range list {
		if s = trim(s); s != "" {
			set[s] = true
		}
	}
	out := []string{}
	for s := range set {
		out = append(out, s)
	}
	slices.SortFunc(out, jcs.Compare)
	return out
}
