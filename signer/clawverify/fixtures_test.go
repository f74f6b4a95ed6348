package clawverify_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"sallyport/signer/clawverify"
)

// The vectors in testdata are the ecosystem's own: clawbureau/clawbureau, MIT licence, packages/schema/fixtures/protocol-conformance.
func TestEcosystemVectors(t *testing.T) {
	t.Parallel()
	c := &clawverify.Config{Now: time.Date(2026, 2, 20, 0, 0, 0, 0, time.UTC)}
	config, err := os.ReadFile(filepath.Join("testdata", "clawverify.config.conformance.v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AddFile(config); err != nil {
		t.Fatal(err)
	}
	vectors := map[string]clawverify.Code{
		"proof_bundle_pass.v1.json":                             clawverify.OK,
		"proof_bundle_fail_invalid_signature.v1.json":           clawverify.SignatureInvalid,
		"proof_bundle_fail_missing_envelope_field.v1.json":      clawverify.MalformedEnvelope,
		"proof_bundle_fail_unknown_hash_algo.v1.json":           clawverify.UnknownHashAlgorithm,
		"proof_bundle_fail_empty_chain.v1.json":                 clawverify.SchemaValidationFailed,
		"proof_bundle_fail_tool_receipt_agent_mismatch.v1.json": clawverify.HashMismatch,
	}
	files, err := filepath.Glob(filepath.Join("testdata", "proof_bundle_*.json"))
	if err != nil || len(files) != len(vectors) {
		t.Fatalf("%d vectors in testdata, %d expected (%v)", len(files), len(vectors), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want, known := vectors[filepath.Base(file)]
		got := clawverify.Verify("", data, c, file)
		t.Logf("%-55s %-5s exit %d %s: %s", filepath.Base(file), got.Status, got.Status.ExitCode(), got.ReasonCode, got.Reason)
		if !known || got.ReasonCode != want || (got.Status == clawverify.Pass) != (want == clawverify.OK) {
			t.Errorf("%s: %s %s (%s); want %s", file, got.Status, got.ReasonCode, got.Reason, want)
		}
	}
	data, err := os.ReadFile(filepath.Join("testdata", "proof_bundle_pass.v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	v := clawverify.Bundle(data, c)
	if n := v.Result.Components; v.Result.ProofTier != "gateway" || n.EventsCount != 1 || n.ReceiptsVerified != 1 || v.Result.Status != "VALID" {
		t.Errorf("got %+v", v.Result)
	}
	if got := clawverify.Verify("", data, &clawverify.Config{Now: c.Now}, ""); got.ReasonCode != clawverify.DependencyMissing {
		t.Errorf("with nobody trusted: %s", got.ReasonCode)
	}
	// The hosted verifier's request body is taken too.
	if got := clawverify.Verify("", append(append([]byte(`{"envelope":`), data...), '}'), c, ""); got.Status != clawverify.Pass {
		t.Errorf("in a request body: %s %s", got.ReasonCode, got.Reason)
	}
}
