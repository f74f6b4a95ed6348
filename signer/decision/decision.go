// Package decision is the signed record of a refusal. Its envelope type and members are ours alone, so that no verifier can
// take a call that did not happen for one that did.
package decision

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
	"sallyport/signer/record"
)

// ErrPayload is wrapped by errors about a payload that is no decision of ours.
var ErrPayload = errors.New("decision payload")

// Deny is the only decision that has entries of its own: what was allowed has a receipt.
const Deny = "deny"

// Payload is what is signed. Members are in canonical order.
type Payload struct {
	Code       string `json:"code"`
	Decision   string `json:"decision"` // Deny
	DecisionID string `json:"decision_id"`
	Version    string `json:"decision_version"` // "1"
	Detail     string `json:"detail,omitempty"`
	GatewayID  string `json:"gateway_id"`
	Host       string `json:"host,omitempty"`
	Method     string `json:"method,omitempty"`
	MissionID  string `json:"mission_id,omitempty"`
	Model      string `json:"model,omitempty"`
	Path       string `json:"path,omitempty"`
	Peer       string `json:"peer,omitempty"` // the client's address
	PolicyHash string `json:"policy_hash_b64u,omitempty"`
	Provider   string `json:"provider,omitempty"`
	Resource   string `json:"resource,omitempty"` // what was asked, as contracts name it
	RunID      string `json:"run_id"`
	// Sequence counts the refusals of a run from 1. A number that is missing is a refusal whose record was lost or removed.
	Sequence  uint64 `json:"sequence"`
	Status    int    `json:"status"`
	Subject   string `json:"sub,omitempty"`
	Timestamp string `json:"timestamp"`
	TokenHash string `json:"token_hash"`
}

// Build makes the payload of a refusal.
func Build(r *record.Refusal, gatewayID string, sequence uint64) *Payload {
	return &Payload{
		Code: r.Code, Decision: Deny, DecisionID: r.ID, Version: "1", Detail: r.Detail, GatewayID: gatewayID, Host: r.Host, Method: r.Method,
		MissionID: r.MissionID, Model: r.Model, Path: r.Path, Peer: r.Peer, PolicyHash: r.PolicyHash, Provider: r.Provider, Resource: r.Resource, RunID: r.RunID, Sequence: sequence,
		Status: r.Status, Subject: r.Subject, Timestamp: envelope.FormatTime(time.UnixMilli(r.TimeMS)), TokenHash: r.TokenHash,
	}
}

// Sign seals a decision.
func Sign(p *Payload, s envelope.Signer, at time.Time) (*envelope.Envelope, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	return envelope.Seal(envelope.TypeDecision, p, s, at)
}

// Read reads a refusal as it stands in the evidence log, signed or not, without verifying anything. Sequence is 0 for one that
// is not signed.
func Read(data []byte) (r *record.Refusal, sequence uint64, err error) {
	var d struct {
		Type    string   `json:"envelope_type"`
		Payload *Payload `json:"payload"`
		record.Refusal
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, 0, fmt.Errorf("refusal: %w", err)
	}
	if d.Type == "" {
		return &d.Refusal, 0, nil
	}
	p := d.Payload
	if d.Type != envelope.TypeDecision || p == nil {
		return nil, 0, fmt.Errorf("%w: envelope type %q", ErrPayload, d.Type)
	}
	at, err := time.Parse(time.RFC3339Nano, p.Timestamp)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrPayload, err)
	}
	return &record.Refusal{
		ID: p.DecisionID, TimeMS: at.UnixMilli(), Code: p.Code, Status: p.Status, Detail: p.Detail, RunID: p.RunID, MissionID: p.MissionID,
		Subject: p.Subject, TokenHash: p.TokenHash, PolicyHash: p.PolicyHash, Provider: p.Provider, Model: p.Model, Resource: p.Resource, Method: p.Method,
		Host: p.Host, Path: p.Path, Peer: p.Peer,
	}, p.Sequence, nil
}

// Decision is a verified decision.
type Decision struct {
	Payload
	Signer string // did:key
}

// Verify reads a decision envelope and believes it only if one of the trusted gateway keys (did:key) signed it. It needs no
// network. An empty list trusts nobody. The error is an *envelope.Error.
func Verify(data []byte, trusted []string) (*Decision, error) {
	env, err := envelope.Parse(data)
	if err != nil {
		return nil, err
	}
	if err := env.Verify(envelope.Check{Type: envelope.TypeDecision, Rule: envelope.JSONOrder, Trusted: trusted}); err != nil {
		return nil, err
	}
	var p Payload
	if err := jcs.Unmarshal(env.Payload, &p); err != nil {
		return nil, &envelope.Error{Code: envelope.SchemaValidationFailed, Field: "payload", Message: err.Error()}
	}
	if err := p.check(); err != nil {
		return nil, &envelope.Error{Code: envelope.SchemaValidationFailed, Field: "payload", Message: err.Error()}
	}
	return &Decision{Payload: p, Signer: env.SignerDID}, nil
}

func (p *Payload) check() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: %s", ErrPayload, what))
		}
	}
	need(p.Version == "1", "decision_version must be \"1\"")
	need(p.Decision == Deny, "decision must be \"deny\"")
	need(p.DecisionID != "" && p.Code != "" && p.GatewayID != "" && p.TokenHash != "", "decision_id, code, gateway_id and token_hash must not be empty")
	need(p.RunID != "", "run_id must not be empty")
	need(p.Sequence > 0 && p.Sequence < 1<<53, "sequence must count from 1")
	_, err := time.Parse(time.RFC3339Nano, p.Timestamp)
	need(err == nil, "timestamp is not RFC 3339")
	return errors.Join(errs...)
}
