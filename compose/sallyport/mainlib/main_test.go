package mainlib

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// run runs one command as a person would.
func run(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = Main(t.Context(), args, &out, &errs)
	return status, out.String(), errs.String()
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWrongCommandLines(t *testing.T) {
	for name, args := range map[string][]string{
		"no such command":       {"bogus"},
		"no such flag":          {"up", "--bogus"},
		"too few arguments":     {"contract", "hash"},
		"too many arguments":    {"version", "x"},
		"no contract":           {"token", "issue"},
		"no token":              {"token", "inspect", "abc"},
		"nothing to withdraw":   {"token", "revoke"},
		"two things":            {"token", "revoke", "--mission", "a", "--policy", "b"},
		"two configurations":    {"doctor", "-c", "a.yaml", "--data-dir", "b"},
		"wrong configuration":   {"doctor", "-c", write(t, "c.yaml", "lissten: x\n")},
		"wrong in a role":       {"signer", "-c", write(t, "c.yaml", "lissten: x\n")},
		"checked configuration": {"config", "check", write(t, "c.yaml", "evidence: {mode: fast}\n")},
	} {
		t.Run(name, func(t *testing.T) {
			status, out, errs := run(t, args...)
			if status != ExitUsage || errs == "" {
				t.Errorf("status %d, stdout %q, stderr %q", status, out, errs)
			}
		})
	}
}

func TestHelpNamesEveryCommand(t *testing.T) {
	status, out, _ := run(t)
	if status != ExitOK {
		t.Fatalf("status %d", status)
	}
	for _, c := range []string{"up", "run", "extproc", "xds", "signer", "model", "contract", "token", "receipts", "doctor", "config", "version"} {
		if !strings.Contains(out, "\n  "+c+" ") {
			t.Errorf("%s is not in the help:\n%s", c, out)
		}
	}
}

func TestConfigCommands(t *testing.T) {
	status, out, _ := run(t, "config", "schema")
	if status != ExitOK || !json.Valid([]byte(out)) {
		t.Errorf("schema: %d %.80s", status, out)
	}
	status, out, errs := run(t, "config", "check", "../../config/example.yaml")
	if status != ExitOK || !strings.Contains(out, "is valid: 3 upstreams") {
		t.Errorf("check: %d %s %s", status, out, errs)
	}
	if status, out, _ := run(t, "config", "check"); status != ExitOK || !strings.Contains(out, "built-in") {
		t.Errorf("check of nothing: %d %s", status, out)
	}
	if _, _, errs := run(t, "config", "check", write(t, "c.yaml", "evidence:\n  mode: fast\n")); !strings.Contains(errs, "c.yaml:2:3: evidence.mode") {
		t.Errorf("no line and path: %s", errs)
	}
}

// controlAPI answers as the control API does, and keeps what it was asked.
type controlAPI struct {
	*httptest.Server
	path, auth, body string
	status           int
	answer           string
}

func newControlAPI(t *testing.T) (*controlAPI, []string) {
	c := &controlAPI{status: http.StatusOK}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		c.path, c.auth, c.body = r.Method+" "+r.URL.Path, r.Header.Get("Authorization"), string(raw)
		w.WriteHeader(c.status)
		_, _ = io.WriteString(w, c.answer)
	}))
	t.Cleanup(c.Close)
	return c, []string{"--control-url", c.URL, "--admin-token-file", write(t, "admin", "not-a-real-key\n")}
}

const someHash = "Dz1r1UbKtJq3--RwaKBG5zeSnloNEBE6oZ5ba3-sJgc"

func TestTokenIssue(t *testing.T) {
	c, flags := newControlAPI(t)
	c.answer = `{"token":"a.b.c","kid":"k"}`
	status, out, errs := run(t, append(flags, "token", "issue", "--policy", someHash, "--mission", "m1", "--ttl", "5m", "--once", "--aud", "here")...)
	if status != ExitOK || out != "a.b.c\n" {
		t.Fatalf("%d %q %s", status, out, errs)
	}
	if c.path != "POST /v1/tokens/issue" || c.auth != "Bearer not-a-real-key" {
		t.Errorf("asked %s as %q", c.path, c.auth)
	}
	var got issueRequest
	if err := json.Unmarshal([]byte(c.body), &got); err != nil {
		t.Fatal(err)
	}
	if got.TTLSec != 300 || got.PolicyHash != someHash || got.MissionID != "m1" || len(got.Nonce) != 36 || got.Aud[0] != "here" || got.Scope[0] != "proxy:call" {
		t.Errorf("asked for %+v", got)
	}
}

func TestRefusalsOfTheControlAPIAreSaid(t *testing.T) {
	c, flags := newControlAPI(t)
	for name, x := range map[string]struct {
		status       int
		answer, want string
	}{
		"issuer's shape":   {400, `{"error":"TTL_TOO_LONG","message":"at most 3600"}`, "TTL_TOO_LONG: at most 3600"},
		"registry's shape": {401, `{"ok":false,"error":{"code":"UNAUTHORIZED","message":"no"}}`, "UNAUTHORIZED: no"},
		"no shape":         {502, "bad gateway", "bad gateway"},
	} {
		t.Run(name, func(t *testing.T) {
			c.status, c.answer = x.status, x.answer
			status, _, errs := run(t, append(flags, "token", "issue", "--policy", someHash, "--aud", "here")...)
			if status != ExitFailure || !strings.Contains(errs, x.want) {
				t.Errorf("%d %s", status, errs)
			}
		})
	}
}

func TestNoControlAPI(t *testing.T) {
	status, _, errs := run(t, "--control-url", "http://127.0.0.1:1", "--admin-token-file", write(t, "admin", "x"), "token", "revoke", "--mission", "m")
	if status != ExitFailure || !strings.Contains(errs, "is Sallyport running?") {
		t.Errorf("%d %s", status, errs)
	}
}

// The header and claims of this token are {"alg":"EdDSA"} and {"sub":"x"}; its signature is nobody's.
const someToken = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ4In0.c2ln" //nolint:gosec // not a real token

func TestTokenInspect(t *testing.T) {
	c, flags := newControlAPI(t)
	inspect := func(args ...string) (int, map[string]any) {
		t.Helper()
		status, out, errs := run(t, append(append(flags, "token", "inspect"), args...)...)
		var v map[string]any
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			t.Fatalf("%v: %s %s", err, out, errs)
		}
		return status, v
	}
	c.answer = `{"active":true,"sub":"x"}`
	if status, v := inspect(someToken); status != ExitOK || v["active"] != true || v["claims"].(map[string]any)["sub"] != "x" {
		t.Errorf("active: %d %v", status, v)
	}
	if c.auth != "" {
		t.Error("the administrator's key went along where it is not needed")
	}
	c.answer = `{"active":false,"revoked":true}`
	if status, v := inspect(someToken); status != ExitFailure || v["active"] != false {
		t.Errorf("revoked: %d %v", status, v)
	}
	c.status, c.answer = 401, `{"error":"TOKEN_EXPIRED","message":"over"}`
	if status, v := inspect(someToken); status != ExitFailure || v["reason"] != "TOKEN_EXPIRED: over" {
		t.Errorf("expired: %d %v", status, v)
	}
	if status, v := inspect("--offline", someToken); status != ExitOK || v["note"] != "not verified" {
		t.Errorf("offline: %d %v", status, v)
	}
}

func TestTokenRevoke(t *testing.T) {
	c, flags := newControlAPI(t)
	c.answer = `{"status":"revoked"}`
	for want, args := range map[string][]string{
		`{"token":"` + someToken + `"}`:                    {someToken},
		`{"mission_id":"m1","reason":"left"}`:              {"--mission", "m1", "--reason", "left"},
		`{"policy_hash_b64u":"` + someHash + `"}`:          {"--policy", someHash},
		`{"token_hash":"` + strings.Repeat("0", 64) + `"}`: {"--token-hash", strings.Repeat("0", 64)},
	} {
		status, out, errs := run(t, append(append(flags, "token", "revoke"), args...)...)
		if status != ExitOK || c.body != want || !strings.Contains(out, "revoked") {
			t.Errorf("%v: %d, sent %s, want %s; %s", args, status, c.body, want, errs)
		}
	}
}

func TestDoctorOnAnEmptyDirectory(t *testing.T) {
	t.Setenv("ENVOY", "")
	t.Chdir(t.TempDir())
	status, out, errs := run(t, "doctor", "-c", write(t, "c.yaml", "control_listen: 127.0.0.1:1\nenvoy: {dir: none}\n"))
	if status != ExitOK || !strings.Contains(out, "not running on 127.0.0.1:1") || strings.Contains(out, "BAD") {
		t.Errorf("%d %s %s", status, out, errs)
	}
	if entries, _ := os.ReadDir("."); len(entries) != 0 {
		t.Errorf("the doctor left %v", entries)
	}
}

func TestDoctorFindsWhatIsWrong(t *testing.T) {
	t.Setenv("ENVOY", filepath.Join(t.TempDir(), "none"))
	t.Setenv("SALLYPORT_TEST_KEY", "")
	ready := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"ready":false,"checks":{"signer":"evidence: disk full","xds":"ok"}}`)
	}))
	defer ready.Close()
	admin := write(t, "admin", "not-a-real-key")
	if err := os.Chmod(admin, 0o644); err != nil {
		t.Fatal(err)
	}
	status, out, _ := run(t, "doctor", "-c", write(t, "c.yaml", `
control_listen: `+strings.TrimPrefix(ready.URL, "http://")+`
admin_token_file: `+admin+`
upstreams: [{name: a, dialect: openai, url: "https://api.example.com", secret_class: k}]
secret_classes: [{name: k, from: "env:SALLYPORT_TEST_KEY", hosts: [api.example.com]}]
`))
	if status != ExitFailure {
		t.Errorf("status %d", status)
	}
	for _, want := range []string{"BAD  envoy", "BAD  secret k", "BAD  administrator's key", "BAD  running: signer", "disk full", "ok   running: xds", "remedy:"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}

func TestNewUUID(t *testing.T) {
	a, b := newUUID(), newUUID()
	if a == b || len(a) != 36 || a[14] != '4' || !strings.ContainsRune("89ab", rune(a[19])) {
		t.Errorf("%s %s", a, b)
	}
}
