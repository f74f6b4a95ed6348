package mainlib

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const toolsContract = "../../../signer/contract/examples/tools.json"

func TestContractExportAndCheck(t *testing.T) {
	signed, _ := signed(t)
	for _, file := range []string{toolsContract, exampleFile, signed} {
		for _, runtime := range []string{"openclaw", "claude-code", "codex"} {
			out := filepath.Join(t.TempDir(), "settings")
			if status, _, errs := run(t, "contract", "export", runtime, file, "--out", out, "--base-url", "https://gateway.example.com"); status != ExitOK {
				t.Fatalf("%s %s: %d %s", runtime, file, status, errs)
			}
			raw, err := os.ReadFile(out)
			must(t, err)
			if !strings.Contains(string(raw), "https://gateway.example.com/") {
				t.Errorf("%s: the gateway is not in %s", runtime, raw)
			}
			check := []string{"contract", "check", runtime, out, "--contract", file}
			if status, said, errs := run(t, append(check, "--base-url", "https://gateway.example.com")...); status != ExitOK || !strings.Contains(said, "allows nothing that the contract does not") {
				t.Errorf("%s: %d %s%s", runtime, status, said, errs)
			}
			if status, said, _ := run(t, append(check, "--base-url", "https://other.example.com")...); status != ExitFailure || !strings.Contains(said, "gateway.example.com") {
				t.Errorf("%s at another gateway: %d %s", runtime, status, said)
			}
		}
	}
}

func TestContractCheckAsJSON(t *testing.T) {
	config := write(t, "openclaw.json", "{tools: {allow: ['exec']}}")
	status, out, errs := run(t, "contract", "check", "openclaw", config, "--contract", toolsContract, "--json")
	var said struct {
		Wider    bool
		Findings []struct{ Path, Allows, Contract, Instead string }
	}
	if err := json.Unmarshal([]byte(out), &said); err != nil || status != ExitFailure || !said.Wider {
		t.Fatalf("%v %d %s%s", err, status, out, errs)
	}
	if f := said.Findings[0]; f.Path != "tools.allow[0]" || !strings.Contains(f.Contract, "tool:shell.exec is denied") {
		t.Errorf("%+v", f)
	}
}

func TestContractExportUsage(t *testing.T) {
	for name, args := range map[string][]string{
		"unknown runtime": {"export", "emacs", toolsContract},
		"no contract":     {"check", "codex", toolsContract},
		"one argument":    {"export", "codex"},
	} {
		if status, _, errs := run(t, append([]string{"contract"}, args...)...); status != ExitUsage || errs == "" {
			t.Errorf("%s: %d %s", name, status, errs)
		}
	}
}
