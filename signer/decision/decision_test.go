package decision

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
	"sallyport/signer/keyring"
	"sallyport/signer/receipt"
	"sallyport/signer/record"
)

func refusal() *record.Refusal {
	return &record.Refusal{
		ID: "dec_1", TimeMS: 1_760_000_000_123, Code: "POLICY_MODEL_NOT_ALLOWED", Status: 451, Detail: "a<b>\u2028", RunID: "run", MissionID: "job", Subject: "agent",
		TokenHash: "ab", PolicyHash: jcs.Hash(nil), Provider: "openai", Model: "m", Resource: "openai/m", Method: "POST", Host: "h", Path: "/p", Peer: "127.0.0.1:1",
	}
}

func signed(t *testing.T) ([]byte, *keyring.Key) {
	t.Helper()
	k, err := keyring.Generate(bytes.NewReader(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	env, err := Sign(Build(refusal(), "gateway", 3), k, time.UnixMilli(1_760_000_000_456))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := env.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw, k
}

func TestDecisionIsVerifiedAndReadBack(t *testing.T) {
	t.Parallel()
	raw, k := signed(t)
	d, err := Verify(raw, []string{k.DID()})
	if err != nil || d.Sequence != 3 || d.Signer != k.DID() {
		t.Fatalf("got %+v, %v", d, err)
	}
	r, sequence, err := Read(raw)
	if err != nil || sequence != 3 || !reflect.DeepEqual(r, refusal()) {
		t.Errorf("read %+v, %d, %v", r, sequence, err)
	}
	plain, err := json.Marshal(refusal())
	if err != nil {
		t.Fatal(err)
	}
	r, sequence, err = Read(plain)
	if err != nil || sequence != 0 || !reflect.DeepEqual(r, refusal()) {
		t.Errorf("an unsigned one reads as %+v, %d, %v", r, sequence, err)
	}
}

func TestDecisionIsNoReceiptAndNoReceiptADecision(t *testing.T) {
	t.Parallel()
	raw, k := signed(t)
	if _, err := receipt.Verify(raw, []string{k.DID()}); !is(err, envelope.UnknownEnvelopeType) {
		t.Errorf("as a receipt: %v", err)
	}
	if _, err := Verify(bytes.Replace(raw, []byte(envelope.TypeDecision), []byte(envelope.TypeGatewayReceipt), 1), []string{k.DID()}); !is(err, envelope.UnknownEnvelopeType) {
		t.Errorf("a receipt as a decision: %v", err)
	}
	if _, _, err := Read(bytes.Replace(raw, []byte(envelope.TypeDecision), []byte(envelope.TypeGatewayReceipt), 1)); !errors.Is(err, ErrPayload) {
		t.Errorf("a receipt read as a decision: %v", err)
	}
	// Even with the type changed, the payload is not a receipt's.
	if _, err := receipt.Verify(bytes.Replace(raw, []byte(envelope.TypeDecision), []byte(envelope.TypeGatewayReceipt), 1), []string{k.DID()}); !is(err, envelope.SchemaValidationFailed) {
		t.Errorf("with a receipt's type: %v", err)
	}
}

func TestAlteredDecision(t *testing.T) {
	t.Parallel()
	raw, k := signed(t)
	if _, err := Verify(raw, nil); !is(err, envelope.ClaimNotFound) {
		t.Errorf("trusting nobody: %v", err)
	}
	for from, to := range map[string]string{`"sequence":3`: `"sequence":4`, "POLICY_MODEL_NOT_ALLOWED": "POLICY_HASH_MISMATCH", `"status":451`: `"status":200`} {
		if !bytes.Contains(raw, []byte(from)) {
			t.Fatalf("no %s in %s", from, raw)
		}
		if _, err := Verify(bytes.Replace(raw, []byte(from), []byte(to), 1), []string{k.DID()}); !is(err, envelope.HashMismatch) {
			t.Errorf("%s: %v", to, err)
		}
	}
	for name, spoil := range map[string]func(p *Payload){
		"version": func(p *Payload) { p.Version = "2" }, "decision": func(p *Payload) { p.Decision = "allow" },
		"code": func(p *Payload) { p.Code = "" }, "run": func(p *Payload) { p.RunID = "" }, "sequence": func(p *Payload) { p.Sequence = 0 },
		"time": func(p *Payload) { p.Timestamp = "yesterday" },
	} {
		p := Build(refusal(), "gateway", 1)
		spoil(p)
		if _, err := Sign(p, k, time.Now()); !errors.Is(err, ErrPayload) {
			t.Errorf("%s: %v", name, err)
		}
		env, err := envelope.Seal(envelope.TypeDecision, p, k, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		bad, err := env.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(bad, []string{k.DID()}); !is(err, envelope.SchemaValidationFailed) {
			t.Errorf("%s, signed all the same: %v", name, err)
		}
	}
}

func is(err error, c envelope.Code) bool {
	var e *envelope.Error
	return errors.As(err, &e) && e.Code == c
}
