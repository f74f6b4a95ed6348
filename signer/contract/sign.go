package contract

import (
	"errors"
	"time"

	"sallyport/signer/code"
	"sallyport/signer/envelope"
)

// Sign seals a contract's payload as the ecosystem's registry does. What is not a valid contract is not signed.
func Sign(payload []byte, s envelope.Signer, at time.Time) (*envelope.Envelope, error) {
	c, err := Parse(payload)
	if err != nil {
		return nil, err
	}
	return envelope.Seal(envelope.TypeContract, c.Payload, s, at)
}

// denialCodes are the ecosystem's codes at a gateway for what an envelope's check can find.
var denialCodes = map[envelope.Code]code.Code{
	envelope.ClaimNotFound:    code.WPCSignerNotAllowed,
	envelope.SignatureInvalid: code.WPCSignatureInvalid,
	envelope.HashMismatch:     code.WPCHashMismatch,
}

// Verify believes an envelope only if it has the hash that was asked for, its payload hashes to it, and one of the
// trusted signers (did:key) signed it. An empty list trusts nobody.
func Verify(env *envelope.Envelope, wantHash string, trusted []string) (*Contract, *code.Denial) {
	if env == nil {
		return nil, code.Deny(code.WPCNotFound, "%s", wantHash)
	}
	if env.PayloadHashB64u != wantHash {
		return nil, code.Deny(code.WPCHashMismatch, "asked for %s, got %.64s", wantHash, env.PayloadHashB64u)
	}
	err := env.Verify(envelope.Check{Type: envelope.TypeContract, Rule: envelope.JCS, Trusted: trusted})
	var bad *envelope.Error
	if errors.As(err, &bad) {
		if k, ok := denialCodes[bad.Code]; ok {
			return nil, code.Deny(k, "signer %.128s", env.SignerDID)
		}
	}
	if err != nil {
		return nil, code.Deny(code.WPCEnvelopeInvalid, "%.256s", err)
	}
	if env.ExpiresAt != "" {
		// It is not signed, and a contract has no such member.
		return nil, code.Deny(code.WPCEnvelopeInvalid, "expires_at does not belong in a contract's envelope")
	}
	c, err := Parse(env.Payload)
	if err != nil {
		return nil, code.Deny(code.WPCEnvelopeInvalid, "%.256s", err)
	}
	return c, nil
}
