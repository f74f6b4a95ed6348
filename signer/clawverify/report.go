// Package clawverify verifies proof bundles, export bundles and gateway receipts by the rules of the Claw ecosystem's public
// verifiers: their checks, order, codes and result shape (WIRE 6.6, 8 to 10). It needs no network. README.md says where it
// is stricter than they are, and what it does not read.
package clawverify

import (
	"encoding/json"
	"errors"
	"fmt"

	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
)

// Status is the verdict of the command line.
type Status string

// The verdicts.
const (
	Pass   Status = "PASS"
	Fail   Status = "FAIL"
	Errors Status = "ERROR" // nothing could be said of the input
)

// ExitCode is the public verifiers': 0, 1 and 2.
func (s Status) ExitCode() int {
	switch s {
	case Pass:
		return 0
	case Fail:
		return 1
	case Errors:
	}
	return 2
}

// The kinds of input.
const (
	KindBundle  = "proof_bundle"
	KindReceipt = "gateway_receipt"
	KindExport  = "export_bundle"
)

// Report is the public verifiers' command line result (WIRE 8.7).
type Report struct {
	Kind         string `json:"kind"`
	Status       Status `json:"status"`
	VerifiedAt   string `json:"verified_at"`
	ReasonCode   Code   `json:"reason_code"` // OK on pass
	Reason       string `json:"reason"`
	Hint         string `json:"hint,omitempty"`
	Input        any    `json:"input"`
	Verification any    `json:"verification,omitempty"`
}

// ErrKind is returned for input that is of no known kind.
var ErrKind = errors.New("not a proof bundle, an export bundle or a gateway receipt")

// Kind says what a JSON document is.
func Kind(data []byte) (string, error) {
	var kind string
	err := jcs.Scan(data, func(key, value []byte) error {
		switch string(key) {
		case "envelope_type":
			switch typ, _ := jcs.String(value); typ {
			case envelope.TypeProofBundle:
				kind = KindBundle
			case envelope.TypeGatewayReceipt:
				kind = KindReceipt
			}
		case "export_version", "bundle":
			kind = KindExport
		case "envelope":
			kind = KindBundle
		case "payload":
			if kind == "" {
				kind = KindBundle // an envelope without its type: let the verifier say so
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if kind == "" {
		return "", ErrKind
	}
	return kind, nil
}

// Verify verifies a document of a kind, or finds the kind out where that is "". The verdict on a bundle is the strict one.
func Verify(kind string, data []byte, c *Config, input any) *Report {
	r := &Report{Kind: kind, VerifiedAt: envelope.FormatTime(c.Now), Input: input}
	if len(data) > MaxBytes {
		return r.end(Errors, fault(ParseError, "", "the input is larger than %d bytes", MaxBytes))
	}
	if !json.Valid(data) {
		return r.end(Errors, fault(ParseError, "", "the input is not valid JSON; it may be cut short"))
	}
	if kind == "" {
		var err error
		if r.Kind, err = Kind(data); err != nil {
			return r.end(Fail, under("", err))
		}
	}
	switch r.Kind {
	case KindBundle:
		data = unwrap(data, "envelope")
		v := Bundle(data, c)
		r.Verification = v
		return r.end(Fail, v.Strict(c))
	case KindReceipt:
		return r.end(Fail, Receipt(data, c))
	case KindExport:
		e := Export(unwrap(data, "bundle"), c)
		r.Verification = e
		return r.end(Fail, e.Error)
	}
	return r.end(Errors, fault(ParseError, "", "kind %q is not known; use %s, %s or %s", r.Kind, KindBundle, KindReceipt, KindExport))
}

// unwrap takes a document out of a request body of the hosted verifier.
func unwrap(data []byte, member string) []byte {
	out := data
	_ = jcs.Scan(data, func(key, value []byte) error { // what cannot be read is for the verifier to say
		if string(key) == member {
			out = value
		}
		return nil
	})
	return out
}

// end sets the verdict: bad is the one where there is an error, Pass otherwise.
func (r *Report) end(bad Status, err *Error) *Report {
	if err == nil {
		r.Status, r.ReasonCode, r.Reason = Pass, OK, "verified successfully"
		return r
	}
	r.Status, r.ReasonCode, r.Reason = bad, err.Code, err.Message
	if err.Field != "" {
		r.Reason = fmt.Sprintf("%s: %s", err.Field, err.Message)
	}
	r.Hint = hints[err.Code]
	return r
}

// hints say what to do.
var hints = map[Code]string{
	ParseError:           "Get the file again from whoever gave it to you; it is not a whole JSON document.",
	DependencyMissing:    "Name the gateway's DID with --trust, or the installation's trust file with --trust-file.",
	ClaimNotFound:        "The signer is not one that you trust. If it should be, get its DID from the operator by another way than this file.",
	ReceiptsFailed:       "Receipts were altered, or signed by a gateway that you do not trust.",
	HashMismatch:         "The content was altered after it was signed.",
	SignatureInvalid:     "The signature is not the signer's over this content.",
	BindingMismatch:      "A receipt belongs to another run or event than the ones that the bundle shows.",
	URMMissing:           "Give the run manifest with --urm.",
	ExpiredTTL:           "The bundle was only valid until the time it states; --at judges it by another time.",
	UnknownHashAlgorithm: "Only SHA-256 is verified.",
}

// Hint says what to do about a code; "" where there is nothing to say.
func Hint(c Code) string { return hints[c] }
