package clawverify

import (
	"encoding/json"
	"math"
	"slices"
	"time"

	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
)

// The public verifiers' limits beyond the schema.
const (
	maxTokens    = 10_000_000
	maxLatencyMS = 3_600_000
)

// gatewayReceipt is a gateway receipt's payload as far as it is read.
type gatewayReceipt struct {
	ReceiptID    string          `json:"receipt_id"`
	Provider     string          `json:"provider"`
	Model        string          `json:"model"`
	TokensInput  float64         `json:"tokens_input"`
	TokensOutput float64         `json:"tokens_output"`
	LatencyMS    float64         `json:"latency_ms"`
	Timestamp    string          `json:"timestamp"`
	Binding      *binding        `json:"binding"`
	Metadata     json.RawMessage `json:"metadata"`
}

// binding is a receipt's binding; the causal members have two spellings.
type binding struct {
	RunID     string `json:"run_id"`
	EventHash string `json:"event_hash_b64u"`

	SpanID   *string  `json:"span_id"`
	Span2    *string  `json:"spanId"`
	Parent   *string  `json:"parent_span_id"`
	Parent2  *string  `json:"parentSpanId"`
	Tool     *string  `json:"tool_span_id"`
	Tool2    *string  `json:"toolSpanId"`
	Phase    *string  `json:"phase"`
	Conf     *float64 `json:"attribution_confidence"`
	Conf2    *float64 `json:"attributionConfidence"`
	resolved struct{ span, parent, tool string }
	conf     *float64
}

// boundReceipt is a receipt of a bundle. fault says why it does not count, if it does not.
type boundReceipt struct {
	gatewayReceipt
	payload  json.RawMessage
	issuedAt string
	fault    *Error
}

// readReceipts reads a bundle's receipts and checks each by itself. Only what spoils the whole bundle is an error.
func (p *payload) readReceipts(c *Config) ([]*boundReceipt, *Error) {
	out := make([]*boundReceipt, len(p.Receipts))
	for i, raw := range p.Receipts {
		at := item("receipts", i)
		env, err := envelope.Parse(raw)
		if err != nil {
			return nil, under(at, err)
		}
		r := &boundReceipt{payload: env.Payload, issuedAt: env.IssuedAt}
		if err := json.Unmarshal(env.Payload, &r.gatewayReceipt); err != nil {
			return nil, fault(SchemaValidationFailed, at+".payload", "%v", err)
		}
		if bad := fitsMetadata(at+".payload.metadata", r.Metadata); bad != nil {
			return nil, bad
		}
		if bad := checkReceipt(env, &r.gatewayReceipt, c); bad != nil {
			r.fault = under(at, bad)
		}
		out[i] = r
	}
	return out, nil
}

// checkReceipt is what is left of WIRE 6.6 once the schema holds.
func checkReceipt(env *envelope.Envelope, r *gatewayReceipt, c *Config) *Error {
	if len(c.GatewaySigners) == 0 {
		return fault(DependencyMissing, "signer_did", "no gateway's key is trusted")
	}
	if !slices.Contains(c.GatewaySigners, env.SignerDID) {
		return fault(ClaimNotFound, "signer_did", "%s is not among the %d trusted gateways", env.SignerDID, len(c.GatewaySigners))
	}
	for _, n := range []struct {
		name        string
		value, most float64
	}{{"tokens_input", r.TokensInput, maxTokens}, {"tokens_output", r.TokensOutput, maxTokens}, {"latency_ms", r.LatencyMS, maxLatencyMS}} {
		if n.value != math.Trunc(n.value) || n.value < 0 || n.value > n.most {
			return fault(MalformedEnvelope, "payload."+n.name, "is no integer from 0 to %.0f", n.most)
		}
	}
	return under("", env.Verify(envelope.Check{Type: envelope.TypeGatewayReceipt, Rule: envelope.JSONOrder, Trusted: c.GatewaySigners}))
}

// bound says why a receipt that verifies does not belong to the bundle's chain; nil where it does.
func (p *payload) bound(i int, r *boundReceipt) *Error {
	at := item("receipts", i) + ".payload.binding"
	switch {
	case len(p.Events) == 0:
		return fault(BindingMismatch, at, "the bundle has no event chain that a receipt could be bound to")
	case r.Binding == nil:
		return fault(BindingMismatch, at, "missing")
	case r.Binding.RunID != p.Events[0].RunID:
		return fault(BindingMismatch, at+".run_id", "is not the chain's run")
	}
	for j := range p.Events {
		if p.Events[j].Hash == r.Binding.EventHash {
			return nil
		}
	}
	return fault(BindingMismatch, at+".event_hash_b64u", "is not the hash of an event of the chain")
}

// modelTier is how far the model's identity is known: what the receipt says, if that is about the receipt's model.
func (r *boundReceipt) modelTier() string {
	var m struct {
		Identity json.RawMessage `json:"model_identity"`
		Hash     string          `json:"model_identity_hash_b64u"`
	}
	var id struct {
		Tier  string                          `json:"tier"`
		Model struct{ Provider, Name string } `json:"model"`
	}
	if json.Unmarshal(r.Metadata, &m) != nil || json.Unmarshal(m.Identity, &id) != nil {
		return "unknown"
	}
	if h, err := jcs.HashCanonical(m.Identity); err != nil || h != m.Hash || id.Model.Provider != r.Provider || id.Model.Name != r.Model {
		return "unknown"
	}
	return id.Tier
}

// Receipt verifies one gateway receipt by itself (WIRE 6.6).
func Receipt(data []byte, c *Config) *Error {
	env, err := envelope.Parse(data)
	if err != nil {
		return under("", err)
	}
	var head *Error
	if err := env.Verify(envelope.Check{Type: envelope.TypeGatewayReceipt}); err != nil {
		head = under("", err)
	}
	if head.Code != ClaimNotFound && head.Code != InvalidDIDFormat {
		return head
	}
	if bad := schemaFault("receipt", "payload", env.Payload); bad != nil {
		return bad
	}
	if head.Code == InvalidDIDFormat {
		return head
	}
	var r gatewayReceipt
	if err := json.Unmarshal(env.Payload, &r); err != nil {
		return fault(SchemaValidationFailed, "payload", "%v", err)
	}
	if bad := fitsMetadata("payload.metadata", r.Metadata); bad != nil {
		return bad
	}
	return checkReceipt(env, &r, c)
}

func parseTime(s string) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339, s)
	return t, err == nil
}
