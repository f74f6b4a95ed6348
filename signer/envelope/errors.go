package envelope

import "fmt"

// Code is a reason of the public verifiers for which an envelope is not accepted.
type Code string

// The codes that Verify and Parse give, in the order of the checks. SchemaValidationFailed is for those who check
// payloads; a reader without any trusted signer gets ClaimNotFound here, since nobody is trusted then.
const (
	MalformedEnvelope      Code = "MALFORMED_ENVELOPE"
	UnknownEnvelopeVersion Code = "UNKNOWN_ENVELOPE_VERSION"
	UnknownEnvelopeType    Code = "UNKNOWN_ENVELOPE_TYPE"
	UnknownAlgorithm       Code = "UNKNOWN_ALGORITHM"
	UnknownHashAlgorithm   Code = "UNKNOWN_HASH_ALGORITHM"
	SchemaValidationFailed Code = "SCHEMA_VALIDATION_FAILED"
	InvalidDIDFormat       Code = "INVALID_DID_FORMAT"
	ClaimNotFound          Code = "CLAIM_NOT_FOUND"
	HashMismatch           Code = "HASH_MISMATCH"
	SignatureInvalid       Code = "SIGNATURE_INVALID"
)

// Error says why an envelope is not accepted.
type Error struct {
	Code    Code
	Field   string // the member that is at fault; may be empty
	Message string
	cause   error
}

func (e *Error) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("%s: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("%s: %s: %s", e.Code, e.Field, e.Message)
}

// Unwrap gives the error beneath, such as a *jcs.Error.
func (e *Error) Unwrap() error { return e.cause }

func fault(c Code, field, format string, args ...any) error {
	return &Error{Code: c, Field: field, Message: fmt.Sprintf(format, args...)}
}
