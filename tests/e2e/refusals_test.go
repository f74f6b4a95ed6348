package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"sallyport/tests/harness"
)

// exampleContract allows one model of one provider.
var exampleContract = []byte(`{"policy_kind":"wpc","policy_version":"v1","tools":{"allow":[],"deny":[]},
	"models":[{"provider":"openai","models":["gpt-4o-mini"]}],
	"secrets":{"minting":"cst_required","allowed_secret_classes":["openai_key"],"max_ttl_seconds":60},
	"auth":{"pin_policy_hash":true},"model_calls":{"must_route_via":"sallyport","receipts_required":true}}`)

// refusal is one bad request and what must come of it. Nothing of it may reach the upstream.
type refusal struct {
	name   string
	call   harness.Call
	status int
	code   string
}

// TestRefusals is the issue's table of bad input, against real Envoy. After all of it the upstream has seen nothing, and
// each refusal stands in the evidence with its code.
func TestRefusals(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{})
	good := s.Issue(nil)
	now := time.Now().Unix()
	other := s.Issue(harness.Claims{"sub": "did:key:z6MkneMkZqwqRiU5mJzSG3kDwzt9P8C59N4NGTfBLfSGE7c7"})
	revoked := s.Issue(harness.Claims{"mission_id": "withdrawn"})
	if a := s.Control("POST", "/v1/tokens/revoke", map[string]any{"token": revoked, "reason": "test"}); a.Status != http.StatusOK {
		t.Fatalf("revoke: %d %s", a.Status, a.Body)
	}
	const unknownContract = "Dz1r1UbKtJq3--RwaKBG5zeSnloNEBE6oZ5ba3-sJgc"
	forge := func() *harness.Forge { return s.Forge(good) }
	narrow := map[string]any{}
	if err := json.Unmarshal(exampleContract, &narrow); err != nil {
		t.Fatal(err)
	}
	narrow["limits"] = map[string]any{"max_request_bytes": 50}
	small := s.Issue(harness.Claims{"policy_hash_b64u": s.Publish(narrow)})
	tampered := good[:len(good)-20] + flip(good[len(good)-20:])

	cases := []refusal{
		{"no token", harness.Call{}, 401, "TOKEN_REQUIRED"},
		{"two different tokens", harness.Call{Token: good, Header: http.Header{"X-Cst": {other}}}, 401, "TOKEN_CONFLICT"},
		{"a provider key", harness.Call{Token: "not-a-real-key-but-no-cst"}, 401, "CREDENTIAL_NOT_BROKERED"},
		{"a provider key beside the token", harness.Call{Token: good, Header: http.Header{"X-Api-Key": {"not-a-real-key"}}}, 401, "CREDENTIAL_NOT_BROKERED"},
		{"expired", harness.Call{Token: forge().Set("iat", now-700).Set("exp", now-60).Token()}, 401, "TOKEN_EXPIRED"},
		{"from the future", harness.Call{Token: forge().Set("iat", now+300).Set("exp", now+900).Token()}, 401, "TOKEN_NOT_YET_VALID"},
		{"wrong audience", harness.Call{Token: s.Issue(harness.Claims{"aud": "elsewhere.example"})}, 401, "TOKEN_BAD_AUDIENCE"},
		{"no scope for a proxy", harness.Call{Token: s.Issue(harness.Claims{"scope": []string{"other:thing"}})}, 401, "TOKEN_INSUFFICIENT_SCOPE"},
		{"unknown kid", harness.Call{Token: forge().Stranger(false).Token()}, 401, "TOKEN_UNKNOWN_KID"},
		{"stranger's signature under our kid", harness.Call{Token: forge().Stranger(true).Token()}, 401, "TOKEN_SIGNATURE_INVALID"},
		{"alg none", harness.Call{Token: forge().Unsigned().Token()}, 401, "TOKEN_UNSUPPORTED_ALG"},
		{"alg HS256", harness.Call{Token: forge().HS256([]byte("public")).Token()}, 401, "TOKEN_UNSUPPORTED_ALG"},
		{"tampered", harness.Call{Token: tampered}, 401, "TOKEN_SIGNATURE_INVALID"},
		{"oversized", harness.Call{Token: forge().Set("owner_ref", strings.Repeat("x", 8<<10)).Token()}, 401, "TOKEN_TOO_LARGE"},
		{"wrong scope hash", harness.Call{Token: forge().Set("token_scope_hash_b64u", unknownContract).Token()}, 401, "TOKEN_SCOPE_HASH_MISMATCH"},
		{"claims changed under a kept scope hash", harness.Call{Token: forge().Set("mission_id", "another").Token()}, 401, "TOKEN_SCOPE_HASH_MISMATCH"},
		{"pinned to an unknown contract", harness.Call{Token: s.Issue(harness.Claims{"policy_hash_b64u": unknownContract})}, 451, "WPC_NOT_FOUND"},
		{"pinned to no contract", harness.Call{Token: s.Issue(harness.Claims{"policy_hash_b64u": nil})}, 451, "POLICY_REQUIRED"},
		{"header names another contract", harness.Call{Token: good, Header: http.Header{"X-Policy-Hash": {unknownContract}}}, 451, "POLICY_HASH_MISMATCH"},
		{"revoked", harness.Call{Token: revoked}, 401, "TOKEN_REVOKED"},
		{"model not allowed", harness.Call{Token: good, Model: "gpt-5"}, 451, "POLICY_MODEL_NOT_ALLOWED"},
		{"provider not allowed", harness.Call{Token: good, Path: "/openrouter/v1/chat/completions"}, 451, "POLICY_PROVIDER_NOT_ALLOWED"},
		{"larger than the contract's limit", harness.Call{Token: small}, 413, "PAYLOAD_TOO_LARGE"},
		{"unknown door", harness.Call{Token: good, Path: "/nowhere/v1/chat/completions"}, 404, "UNKNOWN_PROVIDER"},
		{"endpoint not carried", harness.Call{Token: good, Path: "/openai/v1/files"}, 451, "ENDPOINT_NOT_ALLOWED"},
		{"body is not JSON", harness.Call{Token: good, Body: []byte("hello")}, 400, "INVALID_REQUEST"},
		{"model twice", harness.Call{Token: good, Body: []byte(`{"model":"gpt-4o-mini","messages":[],"model":"gpt-5"}`)}, 400, "INVALID_REQUEST"},
		{"model twice, spelt differently", harness.Call{Token: good, Body: []byte(`{"model":"gpt-4o-mini","messages":[],"mod\u0065l":"gpt-5"}`)}, 400, "INVALID_REQUEST"},
		{"trailing data", harness.Call{Token: good, Body: []byte(`{"model":"gpt-4o-mini"} {"model":"gpt-5"}`)}, 400, "INVALID_REQUEST"},
		{"gzipped", harness.Call{Token: good, Body: zipped(t), Header: http.Header{"Content-Encoding": {"gzip"}}}, 415, "PAYLOAD_ENCODED"},
		{"64 MiB", harness.Call{Token: good, Body: bytes.Repeat([]byte(" "), 64<<20)}, 413, "PAYLOAD_TOO_LARGE"},
		{"empty body", harness.Call{Token: good, Body: []byte{}}, 400, "PAYLOAD_EMPTY"},
		{"encoded dot segments", harness.Call{Token: good, Path: "/openai/v1/%2e%2e/v1/chat/completions"}, 400, "PATH_NOT_CANONICAL"},
		{"dot segments", harness.Call{Token: good, Path: "/openai/v1/../v1/chat/completions"}, 400, "PATH_NOT_CANONICAL"},
		{"doubled slash", harness.Call{Token: good, Path: "/openai//v1/chat/completions"}, 400, "PATH_NOT_CANONICAL"},
		{"path parameter", harness.Call{Token: good, Path: "/openai/v1;x/chat/completions"}, 400, "PATH_NOT_CANONICAL"},
		{"encoded slash", harness.Call{Token: good, Path: "/openai/v1%2fchat/completions"}, 400, "PATH_NOT_CANONICAL"},
		{"encoded backslash", harness.Call{Token: good, Path: "/openai/v1%5cchat/completions"}, 400, "PATH_NOT_CANONICAL"},
		{"authorization twice", harness.Call{Header: http.Header{"Authorization": {"Bearer " + good, "Bearer " + good}}}, 400, "HEADER_DUPLICATE"},
		{"reserved header", harness.Call{Token: good, Header: http.Header{"X-Sallyport-Scope": {s.ContractHash}}}, 400, "HEADER_RESERVED"},
		{"websocket", harness.Call{Method: http.MethodGet, Path: "/openai/v1/responses", Token: good, Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}}, 426, "UPGRADE_NOT_SUPPORTED"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { checkRefusal(t, s, c) })
	}
	if n := s.Upstream.Count(); n != 0 {
		t.Errorf("%d requests reached the upstream: %v", n, s.Upstream.Requests())
	}
	// A refusal is handed to the log without waiting for it.
	last := cases[len(cases)-1].code
	harness.Eventually(t, "the last refusal in the evidence", func() bool { return s.RefusalCodes()[last] > 0 })
	codes := s.RefusalCodes()
	for _, c := range cases {
		if codes[c.code] == 0 && c.code != "PAYLOAD_TOO_LARGE" && c.code != "PATH_NOT_CANONICAL" {
			t.Errorf("%s: no entry with code %s in the evidence", c.name, c.code)
		}
	}
	if a := s.Do(harness.Call{Token: good}); a.Status != http.StatusOK || a.Receipt() == "" {
		t.Errorf("a good call after the bad ones: %d %s", a.Status, a.Body)
	}
}

func checkRefusal(t *testing.T, s *harness.System, c refusal) {
	t.Helper()
	a := s.Do(c.call)
	if a.Err != nil {
		t.Fatalf("transport: %v", a.Err)
	}
	if a.Status != c.status || a.Code != c.code {
		t.Errorf("got %d %s, want %d %s; body %.300s", a.Status, a.Code, c.status, c.code, a.Body)
	}
	if a.Header.Get("X-Should-Retry") != "false" {
		t.Errorf("x-should-retry is %q, so SDKs would try again", a.Header.Get("X-Should-Retry"))
	}
	if !strings.Contains(string(a.Body), `"type":"error"`) {
		t.Errorf("not the body that both families of SDK read: %.300s", a.Body)
	}
}

func flip(s string) string {
	if s[0] == 'A' {
		return "B" + s[1:]
	}
	return "A" + s[1:]
}

func zipped(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(harness.ChatBody("gpt-4o-mini", false)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
