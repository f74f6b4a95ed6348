// Package receipt makes and verifies gateway receipts, the signed statement that a call went through this gateway. The
// payload is the ecosystem's gateway_receipt (WIRE 6.1), a closed object; what is ours stands in its open metadata.
package receipt

import (
	"time"

	"sallyport/signer/envelope"
	"sallyport/signer/record"
)

// Limits of the ecosystem's verifiers; a receipt outside them would not count.
const (
	maxTokens    = 10_000_000
	maxLatencyMS = 3_600_000
	maxMetadata  = 16 << 10 // bytes of JSON
)

// tierOpaque says that nothing is known of the model behind the provider's name.
const tierOpaque = "closed_opaque"

// Payload is what is signed. Members are in canonical order, so that the JSON-order hash and the JCS hash agree.
type Payload struct {
	Binding        Binding  `json:"binding"`
	GatewayID      string   `json:"gateway_id"`
	LatencyMS      int64    `json:"latency_ms"`
	Metadata       Metadata `json:"metadata"`
	Model          string   `json:"model"`
	Provider       string   `json:"provider"`
	ReceiptID      string   `json:"receipt_id"`
	ReceiptVersion string   `json:"receipt_version"`
	RequestHash    string   `json:"request_hash_b64u"`  // of the body as it went upstream
	ResponseHash   string   `json:"response_hash_b64u"` // of the body as it came back, as far as it was released
	Timestamp      string   `json:"timestamp"`
	TokensInput    int64    `json:"tokens_input"`
	TokensOutput   int64    `json:"tokens_output"`
}

// Binding ties the receipt to its run, contract and token.
type Binding struct {
	EventHash      string `json:"event_hash_b64u,omitempty"`
	Nonce          string `json:"nonce,omitempty"`
	ParentSpanID   string `json:"parent_span_id,omitempty"` // the span of the first call of the bundle that this one goes into
	PolicyHash     string `json:"policy_hash,omitempty"`
	RunID          string `json:"run_id"`
	SpanID         string `json:"span_id,omitempty"` // so that side effects can be anchored to this call
	TokenScopeHash string `json:"token_scope_hash_b64u,omitempty"`
}

// Metadata is the open part.
type Metadata struct {
	ModelIdentity     ModelIdentity `json:"model_identity"`
	ModelIdentityHash string        `json:"model_identity_hash_b64u"`
	Sallyport         Detail        `json:"sallyport"`
}

// ModelIdentity is what is known of the model.
type ModelIdentity struct {
	Model   ModelName `json:"model"`
	Version string    `json:"model_identity_version"`
	Tier    string    `json:"tier"`
}

// ModelName is the model as the provider calls it.
type ModelName struct {
	Name     string `json:"name"`
	Provider string `json:"provider"`
}

// Detail is what this gateway knows beyond the ecosystem's members.
type Detail struct {
	Action        string         `json:"action"`
	Host          string         `json:"host"`
	Method        string         `json:"method"`
	MissionID     string         `json:"mission_id,omitempty"`
	Outcome       record.Outcome `json:"outcome"`
	Path          string         `json:"path"`
	PrivacyMode   string         `json:"privacy_mode,omitempty"` // "encrypted" where the bodies are in the log, sealed
	Reason        string         `json:"reason,omitempty"`
	RequestBytes  int64          `json:"request_bytes"`
	Resource      string         `json:"resource"`
	ResponseBytes int64          `json:"response_bytes"`
	SealedTo      string         `json:"sealed_to,omitempty"` // names of the auditors' keys, with commas between
	SecretClass   string         `json:"secret_class,omitempty"`
	Status        int            `json:"status"` // of the upstream; 0 where none came
	Stream        bool           `json:"stream"`
	Subject       string         `json:"sub"`
	TokenHash     string         `json:"token_hash"` // hex SHA-256
	TrustVersion  uint64         `json:"trust_version"`
	UsageReported bool           `json:"usage_reported"` // false: token counts are 0 because none were reported
}

// Build makes the payload of a settled call.
func Build(i *record.Logged, c *record.Completion, gatewayID string) (*Payload, error) {
	p := new(Payload)
	p.of(i, c, gatewayID)
	return p, nil
}

func (p *Payload) of(i *record.Logged, c *record.Completion, gatewayID string) {
	model := i.Model
	if model == "" {
		model = "unknown"
	}
	*p = Payload{
		Binding:        Binding{EventHash: i.EventHash, Nonce: i.Nonce, PolicyHash: i.PolicyHash, RunID: i.RunID, TokenScopeHash: i.TokenScopeHash},
		GatewayID:      gatewayID,
		LatencyMS:      bounded(c.LatencyMS, maxLatencyMS),
		Model:          model,
		Provider:       i.Provider,
		ReceiptID:      i.ID,
		ReceiptVersion: "1",
		RequestHash:    i.RequestHash,
		ResponseHash:   c.ResponseHash,
		Timestamp:      envelope.FormatTime(time.UnixMilli(i.TimeMS)),
		TokensInput:    bounded(c.TokensInput, maxTokens),
		TokensOutput:   bounded(c.TokensOutput, maxTokens),
		Metadata: Metadata{
			ModelIdentity: ModelIdentity{Model: ModelName{Name: model, Provider: i.Provider}, Version: "1", Tier: tierOpaque},
			Sallyport: Detail{
				Action: i.Action, Host: i.Host, Method: i.Method, MissionID: i.MissionID, Outcome: c.Outcome, Path: i.Path,
				Reason: clip(c.Reason), RequestBytes: i.RequestBytes, Resource: i.Resource, ResponseBytes: c.ResponseBytes,
				PrivacyMode: i.PrivacyMode, SealedTo: i.SealedTo, SecretClass: i.SecretClass, Status: c.Status, Stream: i.Stream, Subject: i.Subject, TokenHash: i.TokenHash,
				TrustVersion: i.TrustVersion, UsageReported: c.UsageReported,
			},
		},
	}
	p.Metadata.ModelIdentityHash = p.Metadata.ModelIdentity.hash()
	if l := i.Chain; l != nil {
		p.Binding.EventHash, p.Binding.SpanID, p.Binding.ParentSpanID = l.Event.Hash, l.Span, l.Parent
		p.Timestamp = l.Event.Timestamp
	}
}

// clip bounds a reason, so that it cannot make a receipt too large.
func clip(s string) string { return s[:min(len(s), 512)] }

func bounded(n, most int64) int64 { return min(max(n, 0), most) }

// Sign seals a payload as a gateway receipt.
func Sign(p *Payload, s envelope.Signer, at time.Time) (*envelope.Envelope, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	return envelope.Seal(envelope.TypeGatewayReceipt, p, s, at)
}

// Append appends the receipt of a settled call, signed: the JSON that Build, Sign and Encode give, for a fraction of the
// work.
func Append(dst []byte, i *record.Logged, c *record.Completion, gatewayID string, s envelope.Signer, at time.Time) ([]byte, error) {
	var p Payload
	p.of(i, c, gatewayID)
	if err := p.check(); err != nil {
		return nil, err
	}
	return envelope.AppendSealed(dst, envelope.TypeGatewayReceipt, s, at, p.canonical)
}
