package up

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/compose/config"
	"sallyport/signer/contract"
)

func testSystem(t *testing.T) (*system, *bytes.Buffer) {
	t.Helper()
	c, err := config.Defaults(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	out := &bytes.Buffer{}
	return &system{Config: Config{Config: c, Binary: "/opt/my tools/sallyport", Out: out}}, out
}

// Only the gate's own refusal counts as one.
func TestRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		body   string
		ok     bool
	}{
		{"the gate's refusal", 401, `{"type":"error","error":{"type":"policy_denied","code":"TOKEN_REQUIRED","message":"m"}}`, true},
		{"the right code with another status", 200, `{"error":{"code":"TOKEN_REQUIRED"}}`, false},
		{"another refusal", 503, `{"error":{"code":"GATE_UNAVAILABLE"}}`, false},
		{"an answer", 200, `{"choices":[]}`, false},
		{"not JSON", 401, `no healthy upstream`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var auth string
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				auth = r.Header.Get("Authorization")
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			}))
			defer srv.Close()
			if err := refuses(t.Context(), srv.URL); (err == nil) != c.ok {
				t.Errorf("error %v", err)
			}
			if auth != "" {
				t.Error("the check carried a token")
			}
		})
	}
}

func TestAnnounce(t *testing.T) {
	s, out := testSystem(t)
	s.ReadyFile = filepath.Join(t.TempDir(), "ready.json")
	r := &Ready{GatewayURL: "http://127.0.0.1:8080", ContractHash: "h", ExampleToken: "t", PIDs: map[string][]int{"signer": {1}}}
	if err := s.announce(r); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(s.ReadyFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("ready file: %v %v", info, err)
	}
	raw, _ := os.ReadFile(s.ReadyFile)
	var got map[string]any
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"gateway_url", "control_url", "admin_token_file", "contract_hash", "example_token", "gateway_signer_did", "contract_signer_did", "issuer_jwks_url", "evidence_dir", "envoy_version", "pids"} {
		if _, ok := got[field]; !ok {
			t.Errorf("%s is not in the ready file", field)
		}
	}
	text := out.String()
	for _, want := range []string{"gpt-4o-mini", "gpt-5", "example-token", "'/opt/my tools/sallyport' receipts verify last --show --data-dir", "built-in model"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if strings.Contains(text, `"t"`) {
		t.Error("the token itself is printed")
	}
}

// The commands are for a shell, so a shell must read them as whole.
func TestPrintedCommandsAreShell(t *testing.T) {
	s, _ := testSystem(t)
	for _, dialect := range []string{"openai", "anthropic", "gemini"} {
		s.Config.Config.Upstreams[0].Dialect = dialect
		for _, allowed := range []bool{true, false} {
			cmd := s.exampleCall(&Ready{GatewayURL: "http://127.0.0.1:8080"}, allowed)
			if out, err := exec.Command("sh", "-n", "-c", cmd).CombinedOutput(); err != nil {
				t.Errorf("%s\n%v %s", cmd, err, out)
			}
			_, body, _ := strings.Cut(cmd, "-d '")
			if !json.Valid([]byte(strings.TrimSuffix(body, "'"))) {
				t.Errorf("the body is not JSON: %s", body)
			}
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"/a/b.c": "/a/b.c", "/a b": "'/a b'", "/it's": `'/it'\''s'`, "/$HOME": "'/$HOME'"} {
		if got := quote(in); got != want {
			t.Errorf("quote(%s) = %s, want %s", in, got, want)
		}
	}
}

func TestDialable(t *testing.T) {
	for in, want := range map[string]string{"127.0.0.1:1": "127.0.0.1:1", "0.0.0.0:1": "127.0.0.1:1", "[::]:1": "127.0.0.1:1", ":1": "127.0.0.1:1", "gate.example:1": "gate.example:1"} {
		if got := dialable(in); got != want {
			t.Errorf("dialable(%s) = %s, want %s", in, got, want)
		}
	}
}

// The example must be what it says: the printed models allowed and refused, and nothing for the linter to say.
func TestExampleContract(t *testing.T) {
	c, err := contract.Parse(exampleContract)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range contract.Lint(c) {
		t.Errorf("%s %s: %s", f.Rule, f.Path, f.Message)
	}
	s, _ := testSystem(t)
	for _, u := range s.Config.Config.Upstreams {
		if u.Name == "openrouter" {
			continue // left out of the example, so that there is a provider to refuse
		}
		for _, allowed := range []bool{true, false} {
			model := exampleModel(u, allowed)
			v := c.Decide(contract.Ask{
				Action: contract.ModelInvoke, Resource: u.Provider + "/" + model,
				Context: map[string]string{"Model:Provider": u.Provider, "Model:Name": model},
			}, time.Unix(0, 0))
			if v.Allow != allowed {
				t.Errorf("%s/%s: allow is %v, want %v (%v)", u.Provider, model, v.Allow, allowed, v.Denial)
			}
		}
		if !c.AllowsSecretClass(u.SecretClass) {
			t.Errorf("the secret class of %s is not allowed", u.Name)
		}
	}
	if v := c.Decide(contract.Ask{Action: contract.ModelInvoke, Resource: "openrouter/gpt-4o-mini",
		Context: map[string]string{"Model:Provider": "openrouter", "Model:Name": "gpt-4o-mini"}}, time.Unix(0, 0)); v.Allow {
		t.Error("a provider that the example does not name is allowed")
	}
}
