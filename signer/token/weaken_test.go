//go:build weaken

package token

import (
	"strings"
	"testing"

	"sallyport/signer/code"
	"sallyport/signer/jcs"
)

// TestSignatureSwitch shows that the switch takes the signature check away, and nothing else.
func TestSignatureSwitch(t *testing.T) {
	raw := issue(t, claims())
	body, err := jcs.DecodeB64u(strings.Split(raw, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	forged := forge(other, headerOf(key), string(body))
	if _, d := Verify(forged, keys, audience, now); d == nil || d.Code != code.TokenSignatureInvalid {
		t.Errorf("without the switch: %v", d)
	}
	t.Setenv("SALLYPORT_WEAKEN", "signature")
	if _, d := Verify(forged, keys, audience, now); d != nil {
		t.Errorf("with the switch: %v", d)
	}
	if _, d := Verify(forged, keys, []string{"elsewhere.example"}, now); d == nil || d.Code != code.TokenBadAudience {
		t.Errorf("the audience: %v", d)
	}
}
