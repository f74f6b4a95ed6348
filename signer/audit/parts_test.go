package audit_test

import (
	"encoding/json"
	"testing"

	"sallyport/signer/envelope"
)

func payloadHash(t testing.TB, raw []byte) string {
	t.Helper()
	env, err := envelope.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return env.PayloadHashB64u
}

func receiptsOf(t testing.TB, bundle []byte) []json.RawMessage {
	t.Helper()
	var b struct {
		Payload struct {
			Receipts []json.RawMessage `json:"receipts"`
		} `json:"payload"`
	}
	if err := json.Unmarshal(bundle, &b); err != nil {
		t.Fatal(err)
	}
	return b.Payload.Receipts
}
