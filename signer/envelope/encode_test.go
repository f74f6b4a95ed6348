package envelope

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sallyport/signer/jcs"
)

func TestFormatTimeIsTheLayout(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		at := time.Unix(rapid.Int64Range(-1<<40, 1<<40).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).In(time.FixedZone("x", 5400))
		if got, want := FormatTime(at), at.UTC().Format("2006-01-02T15:04:05.000Z"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// TestEncodeIsCanonical holds the written-out encoding against the general one.
func TestEncodeIsCanonical(t *testing.T) {
	t.Parallel()
	env := &Envelope{
		EnvelopeVersion: "1", EnvelopeType: "x\u2028\"<é>", Payload: json.RawMessage(`{"a":1,"b":["é",null]}`), PayloadHashB64u: "h",
		HashAlgorithm: "SHA-256", SignatureB64u: "s", Algorithm: "Ed25519", SignerDID: "did", IssuedAt: FormatTime(time.UnixMilli(1)),
	}
	for _, expires := range []string{"", "2030-01-01T00:00:00.000Z"} {
		env.ExpiresAt = expires
		got, err := env.Encode()
		if err != nil {
			t.Fatal(err)
		}
		want, err := jcs.Marshal(env)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %s, want %s (%v)", got, want, err)
		}
	}
	if _, err := (&Envelope{}).Encode(); err == nil {
		t.Error("an envelope without a payload was encoded")
	}
}
