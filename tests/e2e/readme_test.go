package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sallyport/tests/harness"
)

// TestPastedCommands runs the four commands that `up` prints, as a newcomer would, and holds them to what is promised:
// answered, refused with a reason, a receipt that verifies, a program that finds no other way out.
func TestPastedCommands(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{BuiltIn: true})
	_, rest, found := strings.Cut(s.Log.String(), "\n# 1. ")
	body, _, ended := strings.Cut(rest, "\nCtrl-C")
	if !found || !ended {
		t.Fatalf("no commands to paste in:\n%s", s.Log.Tail(60))
	}
	want := [][]string{
		{"HTTP/1.1 200 OK", "x-sallyport-receipt: rcpt_", "chat.completion"},
		{"HTTP/1.1 451", "POLICY_MODEL_NOT_ALLOWED", "the contract allows openai"},
		{"verified: receipt rcpt_", "gateway_receipt"},
		{"key: sk-sallyport-placeholder", "response 451", "0 calls allowed, 1 refused", "POLICY_EGRESS_NOT_ALLOWED"},
	}
	commands := regexp.MustCompile(`(?m)^# \d\. .*$`).Split("# 1. "+body, -1)[1:]
	if len(commands) != len(want) {
		t.Fatalf("%d commands to paste", len(commands))
	}
	for i, command := range commands {
		out, err := exec.Command("bash", "-c", command).CombinedOutput()
		if err != nil {
			t.Errorf("command %d: %v\n%s", i+1, err, out)
		}
		for _, w := range want[i] {
			if !strings.Contains(string(out), w) {
				t.Errorf("command %d: no %q in:\n%s", i+1, w, out)
			}
		}
	}
}

// TestREADME: the configuration in the README is valid, and every command that it names exists.
func TestREADME(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(harness.Root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	_, yaml, _ := strings.Cut(text, "```yaml\n")
	yaml, _, _ = strings.Cut(yaml, "```")
	file := filepath.Join(t.TempDir(), "sallyport.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("OPENAI_API_KEY", "nobodys-value")
	binary := harness.Binary(t, false)
	if out, err := exec.Command(binary, "config", "check", file).CombinedOutput(); err != nil {
		t.Errorf("the README's configuration: %v\n%s", err, out)
	}
	seen := 0
	for _, m := range regexp.MustCompile("`sallyport ([a-z]+(?: [a-z]+)?)").FindAllStringSubmatch(text, -1) {
		seen++
		if out, err := exec.Command(binary, append(strings.Fields(m[1]), "--help")...).CombinedOutput(); err != nil || !strings.Contains(string(out), "Usage") {
			t.Errorf("sallyport %s: %v\n%s", m[1], err, out)
		}
	}
	if seen < 5 {
		t.Errorf("only %d commands found in the README", seen)
	}
}
