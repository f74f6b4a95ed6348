package clawlog

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"sallyport/signer/didkey"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
)

// What every proof says about itself.
const (
	proofVersion    = "1"
	merkleAlgorithm = "sha256(left||right), duplicate-last for odd levels"
)

// Proof is the ecosystem's log_inclusion_proof.v1.
type Proof struct {
	ProofVersion    string        `json:"proof_version"`
	LogID           string        `json:"log_id"`
	TreeSize        uint64        `json:"tree_size"`
	LeafHash        string        `json:"leaf_hash_b64u"`
	RootHash        string        `json:"root_hash_b64u"`
	AuditPath       []string      `json:"audit_path"`
	RootPublishedAt string        `json:"root_published_at"`
	RootSignature   RootSignature `json:"root_signature"`
	Metadata        *Metadata     `json:"metadata,omitempty"`
}

// RootSignature is Ed25519 over the characters of root_hash_b64u. It covers neither the size of the tree nor its name or time.
type RootSignature struct {
	SignerDID string `json:"signer_did"`
	Signature string `json:"sig_b64u"`
}

// Metadata says where in the tree the leaf is. Without it a proof cannot be checked.
type Metadata struct {
	LeafIndex       *float64 `json:"leaf_index,omitempty"`
	MerkleAlgorithm string   `json:"merkle_algorithm,omitempty"`
}

// UnmarshalJSON takes what is known and leaves the rest, since this object is open. A leaf_index that is no number is none.
func (m *Metadata) UnmarshalJSON(data []byte) error {
	var open map[string]any
	if err := json.Unmarshal(data, &open); err != nil {
		return err
	}
	if f, ok := open["leaf_index"].(float64); ok {
		m.LeafIndex = &f
	}
	m.MerkleAlgorithm, _ = open["merkle_algorithm"].(string)
	return nil
}

// Code is the public verifiers' reason why a proof does not hold.
type Code string

// The codes, in the order of the checks.
const (
	SchemaValidationFailed Code = "SCHEMA_VALIDATION_FAILED"
	InclusionProofInvalid  Code = "INCLUSION_PROOF_INVALID"
	InvalidDIDFormat       Code = "INVALID_DID_FORMAT"
	SignatureInvalid       Code = "SIGNATURE_INVALID"
)

// Error says why a proof does not hold.
type Error struct {
	Code    Code
	Field   string // the member at fault; may be empty
	Message string
}

func (e *Error) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("%s: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("%s: %s: %s", e.Code, e.Field, e.Message)
}

// ParseProof reads a proof. What is not of this form is an *Error with SCHEMA_VALIDATION_FAILED.
func ParseProof(data []byte) (*Proof, error) {
	var p Proof
	if err := jcs.Unmarshal(data, &p); err != nil {
		return nil, &Error{SchemaValidationFailed, "", err.Error()}
	}
	return &p, nil
}

// Verify checks a proof as the public verifiers do, in their order: it says that the leaf is in a tree whose root that key
// signed. Whose key that is nobody asks: hold RootSignature.SignerDID against the keys that you trust. The error is an *Error.
func Verify(p *Proof) error {
	if err := p.schema(); err != nil {
		return err
	}
	index, err := p.place()
	if err != nil {
		return err
	}
	key, derr := didkey.Decode(p.RootSignature.SignerDID)
	if derr != nil {
		return &Error{InvalidDIDFormat, "root_signature.signer_did", derr.Error()}
	}
	sig, derr := jcs.DecodeB64u(p.RootSignature.Signature)
	if derr != nil || !ed25519.Verify(key, []byte(p.RootHash), sig) {
		return &Error{SignatureInvalid, "root_signature.sig_b64u", "not a signature of that key over root_hash_b64u"}
	}
	path := make([]hash, len(p.AuditPath))
	for i, s := range p.AuditPath {
		if path[i], derr = decodeHash(s); derr != nil {
			return &Error{SchemaValidationFailed, "audit_path", derr.Error()}
		}
	}
	leaf, _ := decodeHash(p.LeafHash) // schema has read it
	if root := climb(leaf, index, path); jcs.EncodeB64u(root[:]) != p.RootHash {
		return &Error{InclusionProofInvalid, "audit_path", "the path does not lead from the leaf to the root"}
	}
	return nil
}

// schema checks the form. Hashes must be in the one spelling that they have.
func (p *Proof) schema() error {
	bad := func(field, message string) error { return &Error{SchemaValidationFailed, field, message} }
	if p.ProofVersion != proofVersion {
		return bad("proof_version", "must be 1")
	}
	if p.LogID == "" {
		return bad("log_id", "missing")
	}
	for field, v := range map[string]string{"leaf_hash_b64u": p.LeafHash, "root_hash_b64u": p.RootHash} {
		if _, err := decodeHash(v); err != nil {
			return bad(field, err.Error())
		}
	}
	if p.AuditPath == nil {
		return bad("audit_path", "missing")
	}
	for _, s := range p.AuditPath {
		if _, err := decodeHash(s); err != nil {
			return bad("audit_path", err.Error())
		}
	}
	if p.RootSignature.SignerDID == "" || p.RootSignature.Signature == "" {
		return bad("root_signature", "missing")
	}
	return nil
}

// place checks what says where the leaf is.
func (p *Proof) place() (uint64, error) {
	bad := func(field, message string) error { return &Error{InclusionProofInvalid, field, message} }
	if _, err := time.Parse(time.RFC3339, p.RootPublishedAt); err != nil {
		return 0, bad("root_published_at", "not a date-time")
	}
	if p.Metadata == nil || p.Metadata.LeafIndex == nil {
		return 0, bad("metadata.leaf_index", "missing, and without it nothing can be checked")
	}
	at := *p.Metadata.LeafIndex
	switch {
	case p.TreeSize == 0 || p.TreeSize > 1<<53:
		return 0, bad("tree_size", "not the size of a tree with leaves")
	case at < 0 || at != math.Trunc(at) || at >= float64(p.TreeSize):
		return 0, bad("metadata.leaf_index", "not a place in the tree")
	case len(p.AuditPath) != height(p.TreeSize):
		return 0, bad("audit_path", fmt.Sprintf("has %d nodes, and a tree of %d leaves needs %d", len(p.AuditPath), p.TreeSize, height(p.TreeSize)))
	}
	return uint64(at), nil
}

func decodeHash(s string) (hash, error) {
	raw, err := jcs.DecodeHash(s)
	if err != nil {
		return hash{}, err
	}
	return hash(raw), nil
}

// Root is the signed root of the whole log.
type Root struct {
	LogID       string        `json:"log_id"`
	RootHash    string        `json:"root_hash_b64u"`
	TreeSize    uint64        `json:"tree_size"`
	PublishedAt string        `json:"published_at"`
	Signature   RootSignature `json:"signature"`
}

// signRoot signs as the ecosystem does.
func signRoot(id string, root hash, size uint64, s envelope.Signer, at time.Time) Root {
	text := jcs.EncodeB64u(root[:])
	return Root{id, text, size, envelope.FormatTime(at), RootSignature{s.DID(), jcs.EncodeB64u(s.Sign([]byte(text)))}}
}

// proofOf says that a leaf is under a root.
func proofOf(r Root, leaf string, index uint64, path []hash) *Proof {
	p := &Proof{
		ProofVersion: proofVersion, LogID: r.LogID, TreeSize: r.TreeSize, LeafHash: leaf, RootHash: r.RootHash,
		AuditPath: make([]string, len(path)), RootPublishedAt: r.PublishedAt, RootSignature: r.Signature,
	}
	for i, h := range path {
		p.AuditPath[i] = jcs.EncodeB64u(h[:])
	}
	at := float64(index)
	p.Metadata = &Metadata{LeafIndex: &at, MerkleAlgorithm: merkleAlgorithm}
	return p
}

// appendLine appends the line of a leaf, as encoding/json writes a Line; one is made for each receipt.
func appendLine(dst []byte, r Root, leaf string, index uint64, path []hash) []byte {
	dst = append(dst, `{"log_inclusion_proof":{"proof_version":"`+proofVersion+`","log_id":`...)
	dst = jcs.AppendText(dst, r.LogID)
	dst = strconv.AppendUint(append(dst, `,"tree_size":`...), r.TreeSize, 10)
	dst = jcs.AppendText(append(dst, `,"leaf_hash_b64u":`...), leaf)
	dst = jcs.AppendText(append(dst, `,"root_hash_b64u":`...), r.RootHash)
	dst = append(dst, `,"audit_path":[`...)
	for i, h := range path {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(base64.RawURLEncoding.AppendEncode(append(dst, '"'), h[:]), '"')
	}
	dst = jcs.AppendText(append(dst, `],"root_published_at":`...), r.PublishedAt)
	dst = jcs.AppendText(append(dst, `,"root_signature":{"signer_did":`...), r.Signature.SignerDID)
	dst = jcs.AppendText(append(dst, `,"sig_b64u":`...), r.Signature.Signature)
	dst = strconv.AppendUint(append(dst, `},"metadata":{"leaf_index":`...), index, 10)
	dst = append(dst, `,"merkle_algorithm":"`+merkleAlgorithm+`"}},"payload_hash_b64u":`...)
	return append(jcs.AppendText(dst, leaf), '}')
}
