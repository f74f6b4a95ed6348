package export

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sallyport/signer/contract"
)

var update = flag.Bool("update", false, "write the golden files")

const examples = "../../signer/contract/examples/"

func parse(t testing.TB, raw []byte) *contract.Contract {
	t.Helper()
	c, err := contract.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func example(t testing.TB, name string) *contract.Contract {
	t.Helper()
	raw, err := os.ReadFile(examples + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, raw)
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; go test -update shows how\n%s", path, got)
	}
}

func TestExportOfTheExamples(t *testing.T) {
	files, err := filepath.Glob(examples + "*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no examples", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		for _, rt := range Runtimes() {
			t.Run(rt+"/"+name, func(t *testing.T) {
				c := example(t, name)
				s, err := Export(rt, c, Options{})
				if err != nil {
					t.Fatal(err)
				}
				var notes strings.Builder
				for _, n := range s.Notes {
					fmt.Fprintf(&notes, "%s: %s\n", n.Path, n.Message)
				}
				golden(t, filepath.Join("testdata/golden", rt, name+map[bool]string{true: ".toml", false: ".json"}[rt == "codex"]), s.File)
				golden(t, filepath.Join("testdata/golden", rt, name+".notes"), []byte(notes.String()))
				nothingWider(t, rt, s.File, c)
			})
		}
	}
}

func nothingWider(t interface{ Fatalf(string, ...any) }, rt string, file []byte, c *contract.Contract) {
	found, err := Check(rt, file, c, Options{})
	if err != nil || len(found) > 0 {
		t.Fatalf("%s: %v %+v\n%s\n%s", rt, err, found, c.Payload, file)
	}
}

// TestExportIsNeverWider: whatever capabilities a contract allows and denies, its settings allow no more, and settings
// of a contract that allows one capability more are found wider.
func TestExportIsNeverWider(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var allow, deny []string
		for _, k := range capabilities {
			switch rapid.IntRange(0, 2).Draw(t, string(k.capability)) {
			case 0:
				allow = append(allow, "tool:"+string(k.capability))
			case 1:
				deny = append(deny, "tool:"+string(k.capability))
			}
		}
		egress := rapid.Bool().Draw(t, "egress")
		c, err := contract.Parse(written(allow, deny, egress))
		if err != nil {
			t.Fatal(err)
		}
		for _, rt := range Runtimes() {
			s, err := Export(rt, c, Options{})
			if err != nil {
				t.Fatal(err)
			}
			nothingWider(t, rt, s.File, c)
			if i := slices.Index(allow, "tool:"+string(shell)); i >= 0 {
				less, err := contract.Parse(written(slices.Delete(slices.Clone(allow), i, i+1), deny, egress))
				if err != nil {
					t.Fatal(err)
				}
				if found, err := Check(rt, s.File, less, Options{}); err != nil || len(found) == 0 {
					t.Fatalf("%s: the shell is not found wider (%v)\n%s", rt, err, s.File)
				}
			}
		}
	})
}

func written(allow, deny []string, egress bool) []byte {
	rules := []any{}
	if egress {
		rules = append(rules, object{"host": "files.example.com"})
	}
	raw, err := encode(object{"policy_kind": "wpc", "policy_version": "v1", "intent": "test", "agent_runtime": "any",
		"tools":   object{"allow": append([]string{"provider:sallyport/openai", "provider:sallyport/anthropic"}, allow...), "deny": append([]string{}, deny...)},
		"models":  []any{object{"provider": "openai", "models": []string{"gpt-4o-mini"}}, object{"provider": "anthropic", "models": []string{"claude-haiku-4"}}},
		"egress":  object{"default": "deny", "rules": rules},
		"secrets": object{"minting": "cst_required", "allowed_secret_classes": []string{"openai_key"}, "max_ttl_seconds": 300},
		"auth":    object{"pin_policy_hash": true}, "model_calls": object{"must_route_via": "sallyport", "receipts_required": true}})
	if err != nil {
		panic(err)
	}
	return raw
}

// TestWider: each file of testdata/wider has one thing that is wider than examples/tools.json, and the text beside it is
// what check says.
func TestWider(t *testing.T) {
	files, err := filepath.Glob("testdata/wider/*/*")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, ".txt") {
			continue
		}
		t.Run(strings.TrimPrefix(file, "testdata/wider/"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			found, err := Check(filepath.Base(filepath.Dir(file)), raw, example(t, "tools"), Options{})
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, f := range found {
				fmt.Fprintf(&b, "%s\n  allows %s\n  contract: %s\n  instead: %s\n", f.Path, f.Allows, f.Contract, f.Instead)
			}
			if len(found) == 0 {
				t.Error("nothing is found wider")
			}
			if strings.Contains(b.String(), "do-not-print") {
				t.Error("a secret's value is in a finding")
			}
			golden(t, strings.TrimSuffix(file, filepath.Ext(file))+".txt", []byte(b.String()))
		})
	}
}

func TestWrongCalls(t *testing.T) {
	c := example(t, "tools")
	for name, x := range map[string]struct{ rt, config, base, want string }{
		"unknown runtime": {"emacs", "{}", "", "openclaw"},
		"a path":          {"openclaw", "{}", "http://gateway/openai", "host and port alone"},
		"no URL":          {"codex", "", "gateway:8080", "host and port alone"},
		"not JSON5":       {"openclaw", "{a", "", "not valid JSON5"},
		"no object":       {"claude-code", "[]", "", "no object"},
		"not TOML":        {"codex", "a = = 1", "", "not valid TOML"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Check(x.rt, []byte(x.config), c, Options{BaseURL: x.base}); err == nil || !strings.Contains(err.Error(), x.want) {
				t.Errorf("%v does not say %q", err, x.want)
			}
		})
	}
}

// TestWiderByContract: what is only wide where the contract allows one thing of the machine and not another.
func TestWiderByContract(t *testing.T) {
	for name, x := range map[string]struct {
		rt          string
		allow, deny []string
		egress      bool
		old, with   string
		path        string
	}{
		"commands without a sandbox":           {"openclaw", []string{"tool:shell.exec"}, []string{"tool:filesystem.read"}, false, `"mode": "all"`, `"mode": "non-main"`, "agents.defaults.sandbox.mode"},
		"files without a sandbox":              {"openclaw", []string{"tool:filesystem.read"}, nil, false, `"mode": "all"`, `"mode": "off"`, "agents.defaults.sandbox.mode"},
		"web_fetch past the proxy":             {"openclaw", nil, nil, true, `"useTrustedEnvProxy": true`, `"useTrustedEnvProxy": false`, "tools.web.fetch.useTrustedEnvProxy"},
		"Claude's commands without a sandbox":  {"claude-code", []string{"tool:shell.exec"}, nil, false, `"allowUnsandboxedCommands": false`, `"allowUnsandboxedCommands": true`, "sandbox"},
		"Claude fetches from any host":         {"claude-code", nil, nil, true, "WebFetch(domain:files.example.com)", "WebFetch", "permissions.allow[0]"},
		"Claude fetches from a look-alike":     {"claude-code", nil, nil, true, "domain:files.example.com", "domain:files.example.com.example.net", "permissions.allow[0]"},
		"Claude fetches from below the host":   {"claude-code", nil, nil, true, "domain:files.example.com", "domain:a.files.example.com", "permissions.allow[0]"},
		"Codex' commands write":                {"codex", []string{"tool:shell.exec"}, nil, true, "'read-only'", "'workspace-write'", "sandbox_mode"},
		"Codex' commands use the network":      {"codex", []string{"tool:filesystem.write"}, nil, true, "network_access = false", "network_access = true", "sandbox_workspace_write.network_access"},
		"Codex writes outside its directory":   {"codex", []string{"tool:filesystem.write"}, nil, false, "network_access = false", "writable_roots = ['/']", "sandbox_workspace_write.writable_roots"},
		"Codex under a profile of permissions": {"codex", []string{"tool:filesystem.write"}, nil, false, "approval_policy", "default_permissions = ':all'\napproval_policy", "default_permissions"},
	} {
		t.Run(name, func(t *testing.T) {
			c := parse(t, written(x.allow, x.deny, x.egress))
			s, err := Export(x.rt, c, Options{})
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.Replace(string(s.File), x.old, x.with, 1)
			if changed == string(s.File) {
				t.Fatalf("%s is not in\n%s", x.old, s.File)
			}
			found, err := Check(x.rt, []byte(changed), c, Options{})
			if err != nil || len(found) != 1 || found[0].Path != x.path {
				t.Errorf("%v %+v", err, found)
			}
		})
	}
}
