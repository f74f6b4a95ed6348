package clawverify

import (
	"crypto/ed25519"
	"encoding/json"
	"slices"
	"time"

	"sallyport/signer/didkey"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
)

// toolEnvelope is an envelope around a tool receipt: version 2 may have further signatures.
type toolEnvelope struct {
	envelope.Envelope
	CoSignatures []coSignature `json:"co_signatures"`
}

type coSignature struct {
	Signature string `json:"signature_b64u"`
	SignerDID string `json:"signer_did"`
}

type toolReceipt struct {
	Version    string      `json:"receipt_version"`
	ArgsHash   string      `json:"args_hash_b64u"`
	ResultHash string      `json:"result_hash_b64u"`
	Algorithm  string      `json:"hash_algorithm"`
	AgentDID   string      `json:"agent_did"`
	Args       *disclosure `json:"args_disclosure"`
	Result     *disclosure `json:"result_disclosure"`
	Binding    struct {
		RunID     *string `json:"run_id"`
		EventHash *string `json:"event_hash_b64u"`
	} `json:"binding"`
}

type disclosure struct {
	Algorithm string          `json:"disclosure_algorithm"`
	Root      string          `json:"merkle_root_b64u"`
	Redacted  []string        `json:"redacted_leaf_hashes_b64u"`
	Leaves    map[string]leaf `json:"disclosed_leaves"`
}

type leaf struct {
	Type  string          `json:"type"`
	Value json.RawMessage `json:"value"`
	Salt  string          `json:"salt_b64u"`
}

// checkTools checks the tool receipts (WIRE 9), raw or in envelopes.
func (p *payload) checkTools(c *Config) *Error {
	for i, raw := range p.Tools {
		if bad := p.checkTool(raw, c.Now); bad != nil {
			return under(item("tool_receipts", i), bad)
		}
	}
	return nil
}

func (p *payload) checkTool(raw json.RawMessage, now time.Time) *Error {
	var env *toolEnvelope
	body, at := raw, ""
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return fault(SchemaValidationFailed, "", "%v", err)
	}
	if _, ok := members["envelope_version"]; ok {
		env = new(toolEnvelope)
		if err := json.Unmarshal(raw, env); err != nil {
			return fault(SchemaValidationFailed, "", "%v", err)
		}
		body, at = env.Payload, "payload."
	}
	var r toolReceipt
	if err := json.Unmarshal(body, &r); err != nil {
		return fault(SchemaValidationFailed, at, "%v", err)
	}
	switch {
	case r.Algorithm != envelope.HashAlgorithm:
		return fault(UnknownHashAlgorithm, at+"hash_algorithm", "%q is not %q", r.Algorithm, envelope.HashAlgorithm)
	case r.AgentDID != p.AgentDID:
		return fault(AgentMismatch, at+"agent_did", "is not the bundle's agent")
	}
	if bad := p.toolBound(&r, at); bad != nil {
		return bad
	}
	if env != nil {
		if bad := env.check(r.Version, now); bad != nil {
			return bad
		}
	}
	for _, d := range []struct {
		name, hash string
		d          *disclosure
	}{{"args_disclosure", r.ArgsHash, r.Args}, {"result_disclosure", r.ResultHash, r.Result}} {
		if bad := d.d.check(d.hash); bad != nil {
			return under(at+d.name, bad)
		}
	}
	return nil
}

// toolBound: what a tool receipt says of run and event must be the chain's.
func (p *payload) toolBound(r *toolReceipt, at string) *Error {
	if run := r.Binding.RunID; run != nil && (len(p.Events) == 0 || *run != p.Events[0].RunID) {
		return fault(BindingMismatch, at+"binding.run_id", "is not the chain's run")
	}
	if h := r.Binding.EventHash; h != nil {
		for i := range p.Events {
			if p.Events[i].Hash == *h {
				return nil
			}
		}
		return fault(BindingMismatch, at+"binding.event_hash_b64u", "is not the hash of an event of the chain")
	}
	return nil
}

// check verifies an envelope of a tool receipt: any did:key may have signed it, and every further signer the same hash.
func (e *toolEnvelope) check(receiptVersion string, now time.Time) *Error {
	if e.EnvelopeVersion != receiptVersion {
		return fault(UnknownVersion, "envelope_version", "is not the receipt_version %q", receiptVersion)
	}
	if e.EnvelopeVersion == "1" && len(e.CoSignatures) > 0 {
		return fault(SchemaValidationFailed, "co_signatures", "belong to version 2 only")
	}
	plain := e.Envelope
	plain.EnvelopeVersion = envelope.Version
	crypto, bad := openEnvelope(&plain, "tool_receipt", now)
	if bad != nil {
		return bad
	}
	if crypto != nil {
		return crypto
	}
	for i, s := range e.CoSignatures {
		key, err := didkey.Decode(s.SignerDID)
		if err != nil {
			return fault(CoSignatureInvalid, index("co_signatures", i)+".signer_did", "%v", err)
		}
		sig, err := jcs.DecodeB64u(s.Signature)
		if err != nil || len(sig) != ed25519.SignatureSize || !ed25519.Verify(key, []byte(e.PayloadHashB64u), sig) {
			return fault(CoSignatureInvalid, index("co_signatures", i)+".signature_b64u", "is not a signature of %s over the payload hash", s.SignerDID)
		}
	}
	return nil
}

// disclosureAlgorithm is the only one there is.
const disclosureAlgorithm = "vir_v2_typed_lexicographical"

// check holds a selective disclosure against the hash that it opens.
func (d *disclosure) check(hash string) *Error {
	if d == nil {
		return nil
	}
	if d.Algorithm != disclosureAlgorithm {
		return fault(DisclosureAlgorithm, "disclosure_algorithm", "%q is not %q", d.Algorithm, disclosureAlgorithm)
	}
	leaves := slices.Clone(d.Redacted)
	for path, l := range d.Leaves {
		value, err := jcs.Parse(l.Value)
		if err != nil {
			return fault(DisclosureType, "disclosed_leaves."+path, "%v", err)
		}
		if typeOf(value) != l.Type {
			return fault(DisclosureType, "disclosed_leaves."+path, "is a %s and says that it is a %s", typeOf(value), l.Type)
		}
		body, err := jcs.Marshal(map[string]any{"salt_b64u": l.Salt, "type": l.Type, "value": l.Value})
		if err != nil {
			return fault(DisclosureType, "disclosed_leaves."+path, "%v", err)
		}
		leaves = append(leaves, jcs.Hash(append([]byte(path+":"), body...)))
	}
	slices.SortFunc(leaves, jcs.Compare)
	list, err := jcs.Marshal(leaves)
	if err != nil || jcs.Hash(list) != d.Root {
		return fault(DisclosureRoot, "merkle_root_b64u", "is not the root of the leaves")
	}
	if d.Root != hash {
		return fault(DisclosureRoot, "merkle_root_b64u", "is not the hash that the receipt gives")
	}
	return nil
}

func typeOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case float64:
		return "number"
	case string:
		return "string"
	case []any:
		return "array"
	}
	return "object"
}
