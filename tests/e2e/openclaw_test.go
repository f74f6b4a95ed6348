package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/tests/harness"
)

// openClawConfig names no provider but one, whose address and key are those of the environment, so that it is the same
// by every way.
const openClawConfig = `{
  "agents": {"defaults": {"model": {"primary": "egress/gpt-4o-mini"}, "sandbox": {"mode": "off"}}},
  "models": {"mode": "replace", "providers": {"egress": {
    "baseUrl": "${OPENAI_BASE_URL}", "apiKey": "${OPENAI_API_KEY}", "api": "openai-completions",
    "models": [{"id": "gpt-4o-mini", "name": "Test", "input": ["text"], "contextWindow": 128000, "maxTokens": 4096}]}}},
  "tools": {"allow": ["read"], "toolSearch": false}
}`

// toolTurn is a model that asks for one tool and, having its result, says what it was.
func toolTurn(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	var ask struct {
		Messages []struct {
			Role    string
			Content any
		}
	}
	if err != nil || json.Unmarshal(raw, &ask) != nil {
		http.Error(w, "not a chat completion", http.StatusBadRequest)
		return
	}
	delta := `{"role":"assistant","tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"read","arguments":"{\"path\":\"note.txt\"}"}}]}`
	reason := "tool_calls"
	for _, m := range ask.Messages {
		if m.Role == "tool" {
			said, _ := json.Marshal("The note says: " + fmt.Sprint(m.Content)) // text always can be
			delta, reason = `{"role":"assistant","content":`+string(said)+`}`, "stop"
		}
	}
	w.Header().Set("Content-Type", "text/event-stream")
	const chunk = `data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"gpt-4o-mini","choices":[{"index":0,"delta":%s,"finish_reason":%s}]}` + "\n\n"
	fmt.Fprintf(w, chunk, delta, "null")
	fmt.Fprintf(w, chunk, "{}", `"`+reason+`"`)
	fmt.Fprint(w, `data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}`+"\n\ndata: [DONE]\n\n")
}

// TestOpenClaw: a real turn of the agent, with a tool call, by three ways: straight to the model, by base URL and token,
// and under `sallyport run`, where it knows neither.
func TestOpenClaw(t *testing.T) {
	t.Parallel()
	py := harness.PythonPackages(t, "programs/requirements.txt")
	claw := py.NodePackages(t, "openclaw")
	s := harness.Start(t, harness.Options{})
	s.Upstream.Handle = toolTurn
	program := []string{filepath.Join(claw.Dir, "node_modules", ".bin", "openclaw"), "agent", "exec", "Read note.txt and say what it says."}
	for _, w := range []way{direct, reverse, isolated} {
		t.Run(string(w), func(t *testing.T) {
			before, receipts := s.Upstream.Count(), len(s.Evidence().Receipts)
			answer := openClawTurn(t, s, py, program, w)
			if !answer.OK || !strings.Contains(answer.Final, "the eagle has landed") {
				t.Errorf("ok %v, final %q, error %v", answer.OK, answer.Final, answer.Error)
			}
			calls := s.Upstream.Requests()[before:]
			if len(calls) != 2 {
				t.Errorf("the turn took %d calls of the model", len(calls))
			}
			if w == direct {
				return
			}
			for _, c := range calls {
				if got := c.Header.Get("Authorization"); got != "Bearer "+harness.Credential("openai_key") {
					t.Errorf("a call arrived with %q", got)
				}
			}
			harness.Eventually(t, "a receipt for each call", func() bool { return len(s.Evidence().Receipts) == receipts+len(calls) })
		})
	}
}

// TestOpenClawSettings: the settings that a contract means are settings that the real OpenClaw takes, and those of its
// users that are wider are named.
func TestOpenClawSettings(t *testing.T) {
	t.Parallel()
	py := harness.PythonPackages(t, "programs/requirements.txt")
	claw := py.NodePackages(t, "openclaw")
	binary := harness.Binary(t, false)
	examples, err := filepath.Glob(filepath.Join(harness.Root(), "signer", "contract", "examples", "*.json"))
	if err != nil || len(examples) == 0 {
		t.Fatalf("no contracts: %v", err)
	}
	home := t.TempDir()
	for _, c := range examples {
		t.Run(filepath.Base(c), func(t *testing.T) {
			settings := filepath.Join(home, filepath.Base(c))
			if out, err := exec.Command(binary, "contract", "export", "openclaw", c, "--out", settings).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if out, err := exec.Command(binary, "contract", "check", "openclaw", settings, "--contract", c).CombinedOutput(); err != nil {
				t.Errorf("our own settings are wider: %s", out)
			}
			cmd := exec.Command(filepath.Join(claw.Dir, "node_modules", ".bin", "openclaw"), "config", "validate")
			cmd.Env = []string{
				"PATH=" + filepath.Dir(py.Bin("node")) + ":" + os.Getenv("PATH"), "HOME=" + home, "OPENCLAW_STATE_DIR=" + filepath.Join(home, "state"),
				"OPENCLAW_CONFIG_PATH=" + settings, "OPENAI_API_KEY=x", "ANTHROPIC_API_KEY=x", "GEMINI_API_KEY=x",
			}
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "valid") {
				t.Errorf("OpenClaw: %v\n%s", err, out)
			}
		})
	}
	wide := filepath.Join(home, "wide.json")
	if err := os.WriteFile(wide, []byte(`{"tools": {"allow": ["read", "exec"], "exec": {"mode": "full"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(binary, "contract", "check", "openclaw", wide, "--contract", filepath.Join(harness.Root(), "signer", "contract", "examples", "seed.json")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "exec") {
		t.Errorf("what is wider is not found: %v\n%s", err, out)
	}
}

// openClawAnswer is what `openclaw agent exec --json` prints.
type openClawAnswer struct {
	OK    bool
	Final string
	Error any
}

func openClawTurn(t *testing.T, s *harness.System, py harness.Programs, program []string, w way) openClawAnswer {
	t.Helper()
	home := t.TempDir()
	work := filepath.Join(home, "work")
	config := filepath.Join(home, "openclaw.json")
	err := os.Mkdir(work, 0o755)
	for name, text := range map[string]string{config: openClawConfig, filepath.Join(work, "note.txt"): "the eagle has landed\n"} {
		if err == nil {
			err = os.WriteFile(name, []byte(text), 0o600)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	args := append(append([]string{}, program...), "--config", config, "--cwd", work, "--json")
	env := []string{"PATH=" + filepath.Dir(py.Bin("node")) + ":" + os.Getenv("PATH"), "HOME=" + home, "OPENCLAW_STATE_DIR=" + filepath.Join(home, "state")}
	switch w {
	case direct:
		env = append(env, "OPENAI_BASE_URL="+s.Upstream.URL("openai")+"/v1", "OPENAI_API_KEY=not-a-real-key")
	case reverse:
		env = append(env, "OPENAI_BASE_URL="+s.GatewayURL+"/openai/v1", "OPENAI_API_KEY="+s.Issue(nil))
	case proxied: // OpenClaw has proxy settings of its own, and none reaches a model on this machine
	case isolated:
		args = append([]string{harness.Binary(t, false), "run", "-c", filepath.Join(s.Dir, "sallyport.yaml"), "--contract", s.ContractHash, "--"}, args...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env, cmd.Dir = env, home
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s\n%s", err, out.String(), said.String())
	}
	var answer openClawAnswer
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		t.Errorf("%v\n%s\n%s", err, out.String(), said.String())
	}
	return answer
}
