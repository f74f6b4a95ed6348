package issuer

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/signer/token"
)

func TestRevoke(t *testing.T) {
	tests := map[string]struct {
		body  func(raw string) string
		kind  Kind
		value func(raw string) string
		field string
	}{
		"by the token": {func(raw string) string { return fmt.Sprintf(`{"token":%q,"reason":"leaked"}`, raw) }, KindToken, token.Hash, "token_hash"},
		"by its hash":  {func(raw string) string { return fmt.Sprintf(`{"token_hash":%q}`, strings.ToUpper(token.Hash(raw))) }, KindToken, token.Hash, "token_hash"},
		"by its job":   {func(string) string { return `{"mission_id":"m1"}` }, KindMission, func(string) string { return "m1" }, "mission_id"},
		"by its contract": {func(string) string { return `{"policy_hash_b64u":"` + policyHash + `"}` }, KindPolicy,
			func(string) string { return policyHash }, "policy_hash_b64u"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, nil)
			raw := g.mint(nil)
			changed, before := g.Changed(), g.Snapshot()
			status, a := g.call("POST", "/v1/tokens/revoke", tc.body(raw))
			want := reply{
				"status": "revoked", tc.field: tc.value(raw), "revoked_at": 1.7e9, "revoked_at_iso": "2023-11-14T22:13:20.000Z",
				"event_key": (&Revocation{Kind: tc.kind, Value: tc.value(raw), RevokedAt: 1_700_000_000}).EventKey(),
			}
			if status != 200 || !maps.Equal(a, want) {
				t.Errorf("%d %v, want %v", status, a, want)
			}
			select {
			case <-changed:
			default:
				t.Error("nobody was told")
			}
			s := g.Snapshot()
			in := map[Kind][]string{KindToken: s.RevokedTokens, KindMission: s.RevokedMissions, KindPolicy: s.RevokedPolicies}[tc.kind]
			if s.Version <= before.Version || !slices.Equal(in, []string{tc.value(raw)}) {
				t.Errorf("snapshot %+v after version %d", s, before.Version)
			}
			_, intro := g.call("POST", "/v1/tokens/introspect", fmt.Sprintf(`{"token":%q}`, raw))
			if intro["active"] != false || intro["revoked"] != true || intro["revoked_at"] != 1.7e9 || intro["revoked_by_kind"] != string(tc.kind) {
				t.Errorf("introspection says %v", intro)
			}
			g.at = g.at.Add(time.Minute)
			changed = g.Changed()
			if status, a := g.call("POST", "/v1/tokens/revoke", tc.body(raw)); status != 200 || a["status"] != "already_revoked" || a["revoked_at"] != 1.7e9 {
				t.Errorf("again: %d %v", status, a)
			}
			select {
			case <-changed:
				t.Error("everybody was told of nothing new")
			default:
			}
		})
	}
}

func TestNoTokensForWhatIsWithdrawn(t *testing.T) {
	g := newRig(t, nil)
	for body, code := range map[string]string{`{"mission_id":"m1"}`: "MISSION_REVOKED", `{"policy_hash_b64u":"` + policyHash + `"}`: "POLICY_REVOKED"} {
		if status, a := g.call("POST", "/v1/tokens/revoke", body); status != 200 {
			t.Fatalf("%d %v", status, a)
		}
		changes := reply{"mission_id": "m2"}
		if code == "MISSION_REVOKED" {
			changes = reply{"policy_hash_b64u": nil}
		}
		if status, a := g.call("POST", "/v1/tokens/issue", request(changes)); status != 409 || a["error"] != code {
			t.Errorf("%d %v, want 409 %s", status, a, code)
		}
	}
	g.mint(reply{"mission_id": nil, "policy_hash_b64u": nil})
}

func TestRevokeRefusals(t *testing.T) {
	g := newRig(t, nil)
	for name, tc := range map[string]struct{ body, code string }{
		"no JSON":               {`{`, "INVALID_JSON"},
		"nothing named":         {`{}`, "INVALID_REQUEST"},
		"two named":             {`{"token_hash":"` + hashOf("a") + `","mission_id":"m"}`, "INVALID_REQUEST"},
		"another member":        {`{"jti":"a"}`, "INVALID_REQUEST"},
		"no token":              {`{"token":"abc"}`, "INVALID_REQUEST"},
		"no hash":               {`{"token_hash":"abc"}`, "INVALID_TOKEN_HASH"},
		"an empty hash":         {`{"token_hash":""}`, "INVALID_TOKEN_HASH"},
		"an empty job":          {`{"mission_id":""}`, "INVALID_REQUEST"},
		"a padded job":          {`{"mission_id":" m"}`, "INVALID_REQUEST"},
		"no contract":           {`{"policy_hash_b64u":"abc"}`, "POLICY_HASH_INVALID"},
		"a long reason":         {`{"mission_id":"m","reason":"` + strings.Repeat("a", 257) + `"}`, "INVALID_REQUEST"},
		"a reason of two lines": {`{"mission_id":"m","reason":"a\nb"}`, "INVALID_REQUEST"},
	} {
		if status, a := g.call("POST", "/v1/tokens/revoke", tc.body); status != 400 || a["error"] != tc.code {
			t.Errorf("%s: %d %v, want 400 %s", name, status, a, tc.code)
		}
	}
	if err := g.revs.Close(); err != nil {
		t.Fatal(err)
	}
	if status, a := g.call("POST", "/v1/tokens/revoke", `{"mission_id":"m"}`); status != 503 || a["error"] != "REVOCATION_STORE_ERROR" {
		t.Errorf("a store that fails: %d %v", status, a)
	}
}

func TestATokenThatCannotBeRecordedIsNotGiven(t *testing.T) {
	g := newRig(t, nil)
	if err := g.issued.close(); err != nil {
		t.Fatal(err)
	}
	if status, a := g.call("POST", "/v1/tokens/issue", request(nil)); status != 500 || a["error"] != "ISSUE_FAILED" || a["token"] != nil {
		t.Errorf("%d %v", status, a)
	}
}

func TestRevocationFeed(t *testing.T) {
	g := newRig(t, nil)
	for i, body := range []string{`{"token_hash":"` + hashOf("a") + `"}`, `{"mission_id":"m","reason":"r"}`, `{"policy_hash_b64u":"` + policyHash + `"}`} {
		g.at = g.at.Add(time.Duration(i) * time.Second)
		if status, a := g.call("POST", "/v1/tokens/revoke", body); status != 200 {
			t.Fatalf("%d %v", status, a)
		}
	}
	page := func(path string) ([]any, reply) {
		t.Helper()
		status, a := g.call("GET", path, "")
		events, ok := a["events"].([]any)
		if status != 200 || !ok {
			t.Fatalf("%d %v", status, a)
		}
		return events, a
	}
	record := func(e any) map[string]any {
		m, _ := e.(map[string]any)
		r, _ := m["record"].(map[string]any)
		return r
	}
	all, a := page("/v1/revocations/events")
	if len(all) != 3 || a["list_complete"] != true || a["cursor"] != nil || a["stream_version"] != nil || record(all[0])["policy_hash_b64u"] != policyHash || record(all[1])["reason"] != "r" {
		t.Errorf("%v", a)
	}
	first, a := page("/v1/revocations/stream?limit=2")
	cursor, _ := a["cursor"].(string)
	if len(first) != 2 || a["list_complete"] != false || a["stream_version"] != "1" || cursor == "" {
		t.Errorf("%v", a)
	}
	rest, a := page("/v1/revocations/stream?limit=2&cursor=" + cursor)
	if len(rest) != 1 || a["list_complete"] != true || record(rest[0])["token_hash"] != hashOf("a") {
		t.Errorf("%v", a)
	}
	for _, bad := range []string{"limit=0", "limit=201", "limit=x", "cursor=x"} {
		if status, a := g.call("GET", "/v1/revocations/events?"+bad, ""); status != 400 || a["error"] != "INVALID_REQUEST" {
			t.Errorf("%s: %d %v", bad, status, a)
		}
	}
}
