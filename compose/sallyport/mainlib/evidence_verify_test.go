package mainlib

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/signer/clawverify"
)

// TestEvidenceVerify runs the command on the ecosystem's vectors and on the golden archive.
func TestEvidenceVerify(t *testing.T) {
	t.Parallel()
	vectors := filepath.Join("..", "..", "..", "signer", "clawverify", "testdata")
	archive := filepath.Join("..", "..", "..", "signer", "audit", "testdata", "archive.zip")
	config := filepath.Join(vectors, "clawverify.config.conformance.v1.json")
	const gateway, contracts = "did:key:z6MkneMkZqwqRiU5mJzSG3kDwzt9P8C59N4NGTfBLfSGE7c7", "did:key:z6MkfF4ykuxdK3Cea9xDqWgLLgMBvxcypy6Tv1K45Eahxy3m"
	cut := filepath.Join(t.TempDir(), "cut.zip")
	data, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cut, data[:len(data)-100], 0o600); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(t.TempDir(), "half.json")
	if err := os.WriteFile(half, []byte(`{"envelope_version":"1"`), 0o600); err != nil {
		t.Fatal(err)
	}
	trust := manifestSigners(t, archive)
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		code   clawverify.Code
	}{
		{"vector", []string{filepath.Join(vectors, "proof_bundle_pass.v1.json"), "--verifier-config", config}, 0, clawverify.OK},
		{"vector, nobody trusted", []string{filepath.Join(vectors, "proof_bundle_pass.v1.json")}, 1, clawverify.DependencyMissing},
		{"vector, another trusted", []string{filepath.Join(vectors, "proof_bundle_pass.v1.json"), "--trust", gateway}, 1, clawverify.ReceiptsFailed},
		{"vector of an invalid signature", []string{filepath.Join(vectors, "proof_bundle_fail_invalid_signature.v1.json"), "--verifier-config", config}, 1, clawverify.SignatureInvalid},
		{"archive", append([]string{archive}, trust...), 0, clawverify.OK},
		{"archive of another gateway", []string{archive, "--trust", gateway, "--trust-contract", contracts}, 1, clawverify.ClaimNotFound},
		{"cut archive", append([]string{cut}, trust...), 1, "ARCHIVE_MALFORMED"},
		{"half a bundle", append([]string{half}, trust...), 2, clawverify.ParseError},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out, errOut bytes.Buffer
			status := Main(context.Background(), append([]string{"evidence", "verify", "--json"}, tt.args...), &out, &errOut)
			var r clawverify.Report
			if err := json.Unmarshal(out.Bytes(), &r); err != nil {
				t.Fatalf("%v: %s%s", err, out.String(), errOut.String())
			}
			if status != tt.status || r.ReasonCode != tt.code {
				t.Errorf("exit %d, %s (%s); want %d, %s", status, r.ReasonCode, r.Reason, tt.status, tt.code)
			}
			out.Reset()
			if again := Main(context.Background(), append([]string{"evidence", "verify"}, tt.args...), &out, &errOut); again != status || !strings.HasPrefix(out.String(), string(r.Status)) {
				t.Errorf("in words: exit %d: %s", again, out.String())
			}
			if tt.name == "archive" {
				for _, want := range []string{"ok ", "contract replay", "NOT CHECKED", "transparency log"} {
					if !strings.Contains(out.String(), want) {
						t.Errorf("no %q in %s", want, out.String())
					}
				}
				t.Logf("%s", out.String())
			}
		})
	}
	var out, errOut bytes.Buffer
	if status := Main(context.Background(), []string{"evidence", "verify", filepath.Join(vectors, "none.json")}, &out, &errOut); status != ExitUsage {
		t.Errorf("a file that is not there: exit %d", status)
	}
	if status := Main(context.Background(), []string{"evidence", "verify", archive, "--trust", "gateway"}, &out, &errOut); status != ExitUsage {
		t.Errorf("a DID that is none: exit %d", status)
	}
}

// manifestSigners are the flags that trust the golden archive's own signers, read out of its trust.json: what nobody should
// do with an archive that they have to judge.
func manifestSigners(t *testing.T, archive string) []string {
	t.Helper()
	data, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(data, []byte(`{"contract_signer_dids"`))
	var trust struct {
		Gateways  []string `json:"gateway_dids"`
		Contracts []string `json:"contract_signer_dids"`
	}
	if err := json.NewDecoder(bytes.NewReader(data[i:])).Decode(&trust); err != nil {
		t.Fatal(err)
	}
	return []string{"--trust", trust.Gateways[0], "--trust-contract", trust.Contracts[0]}
}
