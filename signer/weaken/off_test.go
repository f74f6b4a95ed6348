//go:build !weaken

package weaken

import "testing"

func TestNothingCanBeSwitchedOff(t *testing.T) {
	t.Setenv("SALLYPORT_WEAKEN", "signature,decision,guard,routes")
	for _, what := range []string{"signature", "decision", "guard", "routes", ""} {
		if Off(what) || Built {
			t.Errorf("%q is off in an ordinary build", what)
		}
	}
}
