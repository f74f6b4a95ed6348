package clawverify_test

import (
	"testing"
	"time"

	"sallyport/signer/clawverify"
	"sallyport/signer/internal/testarchive"
)

func trusting(a *testarchive.Archive) *clawverify.Config {
	return &clawverify.Config{GatewaySigners: []string{a.Gateway.DID()}, Now: testarchive.Start.Add(24 * time.Hour)}
}

func TestOurBundle(t *testing.T) {
	t.Parallel()
	a := testarchive.New(testarchive.Options{Calls: 7, Refused: 2})
	got := clawverify.Verify("", a.Files["bundle.json"], trusting(a), "bundle.json")
	if got.Status != clawverify.Pass {
		t.Fatalf("%s %s", got.ReasonCode, got.Reason)
	}
	r := got.Verification.(*clawverify.Verification).Result
	if r.Components.ReceiptsVerified != 7 || r.ProofTier != "gateway" || r.TrustTier != "verified" || r.ModelIdentityTier != "closed_opaque" {
		t.Errorf("got %+v", r)
	}
}
