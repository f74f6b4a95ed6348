package receipt

import (
	"fmt"
	"strconv"

	"sallyport/signer/jcs"
)

// maxSafe is the largest integer that I-JSON lets two parties exchange without rounding.
const maxSafe = 1<<53 - 1

// writer appends a closed object, whose members' names are ours, in canonical form.
type writer struct {
	buf []byte
	err error
}

// canonical returns the payload's RFC 8785 bytes behind dst. They are what jcs.Marshal gives, a number beyond I-JSON being
// an error too, without the detour over a tree: the structs' members are in canonical order as they stand. No member's
// name looks like an array index, so the JSON-order form is the same bytes.
func (p *Payload) canonical(dst []byte) ([]byte, error) {
	w := writer{buf: dst}
	b, m, d := &p.Binding, &p.Metadata, &p.Metadata.Sallyport
	w.raw(`{"binding":{`)
	w.optional(`"event_hash_b64u":`, b.EventHash)
	w.optional(`"nonce":`, b.Nonce)
	w.optional(`"parent_span_id":`, b.ParentSpanID)
	w.optional(`"policy_hash":`, b.PolicyHash)
	w.text(`"run_id":`, b.RunID)
	if b.SpanID != "" {
		w.text(`,"span_id":`, b.SpanID)
	}
	if b.TokenScopeHash != "" {
		w.text(`,"token_scope_hash_b64u":`, b.TokenScopeHash)
	}
	w.text(`},"gateway_id":`, p.GatewayID)
	w.integer(`,"latency_ms":`, p.LatencyMS)
	w.raw(`,"metadata":{"model_identity":`)
	w.identity(&m.ModelIdentity)
	w.text(`,"model_identity_hash_b64u":`, m.ModelIdentityHash)
	w.raw(`,"sallyport":`)
	w.detail(d)
	w.text(`},"model":`, p.Model)
	w.text(`,"provider":`, p.Provider)
	w.text(`,"receipt_id":`, p.ReceiptID)
	w.text(`,"receipt_version":`, p.ReceiptVersion)
	w.text(`,"request_hash_b64u":`, p.RequestHash)
	w.text(`,"response_hash_b64u":`, p.ResponseHash)
	w.text(`,"timestamp":`, p.Timestamp)
	w.integer(`,"tokens_input":`, p.TokensInput)
	w.integer(`,"tokens_output":`, p.TokensOutput)
	w.raw(`}`)
	return w.buf, w.err
}

func (w *writer) identity(m *ModelIdentity) {
	w.text(`{"model":{"name":`, m.Model.Name)
	w.text(`,"provider":`, m.Model.Provider)
	w.text(`},"model_identity_version":`, m.Version)
	w.text(`,"tier":`, m.Tier)
	w.raw(`}`)
}

func (w *writer) detail(d *Detail) {
	w.text(`{"action":`, d.Action)
	w.text(`,"host":`, d.Host)
	w.text(`,"method":`, d.Method)
	w.raw(`,`)
	w.optional(`"mission_id":`, d.MissionID)
	w.text(`"outcome":`, string(d.Outcome))
	w.text(`,"path":`, d.Path)
	w.raw(`,`)
	w.optional(`"privacy_mode":`, d.PrivacyMode)
	w.optional(`"reason":`, d.Reason)
	w.integer(`"request_bytes":`, d.RequestBytes)
	w.text(`,"resource":`, d.Resource)
	w.integer(`,"response_bytes":`, d.ResponseBytes)
	w.raw(`,`)
	w.optional(`"sealed_to":`, d.SealedTo)
	w.optional(`"secret_class":`, d.SecretClass)
	w.integer(`"status":`, int64(d.Status))
	w.truth(`,"stream":`, d.Stream)
	w.text(`,"sub":`, d.Subject)
	w.text(`,"token_hash":`, d.TokenHash)
	w.unsigned(`,"trust_version":`, d.TrustVersion)
	w.truth(`,"usage_reported":`, d.UsageReported)
	w.raw(`}`)
}

func (w *writer) raw(s string) { w.buf = append(w.buf, s...) }

func (w *writer) text(name, value string) {
	w.raw(name)
	w.buf = jcs.AppendText(w.buf, value)
}

// optional writes a member that is left out where it is empty, and the comma behind it.
func (w *writer) optional(name, value string) {
	if value != "" {
		w.text(name, value)
		w.raw(`,`)
	}
}

func (w *writer) truth(name string, value bool) {
	w.raw(name)
	w.buf = strconv.AppendBool(w.buf, value)
}

func (w *writer) integer(name string, n int64) {
	if n > maxSafe || n < -maxSafe {
		w.err = fmt.Errorf("%w: %s%d is beyond ±(2^53-1)", ErrPayload, name, n)
	}
	w.raw(name)
	w.buf = strconv.AppendInt(w.buf, n, 10)
}

func (w *writer) unsigned(name string, n uint64) {
	if n > maxSafe {
		w.err = fmt.Errorf("%w: %s%d is beyond 2^53-1", ErrPayload, name, n)
		return
	}
	w.integer(name, int64(n))
}
