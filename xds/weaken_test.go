//go:build weaken

package xds_test

import (
	"testing"

	"sallyport/signer/code"
)

// With the routes taken away, as only a test does, every upstream is open to every contract: then the other walls must hold.
func TestRoutesTakenAway(t *testing.T) {
	t.Setenv("SALLYPORT_WEAKEN", "routes")
	w := newWorld(t)
	w.put(hashOf(1), "nobody")
	w.call(call{scope: hashOf(1), to: "/anything"}).passed(t, "/anything")
	w.call(call{scope: hashOf(1), to: "/anything", do: "close"}).refused(t, code.GateUnavailable)
	w.call(call{scope: hashOf(2)}).refused(t, code.RouteNotAllowed)
}

// With the guard taken away, the routes still stop what the processor did not allow.
func TestGuardTakenAway(t *testing.T) {
	t.Setenv("SALLYPORT_WEAKEN", "guard")
	w := newWorld(t)
	w.put(hashOf(1), "openai")
	w.call(call{scope: hashOf(1), do: "no-verdict"}).passed(t, "/base/v1/chat/completions")
	w.call(call{scope: hashOf(1), do: "close"}).refused(t, code.RouteNotAllowed)
}
