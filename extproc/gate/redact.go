package gate

import (
	"errors"

	"sallyport/extproc/message"
	"sallyport/signer/code"
	"sallyport/signer/privacy"
)

// redact carries the contract's redaction rules out. What is decided, hashed and sent is the redacted body alone, so that
// no rule can change a request behind the decision. A request without a body has nothing to redact.
func (x *exchange) redact(body []byte) ([]byte, *code.Denial) {
	rules := x.contract.Redaction()
	if rules == nil || len(body) == 0 {
		return body, nil
	}
	if int64(len(body)) > x.gate.cfg.MaxBodyBytes {
		return nil, code.Deny(code.PayloadTooLarge, "%d bytes; the limit is %d", len(body), x.gate.cfg.MaxBodyBytes)
	}
	var key *privacy.Key
	if s := x.gate.cfg.RedactionSecret; s != nil && rules.NeedKey() {
		key = s.For(x.job())
	}
	out, err := rules.Redact(body, key, int(x.gate.cfg.MaxBodyBytes))
	switch {
	case err == nil:
		return out, nil
	case errors.Is(err, privacy.ErrNoKey):
		return nil, code.Deny(code.RedactionKeyMissing, "")
	case errors.Is(err, privacy.ErrTooLarge):
		return nil, code.Deny(code.PayloadTooLarge, "%v", err)
	}
	return nil, code.Deny(code.RedactionImpossible, "%v", err)
}

// job is what the token is of: its mission, or itself.
func (x *exchange) job() string {
	if x.token.MissionID != "" {
		return x.token.MissionID
	}
	return x.token.Hash
}

// replacing is the body that Envoy shall send instead of the one that came; nil where it is the same.
func replacing(came, leaves []byte) *message.Body {
	if len(came) == len(leaves) && (len(came) == 0 || &came[0] == &leaves[0]) {
		return nil
	}
	return &message.Body{Bytes: leaves}
}
