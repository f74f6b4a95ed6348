package envelope

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sallyport/signer/didkey"
	"sallyport/signer/jcs"
)

var update = flag.Bool("update", false, "write the golden files anew")

// testKey is a Signer whose seed is one repeated byte.
type testKey struct{ private ed25519.PrivateKey }

func newKey(b byte) testKey {
	return testKey{ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))}
}

func (k testKey) DID() string            { return didkey.Encode(k.private.Public().(ed25519.PublicKey)) }
func (k testKey) Sign(msg []byte) []byte { return ed25519.Sign(k.private, msg) }

var at = time.Date(2026, 2, 12, 1, 2, 3, 456789012, time.FixedZone("", 3600))

func seal(t *testing.T, typ string, payload any, k testKey) *Envelope {
	t.Helper()
	e, err := Seal(typ, payload, k, at)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestGolden(t *testing.T) {
	e := seal(t, TypeGatewayReceipt, map[string]any{"receipt_version": "1", "model": "a<b>&\u2028é😀", "tokens_input": 10, "binding": map[string]any{"run_id": "r", "nonce": "n"}}, newKey(1))
	got, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "receipt.golden.json")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	parsed, err := Parse(want)
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range []Rule{JSONOrder, JCS} {
		if err := parsed.Verify(Check{Type: TypeGatewayReceipt, Rule: rule, Trusted: []string{newKey(1).DID()}}); err != nil {
			t.Errorf("rule %d: %v", rule, err)
		}
	}
}

func TestFormatTime(t *testing.T) {
	if got := FormatTime(at); got != "2026-02-12T00:02:03.456Z" {
		t.Errorf("got %s", got)
	}
}

func TestSealRefuses(t *testing.T) {
	for name, payload := range map[string]any{
		"no object":             []int{1},
		"null":                  nil,
		"unsafe integer":        map[string]any{"n": int64(1) << 60},
		"duplicate key":         json.RawMessage(`{"a":1,"a":2}`),
		"array indexes as keys": map[string]any{"9": 1, "10": 2},
	} {
		if _, err := Seal(TypeGatewayReceipt, payload, newKey(1), at); !errors.Is(err, ErrPayload) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A contract is hashed by the JCS rule alone.
	e := seal(t, TypeContract, map[string]any{"9": 1, "10": 2}, newKey(1))
	if err := e.Verify(Check{Type: TypeContract, Rule: JCS, Trusted: []string{newKey(1).DID()}}); err != nil {
		t.Error(err)
	}
}

// resign gives the envelope the hash and signature that its payload has by this rule.
func resign(e *Envelope, rule Rule, k testKey) {
	e.PayloadHashB64u, _ = rule.hash(e.Payload)
	e.SignatureB64u = jcs.EncodeB64u(k.Sign([]byte(e.PayloadHashB64u)))
}

func TestVerify(t *testing.T) {
	key, other := newKey(1), newKey(2)
	missing := func(name string, clear func(*Envelope)) (string, Code, string, func(*Envelope)) {
		return "missing " + name, MalformedEnvelope, name, clear
	}
	type test struct {
		name  string
		code  Code
		field string
		spoil func(*Envelope)
	}
	row := func(name string, code Code, field string, spoil func(*Envelope)) test {
		return test{name, code, field, spoil}
	}
	tests := []test{
		row(missing("envelope_version", func(e *Envelope) { e.EnvelopeVersion = "" })),
		row(missing("envelope_type", func(e *Envelope) { e.EnvelopeType = "" })),
		row(missing("payload", func(e *Envelope) { e.Payload = nil })),
		row(missing("payload_hash_b64u", func(e *Envelope) { e.PayloadHashB64u = "" })),
		row(missing("hash_algorithm", func(e *Envelope) { e.HashAlgorithm = "" })),
		row(missing("signature_b64u", func(e *Envelope) { e.SignatureB64u = "" })),
		row(missing("algorithm", func(e *Envelope) { e.Algorithm = "" })),
		row(missing("signer_did", func(e *Envelope) { e.SignerDID = "" })),
		row(missing("issued_at", func(e *Envelope) { e.IssuedAt = "" })),
		{"payload no object", MalformedEnvelope, "payload", func(e *Envelope) { e.Payload = json.RawMessage(`[]`) }},
		{"version", UnknownEnvelopeVersion, "envelope_version", func(e *Envelope) { e.EnvelopeVersion = "2" }},
		{"type", UnknownEnvelopeType, "envelope_type", func(e *Envelope) { e.EnvelopeType = TypeContract }},
		{"algorithm", UnknownAlgorithm, "algorithm", func(e *Envelope) { e.Algorithm = "RS256" }},
		{"hash algorithm", UnknownHashAlgorithm, "hash_algorithm", func(e *Envelope) { e.HashAlgorithm = "BLAKE3" }},
		{"signer no DID", InvalidDIDFormat, "signer_did", func(e *Envelope) { e.SignerDID = "alice" }},
		{"signer with a fragment", InvalidDIDFormat, "signer_did", func(e *Envelope) { e.SignerDID += "#key" }},
		{"signer with a line break", InvalidDIDFormat, "signer_did", func(e *Envelope) { e.SignerDID += "\n" }},
		{"signer not trusted", ClaimNotFound, "signer_did", func(e *Envelope) { e.SignerDID = other.DID(); resign(e, JSONOrder, other) }},
		{"issued_at", MalformedEnvelope, "issued_at", func(e *Envelope) { e.IssuedAt = "2026-02-12" }},
		{"issued_at without a zone", MalformedEnvelope, "issued_at", func(e *Envelope) { e.IssuedAt = "2026-02-12T00:00:00.000" }},
		{"expires_at", MalformedEnvelope, "expires_at", func(e *Envelope) { e.ExpiresAt = "soon" }},
		{"short hash", MalformedEnvelope, "payload_hash_b64u", func(e *Envelope) { e.PayloadHashB64u = e.PayloadHashB64u[:42] }},
		{"short signature", MalformedEnvelope, "signature_b64u", func(e *Envelope) { e.SignatureB64u = e.SignatureB64u[:85] }},
		{"padded signature", MalformedEnvelope, "signature_b64u", func(e *Envelope) { e.SignatureB64u += "==" }},
		{"second spelling of the signature", MalformedEnvelope, "signature_b64u", func(e *Envelope) { e.SignatureB64u = e.SignatureB64u[:85] + "_" }},
		{"payload with a duplicate", MalformedEnvelope, "payload", func(e *Envelope) { e.Payload = json.RawMessage(`{"a":1,"a":1}`) }},
		{"payload altered", HashMismatch, "payload_hash_b64u", func(e *Envelope) { e.Payload = json.RawMessage(`{"a":1,"b":3}`) }},
		{"payload reordered", HashMismatch, "payload_hash_b64u", func(e *Envelope) { e.Payload = json.RawMessage(`{"b":2,"a":1}`) }},
		{"did:web has no key", InvalidDIDFormat, "signer_did", func(e *Envelope) { e.SignerDID = "did:web:gate.example" }},
		{"did:key of another curve", InvalidDIDFormat, "signer_did", func(e *Envelope) { e.SignerDID = "did:key:zDnaexample" }},
		{"signature of another key", SignatureInvalid, "signature_b64u", func(e *Envelope) { e.SignatureB64u = jcs.EncodeB64u(other.Sign([]byte(e.PayloadHashB64u))) }},
		{"signature over the payload", SignatureInvalid, "signature_b64u", func(e *Envelope) { e.SignatureB64u = jcs.EncodeB64u(key.Sign(e.Payload)) }},
		{"all is well", "", "", func(*Envelope) {}},
		{"white space in the payload", "", "", func(e *Envelope) { e.Payload = json.RawMessage(`{ "a" : 1.0, "b": 2 }`) }},
		{"times are not signed", "", "", func(e *Envelope) {
			e.IssuedAt, e.ExpiresAt = "2030-01-01T00:00:00+01:00", "2031-01-01T00:00:00.123456789Z"
		}},
	}
	check := Check{Type: TypeGatewayReceipt, Rule: JSONOrder, Trusted: []string{"did:web:gate.example", "did:key:zDnaexample", key.DID()}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := seal(t, TypeGatewayReceipt, map[string]any{"a": 1, "b": 2}, key)
			tt.spoil(e)
			assertCode(t, e.Verify(check), tt.code, tt.field)
		})
	}
}

func assertCode(t *testing.T, err error, code Code, field string) {
	t.Helper()
	if code == "" {
		if err != nil {
			t.Error(err)
		}
		return
	}
	var e *Error
	if !errors.As(err, &e) || e.Code != code || e.Field != field {
		t.Errorf("got %v, want %s at %q", err, code, field)
	}
}

func TestNobodyIsTrustedByDefault(t *testing.T) {
	e := seal(t, TypeContract, map[string]any{"a": 1}, newKey(1))
	assertCode(t, e.Verify(Check{Type: TypeContract, Rule: JCS}), ClaimNotFound, "signer_did")
}

func TestRules(t *testing.T) {
	key := newKey(1)
	check := Check{Type: TypeContract, Trusted: []string{key.DID()}}
	e := seal(t, TypeContract, map[string]any{"a": 1, "b": 2}, key)
	e.Payload = json.RawMessage(`{"b":2,"a":1}`)
	check.Rule = JCS
	assertCode(t, e.Verify(check), "", "")
	check.Rule = JSONOrder
	assertCode(t, e.Verify(check), HashMismatch, "payload_hash_b64u")
	resign(e, JSONOrder, key)
	assertCode(t, e.Verify(check), "", "")
}

func TestParseRefuses(t *testing.T) {
	good, err := seal(t, TypeContract, map[string]any{"a": map[string]any{"b": 1}}, newKey(1)).Encode()
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) string { return strings.Replace(string(good), old, new, 1) }
	for _, tt := range []struct{ name, in, field string }{
		{"not JSON", "x", "$"},
		{"no object", "[]", "$"},
		{"unknown member", replace(`{"algorithm"`, `{"extra":1,"algorithm"`), "$.extra"},
		{"other case", replace(`"algorithm"`, `"Algorithm"`), "$.Algorithm"},
		{"duplicate member", replace(`{"algorithm"`, `{"algorithm":"none","algorithm"`), "$.algorithm"},
		{"duplicate in the payload", replace(`"b":1`, `"b":1,"b":2`), "$.payload.a.b"},
		{"wrong type", replace(`"envelope_version":"1"`, `"envelope_version":1`), "$.envelope_version"},
		{"null member", replace(`"envelope_version":"1"`, `"envelope_version":null`), "$.envelope_version"},
		{"trailing data", string(good) + "x", "$"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.in))
			assertCode(t, err, MalformedEnvelope, tt.field)
			var j *jcs.Error
			if !errors.As(err, &j) {
				t.Errorf("no *jcs.Error beneath %v", err)
			}
		})
	}
}

func TestSealedPayloadsVerifyByBothRules(t *testing.T) {
	key := newKey(1)
	rapid.Check(t, func(t *rapid.T) {
		payload := rapid.MapOf(rapid.StringMatching(`[a-z\x{e000}😀"]{1,4}`), rapid.Float64Range(-1e9, 1e9)).Draw(t, "payload")
		e, err := Seal(TypeGatewayReceipt, payload, key, at)
		if err != nil {
			t.Fatal(err)
		}
		data, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		for _, rule := range []Rule{JSONOrder, JCS} {
			if err := again.Verify(Check{Type: TypeGatewayReceipt, Rule: rule, Trusted: []string{key.DID()}}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	key := newKey(1)
	e, err := Seal(TypeGatewayReceipt, map[string]any{"a": 1}, key, at)
	if err != nil {
		f.Fatal(err)
	}
	good, err := e.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"payload":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Parse(data)
		if err != nil {
			return
		}
		// Nobody but the key can make a payload that verifies, whatever else of the envelope is altered.
		if got.Verify(Check{Type: TypeGatewayReceipt, Trusted: []string{key.DID()}}) == nil && jcs.Hash(e.Payload) != got.PayloadHashB64u {
			t.Fatalf("forged: %s", data)
		}
	})
}

// fixtures is where the ecosystem's public vectors lie beside a checkout that has them.
var fixtures = filepath.Join("..", "..", "..", "shared", "fixtures", "claw")

func TestEcosystemVectors(t *testing.T) {
	if _, err := os.Stat(fixtures); err != nil {
		t.Skip("the ecosystem's vectors are not beside this checkout")
	}
	const agent, gateway = "did:key:z6MkneMkZqwqRiU5mJzSG3kDwzt9P8C59N4NGTfBLfSGE7c7", "did:key:z6MkfF4ykuxdK3Cea9xDqWgLLgMBvxcypy6Tv1K45Eahxy3m"
	for _, tt := range []struct {
		file  string
		code  Code
		field string
	}{
		{"proof_bundle_pass.v1.json", "", ""},
		{"proof_bundle_fail_invalid_signature.v1.json", SignatureInvalid, "signature_b64u"},
		{"proof_bundle_fail_missing_envelope_field.v1.json", MalformedEnvelope, ""},
		{"proof_bundle_fail_unknown_hash_algo.v1.json", UnknownHashAlgorithm, "hash_algorithm"},
		{"proof_bundle_fail_tool_receipt_agent_mismatch.v1.json", HashMismatch, "payload_hash_b64u"},
	} {
		t.Run(tt.file, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join(fixtures, tt.file))
			if err != nil {
				t.Fatal(err)
			}
			e, err := Parse(data)
			if err != nil {
				t.Fatal(err)
			}
			err = e.Verify(Check{Type: TypeProofBundle, Trusted: []string{agent}})
			var fault *Error
			if tt.field == "" && errors.As(err, &fault) {
				tt.field = fault.Field
			}
			assertCode(t, err, tt.code, tt.field)
		})
	}
	t.Run("receipt inside", func(t *testing.T) {
		data, err := os.ReadFile(filepath.Join(fixtures, "proof_bundle_pass.v1.json"))
		if err != nil {
			t.Fatal(err)
		}
		var bundle struct {
			Payload struct{ Receipts []json.RawMessage }
		}
		if err := json.Unmarshal(data, &bundle); err != nil || len(bundle.Payload.Receipts) != 1 {
			t.Fatal(err)
		}
		e, err := Parse(bundle.Payload.Receipts[0])
		if err != nil {
			t.Fatal(err)
		}
		assertCode(t, e.Verify(Check{Type: TypeGatewayReceipt, Trusted: []string{gateway}}), "", "")
	})
}
