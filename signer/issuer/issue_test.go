package issuer

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/signer/keyring"
	"sallyport/signer/token"
)

func TestIssue(t *testing.T) {
	g := newRig(t, nil)
	status, a := g.call("POST", "/v1/tokens/issue", request(reply{
		"ttl_sec": 120, "nonce": "00000000-0000-4000-8000-000000000001", "cnf": reply{"x5t#S256": policyHash}, "spend_cap": 1.5,
	}))
	if status != http.StatusOK {
		t.Fatalf("%d %v", status, a)
	}
	raw, _ := a["token"].(string)
	tok, d := token.Verify(raw, keyring.NewKeySet(g.ring.VerifyKeys()), []string{"gateway.example"}, g.at)
	if d != nil {
		t.Fatal(d)
	}
	if tok.Exp-tok.Iat != 120 || tok.Iat != g.at.Unix() || tok.Nonce == "" || tok.JTI == "" || tok.Cnf.X5tS256 != policyHash || tok.TokenLane != "legacy" || *tok.SpendCap != 1.5 {
		t.Errorf("claims %+v", tok.Claims)
	}
	want := reply{
		"token": raw, "token_hash": tok.Hash, "token_lane": "legacy", "policy_hash_b64u": policyHash, "token_scope_hash_b64u": tok.TokenScopeHash,
		"mission_id": "m1", "policy_version": "1", "policy_tier": "default", "kid": g.ring.Active().KID(), "iat": float64(tok.Iat), "exp": float64(tok.Exp),
	}
	for k, v := range want {
		if a[k] != v {
			t.Errorf("%s is %v, want %v", k, a[k], v)
		}
	}
	if _, ok := a["claims"].(map[string]any); !ok {
		t.Errorf("claims are %v", a["claims"])
	}

	path := filepath.Join(g.dir, "issuer", "issuance.jsonl")
	record, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for _, text := range []string{string(record), g.log.String()} {
		if !strings.Contains(text, tok.Hash) || strings.Contains(text, raw) || strings.Contains(text, strings.Split(raw, ".")[2]) {
			t.Errorf("it must hold the token's hash and not the token: %s", text)
		}
	}
}

func TestTwoTokensOfOneSecondAreTwo(t *testing.T) {
	g := newRig(t, nil)
	if first, second := g.mint(nil), g.mint(nil); first == second {
		t.Error("they are one token, so that one cannot be withdrawn alone")
	}
}

func TestIssueRefusals(t *testing.T) {
	manyScopes := slices.Repeat([]string{"proxy:call"}, 65)
	tests := map[string]struct {
		body   string
		status int
		code   string
	}{
		"no JSON":                          {`{`, 400, "INVALID_JSON"},
		"nothing":                          {``, 400, "INVALID_JSON"},
		"a duplicate member":               {`{"sub":"a","sub":"b"}`, 400, "INVALID_JSON"},
		"trailing data":                    {`{} {}`, 400, "INVALID_JSON"},
		"an array":                         {`[]`, 400, "INVALID_REQUEST"},
		"null":                             {`null`, 400, "INVALID_REQUEST"},
		"an unknown member":                {request(reply{"admin": true}), 400, "INVALID_REQUEST"},
		"a number for a name":              {request(reply{"sub": 1}), 400, "INVALID_REQUEST"},
		"too much":                         {request(reply{"owner_ref": strings.Repeat("a", maxBody)}), 413, "INVALID_REQUEST"},
		"no sub":                           {request(reply{"sub": nil}), 400, "INVALID_REQUEST"},
		"a padded sub":                     {request(reply{"sub": " a"}), 400, "INVALID_REQUEST"},
		"no aud":                           {request(reply{"aud": nil}), 400, "INVALID_REQUEST"},
		"an empty aud":                     {request(reply{"aud": []string{"a", ""}}), 400, "INVALID_REQUEST"},
		"an object for aud":                {request(reply{"aud": reply{}}), 400, "INVALID_REQUEST"},
		"no scope":                         {request(reply{"scope": nil}), 400, "INVALID_REQUEST"},
		"an empty scope":                   {request(reply{"scope": []string{""}}), 400, "INVALID_REQUEST"},
		"65 scopes":                        {request(reply{"scope": manyScopes}), 400, "SCOPE_TOO_LARGE"},
		"a long scope":                     {request(reply{"scope": []string{strings.Repeat("a", 129)}}), 400, "SCOPE_ITEM_TOO_LONG"},
		"a wildcard":                       {request(reply{"scope": []string{"proxy:*"}}), 400, "SCOPE_WILDCARD_NOT_ALLOWED"},
		"the wildcard":                     {request(reply{"scope": []string{"*"}}), 400, "SCOPE_WILDCARD_NOT_ALLOWED"},
		"a control scope":                  {request(reply{"scope": []string{"control:token:revoke"}}), 403, "LEGACY_SENSITIVE_SCOPE_FORBIDDEN"},
		"both lives":                       {request(reply{"ttl_sec": 1, "exp": 1_700_000_060}), 400, "INVALID_REQUEST"},
		"no time":                          {request(reply{"ttl_sec": 0}), 400, "INVALID_TTL"},
		"negative time":                    {request(reply{"ttl_sec": -1}), 400, "INVALID_TTL"},
		"half a second":                    {request(reply{"ttl_sec": 0.5}), 400, "INVALID_TTL"},
		"too long":                         {request(reply{"ttl_sec": 3601}), 400, "TTL_TOO_LONG"},
		"far too long":                     {request(reply{"ttl_sec": 1e15}), 400, "TTL_TOO_LONG"},
		"an end that is no number":         {request(reply{"exp": -1}), 400, "INVALID_EXP"},
		"a broken end":                     {request(reply{"exp": 1_700_000_000.5}), 400, "INVALID_EXP"},
		"a passed end":                     {request(reply{"exp": 1_700_000_000}), 400, "TTL_EXPIRED"},
		"a far end":                        {request(reply{"exp": 1_700_003_601}), 400, "TTL_TOO_LONG"},
		"an unknown tier":                  {request(reply{"tier": "gold"}), 400, "INVALID_REQUEST"},
		"owner_did":                        {request(reply{"owner_did": "x"}), 400, "OWNER_DID_INVALID"},
		"controller_did":                   {request(reply{"controller_did": "did:key:a:b"}), 400, "CONTROLLER_DID_INVALID"},
		"agent_did":                        {request(reply{"agent_did": "did:KEY:a"}), 400, "AGENT_DID_INVALID"},
		"payment_account_did":              {request(reply{"payment_account_did": "acct"}), 400, "PAYMENT_ACCOUNT_CLAIM_INVALID"},
		"policy_hash_b64u":                 {request(reply{"policy_hash_b64u": "short"}), 400, "POLICY_HASH_INVALID"},
		"a policy hash spelled otherwise":  {request(reply{"policy_hash_b64u": policyHash[:42] + "d"}), 400, "POLICY_HASH_INVALID"},
		"control_plane_policy_hash_b64u":   {request(reply{"control_plane_policy_hash_b64u": "short"}), 400, "CONTROL_POLICY_HASH_INVALID"},
		"delegation_policy_hash_b64u":      {request(reply{"delegation_policy_hash_b64u": "short"}), 400, "DELEGATION_POLICY_HASH_INVALID"},
		"delegator_did":                    {request(reply{"delegator_did": "x"}), 400, "DELEGATOR_DID_INVALID"},
		"delegate_did":                     {request(reply{"delegate_did": "x"}), 400, "DELEGATE_DID_INVALID"},
		"delegation_spend_cap_minor":       {request(reply{"delegation_spend_cap_minor": "1.5"}), 400, "DELEGATION_SPEND_CAP_INVALID"},
		"delegation_expires_at":            {request(reply{"delegation_expires_at": -1}), 400, "INVALID_REQUEST"},
		"another's delegation":             {request(reply{"delegate_did": "did:key:zOther"}), 400, "DELEGATE_DID_SUB_MISMATCH"},
		"a delegator who is no owner":      {request(reply{"delegator_did": "did:key:zA", "owner_did": "did:key:zB"}), 400, "DELEGATOR_OWNER_MISMATCH"},
		"a delegation on the legacy lane":  {request(reply{"delegation_id": "d"}), 400, "DELEGATION_CANONICAL_REQUIRED"},
		"an unknown lane":                  {request(reply{"token_lane": "fast"}), 400, "TOKEN_LANE_INVALID"},
		"canonical without chain":          {request(reply{"token_lane": "canonical"}), 400, "CANONICAL_CHAIN_REQUIRED"},
		"canonical for another":            {request(reply{"token_lane": "canonical", "owner_did": "did:key:zO", "controller_did": "did:key:zC", "agent_did": "did:key:zOther"}), 400, "CANONICAL_AGENT_SUB_MISMATCH"},
		"canonical without control plane":  {request(reply{"token_lane": "canonical", "owner_did": "did:key:zO", "controller_did": "did:key:zC", "agent_did": "did:key:zAgent"}), 503, "CONTROL_PLANE_NOT_CONFIGURED"},
		"a jti that is no UUID":            {request(reply{"jti": "1"}), 400, "INVALID_REQUEST"},
		"a nonce that is no UUID":          {request(reply{"nonce": "1"}), 400, "INVALID_REQUEST"},
		"a padded mission":                 {request(reply{"mission_id": "m1 "}), 400, "INVALID_REQUEST"},
		"a mission padded with JS's space": {request(reply{"mission_id": "m1\u2028"}), 400, "INVALID_REQUEST"},
		"a negative spend cap":             {request(reply{"spend_cap": -1}), 400, "INVALID_REQUEST"},
		"a certificate that is no hash":    {request(reply{"cnf": reply{"x5t#S256": "short"}}), 400, "INVALID_REQUEST"},
		"a token that would be too large":  {request(reply{"scope": longScopes()}), 400, "INVALID_REQUEST"},
	}
	g := newRig(t, nil)
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			status, a := g.call("POST", "/v1/tokens/issue", tc.body)
			if status != tc.status || a["error"] != tc.code {
				t.Errorf("%d %v, want %d %s", status, a, tc.status, tc.code)
			}
			if message, _ := a["message"].(string); message == "" || a["token"] != nil {
				t.Errorf("answer %v, want a message and no token", a)
			}
		})
	}
	if data, _ := os.ReadFile(filepath.Join(g.dir, "issuer", "issuance.jsonl")); len(data) != 0 {
		t.Errorf("refused tokens are recorded as issued: %s", data)
	}
	if status, a := g.call("POST", "/v1/tokens/issue/canonical", request(nil)); status != 503 || a["error"] != "CONTROL_PLANE_NOT_CONFIGURED" {
		t.Errorf("canonical: %d %v", status, a)
	}
}

// longScopes are within the limits of count and length, and together more than a token may hold.
func longScopes() (out []string) {
	for i := range maxScopes {
		out = append(out, fmt.Sprintf("%02d%s", i, strings.Repeat("a", maxScopeChars-2)))
	}
	return out
}

func TestTiers(t *testing.T) {
	g := newRig(t, func(c *Config) {
		c.Policy = ScopePolicy{Version: "7", Tiers: map[string]Tier{
			DefaultTier: {AllowedScopes: []string{"proxy:call"}, AllowedPrefixes: []string{"proxy:provider:"}, MaxTTL: time.Minute},
			"wide":      {AllowWildcards: true},
		}}
	})
	tests := map[string]struct {
		changes reply
		code    any
	}{
		"an exact scope":          {reply{"scope": []string{"proxy:call"}}, nil},
		"a prefix":                {reply{"scope": []string{"proxy:provider:openai"}}, nil},
		"neither":                 {reply{"scope": []string{"proxy:calls"}}, "SCOPE_NOT_ALLOWED"},
		"a wildcard":              {reply{"scope": []string{"proxy:*"}}, "SCOPE_WILDCARD_NOT_ALLOWED"},
		"a wildcard, wide":        {reply{"scope": []string{"proxy:*"}, "tier": "wide"}, nil},
		"control, wide":           {reply{"scope": []string{"control:*"}, "tier": "wide"}, "LEGACY_SENSITIVE_SCOPE_FORBIDDEN"},
		"longer than the tier":    {reply{"ttl_sec": 61}, "TTL_TOO_LONG"},
		"the default is cut down": {nil, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, a := g.call("POST", "/v1/tokens/issue", request(tc.changes))
			if a["error"] != tc.code {
				t.Errorf("%v, want %v", a, tc.code)
			}
			iat, _ := a["iat"].(float64)
			exp, _ := a["exp"].(float64)
			if a["policy_tier"] == DefaultTier && exp-iat != 60 {
				t.Errorf("it lives %v seconds, want the tier's 60", exp-iat)
			}
		})
	}
	for name, p := range map[string]ScopePolicy{
		"longer than an hour": {Tiers: map[string]Tier{"a": {MaxTTL: MaxTTL + 1}}},
		"an empty prefix":     {Tiers: map[string]Tier{"a": {AllowedPrefixes: []string{""}}}},
	} {
		if err := p.Validate(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
