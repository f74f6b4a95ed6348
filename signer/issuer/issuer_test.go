package issuer

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/signer/envelope"
	"sallyport/signer/keyring"
	"sallyport/signer/token"
)

const adminKey = "not-a-real-key-not-a-real-key"

// rig is an issuer with a clock, and what it logged.
type rig struct {
	*Issuer
	t    *testing.T
	dir  string
	ring *keyring.Ring
	revs *Revocations
	at   time.Time
	log  bytes.Buffer
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	g := &rig{t: t, dir: t.TempDir(), at: time.Unix(1_700_000_000, 0)}
	ring, _, err := keyring.OpenOrCreate(filepath.Join(g.dir, "keys"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := NewAdminKey(adminKey)
	if err != nil {
		t.Fatal(err)
	}
	g.ring, g.revs = ring, openRevocations(t, filepath.Join(g.dir, "issuer"))
	cfg := Config{
		Ring: ring, Revocations: g.revs, Admin: admin, Dir: filepath.Join(g.dir, "issuer"),
		GatewayDID: "did:key:zGateway", ContractDIDs: []string{"did:key:zContracts"},
		SignContract: func(payload []byte, at time.Time) (*envelope.Envelope, error) {
			if bytes.Contains(payload, []byte("broken")) {
				return nil, errors.New("policy_version: it is broken")
			}
			return envelope.Seal(envelope.TypeContract, json.RawMessage(payload), ring.Active(), at)
		},
		Log: slog.New(slog.NewTextHandler(&g.log, nil)), Now: func() time.Time { return g.at },
	}
	if change != nil {
		change(&cfg)
	}
	if g.Issuer, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

type reply map[string]any

// call sends one request as the administrator.
func (g *rig) call(method, path, body string) (int, reply) {
	g.t.Helper()
	return g.callAs("Bearer "+adminKey, method, path, body)
}

func (g *rig) callAs(authorization, method, path, body string) (int, reply) {
	g.t.Helper()
	r := httptest.NewRequestWithContext(g.t.Context(), method, path, strings.NewReader(body))
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	w := httptest.NewRecorder()
	g.Handler().ServeHTTP(w, r)
	var out reply
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		g.t.Fatalf("%s %s answered %q: %v", method, path, w.Body, err)
	}
	if w.Header().Get("Content-Type") != "application/json" {
		g.t.Errorf("%s %s: content type %q", method, path, w.Header().Get("Content-Type"))
	}
	return w.Code, out
}

// request is a good token request with changes; nil takes a member away.
func request(changes reply) string {
	body := reply{"sub": "did:key:zAgent", "aud": "gateway.example", "scope": []string{"proxy:call"}, "mission_id": "m1", "policy_hash_b64u": policyHash}
	for k, v := range changes {
		if v == nil {
			delete(body, k)
			continue
		}
		body[k] = v
	}
	out, _ := json.Marshal(body) // strings, numbers and lists cannot fail
	return string(out)
}

// mint makes a token.
func (g *rig) mint(changes reply) string {
	g.t.Helper()
	status, a := g.call("POST", "/v1/tokens/issue", request(changes))
	raw, _ := a["token"].(string)
	if status != http.StatusOK || raw == "" {
		g.t.Fatalf("issue: %d %v", status, a)
	}
	return raw
}

func TestIntrospect(t *testing.T) {
	g := newRig(t, nil)
	raw := g.mint(reply{"ttl_sec": 60})
	body := fmt.Sprintf(`{"token":%q}`, raw)
	status, a := g.callAs("", "POST", "/v1/tokens/introspect", body)
	if status != 200 || a["active"] != true || a["revoked"] != nil || a["sub"] != "did:key:zAgent" || a["kid_source"] != "header" ||
		a["token_hash"] != token.Hash(raw) || a["mission_id"] != "m1" || a["policy_hash_b64u"] != policyHash {
		t.Fatalf("%d %v", status, a)
	}

	other, err := keyring.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	claims := token.Claims{Sub: "s", Aud: token.Audience{"a"}, Scope: []string{"proxy:call"}, Iat: g.at.Unix(), Exp: g.at.Unix() + 60}
	foreign, err := token.Issue(other, claims)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(raw, ".")
	for name, tc := range map[string]struct {
		body   string
		status int
		code   string
	}{
		"no JSON":             {`x`, 400, "INVALID_JSON"},
		"no token":            {`{}`, 400, "INVALID_REQUEST"},
		"something else":      {`{"token":"abc"}`, 401, "TOKEN_MALFORMED"},
		"another algorithm":   {`{"token":"eyJhbGciOiJub25lIn0.` + parts[1] + `."}`, 401, "TOKEN_UNSUPPORTED_ALG"},
		"another issuer's":    {fmt.Sprintf(`{"token":%q}`, foreign), 401, "TOKEN_UNKNOWN_KID"},
		"another's signature": {fmt.Sprintf(`{"token":%q}`, parts[0]+"."+parts[1]+"."+strings.Split(foreign, ".")[2]), 401, "TOKEN_SIGNATURE_INVALID"},
		"too large":           {`{"token":"` + strings.Repeat("a", 9000) + `"}`, 401, "TOKEN_TOO_LARGE"},
	} {
		if status, a := g.callAs("", "POST", "/v1/tokens/introspect", tc.body); status != tc.status || a["error"] != tc.code {
			t.Errorf("%s: %d %v, want %d %s", name, status, a, tc.status, tc.code)
		}
	}

	g.at = g.at.Add(59 * time.Second)
	if status, _ := g.callAs("", "POST", "/v1/tokens/introspect", body); status != 200 {
		t.Errorf("in its last second: %d", status)
	}
	g.at = g.at.Add(time.Second) // no leeway here
	if status, a := g.callAs("", "POST", "/v1/tokens/introspect", body); status != 401 || a["error"] != "TOKEN_EXPIRED" {
		t.Errorf("at its end: %d %v", status, a)
	}
}

// protected is everything that only an administrator may do.
var protected = map[string]string{
	"POST /v1/tokens/issue": request(nil), "POST /v1/tokens/issue/canonical": "{}", "POST /v1/tokens/revoke": `{"mission_id":"m"}`,
	"GET /v1/revocations/events": "", "GET /v1/revocations/stream": "", "POST /v1/contracts/sign": `{"wpc":{}}`, "POST /v1/keys/rotate": `{}`,
}

func TestAdministratorsOnly(t *testing.T) {
	g := newRig(t, nil)
	before := g.Snapshot()
	for route, body := range protected {
		method, path, _ := strings.Cut(route, " ")
		for name, authorization := range map[string]string{
			"nobody": "", "another key": "Bearer " + adminKey + "x", "a part of the key": "Bearer " + adminKey[:20], "no scheme": adminKey,
			"an empty key": "Bearer ", "Basic": "Basic " + adminKey,
		} {
			if status, a := g.callAs(authorization, method, path, body); status != 401 || a["error"] != "UNAUTHORIZED" {
				t.Errorf("%s by %s: %d %v", route, name, status, a)
			}
		}
		r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		r.Header["Authorization"] = []string{"Bearer " + adminKey, "Bearer " + adminKey}
		w := httptest.NewRecorder()
		g.Handler().ServeHTTP(w, r)
		if w.Code != 401 {
			t.Errorf("%s with two keys: %d", route, w.Code)
		}
	}
	if after := g.Snapshot(); after.Version != before.Version {
		t.Error("something was done all the same")
	}
	if strings.Contains(g.log.String(), adminKey) {
		t.Error("the key is in the log")
	}
	none := newRig(t, func(c *Config) { c.Admin = nil })
	for route, body := range protected {
		method, path, _ := strings.Cut(route, " ")
		if status, a := none.call(method, path, body); status != 503 || a["error"] != "ADMIN_KEY_NOT_CONFIGURED" {
			t.Errorf("%s without any administrator: %d %v", route, status, a)
		}
	}
}

func TestNotConfigured(t *testing.T) {
	g := newRig(t, func(c *Config) { c.Revocations, c.SignContract = nil, nil })
	for route, code := range map[string]string{
		"POST /v1/tokens/revoke": "REVOCATION_NOT_CONFIGURED", "GET /v1/revocations/events": "REVOCATION_NOT_CONFIGURED",
		"POST /v1/contracts/sign": "SIGNING_NOT_CONFIGURED",
	} {
		method, path, _ := strings.Cut(route, " ")
		if status, a := g.call(method, path, protected[route]); status != 503 || a["error"] != code {
			t.Errorf("%s: %d %v, want 503 %s", route, status, a, code)
		}
	}
	g.mint(nil)
	if _, err := New(Config{}); err == nil || !strings.Contains(err.Error(), "key ring") || !strings.Contains(err.Error(), "log") {
		t.Errorf("%v, want all that is missing", err)
	}
}

func TestKeysArePublished(t *testing.T) {
	g := newRig(t, nil)
	k := g.ring.Active()
	_, a := g.callAs("", "GET", "/v1/did", "")
	if a["did"] != k.DID() || a["kid"] != k.KID() || a["gateway_did"] != "did:key:zGateway" {
		t.Errorf("%v", a)
	}
	raw := g.mint(nil)
	before, changed := g.Snapshot(), g.Changed()
	if status, a := g.call("POST", "/v1/keys/rotate", `{"overlap_seconds":60}`); status != 200 || a["active_kid"] == k.KID() {
		t.Fatalf("%d %v", status, a)
	}
	select {
	case <-changed:
	default:
		t.Error("nobody was told of the new key")
	}
	if s := g.Snapshot(); len(s.Keys) != 2 || s.Version <= before.Version {
		t.Errorf("snapshot %+v", s)
	}
	kids := func() (out []any) {
		_, a := g.callAs("", "GET", "/v1/jwks", "")
		keys, _ := a["keys"].([]any)
		for _, k := range keys {
			m, _ := k.(map[string]any)
			out = append(out, m["kid"])
		}
		return out
	}
	if got := kids(); !slices.Equal(got, []any{g.ring.Active().KID(), k.KID()}) {
		t.Errorf("key set %v", got)
	}
	body := fmt.Sprintf(`{"token":%q}`, raw)
	if status, a := g.call("POST", "/v1/tokens/introspect", body); status != 200 {
		t.Errorf("a token of the old key: %d %v", status, a)
	}
	g.at = g.at.Add(61 * time.Second)
	if status, a := g.call("POST", "/v1/tokens/introspect", body); status != 401 || a["error"] != "TOKEN_KID_EXPIRED" {
		t.Errorf("after the overlap: %d %v", status, a)
	}
	if got := kids(); !slices.Equal(got, []any{g.ring.Active().KID()}) {
		t.Errorf("key set after the overlap %v", got)
	}
	for _, bad := range []string{`{"overlap_seconds":-1}`, `{"overlap_seconds":99999999}`, `{"x":1}`} {
		if status, a := g.call("POST", "/v1/keys/rotate", bad); status != 400 || a["error"] != "INVALID_REQUEST" {
			t.Errorf("%s: %d %v", bad, status, a)
		}
	}
}

func TestSignContract(t *testing.T) {
	g := newRig(t, nil)
	status, a := g.call("POST", "/v1/contracts/sign", `{"wpc":{"policy_version":"1"}}`)
	text, err := json.Marshal(a["envelope"])
	if status != 200 || err != nil {
		t.Fatalf("%d %v %v", status, a, err)
	}
	env, err := envelope.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := env.Verify(envelope.Check{Type: envelope.TypeContract, Rule: envelope.JCS, Trusted: []string{g.ring.Active().DID()}}); err != nil || a["policy_hash_b64u"] != env.PayloadHashB64u {
		t.Errorf("%v, hash %v", err, a["policy_hash_b64u"])
	}
	for body, code := range map[string]string{
		`{`: "INVALID_JSON", `{}`: "INVALID_REQUEST", `{"wpc":[]}`: "INVALID_REQUEST", `{"wpc":null}`: "INVALID_REQUEST",
		`{"wpc":{"a":1,"a":2}}`: "INVALID_JSON", `{"wpc":{"a":"broken"}}`: "INVALID_WPC",
	} {
		if status, a := g.call("POST", "/v1/contracts/sign", body); status != 400 || a["error"] != code {
			t.Errorf("%s: %d %v, want 400 %s", body, status, a, code)
		}
	}
}

func TestUnknownPaths(t *testing.T) {
	g := newRig(t, nil)
	for _, route := range []string{"GET /", "GET /v1/tokens/issue", "DELETE /v1/jwks", "POST /v1/keys/transparency/snapshot"} {
		method, path, _ := strings.Cut(route, " ")
		if status, a := g.call(method, path, ""); status != 404 || a["error"] != "NOT_FOUND" {
			t.Errorf("%s: %d %v", route, status, a)
		}
	}
	if status, a := g.callAs("", "GET", "/health", ""); status != 200 || a["status"] != "ok" {
		t.Errorf("health: %d %v", status, a)
	}
}

// A snapshot of a restarted issuer has all that was withdrawn, and a version above every earlier one.
func TestRestart(t *testing.T) {
	g := newRig(t, nil)
	for _, body := range []string{`{"mission_id":"m"}`, `{"token_hash":"` + hashOf("a") + `"}`} {
		if status, a := g.call("POST", "/v1/tokens/revoke", body); status != 200 {
			t.Fatalf("%d %v", status, a)
		}
	}
	raw := g.mint(nil)
	before := g.Snapshot()
	if err := errors.Join(g.Close(), g.revs.Close()); err != nil {
		t.Fatal(err)
	}
	revs := openRevocations(t, filepath.Join(g.dir, "issuer"))
	again, err := New(Config{Ring: g.ring, Revocations: revs, Dir: filepath.Join(g.dir, "issuer"), Log: quiet, Now: func() time.Time { return g.at.Add(time.Second) }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	after := again.Snapshot()
	if after.Version <= before.Version || !slices.Equal(after.RevokedMissions, []string{"m"}) || !slices.Equal(after.RevokedTokens, []string{hashOf("a")}) {
		t.Errorf("%+v after %+v", after, before)
	}
	if len(after.Keys) != 1 || !after.Keys[0].Public.Equal(g.ring.Active().Public()) {
		t.Errorf("keys %v", after.Keys)
	}
	if _, d := token.Verify(raw, keyring.NewKeySet(after.Keys), []string{"gateway.example"}, g.at); d != nil {
		t.Error(d)
	}
}
