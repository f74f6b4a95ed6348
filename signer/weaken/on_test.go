//go:build weaken

package weaken

import "testing"

func TestOnlyWhatIsNamedIsOff(t *testing.T) {
	t.Setenv("SALLYPORT_WEAKEN", "signature,routes")
	for what, want := range map[string]bool{"signature": true, "routes": true, "decision": false, "guard": false, "": false, "sig": false} {
		if Off(what) != want {
			t.Errorf("%q: off is %v", what, !want)
		}
	}
	t.Setenv("SALLYPORT_WEAKEN", "")
	if Off("signature") || Off("") {
		t.Error("off without being named")
	}
}
