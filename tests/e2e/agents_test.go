package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/tests/harness"
)

// TestCodingAgents: a turn of the real Claude Code and of the real Codex under `sallyport run`: the model's answer arrives, and a
// model that the contract does not name is refused with the reason. Claude Code needs no setting. Codex takes no base URL
// from the environment, so that here, where api.openai.com is no upstream, it is told the one that it finds there.
func TestCodingAgents(t *testing.T) {
	t.Parallel()
	py := harness.PythonPackages(t, "programs/requirements.txt")
	agents := py.NodePackages(t, "agents")
	native := func(pattern string) string {
		found, err := filepath.Glob(filepath.Join(agents.Dir, "node_modules", pattern))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: %v %v", pattern, found, err)
		}
		return found[0]
	}
	claude, codex := native("@anthropic-ai/claude-code-*/claude"), native("@openai/codex-*/vendor/*/*/codex")
	s := harness.Start(t, harness.Options{BuiltIn: true})
	const question = "Say hello."
	at := func(model string) []string {
		return []string{"sh", "-c", `exec "$0" exec --skip-git-repo-check -c openai_base_url="\"$OPENAI_BASE_URL\"" -m "$1" "$2" </dev/null`, codex, model, question}
	}
	for name, c := range map[string]struct {
		allowed, forbidden []string
		provider           string
	}{
		"Claude-Code": {
			[]string{claude, "-p", question, "--model", "claude-haiku-4-5"}, []string{claude, "-p", question, "--model", "claude-opus-4-5"}, "anthropic",
		},
		"Codex": {
			at("gpt-4.1"), at("gpt-5"), "openai",
		},
	} {
		t.Run(name, func(t *testing.T) {
			out := agentTurn(t, s, py, name, c.allowed)
			if !strings.Contains(out, "This is the built-in model") {
				t.Errorf("the model's answer did not arrive:\n%s", out)
			}
			calls := 0
			harness.Eventually(t, "the calls are settled", func() bool { return len(s.Evidence().Open()) == 0 })
			for id, i := range s.Evidence().Intents {
				if i.MissionID != name {
					continue
				}
				if r := s.Evidence().Receipts[id]; i.Provider == c.provider && r.Outcome() == "completed" && r.Verify(s.GatewaySignerDID) == nil {
					calls++
				}
			}
			if calls == 0 {
				t.Error("no call of a model is recorded")
			}
			out = agentTurn(t, s, py, name+"-forbidden", c.forbidden)
			if !strings.Contains(out, "POLICY_MODEL_NOT_ALLOWED") {
				t.Errorf("the agent does not show why it was refused:\n%s", out)
			}
		})
	}
}

// agentTurn runs an agent in an empty place and returns what it said.
func agentTurn(t *testing.T, s *harness.System, py harness.Programs, job string, command []string) string {
	t.Helper()
	home := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	args := append([]string{"run", "-c", filepath.Join(s.Dir, "sallyport.yaml"), "--contract", s.ContractHash, "--mission", job, "--"}, command...)
	cmd := exec.CommandContext(ctx, harness.Binary(t, false), args...)
	cmd.Env, cmd.Dir = []string{"PATH=" + filepath.Dir(py.Bin("node")) + ":" + os.Getenv("PATH"), "HOME=" + home}, home
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	err := cmd.Run()
	t.Logf("%s: %v after %v", job, err, time.Since(begin).Round(time.Millisecond))
	return out.String()
}
