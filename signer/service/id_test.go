package service

import (
	"encoding/json"
	"testing"

	"sallyport/signer/record"
)

func intentID(t *testing.T, payload []byte) string {
	t.Helper()
	var i record.Intent
	if err := json.Unmarshal(payload, &i); err != nil {
		t.Fatal(err)
	}
	return i.ID
}
