package clawverify

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"time"

	"sallyport/signer/didkey"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
)

// skew is how far ahead an export's times may be.
const skew = 5 * time.Minute

// export is an export bundle (WIRE 10).
type export struct {
	Version   string `json:"export_version"`
	ID        string `json:"export_id"`
	CreatedAt string `json:"created_at"`
	Issuer    string `json:"issuer_did"`
	Manifest  struct {
		Version     string        `json:"manifest_version"`
		GeneratedAt string        `json:"generated_at"`
		Entries     []exportEntry `json:"entries"`
	} `json:"manifest"`
	Artifacts struct {
		Bundle     json.RawMessage   `json:"proof_bundle_envelope"`
		Execution  []json.RawMessage `json:"execution_attestation_envelopes,omitempty"`
		Derivation []json.RawMessage `json:"derivation_attestation_envelopes,omitempty"`
		Audit      []json.RawMessage `json:"audit_result_attestation_envelopes,omitempty"`
	} `json:"artifacts"`
	Hash          string          `json:"bundle_hash_b64u"`
	HashAlgorithm string          `json:"hash_algorithm"`
	Signature     string          `json:"signature_b64u"`
	Algorithm     string          `json:"algorithm"`
	IssuedAt      string          `json:"issued_at"`
	ExpiresAt     string          `json:"expires_at,omitempty"`
	Metadata      json.RawMessage `json:"metadata,omitempty"`
}

type exportEntry struct {
	Path        string `json:"path"`
	Hash        string `json:"sha256_b64u"`
	ContentType string `json:"content_type"`
	Size        int64  `json:"size_bytes"`
}

// ExportVerification is the result for an export bundle.
type ExportVerification struct {
	Status string        `json:"status"`
	Bundle *Verification `json:"proof_bundle,omitempty"`
	Error  *Error        `json:"error,omitempty"`
}

// Export verifies an export bundle and the proof bundle in it, by the strict verdict.
func Export(data []byte, c *Config) *ExportVerification {
	v := &ExportVerification{Status: "VALID"}
	if v.Error = v.check(data, c); v.Error != nil {
		v.Status = "INVALID"
	}
	return v
}

func (v *ExportVerification) check(data []byte, c *Config) *Error {
	var e export
	if err := jcs.Unmarshal(data, &e); err != nil {
		return fault(SchemaValidationFailed, "", "%v", err)
	}
	if bad := e.form(c.Now); bad != nil {
		return bad
	}
	if bad := e.manifest(); bad != nil {
		return bad
	}
	hash, err := withoutSignature(data)
	if err != nil {
		return fault(MalformedEnvelope, "", "%v", err)
	}
	if hash != e.Hash {
		return fault(HashMismatch, "bundle_hash_b64u", "the export hashes to %s", hash)
	}
	key, err := didkey.Decode(e.Issuer)
	if err != nil {
		return fault(InvalidDIDFormat, "issuer_did", "%v", err)
	}
	sig, err := jcs.DecodeB64u(e.Signature)
	if err != nil || len(sig) != ed25519.SignatureSize || !ed25519.Verify(key, []byte(e.Hash), sig) {
		return fault(SignatureInvalid, "signature_b64u", "the signature is not one of %s over bundle_hash_b64u", e.Issuer)
	}
	if n := len(e.Artifacts.Execution) + len(e.Artifacts.Derivation) + len(e.Artifacts.Audit); n > 0 && !c.AllowUnchecked {
		return fault(SchemaValidationFailed, "artifacts", "holds %d attestations of kinds that this verifier does not read", n)
	}
	v.Bundle = Bundle(e.Artifacts.Bundle, c)
	if bad := v.Bundle.Strict(c); bad != nil {
		return under("artifacts.proof_bundle_envelope", bad)
	}
	return nil
}

func (e *export) form(now time.Time) *Error {
	for _, m := range []struct{ name, got, want string }{
		{"export_version", e.Version, "1"}, {"manifest.manifest_version", e.Manifest.Version, "1"},
		{"hash_algorithm", e.HashAlgorithm, envelope.HashAlgorithm}, {"algorithm", e.Algorithm, envelope.Algorithm},
	} {
		if m.got != m.want {
			return fault(SchemaValidationFailed, m.name, "%q is not %q", m.got, m.want)
		}
	}
	if e.ID == "" || e.Issuer == "" || e.Hash == "" || e.Signature == "" || len(e.Artifacts.Bundle) == 0 {
		return fault(SchemaValidationFailed, "", "export_id, issuer_did, artifacts.proof_bundle_envelope, bundle_hash_b64u and signature_b64u are required")
	}
	at := map[string]time.Time{}
	for _, m := range []struct{ name, text string }{{"created_at", e.CreatedAt}, {"manifest.generated_at", e.Manifest.GeneratedAt}, {"issued_at", e.IssuedAt}} {
		t, ok := parseTime(m.text)
		if !ok {
			return fault(SchemaValidationFailed, m.name, "not an RFC 3339 time")
		}
		if t.After(now.Add(skew)) {
			return fault(FutureTimestamp, m.name, "is more than %v ahead", skew)
		}
		at[m.name] = t
	}
	if at["issued_at"].Before(at["created_at"].Add(-skew)) {
		return fault(CausalClock, "issued_at", "is before created_at")
	}
	if e.ExpiresAt != "" {
		t, ok := parseTime(e.ExpiresAt)
		if !ok {
			return fault(SchemaValidationFailed, "expires_at", "not an RFC 3339 time")
		}
		if !t.After(now) {
			return fault(ExpiredTTL, "expires_at", "the export expired at %s", e.ExpiresAt)
		}
	}
	return nil
}

// manifest holds the manifest against the artifacts: each is in it once, and nothing else.
func (e *export) manifest() *Error {
	artifacts := map[string]json.RawMessage{"artifacts/proof_bundle_envelope.json": e.Artifacts.Bundle}
	for kind, list := range map[string][]json.RawMessage{
		"execution_attestation_envelopes": e.Artifacts.Execution, "derivation_attestation_envelopes": e.Artifacts.Derivation, "audit_result_attestation_envelopes": e.Artifacts.Audit,
	} {
		for i, raw := range list {
			artifacts[fmt.Sprintf("artifacts/%s/%d.json", kind, i)] = raw
		}
	}
	for i, entry := range e.Manifest.Entries {
		at := fmt.Sprintf("manifest.entries[%d]", i)
		raw, ok := artifacts[entry.Path]
		if !ok {
			return fault(MissingRequiredField, at+".path", "%s is no artifact of the export, or was named before", entry.Path)
		}
		delete(artifacts, entry.Path)
		canonical, err := jcs.Canonical(raw)
		if err != nil {
			return fault(MalformedEnvelope, at, "%v", err)
		}
		if entry.Hash != jcs.Hash(canonical) || entry.Size != int64(len(canonical)) || entry.ContentType != "application/json" {
			return fault(HashMismatch, at, "does not describe the artifact: it hashes to %s and has %d bytes", jcs.Hash(canonical), len(canonical))
		}
	}
	for path := range artifacts {
		return fault(MissingRequiredField, "manifest.entries", "%s is not listed", path)
	}
	return nil
}

// withoutSignature is the JCS hash of an export without the members that are about the hash.
func withoutSignature(data []byte) (string, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return "", err
	}
	for _, name := range []string{"bundle_hash_b64u", "hash_algorithm", "signature_b64u", "algorithm"} {
		delete(members, name)
	}
	canonical, err := jcs.Marshal(members)
	if err != nil {
		return "", err
	}
	return jcs.Hash(canonical), nil
}
