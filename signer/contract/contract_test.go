package contract_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/signer/contract"
)

var update = flag.Bool("update", false, "write the golden files")

func example(t testing.TB, name string) *contract.Contract {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("examples", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(raw))
}

func parse(t testing.TB, text string) *contract.Contract {
	t.Helper()
	c, err := contract.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%.400s", err, text)
	}
	return c
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	return files
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n got %s\nwant %s", file, got, want)
	}
}

// The hash is the contract's address and goes into tokens and receipts, so no change here may alter one.
func TestExamples(t *testing.T) {
	var lines []string
	for _, file := range glob(t, "examples/*.json") {
		c := example(t, strings.TrimSuffix(filepath.Base(file), ".json"))
		lines = append(lines, c.Hash+" "+string(c.Kind)+" "+filepath.Base(file)+" providers "+strings.Join(c.Providers(), ","))
		for _, f := range contract.Lint(c) {
			if f.Severity == contract.SeverityError {
				t.Errorf("%s: %s", file, f.Message)
			}
			lines = append(lines, "  "+f.Rule+" "+f.Path+": "+f.Message)
		}
	}
	golden(t, "testdata/examples.txt", strings.Join(lines, "\n")+"\n")
}

// Each file has one thing wrong with it; the text beside it is what the author gets to read.
func TestBroken(t *testing.T) {
	for _, file := range glob(t, "testdata/broken/*.json") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c, err := contract.Parse(raw)
			if err == nil || c != nil {
				t.Fatalf("parsed: %v, %v", c, err)
			}
			if !errors.Is(err, contract.ErrInvalid) {
				t.Errorf("%v is not an ErrInvalid", err)
			}
			for line := range strings.Lines(err.Error()) {
				if !strings.Contains(line, "$") {
					t.Errorf("%q has no path", line)
				}
			}
			golden(t, strings.TrimSuffix(file, ".json")+".txt", err.Error()+"\n")
		})
	}
}

func TestParseTooLarge(t *testing.T) {
	text := `{"policy_version":"1","policy_id":"a","issuer_did":"did:web:x","metadata":{"x":"` + strings.Repeat("x", contract.MaxBytes) + `"}}`
	if _, err := contract.Parse([]byte(text)); !errors.Is(err, contract.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestAccessors(t *testing.T) {
	seed, v1 := example(t, "seed"), example(t, "v1")
	if !seed.AllowsSecretClass("storage_read_scoped") || seed.AllowsSecretClass("openai_key") || !v1.AllowsSecretClass("any") {
		t.Error("secret classes")
	}
	if seed.MaxSecretTTL() != 15*time.Minute || v1.MaxSecretTTL() != 0 {
		t.Errorf("TTL %v, %v", seed.MaxSecretTTL(), v1.MaxSecretTTL())
	}
	if !seed.RequiresCST() || !v1.RequiresCST() || !seed.PinPolicyHash() || !v1.PinPolicyHash() {
		t.Error("the strict reading is the default")
	}
	if seed.CSTScopeHash() != "EW-SRh3E2OGlrICOZfPQ8-rZVeDkXEla0dDKLFCrqz4" || v1.CSTScopeHash() != "" {
		t.Errorf("scope hash %q, %q", seed.CSTScopeHash(), v1.CSTScopeHash())
	}
	if e := v1.Egress(); len(e) != 2 || e[1].Host != "files.example.com" || !e[1].OnlySubdomains || e[1].Subdomains {
		t.Errorf("egress %+v", e)
	}
	tools := example(t, "tools")
	if b := tools.Bindings()["tool:ticketing.create"]; b.Host != "tickets.example.com" || b.SecretClass != "ticketing_write_scoped" {
		t.Errorf("binding %+v", b)
	}
	if tools.Limits().MaxRequestBytes != 1<<20 {
		t.Errorf("limits %+v", tools.Limits())
	}
}

func TestSchemasAreDescribed(t *testing.T) {
	for _, k := range []contract.Kind{contract.ClawV1, contract.ClawV2, contract.Enterprise} {
		raw, err := contract.Schema(k)
		if err != nil {
			t.Fatal(err)
		}
		var s struct {
			Schema, Title, Description string
			Closed                     *bool `json:"additionalProperties"`
		}
		if err := json.Unmarshal(raw, &s); err != nil {
			t.Fatal(err)
		}
		if s.Title == "" || s.Description == "" || s.Closed == nil || *s.Closed {
			t.Errorf("%s: %+v", k, s)
		}
	}
}

// The README teaches by one example; it is the file that it names.
func TestReadmeExample(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```json\n")
	block, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("no example")
	}
	if got, want := parse(t, block).Hash, example(t, "tools").Hash; got != want {
		t.Errorf("the README's contract is %s, the file's %s", got, want)
	}
}
