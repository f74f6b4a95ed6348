package audit

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"sallyport/signer/clawverify"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
)

// manifest is the payload of manifest.json.
type manifest struct {
	Version    string         `json:"archive_version"`
	RunID      string         `json:"run_id"`
	Job        string         `json:"job"`
	AgentDID   string         `json:"agent_did"`
	GatewayDID string         `json:"gateway_did"`
	CreatedAt  string         `json:"created_at"`
	Parts      int            `json:"parts"`
	Files      []manifestFile `json:"files"`
}

type manifestFile struct {
	Path string `json:"path"`
	Hash string `json:"sha256_b64u"`
	Size int64  `json:"size_bytes"`
}

// manifest reads and verifies the manifest, and holds every file against it. Its payload is given even where it is not
// signed well, so that the other checks can say what they find; nil where it cannot be read.
func (a *auditor) manifest(b *bag) *manifest {
	raw, err := b.read(manifestName, clawverify.MaxBytes)
	if err != nil {
		a.fail(checkManifest, ArchiveMalformed, manifestName, "%v", err)
		return nil
	}
	env, err := envelope.Parse(raw)
	if err != nil {
		a.fail(checkManifest, clawverify.MalformedEnvelope, manifestName, "%v", err)
		return nil
	}
	a.did(checkManifest, 1)
	var bad *envelope.Error
	if err := env.Verify(envelope.Check{Type: envelope.TypeArchive, Rule: envelope.JSONOrder, Trusted: a.cfg.GatewaySigners}); errors.As(err, &bad) {
		a.fail(checkManifest, clawverify.Code(bad.Code), manifestName+" "+bad.Field, "%s", bad.Message)
	}
	m := new(manifest)
	if err := jcs.Unmarshal(env.Payload, m); err != nil {
		a.fail(checkManifest, clawverify.SchemaValidationFailed, manifestName+" payload", "%v", err)
		return nil
	}
	a.manifestForm(m, env)
	a.files(b, m)
	return m
}

// manifestForm is what the manifest says of itself.
func (a *auditor) manifestForm(m *manifest, env *envelope.Envelope) {
	bad := func(field, format string, args ...any) {
		a.fail(checkManifest, clawverify.SchemaValidationFailed, manifestName+" "+field, format, args...)
	}
	if m.Version != "1" {
		bad("payload.archive_version", "%q is not \"1\"", m.Version)
	}
	if m.RunID == "" || m.Job == "" {
		bad("payload.run_id", "run_id and job must not be empty")
	}
	if env.SignerDID != m.GatewayDID {
		bad("payload.gateway_did", "is not the signer %s", env.SignerDID)
	}
	if m.Parts < 0 {
		bad("payload.parts", "%d is no number of bundles", m.Parts)
	}
	if _, err := time.Parse(time.RFC3339, m.CreatedAt); err != nil {
		bad("payload.created_at", "not an RFC 3339 time")
	}
	if env.IssuedAt != m.CreatedAt {
		bad("issued_at", "is not the manifest's created_at, %s", m.CreatedAt)
	}
	if env.ExpiresAt != "" {
		bad("expires_at", "does not belong here: it is not signed")
	}
}

// files: exactly the files of the manifest are there, each with its hash and size.
func (a *auditor) files(b *bag, m *manifest) {
	left := maps.Clone(b.files)
	delete(left, manifestName)
	for i, f := range m.Files {
		at := fmt.Sprintf("%s payload.files[%d] (%.100s)", manifestName, i, f.Path)
		have := left[f.Path]
		switch {
		case have == nil && b.files[f.Path] != nil:
			a.fail(checkFiles, EvidenceMismatch, at, "is listed twice, or is the manifest itself")
			continue
		case have == nil:
			a.fail(checkFiles, EvidenceMissing, at, "is not in the archive")
			continue
		}
		delete(left, f.Path)
		hash, err := b.hash(f.Path)
		switch {
		case err != nil:
			a.fail(checkFiles, ArchiveMalformed, f.Path, "%v", err)
		case uint64(f.Size) != have.UncompressedSize64: //nolint:gosec // a negative size is no file's
			a.fail(checkFiles, clawverify.HashMismatch, f.Path, "has %d bytes, not the %d of the manifest", have.UncompressedSize64, f.Size)
		case hash != f.Hash:
			a.fail(checkFiles, clawverify.HashMismatch, f.Path, "hashes to %s, not to the manifest's %.43s", hash, f.Hash)
		}
		a.did(checkFiles, 1)
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		a.fail(checkFiles, EvidenceMismatch, name, "is not in the manifest")
	}
	for part := 1; part <= min(m.Parts, maxEntries); part++ {
		if b.files[bundleName(part)] == nil {
			a.fail(checkFiles, EvidenceMissing, bundleName(part), "the manifest says that there are %d bundles, and this one is missing", m.Parts)
			break
		}
	}
	for name := range b.files {
		var part int
		if n, _ := fmt.Sscanf(name, "bundle-%d.json", &part); n == 1 && part > m.Parts || name == "bundle.json" && m.Parts == 0 {
			a.fail(checkFiles, EvidenceMismatch, name, "the manifest says that there are %d bundles", m.Parts)
		}
	}
}
