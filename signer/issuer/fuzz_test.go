package issuer

import (
	"testing"
	"time"

	"sallyport/signer/token"
)

// Whatever is asked for, what passes is a token request within every limit, whose claims the token package accepts.
func FuzzParseIssue(f *testing.F) {
	f.Add([]byte(request(nil)))
	f.Add([]byte(request(reply{"ttl_sec": 60, "nonce": "00000000-0000-4000-8000-000000000001"})))
	f.Add([]byte(request(reply{"token_lane": "canonical", "delegate_did": "did:key:zAgent"})))
	f.Add([]byte(`{"sub":"a","aud":["a","b"],"scope":["proxy:*"],"exp":1e99}`))
	f.Add([]byte(`{"aud":null,"cnf":{"x5t#S256":""}}`))
	tier := Tier{}
	now := time.Unix(1_700_000_000, 0)
	f.Fuzz(func(t *testing.T, data []byte) {
		q, no := parseIssue(data)
		if no == nil {
			no = tier.scopes(q.Scope)
		}
		if no == nil {
			var iat, exp int64
			if iat, exp, no = q.life(&tier, now); no == nil {
				if q.TokenLane != laneLegacy || exp <= iat || exp-iat > int64(MaxTTL.Seconds()) {
					t.Fatalf("lane %q from %d to %d", q.TokenLane, iat, exp)
				}
				claims := q.claims(iat, exp)
				if err := claims.Validate(); err != nil {
					t.Fatalf("%v of %s", err, data)
				}
				scope := token.Token{Claims: claims}
				if scope.AllowsProvider("nobody's") && !hasCall(claims.Scope) {
					t.Fatalf("the scopes %q reach every provider", claims.Scope)
				}
				return
			}
		}
		if no.code == "" || no.message == "" || no.status < 400 {
			t.Fatalf("refusal %+v", no)
		}
	})
}

func hasCall(scopes []string) bool {
	for _, s := range scopes {
		switch s {
		case "proxy:call", "clawproxy:call", "proxy:provider:nobody's", "proxy:call:nobody's", "clawproxy:provider:nobody's", "clawproxy:call:nobody's":
			return true
		}
	}
	return false
}

// What passes is a revocation that the file takes and gives back.
func FuzzParseRevoke(f *testing.F) {
	f.Add([]byte(`{"token_hash":"` + hashOf("A") + `","reason":"r"}`))
	f.Add([]byte(`{"mission_id":"m"}`))
	f.Add([]byte(`{"policy_hash_b64u":"` + policyHash + `"}`))
	f.Add([]byte(`{"token":"eyJhbGciOiJFZERTQSJ9.e30.AA"}`))
	f.Add([]byte(`{"token":null,"mission_id":"\u0000"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rev, no := parseRevoke(data)
		if no != nil {
			if no.code == "" || no.message == "" || no.status < 400 {
				t.Fatalf("refusal %+v", no)
			}
			return
		}
		rev.RevokedAt = 1
		if err := rev.validate(); err != nil {
			t.Fatalf("%v of %s", err, data)
		}
	})
}
