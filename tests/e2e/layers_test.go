package e2e

import (
	"net/http"
	"testing"

	"sallyport/tests/harness"
)

// guarded is what the guard filter looks at, as it stands in a configuration; the filter's name and type stand elsewhere too.
const guarded = `"key": "verdict"`

// anyPath stands in the configuration only where the routes were opened.
const anyPath = `"prefix": "/"`

// TestLayers takes away each of the four defences in turn, in a build that can do so only with the weaken tag, and
// shows twice: that the defence is really gone, and that a forbidden host is refused all the same.
func TestLayers(t *testing.T) {
	t.Parallel()
	forbidden := func(token string) harness.Call {
		return harness.Call{Token: token, Path: "/openrouter/v1/chat/completions"}
	}
	cases := []struct {
		weaken string
		gone   func(t *testing.T, s *harness.System, good string) // proves that the defence is gone
		code   string                                             // of the refusal that still stands
	}{
		{"signature", func(t *testing.T, s *harness.System, good string) {
			if a := s.Do(harness.Call{Token: s.Forge(good).Stranger(true).Token()}); a.Status != http.StatusOK {
				t.Errorf("a stranger's token is refused (%d %s), so the signature check is not gone", a.Status, a.Code)
			}
		}, "POLICY_PROVIDER_NOT_ALLOWED"},
		{"decision", func(t *testing.T, s *harness.System, good string) {
			if a := s.Do(harness.Call{Token: good, Model: "gpt-5"}); a.Status != http.StatusOK {
				t.Errorf("a forbidden model is refused (%d %s), so the decision is not gone", a.Status, a.Code)
			}
		}, "ROUTE_NOT_ALLOWED"},
		{"guard", func(t *testing.T, s *harness.System, _ string) {
			if s.EnvoyConfigHas(guarded) {
				t.Error("the guard filter is in Envoy's configuration, so it is not gone")
			}
		}, "POLICY_PROVIDER_NOT_ALLOWED"},
		{"routes", func(t *testing.T, s *harness.System, _ string) {
			if !s.EnvoyConfigHas(anyPath) {
				t.Error("the contract's routes are as narrow as ever, so they are not gone")
			}
		}, "POLICY_PROVIDER_NOT_ALLOWED"},
	}
	for _, c := range cases {
		t.Run(c.weaken, func(t *testing.T) {
			s := harness.Start(t, harness.Options{Weaken: c.weaken})
			good := s.Issue(nil)
			if a := s.Do(harness.Call{Token: good}); a.Status != http.StatusOK {
				t.Fatalf("an allowed call: %d %s", a.Status, a.Body)
			}
			c.gone(t, s, good)
			before := s.Upstream.Count()
			if a := s.Do(forbidden(good)); a.Status != 451 || a.Code != c.code {
				t.Errorf("a forbidden host without %s: %d %s, want 451 %s", c.weaken, a.Status, a.Code, c.code)
			}
			if n := s.Upstream.Count() - before; n != 0 {
				t.Errorf("the forbidden call reached the upstream %d times", n)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		s := harness.Start(t, harness.Options{Env: []string{"SALLYPORT_WEAKEN=signature,decision,guard,routes"}})
		good := s.Issue(nil)
		if a := s.Do(harness.Call{Token: s.Forge(good).Stranger(true).Token()}); a.Code != "TOKEN_SIGNATURE_INVALID" {
			t.Errorf("the ordinary build listens to SALLYPORT_WEAKEN: %d %s", a.Status, a.Body)
		}
		if a := s.Do(harness.Call{Token: good}); a.Status != http.StatusOK { // loads the contract's routes
			t.Fatalf("an allowed call: %d %s", a.Status, a.Body)
		}
		if !s.EnvoyConfigHas(guarded) || s.EnvoyConfigHas(anyPath) {
			t.Error("the ordinary build left the guard filter out, or opened the routes")
		}
	})
}
