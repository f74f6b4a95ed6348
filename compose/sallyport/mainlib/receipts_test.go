package mainlib

import (
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/signer/evlog"
	"sallyport/signer/jcs"
	"sallyport/signer/keyring"
	"sallyport/signer/receipt"
	"sallyport/signer/record"
)

// evidence makes a data directory as a gateway leaves it: one completed call, one refusal, one call still open.
func evidence(t *testing.T) (dir string, gateway *keyring.Key) {
	t.Helper()
	dir = t.TempDir()
	key, err := keyring.Generate(rand.Reader)
	must(t, err)
	log, _, err := evlog.Open(filepath.Join(dir, "evidence"), evlog.Options{})
	must(t, err)
	put := func(k evlog.Kind, v any) {
		raw, err := json.Marshal(v)
		must(t, err)
		must(t, log.AppendWait(k, raw, evlog.Synced))
	}
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	done := intent("rcpt_00000000-0000-4000-8000-000000000001", at)
	put(evlog.KindIntent, done)
	payload, err := receipt.Build(&record.Logged{Intent: *done}, &record.Completion{
		ID: done.ID, Outcome: record.Completed, Status: 200, ResponseHash: jcs.Hash([]byte("answer")), ResponseBytes: 6, LatencyMS: 12,
	}, key.DID())
	must(t, err)
	env, err := receipt.Sign(payload, key, at)
	must(t, err)
	raw, err := env.Encode()
	must(t, err)
	must(t, log.AppendWait(evlog.KindReceipt, raw, evlog.Synced))
	put(evlog.KindRefusal, record.Refusal{ID: "dec_1", TimeMS: at.UnixMilli(), Code: "POLICY_MODEL_NOT_ALLOWED", Status: 451, Provider: "openai", Model: "gpt-5"})
	put(evlog.KindIntent, intent("rcpt_00000000-0000-4000-8000-000000000002", at))
	must(t, log.Close())
	trust, err := json.Marshal(map[string][]string{"gateway_signer_dids": {key.DID()}, "contract_signer_dids": {key.DID()}, "issuer_kids": {key.KID()}})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "trust.json"), trust, 0o644))
	return dir, key
}

func intent(id string, at time.Time) *record.Intent {
	return &record.Intent{
		ID: id, TimeMS: at.UnixMilli(), RunID: "run-1", Subject: "did:key:z6MktwupdmLXVVqTzCw4i46r4uGyosGXRnR3XjN4Zq7oMMsw",
		TokenHash: strings.Repeat("0", 64), TokenScopeHash: jcs.Hash([]byte("scope")), PolicyHash: jcs.Hash([]byte("policy")),
		Provider: "openai", Model: "gpt-4o-mini", Action: "model:invoke", Resource: "openai/gpt-4o-mini", Method: "POST",
		Host: "api.example.com", Path: "/v1/chat/completions", RequestHash: jcs.Hash([]byte("request")), RequestBytes: 7,
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const firstReceipt = "rcpt_00000000-0000-4000-8000-000000000001"

func TestReceiptsList(t *testing.T) {
	dir, _ := evidence(t)
	status, out, errs := run(t, "receipts", "list", "--data-dir", dir)
	if status != ExitOK {
		t.Fatalf("%d %s", status, errs)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 3 {
		t.Fatalf("lines:\n%s", out)
	}
	for i, want := range []string{"completed 200", "refused POLICY_MODEL_NOT_ALLOWED", "open"} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("line %d is %q, want %s", i, lines[i], want)
		}
	}
	if _, out, _ := run(t, "receipts", "list", "--data-dir", dir, "--refusals=false", "-n", "1"); !strings.HasSuffix(strings.TrimSpace(out), "open") || strings.Count(out, "\n") != 1 {
		t.Errorf("the last one: %s", out)
	}
	_, out, _ = run(t, "receipts", "list", "--data-dir", dir, "--json")
	var ev event
	if err := json.Unmarshal([]byte(strings.SplitN(out, "\n", 2)[0]), &ev); err != nil || ev.ID != firstReceipt || len(ev.Envelope) == 0 {
		t.Errorf("json: %v %+v", err, ev)
	}
}

func TestReceiptsShow(t *testing.T) {
	dir, _ := evidence(t)
	for id, want := range map[string]string{firstReceipt: "signature_b64u", "last": firstReceipt, "dec_1": "POLICY_MODEL_NOT_ALLOWED", "rcpt_00000000-0000-4000-8000-000000000002": `"open"`} {
		if status, out, errs := run(t, "receipts", "show", id, "--data-dir", dir); status != ExitOK || !strings.Contains(out, want) {
			t.Errorf("%s: %d %s %s", id, status, out, errs)
		}
	}
	if status, _, errs := run(t, "receipts", "show", "rcpt_none", "--data-dir", dir); status != ExitFailure || !strings.Contains(errs, "no record") {
		t.Errorf("unknown id: %d %s", status, errs)
	}
}

func TestReceiptsVerify(t *testing.T) {
	dir, key := evidence(t)
	_, shown, _ := run(t, "receipts", "show", "last", "--data-dir", dir)
	file := write(t, "receipt.json", shown)
	tampered := write(t, "tampered.json", strings.Replace(shown, "gpt-4o-mini", "gpt-5", 1))
	stranger, err := keyring.Generate(rand.Reader)
	must(t, err)
	for _, c := range []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"by id", []string{firstReceipt, "--data-dir", dir}, ExitOK, "verified: receipt " + firstReceipt},
		{"the last, shown", []string{"last", "--show", "--data-dir", dir}, ExitOK, "signature_b64u"},
		{"a file, printed anew", []string{file, "--trust", key.DID()}, ExitOK, "verified"},
		{"tampered", []string{tampered, "--trust", key.DID()}, ExitFailure, "HASH_MISMATCH"},
		{"signer not trusted", []string{file, "--trust", stranger.DID()}, ExitFailure, "CLAIM_NOT_FOUND"},
		{"all", []string{"all", "--data-dir", dir}, ExitOK, "1 receipts verified, 0 not"},
		{"all, nobody trusted", []string{"all", "--data-dir", dir, "--trust", stranger.DID()}, ExitFailure, "0 receipts verified, 1 not"},
		{"a refusal is no receipt", []string{"dec_1", "--data-dir", dir}, ExitFailure, ""},
		{"nobody to believe", []string{file, "--data-dir", t.TempDir()}, ExitFailure, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, out, errs := run(t, append([]string{"receipts", "verify"}, c.args...)...)
			if status != c.status || !strings.Contains(out, c.want) {
				t.Errorf("%d, want %d\n%s\n%s", status, c.status, out, errs)
			}
		})
	}
}

func TestDamagedEvidenceIsSaid(t *testing.T) {
	dir, _ := evidence(t)
	segments, err := filepath.Glob(filepath.Join(dir, "evidence", "*.seg"))
	must(t, err)
	raw, err := os.ReadFile(segments[0])
	must(t, err)
	raw[len(raw)/2] ^= 1
	must(t, os.WriteFile(segments[0], raw, 0o600))
	status, _, errs := run(t, "receipts", "list", "--data-dir", dir)
	if status != ExitFailure || !strings.Contains(errs, filepath.Base(segments[0])) {
		t.Errorf("%d %s", status, errs)
	}
}
