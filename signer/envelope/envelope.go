// Package envelope seals payloads in the Claw ecosystem's signed envelope and verifies them.
// Its members, hash rules and the order of checks with their codes are those of the public verifiers, for gateway
// receipts and work policy contracts alike; only encodings are read more strictly, so that nothing has two spellings.
package envelope

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"sallyport/signer/didkey"
	"sallyport/signer/jcs"
)

// What every envelope says about itself.
const (
	Version       = "1"
	HashAlgorithm = "SHA-256"
	Algorithm     = "Ed25519"
)

// The envelope types that this project writes.
const (
	TypeGatewayReceipt = "gateway_receipt"
	TypeContract       = "work_policy_contract"
	TypeProofBundle    = "proof_bundle"
	TypeDecision       = "sallyport_decision"  // a refusal; ours, so that no verifier takes it for a receipt
	TypeTombstone      = "sallyport_tombstone" // evidence that was removed; ours
	TypeArchive        = "sallyport_archive"   // the manifest of an auditor's archive; ours
)

// Envelope is a payload with its hash and a signature over the 43 ASCII characters of that hash.
//
// Only the payload is signed: IssuedAt and ExpiresAt can be altered by anyone who holds the envelope, so nothing
// may be decided by them. SignerDID names the key that the signature is checked with.
type Envelope struct {
	EnvelopeVersion string          `json:"envelope_version"`
	EnvelopeType    string          `json:"envelope_type"`
	Payload         json.RawMessage `json:"payload"`
	PayloadHashB64u string          `json:"payload_hash_b64u"`
	HashAlgorithm   string          `json:"hash_algorithm"`
	SignatureB64u   string          `json:"signature_b64u"`
	Algorithm       string          `json:"algorithm"`
	SignerDID       string          `json:"signer_did"`
	IssuedAt        string          `json:"issued_at"`
	ExpiresAt       string          `json:"expires_at,omitempty"`
}

// Signer is a private key that signs messages and says by which did:key it is known.
type Signer interface {
	DID() string
	Sign(msg []byte) []byte
}

// ErrPayload is returned for a payload that cannot be sealed.
var ErrPayload = errors.New("payload cannot be sealed")

// Seal signs a payload: a Go value with json tags, or json.RawMessage. The payload is put into canonical form, in
// which the JSON-order hash and the JCS hash are the same. A payload where they differ (an object with keys such
// as "9" and "10", which JavaScript reorders) is refused, except in a contract, which is only read by the JCS rule.
func Seal(typ string, payload any, s Signer, at time.Time) (*Envelope, error) {
	canonical, err := jcs.Marshal(payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPayload, err)
	}
	if canonical[0] != '{' {
		return nil, fmt.Errorf("%w: not a JSON object", ErrPayload)
	}
	hash := jcs.Hash(canonical)
	if typ != TypeContract {
		ordered, err := jcs.HashJSONOrder(canonical)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrPayload, err)
		}
		if ordered != hash {
			return nil, fmt.Errorf("%w: it has object keys that look like array indexes, which JavaScript reorders", ErrPayload)
		}
	}
	e := unsigned(typ, s, at)
	e.Payload = canonical
	e.sign(hash, s)
	return e, nil
}

// AppendSealed is Seal and Encode for a caller that writes the payload's canonical form itself, where payload is called: an
// object in RFC 8785 form without keys that look like array indexes. Nothing of that is checked.
func AppendSealed(dst []byte, typ string, s Signer, at time.Time, payload func(dst []byte) ([]byte, error)) ([]byte, error) {
	e := unsigned(typ, s, at)
	dst = e.appendHead(dst)
	from := len(dst)
	dst, err := payload(dst)
	if err != nil {
		return nil, err
	}
	e.sign(jcs.Hash(dst[from:]), s)
	return e.appendTail(dst), nil
}

func unsigned(typ string, s Signer, at time.Time) *Envelope {
	return &Envelope{
		EnvelopeVersion: Version, EnvelopeType: typ, HashAlgorithm: HashAlgorithm, Algorithm: Algorithm,
		SignerDID: s.DID(), IssuedAt: FormatTime(at),
	}
}

// sign signs the 43 characters of the payload's hash.
func (e *Envelope) sign(hash string, s Signer) {
	e.PayloadHashB64u = hash
	e.SignatureB64u = jcs.EncodeB64u(s.Sign([]byte(hash)))
}

// FormatTime writes a time as the ecosystem does: UTC, with milliseconds (the rest is cut off) and Z.
func FormatTime(t time.Time) string {
	t = t.UTC()
	var room [len("2006-01-02T15:04:05.000Z")]byte
	b := t.AppendFormat(room[:0], time.RFC3339) // the one layout that package time does not parse each time
	ms := t.Nanosecond() / 1e6
	return string(append(b[:len(b)-1], '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z'))
}

// Encode returns the envelope's JSON: its members in canonical order, the payload byte for byte as it stands, since its
// hash may be by document order. Of an envelope that Seal made, this is the canonical form.
func (e *Envelope) Encode() ([]byte, error) {
	if len(e.Payload) == 0 {
		return nil, fmt.Errorf("encode envelope: %w: it is empty", ErrPayload)
	}
	out := e.appendHead(make([]byte, 0, len(e.Payload)+512))
	return e.appendTail(append(out, e.Payload...)), nil
}

// appendHead writes the members before the payload.
func (e *Envelope) appendHead(dst []byte) []byte {
	dst = appendMember(dst, `{"algorithm":`, e.Algorithm)
	dst = appendMember(dst, `,"envelope_type":`, e.EnvelopeType)
	dst = appendMember(dst, `,"envelope_version":`, e.EnvelopeVersion)
	if e.ExpiresAt != "" {
		dst = appendMember(dst, `,"expires_at":`, e.ExpiresAt)
	}
	dst = appendMember(dst, `,"hash_algorithm":`, e.HashAlgorithm)
	dst = appendMember(dst, `,"issued_at":`, e.IssuedAt)
	return append(dst, `,"payload":`...)
}

// appendTail writes the members behind the payload.
func (e *Envelope) appendTail(dst []byte) []byte {
	dst = appendMember(dst, `,"payload_hash_b64u":`, e.PayloadHashB64u)
	dst = appendMember(dst, `,"signature_b64u":`, e.SignatureB64u)
	dst = appendMember(dst, `,"signer_did":`, e.SignerDID)
	return append(dst, '}')
}

func appendMember(dst []byte, name, value string) []byte {
	return jcs.AppendString(append(dst, name...), value)
}

// Parse reads an envelope strictly: unknown members are refused at this level, duplicate keys at every level. The
// error is an *Error with MalformedEnvelope. Whether anything in it is true is what Verify says.
func Parse(data []byte) (*Envelope, error) {
	var e Envelope
	if err := jcs.Unmarshal(data, &e); err != nil {
		f := &Error{Code: MalformedEnvelope, Message: err.Error(), cause: err}
		var j *jcs.Error
		if errors.As(err, &j) {
			f.Field, f.Message = j.Path, j.Reason
		}
		return nil, f
	}
	return &e, nil
}

// Rule says how the payload is turned into the bytes that are hashed.
type Rule int

// The two rules. Receipts, bundles and most other objects use the first, contracts the second.
const (
	JSONOrder Rule = iota // members in document order, as JSON.stringify(JSON.parse(text)) writes them
	JCS                   // RFC 8785
)

func (r Rule) hash(payload []byte) (string, error) {
	if r == JCS {
		return jcs.HashCanonical(payload)
	}
	return jcs.HashJSONOrder(payload)
}

// Check is what an envelope is held against.
type Check struct {
	Type    string   // the envelope_type that is expected
	Rule    Rule     // the hash rule of that type
	Trusted []string // DIDs whose signature counts; an empty list means nobody, not anybody
}

// didForm is the ecosystem's own test. did:web passes it, and fails later for want of a key.
var didForm = regexp.MustCompile(`^did:(key|web):[a-zA-Z0-9._%-]+$`)

// Verify checks the envelope in the order of the public verifiers. The error is an *Error.
func (e *Envelope) Verify(c Check) error {
	if err := e.header(c); err != nil {
		return err
	}
	if !didForm.MatchString(e.SignerDID) {
		return fault(InvalidDIDFormat, "signer_did", "not a did:key or did:web")
	}
	if !slices.Contains(c.Trusted, e.SignerDID) {
		return fault(ClaimNotFound, "signer_did", "%s is not among the %d trusted signers", e.SignerDID, len(c.Trusted))
	}
	signature, err := e.encodings()
	if err != nil {
		return err
	}
	hash, err := c.Rule.hash(e.Payload)
	if err != nil {
		return &Error{Code: MalformedEnvelope, Field: "payload", Message: err.Error(), cause: err}
	}
	if hash != e.PayloadHashB64u {
		return fault(HashMismatch, "payload_hash_b64u", "the payload hashes to %s", hash)
	}
	key, err := didkey.Decode(e.SignerDID)
	if err != nil {
		return &Error{Code: InvalidDIDFormat, Field: "signer_did", Message: err.Error(), cause: err}
	}
	if !ed25519.Verify(key, []byte(e.PayloadHashB64u), signature) {
		return fault(SignatureInvalid, "signature_b64u", "the signature is not one of %s over the payload hash", e.SignerDID)
	}
	return nil
}

// header checks that all members are there and that the envelope is of a kind that is understood.
func (e *Envelope) header(c Check) error {
	for _, m := range []struct {
		name string
		ok   bool
	}{
		{"envelope_version", e.EnvelopeVersion != ""},
		{"envelope_type", e.EnvelopeType != ""},
		{"payload", len(e.Payload) > 0 && e.Payload[0] == '{'},
		{"payload_hash_b64u", e.PayloadHashB64u != ""},
		{"hash_algorithm", e.HashAlgorithm != ""},
		{"signature_b64u", e.SignatureB64u != ""},
		{"algorithm", e.Algorithm != ""},
		{"signer_did", e.SignerDID != ""},
		{"issued_at", e.IssuedAt != ""},
	} {
		if !m.ok {
			return fault(MalformedEnvelope, m.name, "missing, or not of the right type")
		}
	}
	switch {
	case e.EnvelopeVersion != Version:
		return fault(UnknownEnvelopeVersion, "envelope_version", "%q is not %q", e.EnvelopeVersion, Version)
	case e.EnvelopeType != c.Type:
		return fault(UnknownEnvelopeType, "envelope_type", "%q is not %q", e.EnvelopeType, c.Type)
	case e.Algorithm != Algorithm:
		return fault(UnknownAlgorithm, "algorithm", "%q is not %q", e.Algorithm, Algorithm)
	case e.HashAlgorithm != HashAlgorithm:
		return fault(UnknownHashAlgorithm, "hash_algorithm", "%q is not %q", e.HashAlgorithm, HashAlgorithm)
	}
	return nil
}

// encodings checks times and base64url members and returns the signature's bytes.
func (e *Envelope) encodings() ([]byte, error) {
	if _, err := time.Parse(time.RFC3339, e.IssuedAt); err != nil {
		return nil, fault(MalformedEnvelope, "issued_at", "not an RFC 3339 time")
	}
	if _, err := time.Parse(time.RFC3339, e.ExpiresAt); e.ExpiresAt != "" && err != nil {
		return nil, fault(MalformedEnvelope, "expires_at", "not an RFC 3339 time")
	}
	if _, err := jcs.DecodeHash(e.PayloadHashB64u); err != nil {
		return nil, fault(MalformedEnvelope, "payload_hash_b64u", "%v", err)
	}
	signature, err := jcs.DecodeB64u(e.SignatureB64u)
	if err != nil || len(signature) != ed25519.SignatureSize {
		return nil, fault(MalformedEnvelope, "signature_b64u", "not a base64url Ed25519 signature of 86 characters")
	}
	return signature, nil
}
