package runs

import (
	"encoding/json"
	"reflect"
	"testing"

	"sallyport/signer/chain"
	"sallyport/signer/receipt"
	"sallyport/signer/record"
)

const hostile = "a \"quoted\" \\ name\n</script>  {\"id\":\"x\"} é"

// TestReadAsDecoded: what is read of a record without decoding it is what decoding it gives.
func TestReadAsDecoded(t *testing.T) {
	l := &record.Logged{Intent: record.Intent{
		ID: "rcpt_1", TimeMS: 1767225600123, RunID: hostile, EventHash: "e", MissionID: hostile, Subject: hostile, TokenHash: "t", PolicyHash: "p",
		Provider: "openai", Model: hostile, Action: "model:invoke", Resource: hostile, Method: "POST", Host: hostile, Path: hostile, SecretClass: "c",
		RequestHash: record.EmptyHash, RequestBytes: 7, TrustVersion: 1 << 60,
	}, Chain: &chain.Link{Part: 2, Index: 999, Continues: "c", Span: "s", Parent: "root", Event: chain.Event{ID: hostile, Hash: "h"}}}
	got, err := readIntent(l.AppendJSON(nil, nil))
	want := record.Logged{Intent: record.Intent{
		ID: l.ID, TimeMS: l.TimeMS, RunID: l.RunID, EventHash: l.EventHash, MissionID: l.MissionID, Subject: l.Subject, TokenHash: l.TokenHash,
		PolicyHash: l.PolicyHash, Provider: l.Provider, Model: l.Model, Action: l.Action, Host: l.Host, SecretClass: l.SecretClass,
	}, Chain: &chain.Link{Part: 2, Index: 999, Span: "s", Parent: "root", Event: chain.Event{Hash: "h"}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v %v, want %+v", got, err, want)
	}
	var p receipt.Payload
	p.ReceiptID, p.TokensInput, p.TokensOutput, p.Model = "rcpt_1", 3, 4, hostile
	p.Binding.RunID, p.Binding.Nonce = hostile, hostile
	p.Metadata.Sallyport.MissionID, p.Metadata.Sallyport.TokenHash, p.Metadata.Sallyport.Outcome = hostile, "t", record.Cut
	raw, err := json.Marshal(map[string]any{"envelope_type": "gateway_receipt", "payload": p})
	if err != nil {
		t.Fatal(err)
	}
	read, err := readReceipt(raw)
	p.Model = ""
	if err != nil || !reflect.DeepEqual(read, p) {
		t.Errorf("%+v %v, want %+v", read, err, p)
	}
	for _, bad := range []string{"", "[]", "7", `{"id":`, `{"id":"x"} x`} {
		if _, err := readIntent([]byte(bad)); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}
