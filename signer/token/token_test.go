package token

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/signer/code"
	"sallyport/signer/jcs"
	"sallyport/signer/keyring"
)

var update = flag.Bool("update", false, "write the golden files anew")

// testKey makes a key whose seed is one repeated byte.
func testKey(b byte) *keyring.Key {
	k, err := keyring.Generate(bytes.NewReader(bytes.Repeat([]byte{b}, ed25519.SeedSize)))
	if err != nil {
		panic(err)
	}
	return k
}

var (
	key   = testKey(1)
	other = testKey(2)
	ended = testKey(3)
	now   = time.Unix(1_800_000_000, 0)
	keys  = keyring.NewKeySet([]keyring.VerifyKey{
		{Public: key.Public()}, {Public: ended.Public(), NotAfter: now.Add(-time.Second)},
	})
	audience = []string{"gate.example", "sallyport"}
)

const pin = "Dz1r1UbKtJq3--RwaKBG5zeSnloNEBE6oZ5ba3-sJgc"

func claims() Claims {
	return Claims{
		Sub: "did:key:zAgent", Aud: Audience{"sallyport"}, Scope: []string{"proxy:call"},
		Iat: now.Unix() - 10, Exp: now.Unix() + 600, MissionID: "m1", PolicyHash: pin,
	}
}

func issue(t testing.TB, c Claims) string {
	t.Helper()
	raw, err := Issue(key, c)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// forge signs any header and claims with any key, as a broken or hostile issuer would.
func forge(k *keyring.Key, header, claims string) string {
	input := jcs.EncodeB64u([]byte(header)) + "." + jcs.EncodeB64u([]byte(claims))
	return input + "." + jcs.EncodeB64u(k.Sign([]byte(input)))
}

func headerOf(k *keyring.Key) string { return `{"alg":"EdDSA","typ":"JWT","kid":"` + k.KID() + `"}` }

// edit signs the usual claims with some of them altered; nil takes a claim away. The scope hash is made to fit
// unless it is among the edits.
func edit(t testing.TB, edits map[string]any) string {
	t.Helper()
	c := claims()
	c.TokenVersion = Version
	data, err := c.encode()
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	maps.Copy(m, edits)
	maps.DeleteFunc(m, func(_ string, v any) bool { return v == nil })
	if data, err = jcs.Marshal(m); err != nil {
		t.Fatal(err)
	}
	if _, given := edits["token_scope_hash_b64u"]; !given {
		fit, _ := parseClaims(data)
		m["token_scope_hash_b64u"] = ScopeHash(fit)
		if data, err = jcs.Marshal(m); err != nil {
			t.Fatal(err)
		}
	}
	return forge(key, headerOf(key), string(data))
}

func TestGolden(t *testing.T) {
	raw := issue(t, claims())
	path := filepath.Join("testdata", "token.golden.txt")
	if *update {
		if err := os.WriteFile(path, []byte(raw+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if raw+"\n" != string(want) {
		t.Errorf("got  %s\nwant %s", raw, want)
	}
	got, d := Verify(strings.TrimSpace(string(want)), keys, audience, now)
	if d != nil {
		t.Fatal(d)
	}
	if got.Sub != "did:key:zAgent" || got.MissionID != "m1" || got.PolicyHash != pin || got.KID != key.KID() || got.Hash != Hash(raw) || len(got.Hash) != 64 {
		t.Errorf("%+v", got)
	}
}

type verifyCase struct {
	name string
	raw  string
	want code.Code // empty: accepted
}

func verifyCases(t testing.TB) []verifyCase {
	good := issue(t, claims())
	parts := strings.Split(good, ".")
	body, err := jcs.DecodeB64u(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	header := func(h string) string { return forge(key, h, string(body)) }
	one := func(claim string, v any) string { return edit(t, map[string]any{claim: v}) }
	at := func(iat, exp time.Duration) string {
		return edit(t, map[string]any{"iat": now.Add(iat).Unix(), "exp": now.Add(exp).Unix()})
	}
	kid := key.KID()
	return []verifyCase{
		{"good", good, ""},
		{"empty", "", code.TokenMalformed},
		{"two parts", parts[0] + "." + parts[1], code.TokenMalformed},
		{"four parts", good + ".x", code.TokenMalformed},
		{"opaque key", "not-a-real-key", code.TokenMalformed},
		{"at the size limit", strings.Repeat("a", MaxBytes), code.TokenMalformed},
		{"above the size limit", strings.Repeat("a", MaxBytes+1), code.TokenTooLarge},
		{"padded", good + "=", code.TokenMalformed},
		{"line break", parts[0] + "." + parts[1] + ".\n" + parts[2], code.TokenMalformed},
		{"second spelling of the signature", good[:len(good)-1] + "_", code.TokenMalformed},

		{"header no JSON", header(`x`), code.TokenMalformed},
		{"header no object", header(`["EdDSA"]`), code.TokenMalformed},
		{"header with two algs", header(`{"alg":"EdDSA","alg":"EdDSA","kid":"` + kid + `"}`), code.TokenMalformed},
		{"alg is a number", header(`{"alg":1,"kid":"` + kid + `"}`), code.TokenMalformed},
		{"alg none", strings.TrimSuffix(forge(key, `{"alg":"none"}`, string(body)), "."), code.TokenUnsupportedAlg},
		{"alg none without a signature", jcs.EncodeB64u([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", code.TokenUnsupportedAlg},
		{"alg HS256", header(`{"alg":"HS256","kid":"` + kid + `"}`), code.TokenUnsupportedAlg},
		{"alg in another case", header(`{"alg":"eddsa","kid":"` + kid + `"}`), code.TokenUnsupportedAlg},
		{"no alg", header(`{"kid":"` + kid + `"}`), code.TokenUnsupportedAlg},
		{"no kid", header(`{"alg":"EdDSA"}`), code.TokenUnknownKID},
		{"crit", header(`{"alg":"EdDSA","crit":["b64"],"b64":false,"kid":"` + kid + `"}`), code.TokenMalformed},
		{"other typ", header(`{"alg":"EdDSA","typ":"at+jwt","kid":"` + kid + `"}`), ""},

		{"unknown kid", forge(other, headerOf(other), string(body)), code.TokenUnknownKID},
		{"ended kid", forge(ended, headerOf(ended), string(body)), code.TokenKIDExpired},
		{"signed by another key", forge(other, headerOf(key), string(body)), code.TokenSignatureInvalid},
		{"key of its own in the header", forge(other, `{"alg":"EdDSA","kid":"`+kid+`","jwk":{"kty":"OKP","crv":"Ed25519","x":"`+jcs.EncodeB64u(other.Public())+`"}}`, string(body)), code.TokenSignatureInvalid},
		{"claims altered", parts[0] + "." + jcs.EncodeB64u(bytes.Replace(body, []byte("m1"), []byte("m2"), 1)) + "." + parts[2], code.TokenSignatureInvalid},
		{"signature cut", parts[0] + "." + parts[1] + "." + parts[2][:84], code.TokenSignatureInvalid},
		{"signature missing", parts[0] + "." + parts[1] + ".", code.TokenSignatureInvalid},
		{"signature before claims", forge(other, headerOf(key), `no claims`), code.TokenSignatureInvalid},

		{"claims no JSON", forge(key, headerOf(key), `x`), code.TokenMalformed},
		{"claims no object", forge(key, headerOf(key), `[]`), code.TokenMalformed},
		{"claim twice", forge(key, headerOf(key), `{"sub":"b",`+string(body[1:])), code.TokenMalformed},
		{"no version", one("token_version", nil), code.TokenUnknownVersion},
		{"other version", one("token_version", "2"), code.TokenUnknownVersion},
		{"version is a number", one("token_version", 1), code.TokenUnknownVersion},
		{"version before claims", edit(t, map[string]any{"token_version": "2", "sub": 1}), code.TokenUnknownVersion},
		{"no sub", one("sub", nil), code.TokenInvalidClaims},
		{"sub is a number", one("sub", 1), code.TokenInvalidClaims},
		{"sub with white space", one("sub", "did:key:zAgent "), code.TokenInvalidClaims},
		{"sub in another case", edit(t, map[string]any{"sub": nil, "Sub": "did:key:zAgent"}), code.TokenInvalidClaims},
		{"no aud", one("aud", nil), code.TokenInvalidClaims},
		{"empty aud", one("aud", []string{}), code.TokenInvalidClaims},
		{"aud of numbers", one("aud", []int{1}), code.TokenInvalidClaims},
		{"aud with a null", one("aud", []any{nil, "sallyport"}), code.TokenInvalidClaims},
		{"no scope", one("scope", nil), code.TokenInvalidClaims},
		{"scope is a string", one("scope", "proxy:call"), code.TokenInvalidClaims},
		{"no iat", one("iat", nil), code.TokenInvalidClaims},
		{"no exp", one("exp", nil), code.TokenInvalidClaims},
		{"exp is a string", one("exp", "1800000600"), code.TokenInvalidClaims},
		{"exp is a fraction", one("exp", float64(now.Unix())+0.5), code.TokenInvalidClaims},
		{"exp beyond time", one("exp", int64(1)<<52), code.TokenInvalidClaims},
		{"exp before iat", at(10*time.Second, 5*time.Second), code.TokenInvalidClaims},
		{"pin no hash", one("policy_hash_b64u", "abc"), code.TokenInvalidClaims},
		{"negative spend cap", one("spend_cap", -1), code.TokenInvalidClaims},
		{"confirmation by another method", one("cnf", map[string]any{"jkt": pin}), code.TokenInvalidClaims},
		{"confirmation no hash", one("cnf", map[string]any{"x5t#S256": "abc"}), code.TokenInvalidClaims},
		{"canonical lane without its chain", one("token_lane", "canonical"), code.TokenInvalidClaims},
		{"unknown lane", one("token_lane", "fast"), code.TokenInvalidClaims},

		{"ended just now", at(-time.Minute, -Leeway), code.TokenExpired},
		{"within the leeway of exp", at(-time.Minute, -Leeway+time.Second), ""},
		{"not yet", at(Leeway+time.Second, time.Hour), code.TokenNotYetValid},
		{"within the leeway of iat", at(Leeway, time.Hour), ""},
		{"other audience", one("aud", []string{"elsewhere.example"}), code.TokenBadAudience},
		{"audience in another case", one("aud", "Sallyport"), code.TokenBadAudience},
		{"one audience of several", one("aud", []string{"elsewhere.example", "gate.example"}), ""},
		{"audience as a string", one("aud", "gate.example"), ""},
		{"no scope hash", one("token_scope_hash_b64u", nil), code.TokenScopeHashRequired},
		{"scope hash no hash", one("token_scope_hash_b64u", "abc"), code.TokenScopeHashInvalid},
		{"scope hash of something else", one("token_scope_hash_b64u", pin), code.TokenScopeHashMismatch},

		{"unknown claims", edit(t, map[string]any{"iss": "x", "custom": map[string]any{"a": []int{1}}}), ""},
		{"every claim", edit(t, map[string]any{
			"owner_ref": "o", "owner_did": "did:key:zO", "controller_did": "did:key:zC", "agent_did": "did:key:zAgent", "token_lane": "canonical",
			"control_plane_policy_hash_b64u": pin, "payment_account_did": "did:key:zP", "spend_cap": 1.5, "delegation_id": "d", "delegator_did": "did:key:zD",
			"delegate_did": "did:key:zE", "delegation_policy_hash_b64u": pin, "delegation_spend_cap_minor": "100", "delegation_expires_at": 1.5e9 + 0.5,
			"jti": "j", "nonce": "n", "cnf": map[string]any{"x5t#S256": pin},
		}), ""},
	}
}

func TestVerify(t *testing.T) {
	for _, tt := range verifyCases(t) {
		t.Run(tt.name, func(t *testing.T) {
			got, d := Verify(tt.raw, keys, audience, now)
			switch {
			case tt.want == "" && (d != nil || got == nil):
				t.Errorf("refused: %v", d)
			case tt.want != "" && (d == nil || d.Code != tt.want || got != nil):
				t.Errorf("got %v, want %s", d, tt.want)
			}
		})
	}
}

func TestVerifyWithoutMeans(t *testing.T) {
	raw := issue(t, claims())
	if _, d := Verify(raw, keys, nil, now); d == nil || d.Code != code.TokenBadAudience {
		t.Errorf("a gateway without a name: %v", d)
	}
	if _, d := Verify(raw, (*keyring.KeySet)(nil), audience, now); d == nil || d.Code != code.TokenUnknownKID {
		t.Errorf("no keys: %v", d)
	}
	if _, d := Verify(raw, shortKey{}, audience, now); d == nil || d.Code != code.TokenUnknownKID {
		t.Errorf("half a key: %v", d)
	}
}

type shortKey struct{}

func (shortKey) Lookup(string, time.Time) (ed25519.PublicKey, *code.Denial) {
	return key.Public()[:16], nil
}

func TestUnverified(t *testing.T) {
	raw := forge(other, headerOf(other), `{"token_version":"1","sub":"s","aud":"a","scope":["x"],"iat":1,"exp":2}`)
	got, d := Unverified(raw)
	if d != nil || got.Sub != "s" || got.KID != other.KID() {
		t.Errorf("%+v, %v", got, d)
	}
	if _, d := Unverified("a.b.c"); d == nil || d.Code != code.TokenMalformed {
		t.Error(d)
	}
}

func TestIssueRefuses(t *testing.T) {
	tests := map[string]func(*Claims){
		"sub is missing":                        func(c *Claims) { c.Sub = "" },
		"aud is missing":                        func(c *Claims) { c.Aud = nil },
		"scope has an empty entry":              func(c *Claims) { c.Scope = []string{"a", ""} },
		"exp is not after iat":                  func(c *Claims) { c.Exp = c.Iat },
		"iat, exp must both be there":           func(c *Claims) { c.Iat = 0 },
		"mission_id has white space":            func(c *Claims) { c.MissionID = "\u00a0m" },
		"nonce has white space around it or is": func(c *Claims) { c.Nonce = "\xff" },
		"delegation_spend_cap_minor":            func(c *Claims) { c.DelegationSpendCapMinor = "1.5" },
		"delegation_expires_at":                 func(c *Claims) { c.DelegationExpiresAt = -1 },
	}
	for want, spoil := range tests {
		c := claims()
		spoil(&c)
		if raw, err := Issue(key, c); !errors.Is(err, ErrClaims) || !strings.Contains(err.Error(), want) || raw != "" {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	c := claims()
	c.Sub, c.Aud, c.PolicyHash = "", nil, "short"
	if err := c.Validate(); strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("not all problems are named: %v", err)
	}
	c = claims()
	c.OwnerRef = strings.Repeat("x", MaxBytes)
	if _, err := Issue(key, c); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
}

func TestIssueDoesNotTrustTheGivenHash(t *testing.T) {
	c := claims()
	c.TokenVersion, c.TokenScopeHash = "9", pin
	if _, d := Verify(issue(t, c), keys, audience, now); d != nil {
		t.Error(d)
	}
}

func TestAllowsProvider(t *testing.T) {
	for scope, want := range map[string]bool{
		"*": true, "proxy:call": true, "clawproxy:call": true, "proxy:*": true, "clawproxy:*": true, "control:*": true,
		"proxy:provider:openai": true, "proxy:call:openai": true, "clawproxy:provider:openai": true, "clawproxy:call:openai": true,
		"proxy:call:anthropic": false, "proxy": false, "proxy:": false, "PROXY:CALL": false, "control:audit:read": false, "proxy:call:": false, "other:*": false,
	} {
		tok := Token{Claims: Claims{Scope: []string{"something:else", scope}}}
		if tok.AllowsProvider("openai") != want {
			t.Errorf("%s: %v", scope, !want)
		}
	}
	if (&Token{}).AllowsProvider("openai") {
		t.Error("no scope reaches everything")
	}
}

func TestLooks(t *testing.T) {
	for name, tt := range map[string]struct {
		raw  string
		want bool
	}{
		"token":          {issue(t, claims()), true},
		"HS256":          {forge(key, `{"alg":"HS256"}`, `{}`), true},
		"alg none":       {jcs.EncodeB64u([]byte(`{"alg":"none"}`)) + ".e30.", true},
		"empty":          {"", false},
		"provider key":   {"not-a-real-key", false},
		"dotted":         {"ab.cd.ef", false},
		"no alg":         {forge(key, `{"typ":"JWT"}`, `{}`), false},
		"blank alg":      {forge(key, `{"alg":" "}`, `{}`), false},
		"no object":      {forge(key, `"alg"`, `{}`), false},
		"two parts":      {"eyJhbGciOiJub25lIn0.e30", false},
		"other alphabet": {forge(key, `{"alg":"EdDSA"}`, `{}`) + "+", false},
		"line break":     {forge(key, `{"alg":"EdDSA"}`, `{}`) + "\n", false},
		"long header":    {forge(key, `{"alg":"`+strings.Repeat("x", maxHeader)+`"}`, `{}`), false},
	} {
		if got := Looks(tt.raw); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzVerify(f *testing.F) {
	issued := map[string]bool{}
	for _, c := range verifyCases(f) {
		f.Add(c.raw)
		issued[c.raw] = c.want == ""
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, d := Verify(raw, keys, audience, now)
		if (got == nil) == (d == nil) {
			t.Fatalf("both or neither: %v, %v", got, d)
		}
		if got != nil && !issued[raw] {
			t.Fatalf("accepted what was never signed: %s", raw)
		}
		if got != nil && !Looks(raw) {
			t.Fatal("accepted what does not look like a token")
		}
		_, _ = Unverified(raw)
	})
}

func FuzzClaims(f *testing.F) {
	c := claims()
	good, err := c.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"aud":"x","spend_cap":null,"cnf":null,"iat":1e3}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseClaims(data)
		if err != nil || c.Validate() != nil {
			return
		}
		again, err := c.encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := parseClaims(again)
		if err != nil || ScopeHash(back) != ScopeHash(c) {
			t.Fatalf("%s comes back as %s: %v", data, again, err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	raw := issue(b, claims())
	b.ReportAllocs()
	for b.Loop() {
		if _, d := Verify(raw, keys, audience, now); d != nil {
			b.Fatal(d)
		}
	}
}
