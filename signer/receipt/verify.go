package receipt

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
	"sallyport/signer/record"
)

// ErrPayload is wrapped by errors about a payload that is no gateway receipt of ours.
var ErrPayload = errors.New("receipt payload")

// Receipt is a verified receipt.
type Receipt struct {
	Payload
	Signer   string // did:key
	IssuedAt string // not covered by the signature
}

// Verify reads a receipt envelope and believes it only if one of the trusted gateway keys (did:key) signed it. It needs no
// network. An empty list trusts nobody.
func Verify(data []byte, trusted []string) (*Receipt, error) {
	env, err := envelope.Parse(data)
	if err != nil {
		return nil, err
	}
	if err := env.Verify(envelope.Check{Type: envelope.TypeGatewayReceipt, Rule: envelope.JSONOrder, Trusted: trusted}); err != nil {
		return nil, err
	}
	var p Payload
	if err := jcs.Unmarshal(env.Payload, &p); err != nil {
		return nil, &envelope.Error{Code: envelope.SchemaValidationFailed, Field: "payload", Message: err.Error()}
	}
	if err := p.check(); err != nil {
		return nil, &envelope.Error{Code: envelope.SchemaValidationFailed, Field: "payload", Message: err.Error()}
	}
	return &Receipt{Payload: p, Signer: env.SignerDID, IssuedAt: env.IssuedAt}, nil
}

// check is the ecosystem's schema and its verifiers' limits beyond it, and that the model's identity is this model's.
func (p *Payload) check() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: %s", ErrPayload, what))
		}
	}
	need(p.ReceiptVersion == "1", "receipt_version must be \"1\"")
	need(p.ReceiptID != "" && p.GatewayID != "" && p.Provider != "" && p.Model != "", "receipt_id, gateway_id, provider and model must not be empty")
	need(p.Binding.RunID != "", "binding.run_id must not be empty")
	need(jcs.IsHash(p.RequestHash), "request_hash_b64u must be a base64url SHA-256")
	need(jcs.IsHash(p.ResponseHash), "response_hash_b64u must be a base64url SHA-256")
	need(p.TokensInput >= 0 && p.TokensInput <= maxTokens, "tokens_input is out of range")
	need(p.TokensOutput >= 0 && p.TokensOutput <= maxTokens, "tokens_output is out of range")
	need(p.LatencyMS >= 0 && p.LatencyMS <= maxLatencyMS, "latency_ms is out of range")
	_, err := time.Parse(time.RFC3339Nano, p.Timestamp)
	need(err == nil, "timestamp is not RFC 3339")
	need(p.Metadata.Sallyport.Outcome == record.Completed || p.Metadata.Sallyport.Outcome == record.Cut, "metadata.sallyport.outcome must be completed or cut")
	m := &p.Metadata.ModelIdentity
	need(m.Model.Name == p.Model && m.Model.Provider == p.Provider, "metadata.model_identity names another model")
	need(m.hash() == p.Metadata.ModelIdentityHash, "metadata.model_identity_hash_b64u is not the hash of model_identity")
	need(p.Metadata.fits(), "metadata is larger than 16 KiB")
	return errors.Join(errs...)
}

// fits says whether the metadata is within the limit, counted as encoding/json writes it. That makes at most six bytes of
// one, so most need not be written for it.
func (m *Metadata) fits() bool {
	const worst, namesAndNumbers = 6, 1 << 10
	d := &m.Sallyport
	text := len(m.ModelIdentity.Model.Name) + len(m.ModelIdentity.Model.Provider) + len(m.ModelIdentity.Version) + len(m.ModelIdentity.Tier) +
		len(m.ModelIdentityHash) + len(d.Action) + len(d.Host) + len(d.Method) + len(d.MissionID) + len(d.Outcome) + len(d.Path) + len(d.Reason) +
		len(d.Resource) + len(d.SecretClass) + len(d.Subject) + len(d.TokenHash)
	if worst*text+namesAndNumbers <= maxMetadata {
		return true
	}
	slow := *m // only here on the heap
	raw, err := json.Marshal(&slow)
	return err == nil && len(raw) <= maxMetadata
}
