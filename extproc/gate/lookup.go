package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"sallyport/extproc/message"
	"sallyport/signer/client"
	"sallyport/signer/code"
	"sallyport/signer/receipt"
)

// receiptPath is where a client asks for the receipt of a call that it knows the nonce of (WIRE 6.3). Other than the
// ecosystem's own gateway, this one asks for the job's token: a receipt tells what a job did.
const receiptPath = "/v1/receipt/"

// asksForReceipt is the nonce of the call whose receipt the request is for.
func (x *exchange) asksForReceipt() (nonce string, ok bool) {
	if x.from.door != doorReverse || x.req.method != http.MethodGet {
		return "", false
	}
	return strings.CutPrefix(x.req.path, receiptPath)
}

// serveReceipt answers with the receipt, or with why there is none. It is no call under the contract, so nothing is recorded.
func (x *exchange) serveReceipt(ctx context.Context) *message.Response {
	x.phase = phaseServed
	body, d := x.receiptAnswer(ctx)
	status := http.StatusOK
	if d != nil {
		status = code.Lookup(d.Code).Status
		body = map[string]any{"error": map[string]string{"code": string(d.Code), "message": code.Lookup(d.Code).Help}}
	}
	var raw bytes.Buffer
	enc := json.NewEncoder(&raw)
	enc.SetEscapeHTML(false) // the envelope stays as it was signed
	if err := enc.Encode(body); err != nil {
		return x.refuse(code.Deny(code.GateInternal, ""))
	}
	return &message.Response{Immediate: &message.Immediate{
		Status: status, Body: raw.Bytes(), Details: "sallyport_receipt",
		Headers: []message.Header{{Name: "content-type", Value: "application/json"}, {Name: "cache-control", Value: "no-store"}},
	}}
}

func (x *exchange) receiptAnswer(ctx context.Context) (any, *code.Denial) {
	if !isRunID(x.receiptOf) {
		return nil, code.Deny(code.InvalidNonce, "")
	}
	job := x.token.MissionID
	if job == "" {
		job = x.token.Hash
	}
	d, err := x.gate.cfg.Signer.Lookup(ctx, job, x.receiptOf)
	switch {
	case errors.Is(err, client.ErrNoReceipt):
		return nil, code.Deny(code.ReceiptNotFound, "")
	case errors.Is(err, client.ErrInFlight):
		return nil, code.Deny(code.ReceiptInFlight, "")
	case err != nil:
		x.gate.cfg.Log.Error("receipt not looked up", "error", err)
		return nil, code.Deny(code.EvidenceDown, "")
	}
	var e struct{ Payload receipt.Payload }
	if err := json.Unmarshal(d.Envelope, &e); err != nil {
		return nil, code.Deny(code.EvidenceDown, "")
	}
	b := e.Payload.Binding
	if !boundAs(x.req.query, b) {
		return nil, code.Deny(code.ReceiptMismatch, "")
	}
	return receiptFound{
		OK: true, Nonce: x.receiptOf, Status: e.Payload.Metadata.Sallyport.Status, Envelope: d.Envelope, Receipt: d.Legacy,
		Binding: boundTo{b.RunID, b.EventHash},
	}, nil
}

type receiptFound struct {
	OK        bool            `json:"ok"`
	Nonce     string          `json:"nonce"`
	Status    int             `json:"status"` // of the upstream
	Truncated bool            `json:"truncated"`
	Envelope  json.RawMessage `json:"receipt_envelope"`
	Receipt   json.RawMessage `json:"receipt"`
	Binding   boundTo         `json:"binding"`
}

type boundTo struct {
	RunID     string `json:"run_id"`
	EventHash string `json:"event_hash_b64u"`
}

// boundAs tells whether a receipt is bound to the run and the event that a query names, in any of the ecosystem's spellings.
func boundAs(query string, b receipt.Binding) bool {
	q, err := url.ParseQuery(query)
	if err != nil {
		return false
	}
	for name, want := range map[string]string{
		"run_id": b.RunID, "runId": b.RunID, "event_hash_b64u": b.EventHash, "event_hash": b.EventHash, "eventHash": b.EventHash,
	} {
		if got := q.Get(name); got != "" && got != want {
			return false
		}
	}
	return true
}
