package clawverify

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"

	"sallyport/signer/didkey"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
)

func index(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }

// checkSelfReported checks what has no signature of its own: side effects and human approvals.
func (p *payload) checkSelfReported() *Error {
	for _, l := range []struct {
		name  string
		items []json.RawMessage
	}{{"side_effect_receipts", p.SideEffects}, {"human_approval_receipts", p.Approvals}} {
		for i, raw := range l.items {
			var r struct {
				Version   string `json:"receipt_version"`
				Algorithm string `json:"hash_algorithm"`
				AgentDID  string `json:"agent_did"`
			}
			at := item(l.name, i)
			if err := json.Unmarshal(raw, &r); err != nil {
				return fault(SchemaValidationFailed, at, "%v", err)
			}
			switch {
			case r.Version != "1":
				return fault(UnknownVersion, at+".receipt_version", "%q is not \"1\"", r.Version)
			case r.Algorithm != envelope.HashAlgorithm:
				return fault(UnknownHashAlgorithm, at+".hash_algorithm", "%q is not %q", r.Algorithm, envelope.HashAlgorithm)
			case r.AgentDID != p.AgentDID:
				return fault(AgentMismatch, at+".agent_did", "is not the bundle's agent")
			}
		}
	}
	return nil
}

// countAttestations counts the attestations that hold (WIRE 8.5); one that does not takes nothing from the bundle.
func (p *payload) countAttestations(c *Config) int {
	n := 0
	for _, raw := range p.Attestations {
		if p.attested(raw, c) {
			n++
		}
	}
	return n
}

func (p *payload) attested(raw json.RawMessage, c *Config) bool {
	var a struct {
		Attester  string `json:"attester_did"`
		Subject   string `json:"subject_did"`
		ExpiresAt string `json:"expires_at"`
		Signature string `json:"signature_b64u"`
	}
	if json.Unmarshal(raw, &a) != nil || a.Subject != p.AgentDID || !slices.Contains(c.AttestationSigners, a.Attester) {
		return false
	}
	if a.ExpiresAt != "" {
		if at, ok := parseTime(a.ExpiresAt); !ok || !at.After(c.Now) {
			return false
		}
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		return false
	}
	members["signature_b64u"] = json.RawMessage(`""`)
	signed, err := jcs.Marshal(members)
	if err != nil {
		return false
	}
	key, err1 := didkey.Decode(a.Attester)
	sig, err2 := jcs.DecodeB64u(a.Signature)
	return err1 == nil && err2 == nil && len(sig) == ed25519.SignatureSize && ed25519.Verify(key, signed, sig)
}

// urmReference names a run manifest that is kept beside the bundle.
type urmReference struct {
	ID       string          `json:"urm_id"`
	Hash     string          `json:"resource_hash_b64u"`
	Metadata json.RawMessage `json:"metadata"`
}

func (u *urmReference) metadata() json.RawMessage {
	if u == nil {
		return nil
	}
	return u.Metadata
}

// checkURM holds the run manifest against the bundle (WIRE 8.8).
func (p *payload) checkURM(n *Components, c *Config) *Error {
	if p.URM == nil {
		return nil
	}
	if len(c.URM) == 0 {
		return fault(URMMissing, "payload.urm", "the bundle refers to a run manifest, which must be given with it")
	}
	var u struct {
		Version   string `json:"urm_version"`
		ID        string `json:"urm_id"`
		RunID     string `json:"run_id"`
		AgentDID  string `json:"agent_did"`
		ChainRoot string `json:"event_chain_root_hash_b64u"`
	}
	hash, err := jcs.HashJSONOrder(c.URM)
	if err == nil {
		err = json.Unmarshal(c.URM, &u)
	}
	switch {
	case err != nil:
		return fault(URMMismatch, "payload.urm", "the run manifest cannot be read: %v", err)
	case u.Version != "1" || u.ID != p.URM.ID:
		return fault(URMMismatch, "payload.urm.urm_id", "the run manifest given is another")
	case u.AgentDID != p.AgentDID:
		return fault(URMMismatch, "payload.urm", "the run manifest is of another agent")
	case len(p.Events) > 0 && u.RunID != p.Events[0].RunID:
		return fault(URMMismatch, "payload.urm", "the run manifest is of another run")
	case len(p.Events) > 0 && u.ChainRoot != "" && u.ChainRoot != p.Events[0].Hash:
		return fault(URMMismatch, "payload.urm", "the run manifest names another event chain")
	case hash != p.URM.Hash:
		return fault(HashMismatch, "payload.urm.resource_hash_b64u", "the run manifest hashes to %s", hash)
	}
	valid := true
	n.URMValid = &valid
	return nil
}
