package clawverify

import (
	"errors"
	"fmt"

	"sallyport/signer/chain"
	"sallyport/signer/envelope"
)

// Code is a reason code of the public verifiers (WIRE 6.6, 8.4, 8.6, 10).
type Code string

// The codes. OK is the code of what passes; ParseError is ours, for input that is no JSON at all.
const (
	OK                     Code = "OK"
	ParseError             Code = "PARSE_ERROR"
	MalformedEnvelope      Code = "MALFORMED_ENVELOPE"
	UnknownEnvelopeVersion Code = "UNKNOWN_ENVELOPE_VERSION"
	UnknownEnvelopeType    Code = "UNKNOWN_ENVELOPE_TYPE"
	UnknownHashAlgorithm   Code = "UNKNOWN_HASH_ALGORITHM"
	UnknownVersion         Code = "UNKNOWN_VERSION"
	InvalidDIDFormat       Code = "INVALID_DID_FORMAT"
	ExpiredTTL             Code = "EXPIRED_TTL"
	SchemaValidationFailed Code = "SCHEMA_VALIDATION_FAILED"
	HashMismatch           Code = "HASH_MISMATCH"
	SignatureInvalid       Code = "SIGNATURE_INVALID"
	ClaimNotFound          Code = "CLAIM_NOT_FOUND"
	DependencyMissing      Code = "DEPENDENCY_NOT_CONFIGURED"
	URMMissing             Code = "URM_MISSING"
	URMMismatch            Code = "URM_MISMATCH"
	AgentMismatch          Code = "PROOF_BUNDLE_AGENT_MISMATCH"
	BindingMismatch        Code = "RECEIPT_BINDING_MISMATCH"
	ReceiptsFailed         Code = "RECEIPT_VERIFICATION_FAILED"
	CoSignatureInvalid     Code = "CO_SIGNATURE_INVALID"
	DisclosureAlgorithm    Code = "DISCLOSURE_ALGORITHM_UNKNOWN"
	DisclosureType         Code = "DISCLOSURE_TYPE_MISMATCH"
	DisclosureRoot         Code = "DISCLOSURE_ROOT_MISMATCH"
	MissingRequiredField   Code = "MISSING_REQUIRED_FIELD"
	FutureTimestamp        Code = "FUTURE_TIMESTAMP_POISONING"

	CausalReplay             Code = "CAUSAL_RECEIPT_REPLAY_DETECTED"
	CausalFieldConflict      Code = "CAUSAL_BINDING_FIELD_CONFLICT"
	CausalNormalization      Code = "CAUSAL_BINDING_NORMALIZATION_FAILED"
	CausalDangling           Code = "CAUSAL_REFERENCE_DANGLING"
	CausalCycle              Code = "CAUSAL_CYCLE_DETECTED"
	CausalClock              Code = "CAUSAL_CLOCK_CONTRADICTION"
	CausalPhaseInvalid       Code = "CAUSAL_PHASE_INVALID"
	CausalPhaseTransition    Code = "CAUSAL_PHASE_TRANSITION_INVALID"
	CausalConfidence         Code = "CAUSAL_CONFIDENCE_EVIDENCE_INCONSISTENT"
	CausalConfidenceRange    Code = "CAUSAL_CONFIDENCE_OUT_OF_RANGE"
	CausalSpanReuse          Code = "CAUSAL_SPAN_REUSE_CONFLICT"
	CausalDisconnected       Code = "CAUSAL_GRAPH_DISCONNECTED"
	CausalSideEffectOrphaned Code = "CAUSAL_SIDE_EFFECT_ORPHANED"
	CausalApprovalOrphaned   Code = "CAUSAL_HUMAN_APPROVAL_ORPHANED"
)

// Error is the first thing that is wrong.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Field   string `json:"field,omitempty"` // e.g. payload.receipts[3].payload.binding.run_id
}

func (e *Error) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("%s: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("%s: %s: %s", e.Code, e.Field, e.Message)
}

func fault(c Code, field, format string, args ...any) *Error {
	return &Error{Code: c, Field: field, Message: fmt.Sprintf(format, args...)}
}

// under puts an error of a part at the part's place in the whole.
func under(prefix string, err error) *Error {
	join := func(field string) string {
		switch {
		case prefix == "":
			return field
		case field == "":
			return prefix
		}
		return prefix + "." + field
	}
	var own *Error
	var env *envelope.Error
	var link *chain.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own):
		return &Error{own.Code, own.Message, join(own.Field)}
	case errors.As(err, &env):
		return &Error{Code(env.Code), env.Message, join(env.Field)}
	case errors.As(err, &link):
		return &Error{Code(link.Code), link.Text, join(link.Field)}
	}
	return &Error{MalformedEnvelope, err.Error(), prefix}
}
