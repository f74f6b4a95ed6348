package clawverify

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"sallyport/signer/chain"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
)

// The format's limits (WIRE 8.1).
const (
	maxItems        = 1000
	maxAttestations = 100
	maxMetadata     = 16384 // bytes of JSON
)

// payload is a bundle's payload as far as it is read.
type payload struct {
	BundleVersion string            `json:"bundle_version"`
	BundleID      string            `json:"bundle_id"`
	AgentDID      string            `json:"agent_did"`
	URM           *urmReference     `json:"urm"`
	Events        []chain.Event     `json:"event_chain"`
	Receipts      []json.RawMessage `json:"receipts"`
	Tools         []json.RawMessage `json:"tool_receipts"`
	SideEffects   []json.RawMessage `json:"side_effect_receipts"`
	Approvals     []json.RawMessage `json:"human_approval_receipts"`
	Attestations  []json.RawMessage `json:"attestations"`
	Metadata      json.RawMessage   `json:"metadata"`

	Delegations []json.RawMessage `json:"delegation_receipts"`
	VIR         []json.RawMessage `json:"vir_receipts"`
	Web         []json.RawMessage `json:"web_receipts"`
	Coverage    []json.RawMessage `json:"coverage_attestations"`
	Binary      []json.RawMessage `json:"binary_semantic_evidence_attestations"`
	RateLimits  []json.RawMessage `json:"rate_limit_claims"`
}

// Components says what each part of a bundle came to, by the public verifiers' names.
type Components struct {
	EnvelopeValid             bool   `json:"envelope_valid"`
	EventChainValid           bool   `json:"event_chain_valid"`
	EventsCount               int    `json:"events_count"`
	ChainRootHash             string `json:"chain_root_hash,omitempty"` // of the first event
	URMValid                  *bool  `json:"urm_valid,omitempty"`
	ReceiptsValid             bool   `json:"receipts_valid"`
	ReceiptsCount             int    `json:"receipts_count"`
	ReceiptsSignatureVerified int    `json:"receipts_signature_verified_count"`
	ReceiptsVerified          int    `json:"receipts_verified_count"`
	AttestationsCount         int    `json:"attestations_count"`
	AttestationsVerified      int    `json:"attestations_verified_count"`
	ToolReceiptsCount         int    `json:"tool_receipts_count"`
	ToolReceiptsValid         bool   `json:"tool_receipts_valid"`
	SideEffectReceiptsCount   int    `json:"side_effect_receipts_count"`
	SideEffectReceiptsValid   bool   `json:"side_effect_receipts_valid"`
	ApprovalReceiptsCount     int    `json:"human_approval_receipts_count"`
	ApprovalReceiptsValid     bool   `json:"human_approval_receipts_valid"`
	// NotChecked names the evidence that this verifier does not read.
	NotChecked []string `json:"not_checked,omitempty"`
}

// Result is what the verification of a bundle came to.
type Result struct {
	Status            string     `json:"status"` // VALID or INVALID
	Reason            string     `json:"reason"`
	VerifiedAt        string     `json:"verified_at"`
	BundleID          string     `json:"bundle_id,omitempty"`
	AgentDID          string     `json:"agent_did,omitempty"`
	TrustTier         string     `json:"trust_tier"`
	ProofTier         string     `json:"proof_tier"`
	ModelIdentityTier string     `json:"model_identity_tier"`
	Components        Components `json:"component_results"`
}

// Verification is the public verifiers' result object (WIRE 8.7).
type Verification struct {
	Result Result `json:"result"`
	Error  *Error `json:"error,omitempty"`

	receiptFaults []*Error
}

// Bundle verifies a signed proof bundle by the public verifiers' rules, in their order. As with them, a gateway receipt that
// does not count leaves the bundle VALID with lower counts: Strict is the verdict of their command line.
func Bundle(data []byte, c *Config) *Verification {
	v := &Verification{Result: Result{VerifiedAt: envelope.FormatTime(c.Now), TrustTier: "unknown", ProofTier: "unknown", ModelIdentityTier: "unknown"}}
	if err := v.bundle(data, c); err != nil {
		v.Error = err
		v.Result.Status, v.Result.Reason = "INVALID", err.Message
		v.Result.TrustTier, v.Result.ProofTier = "unknown", "unknown"
		return v
	}
	v.Result.Status, v.Result.Reason = "VALID", "Proof bundle verified successfully"
	return v
}

// Strict is the verdict of the public verifiers' command line: every receipt must count. It goes beyond theirs in that
// receipts without an event hash must count too.
func (v *Verification) Strict(c *Config) *Error {
	n := &v.Result.Components
	switch {
	case v.Error != nil:
		return v.Error
	case n.ReceiptsCount == 0:
		return nil
	case len(c.GatewaySigners) == 0:
		return fault(DependencyMissing, "", "no gateway's key is trusted; name the keys that sign receipts")
	case n.ReceiptsVerified == n.ReceiptsCount:
		return nil
	}
	first := v.receiptFaults[0]
	if n.ReceiptsSignatureVerified == n.ReceiptsCount {
		return fault(BindingMismatch, first.Field, "%d of %d receipts are not bound to the event chain; the first: %s", n.ReceiptsCount-n.ReceiptsVerified, n.ReceiptsCount, first.Message)
	}
	for _, f := range v.receiptFaults {
		if f.Code != BindingMismatch {
			first = f
			break
		}
	}
	return fault(ReceiptsFailed, first.Field, "%d of %d receipts do not verify; the first: %s: %s", n.ReceiptsCount-n.ReceiptsSignatureVerified, n.ReceiptsCount, first.Code, first.Message)
}

func (v *Verification) bundle(data []byte, c *Config) *Error {
	env, err := envelope.Parse(data)
	if err != nil {
		return under("", err)
	}
	crypto, bad := openEnvelope(env, envelope.TypeProofBundle, c.Now)
	if bad != nil {
		return bad
	}
	if bad := schemaFault("bundle", "payload", env.Payload); bad != nil {
		return bad
	}
	var p payload
	if err := json.Unmarshal(env.Payload, &p); err != nil {
		return fault(SchemaValidationFailed, "payload", "%v", err)
	}
	v.Result.BundleID, v.Result.AgentDID = p.BundleID, p.AgentDID
	if bad := p.limits(); bad != nil {
		return bad
	}
	if p.AgentDID != env.SignerDID {
		return fault(InvalidDIDFormat, "payload.agent_did", "is not the signer %s", env.SignerDID)
	}
	if crypto != nil {
		return crypto
	}
	n := &v.Result.Components
	n.EnvelopeValid = true
	if len(p.Events) > 0 {
		if err := chain.Verify(p.Events); err != nil {
			return under("payload", err)
		}
		n.EventChainValid, n.EventsCount, n.ChainRootHash = true, len(p.Events), p.Events[0].Hash
	}
	if bad := p.unread(n, c); bad != nil {
		return bad
	}
	if bad := p.checkURM(n, c); bad != nil {
		return bad
	}
	if bad := p.checkTools(c); bad != nil {
		return bad
	}
	n.ToolReceiptsCount, n.ToolReceiptsValid = len(p.Tools), len(p.Tools) > 0
	if bad := p.checkSelfReported(); bad != nil {
		return bad
	}
	receipts, bad := p.readReceipts(c)
	if bad != nil {
		return bad
	}
	if bad := p.causal(receipts); bad != nil {
		return bad
	}
	n.SideEffectReceiptsCount, n.SideEffectReceiptsValid = len(p.SideEffects), len(p.SideEffects) > 0
	n.ApprovalReceiptsCount, n.ApprovalReceiptsValid = len(p.Approvals), len(p.Approvals) > 0
	n.ReceiptsCount = len(receipts)
	for i, r := range receipts {
		if r.fault == nil {
			n.ReceiptsSignatureVerified++
			r.fault = p.bound(i, r)
		}
		if r.fault == nil {
			n.ReceiptsVerified++
			continue
		}
		v.receiptFaults = append(v.receiptFaults, r.fault)
	}
	n.ReceiptsValid = n.ReceiptsCount > 0 && n.ReceiptsVerified == n.ReceiptsCount
	n.AttestationsCount = len(p.Attestations)
	n.AttestationsVerified = p.countAttestations(c)
	v.tiers(receipts)
	return nil
}

// openEnvelope holds an envelope against the checks that come before its payload is looked at: form, versions, times. What
// is wrong with its hash or signature is given apart, since the public verifiers look at the payload's shape before.
func openEnvelope(env *envelope.Envelope, typ string, now time.Time) (crypto, bad *Error) {
	var head *envelope.Error
	// With nobody trusted, an envelope that has nothing wrong at its head ends with ClaimNotFound.
	if err := env.Verify(envelope.Check{Type: typ}); errors.As(err, &head) && head.Code != envelope.ClaimNotFound {
		return nil, under("", err)
	}
	crypto = under("", env.Verify(envelope.Check{Type: typ, Rule: envelope.JSONOrder, Trusted: []string{env.SignerDID}}))
	if crypto != nil && crypto.Code == MalformedEnvelope && crypto.Field != "payload" {
		return nil, crypto
	}
	if env.ExpiresAt != "" {
		if at, err := time.Parse(time.RFC3339, env.ExpiresAt); err != nil || !at.After(now) {
			return nil, fault(ExpiredTTL, "expires_at", "the envelope expired at %s", env.ExpiresAt)
		}
	}
	return crypto, nil
}

// limits are those of WIRE 8.1, and that there is evidence that the public verifiers' code counts.
func (p *payload) limits() *Error {
	for _, l := range []struct {
		name       string
		have, most int
	}{
		{"event_chain", len(p.Events), maxItems}, {"receipts", len(p.Receipts), maxItems}, {"tool_receipts", len(p.Tools), maxItems},
		{"side_effect_receipts", len(p.SideEffects), maxItems}, {"human_approval_receipts", len(p.Approvals), maxItems},
		{"delegation_receipts", len(p.Delegations), maxItems}, {"attestations", len(p.Attestations), maxAttestations}, {"rate_limit_claims", len(p.RateLimits), 256},
	} {
		if l.have > l.most {
			return fault(MalformedEnvelope, "payload."+l.name, "has %d entries; the format's limit is %d", l.have, l.most)
		}
	}
	if p.URM == nil && len(p.Events) == 0 && len(p.Receipts) == 0 && len(p.Attestations) == 0 {
		return fault(MalformedEnvelope, "payload", "holds neither urm, event_chain, receipts nor attestations")
	}
	for _, m := range []struct {
		field string
		raw   json.RawMessage
	}{{"payload.metadata", p.Metadata}, {"payload.urm.metadata", p.URM.metadata()}} {
		if bad := fitsMetadata(m.field, m.raw); bad != nil {
			return bad
		}
	}
	return nil
}

func fitsMetadata(field string, raw json.RawMessage) *Error {
	if len(raw) <= maxMetadata {
		return nil
	}
	compact, err := jcs.Compact(raw)
	if err != nil || len(compact) > maxMetadata {
		return fault(MalformedEnvelope, field, "is larger than %d bytes", maxMetadata)
	}
	return nil
}

// reserved are members of the metadata that the public verifiers check where they are present.
var reserved = []string{"cldd", "data_handling", "policy_binding", "prompt_pack", "reviewer_signoff_receipts", "runner_attestation_receipt", "runner_measurement", "sentinels", "system_prompt_report"}

// unread finds the evidence of kinds that this verifier does not read.
func (p *payload) unread(n *Components, c *Config) *Error {
	for _, k := range []struct {
		name string
		have int
	}{
		{"delegation_receipts", len(p.Delegations)}, {"vir_receipts", len(p.VIR)}, {"web_receipts", len(p.Web)}, {"coverage_attestations", len(p.Coverage)},
		{"binary_semantic_evidence_attestations", len(p.Binary)}, {"rate_limit_claims", len(p.RateLimits)},
	} {
		if k.have > 0 {
			n.NotChecked = append(n.NotChecked, "payload."+k.name)
		}
	}
	var metadata map[string]json.RawMessage
	if len(p.Metadata) > 0 {
		if err := json.Unmarshal(p.Metadata, &metadata); err != nil {
			return fault(SchemaValidationFailed, "payload.metadata", "%v", err)
		}
	}
	for _, name := range reserved {
		if _, ok := metadata[name]; ok {
			n.NotChecked = append(n.NotChecked, "payload.metadata."+name)
		}
	}
	if len(n.NotChecked) > 0 && !c.AllowUnchecked {
		return fault(SchemaValidationFailed, n.NotChecked[0], "is evidence of a kind that this verifier does not read; verify it with the ecosystem's own, or allow what is unchecked")
	}
	return nil
}

// tiers names what the evidence amounts to (WIRE 8.5).
func (v *Verification) tiers(receipts []*boundReceipt) {
	r, n := &v.Result, &v.Result.Components
	switch {
	case n.AttestationsVerified > 0:
		r.ProofTier = "sandbox"
	case n.ReceiptsVerified > 0:
		r.ProofTier = "gateway"
	default:
		r.ProofTier = "self"
	}
	r.TrustTier = "basic"
	if n.EventChainValid || n.ReceiptsValid {
		r.TrustTier = "verified"
	}
	var found []string
	for _, b := range receipts {
		if b.fault == nil {
			found = append(found, b.modelTier())
		}
	}
	slices.Sort(found)
	if found = slices.Compact(found); len(found) == 1 {
		r.ModelIdentityTier = found[0]
	}
}

func item(list string, i int) string { return fmt.Sprintf("payload.%s[%d]", list, i) }
