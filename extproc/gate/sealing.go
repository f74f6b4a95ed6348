package gate

import (
	"context"
	"fmt"
	"strings"

	"sallyport/signer/code"
	"sallyport/signer/contract"
	"sallyport/signer/privacy/seal"
	"sallyport/signer/record"
)

// encrypted tells whether the call's bodies are to be sealed. What the contract says holds; where it says nothing the client may
// ask for it. (Upstream lets the client's header win over a contract that says encrypted, WIRE 5.3.)
func (x *exchange) encrypted() (bool, *code.Denial) {
	asked := x.req.privacyMode
	if asked != "" && asked != contract.PrivacyHashOnly && asked != contract.PrivacyEncrypted {
		return false, code.Deny(code.InvalidRequest, "X-Receipt-Privacy-Mode must be %s or %s", contract.PrivacyHashOnly, contract.PrivacyEncrypted)
	}
	if mode := x.contract.PrivacyMode(); mode != "" {
		return mode == contract.PrivacyEncrypted, nil
	}
	return asked == contract.PrivacyEncrypted && !strings.EqualFold(x.req.confidential, "true"), nil
}

// sealRequest puts the sealed request into the log, before its intent, and makes ready for the answer. Of a call that is refused
// after this the log keeps a sealed request without an intent: it did not leave.
func (x *exchange) sealRequest(ctx context.Context, body []byte) *code.Denial {
	on, d := x.encrypted()
	if !on {
		return d
	}
	keys := x.gate.cfg.AuditorKeys
	if len(keys) == 0 {
		return code.Deny(code.AuditorKeyMissing, "")
	}
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = k.ID()
	}
	x.intent.PrivacyMode, x.intent.SealedTo = record.PrivacyEncrypted, strings.Join(ids, ",")
	b := seal.Body{Receipt: x.id, Direction: seal.Request, RequestHash: x.intent.RequestHash}
	request, err := seal.New(b, keys)
	if err == nil {
		b.Direction = seal.Response
		x.sealer, err = seal.New(b, keys)
	}
	emit := x.emitter(ctx)
	if err == nil {
		err = request.Write(body, emit)
	}
	if err == nil {
		err = request.Close(emit)
	}
	if err != nil {
		x.gate.cfg.Log.Error("request not sealed; the call does not pass", "receipt", x.id, "error", err)
		return code.Deny(code.EvidenceDown, "")
	}
	return nil
}

func (x *exchange) emitter(ctx context.Context) func(*seal.Chunk) error {
	return func(c *seal.Chunk) error { return x.gate.cfg.Signer.Seal(ctx, c) }
}

// sealAnswer takes a part of the answer before it is released. Waiting for the log here is what keeps a fast upstream from
// filling memory.
func (x *exchange) sealAnswer(ctx context.Context, part []byte) error {
	if x.sealer == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, x.gate.cfg.SettleTimeout)
	defer cancel()
	if err := x.sealer.Write(part, x.emitter(ctx)); err != nil {
		x.gate.cfg.Log.Error("answer not sealed; it is withheld", "receipt", x.id, "error", err)
		return fmt.Errorf("%w: %s", errWithheld, code.EvidenceDown)
	}
	return nil
}

// sealEnd puts the end of the answer into the log, before the receipt.
func (x *exchange) sealEnd(ctx context.Context) error {
	if x.sealer == nil {
		return nil
	}
	return x.sealer.Close(x.emitter(ctx))
}
