package mainlib

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/signer/contract"
	"sallyport/signer/keyring"
)

const exampleFile = "../../up/example-contract.json"

// variant writes the example contract with one text replaced.
func variant(t *testing.T, old, with string) string {
	t.Helper()
	raw, err := os.ReadFile(exampleFile)
	must(t, err)
	changed := strings.Replace(string(raw), old, with, 1)
	if changed == string(raw) {
		t.Fatalf("%q is not in the example", old)
	}
	return write(t, "variant.json", changed)
}

func signed(t *testing.T) (file string, hash string) {
	t.Helper()
	raw, err := os.ReadFile(exampleFile)
	must(t, err)
	key, err := keyring.Generate(rand.Reader)
	must(t, err)
	env, err := contract.Sign(raw, key, time.Now())
	must(t, err)
	out, err := env.Encode()
	must(t, err)
	return write(t, "signed.json", string(out)), env.PayloadHashB64u
}

func TestContractHashIsTheSameInAnEnvelope(t *testing.T) {
	file, want := signed(t)
	for _, path := range []string{exampleFile, file} {
		if status, out, errs := run(t, "contract", "hash", path); status != ExitOK || out != want+"\n" {
			t.Errorf("%s: %d %q %s", filepath.Base(path), status, out, errs)
		}
	}
}

func TestContractLint(t *testing.T) {
	if status, out, _ := run(t, "contract", "lint", "--strict", exampleFile); status != ExitOK || !strings.Contains(out, "0 findings") {
		t.Errorf("the example: %d %s", status, out)
	}
	bad := variant(t, `"egress"`, `"egresss"`)
	if status, out, _ := run(t, "contract", "lint", exampleFile, bad); status != ExitFailure || !strings.Contains(out, "egresss") {
		t.Errorf("an unknown field: %d %s", status, out)
	}
}

// With a configuration, lint knows whether the classes of a contract's tools are declared, and for the tools' places.
func TestContractLintOfClasses(t *testing.T) {
	const tools = "../../../signer/contract/examples/seed-tools.json"
	conf := func(classes string) string {
		return write(t, "c.yaml", "loopback_model: {enabled: false}\nupstreams: [{name: openai, dialect: openai, url: \"https://api.openai.com\"}]\nsecret_classes:\n"+classes)
	}
	storage := `  - {name: storage_read_scoped, from: "env:A_STORAGE_KEY", hosts: [storage.example.com], methods: [GET], path_prefixes: [/exports], needs_tool: true}` + "\n"
	ticketing := func(terms string) string {
		return `  - {name: ticketing_write_scoped, from: "env:A_TICKET_KEY", ` + terms + "}\n"
	}
	for name, x := range map[string]struct {
		classes string
		status  int
		want    string
	}{
		"both":           {storage + ticketing("hosts: [tickets.example.com]"), ExitOK, "0 findings"},
		"not declared":   {storage, ExitFailure, `$.tools.bindings["tool:ticketing.create"].secret_class: no secret class ticketing_write_scoped is declared [class-not-declared]`},
		"another host":   {storage + ticketing("hosts: [other.example.com]"), ExitFailure, "class ticketing_write_scoped, host tickets.example.com [class-not-for-tool]"},
		"another method": {storage + ticketing("hosts: [tickets.example.com], methods: [GET]"), ExitFailure, "method POST [class-not-for-tool]"},
		"another path":   {storage + ticketing("hosts: [tickets.example.com], path_prefixes: [/v3]"), ExitFailure, "path /api/v2/queues/x/tickets [class-not-for-tool]"},
	} {
		if status, out, errs := run(t, "contract", "lint", "-c", conf(x.classes), tools); status != x.status || !strings.Contains(out, x.want) {
			t.Errorf("%s: %d %s %s", name, status, out, errs)
		}
	}
	if status, out, _ := run(t, "contract", "lint", tools); status != ExitOK {
		t.Errorf("without a configuration: %d %s", status, out)
	}
}

func TestContractDiff(t *testing.T) {
	wider := variant(t, `"gpt-4o*"`, `"gpt-*"`)
	status, out, errs := run(t, "contract", "diff", exampleFile, wider)
	if status != ExitOK || !strings.Contains(out, "allows more") {
		t.Errorf("wider: %d %s %s", status, out, errs)
	}
	if status, _, _ := run(t, "contract", "diff", "--fail-on-widen", exampleFile, wider); status != ExitFailure {
		t.Errorf("widening was let through: %d", status)
	}
	if _, out, _ := run(t, "contract", "diff", exampleFile, exampleFile); !strings.Contains(out, "the same contract") {
		t.Errorf("same: %s", out)
	}
}

func TestContractSignAndPublish(t *testing.T) {
	file, hash := signed(t)
	raw, err := os.ReadFile(file)
	must(t, err)
	c, flags := newControlAPI(t)
	c.answer = `{"policy_hash_b64u":"` + hash + `","envelope":` + string(raw) + `}`
	out := filepath.Join(t.TempDir(), "out.json")
	if status, _, errs := run(t, append(flags, "contract", "sign", exampleFile, "-o", out)...); status != ExitOK || c.path != "POST /v1/contracts/sign" || !strings.HasPrefix(c.body, `{"wpc":{`) {
		t.Errorf("sign: %d %s %s", status, c.path, errs)
	}
	if got, _ := os.ReadFile(out); !json.Valid(got) || !strings.Contains(string(got), "signature_b64u") {
		t.Errorf("the signed file: %.80s", got)
	}
	c.status, c.answer = http.StatusCreated, `{"ok":true,"existed":false,"policy_hash_b64u":"`+hash+`"}`
	if status, out, errs := run(t, append(flags, "contract", "publish", exampleFile)...); status != ExitOK || out != hash+" published\n" || !strings.HasPrefix(c.body, `{"wpc":`) {
		t.Errorf("publish: %d %q %s", status, out, errs)
	}
	c.status, c.answer = http.StatusOK, `{"ok":true,"existed":true,"policy_hash_b64u":"`+hash+`"}`
	if status, out, _ := run(t, append(flags, "contract", "publish", file)...); status != ExitOK || !strings.Contains(out, "there already") || !strings.HasPrefix(c.body, `{"envelope":`) {
		t.Errorf("publish again: %d %q", status, out)
	}
}

func TestContractShow(t *testing.T) {
	file, hash := signed(t)
	raw, err := os.ReadFile(file)
	must(t, err)
	c, flags := newControlAPI(t)
	c.answer = `{"ok":true,"policy_hash_b64u":"` + hash + `","envelope":` + string(raw) + `}`
	if status, out, errs := run(t, append(flags, "contract", "show", hash)...); status != ExitOK || !strings.Contains(out, "sallyport-example") || c.path != "GET /v1/wpc/"+hash {
		t.Errorf("%d %s %s", status, c.path, errs)
	}
	if status, _, errs := run(t, append(flags, "contract", "show", someHash)...); status != ExitFailure || !strings.Contains(errs, "not to the address") {
		t.Errorf("another contract than the one asked for was shown: %d %s", status, errs)
	}
	if status, out, _ := run(t, "contract", "show", file); status != ExitOK || !strings.Contains(out, "signer_did") {
		t.Errorf("a file: %d %s", status, out)
	}
}
