package gate

import (
	"errors"
	"strings"
	"testing"
	"time"

	"sallyport/signer/record"
	"sallyport/signer/token"
	"sallyport/signer/trust"
)

// The time of a tunnel that passes unread is over with its token, unless its own job has shown a newer one that is still good.
func TestTunnelsExpire(t *testing.T) {
	const life = time.Hour
	of := func(job string, exp time.Duration) func(*token.Claims) {
		return func(c *token.Claims) { c.MissionID, c.Exp = job, start.Add(exp).Unix() }
	}
	for name, tc := range map[string]struct {
		open    func(*token.Claims)
		shown   func(*token.Claims) // nil: none
		revoked bool                // what was shown
		at      time.Duration
		want    error // nil: still open
	}{
		"before its time":             {open: of("a", life), at: life},
		"in the leeway":               {open: of("a", life), at: life + token.Leeway - time.Second},
		"over":                        {open: of("a", life), at: life + token.Leeway, want: errExpired},
		"renewed":                     {open: of("a", life), shown: of("a", 2*life), at: life + token.Leeway},
		"renewed, and over too":       {open: of("a", life), shown: of("a", 2*life), at: 2*life + token.Leeway, want: errExpired},
		"renewed, and withdrawn":      {open: of("a", life), shown: of("a", 2*life), revoked: true, at: life + token.Leeway, want: errExpired},
		"renewed for less":            {open: of("a", life), shown: of("a", life-time.Minute), at: life + token.Leeway, want: errExpired},
		"another job's":               {open: of("a", life), shown: of("b", 2*life), at: life + token.Leeway, want: errExpired},
		"no job's":                    {open: of("", life), shown: of("", 2*life), at: life + token.Leeway, want: errExpired},
		"another certificate's":       {open: of("a", life), shown: func(c *token.Claims) { of("a", 2*life)(c); c.Cnf = &token.Confirmation{X5tS256: thumbprint} }, at: life + token.Leeway, want: errExpired},
		"another subject's":           {open: of("a", life), shown: func(c *token.Claims) { of("a", 2*life)(c); c.Sub = "did:web:other.example" }, at: life + token.Leeway, want: errExpired},
		"of a wider scope":            {open: of("a", life), shown: func(c *token.Claims) { of("a", 2*life)(c); c.Scope = []string{"proxy:call", "more"} }, at: life + token.Leeway, want: errExpired},
		"not renewed, another tunnel": {open: of("a", 2*life), shown: of("a", life), at: life + token.Leeway},
	} {
		t.Run(name, func(t *testing.T) {
			f := newUnreadFixture(t)
			k := f.open()
			k.must("request headers", connectTo(doorForward, "sealed.example:443", f.token(tc.open)))
			if tc.shown != nil {
				raw := f.token(tc.shown)
				im := f.open().must("refusal", requestHeaders(true, ":method", "GET", ":path", ShowPath, ":authority", GatewayName, "authorization", "Bearer "+raw)).GetImmediateResponse()
				wantStatus := int32(204)
				if strings.Contains(name, "certificate") {
					wantStatus = 401 // whose it is was not shown
				}
				if int32(im.GetStatus().GetCode()) != wantStatus {
					t.Fatalf("shown: %v", im)
				}
				if tc.revoked {
					f.setTrust(trust.State{RevokedTokens: []string{token.Hash(raw)}})
				}
			}
			over, _ := f.gate.watch.over(f.gate.watch.trust(), start.Add(tc.at))
			var got error
			for _, why := range over {
				got = why
			}
			if !errors.Is(got, tc.want) {
				t.Errorf("%v, want %v", got, tc.want)
			}
			if f.recorder.left() != 1 {
				t.Errorf("%d intents", f.recorder.left())
			}
		})
	}
}

// By the token that a tunnel is open by, it is withdrawn as by its own.
func TestTunnelOpenByRenewal(t *testing.T) {
	f := newUnreadFixture(t)
	k := f.open()
	k.must("request headers", connectTo(doorForward, "sealed.example:443", f.token(func(c *token.Claims) { c.MissionID = "a" })))
	raw := f.token(func(c *token.Claims) { c.MissionID, c.Exp = "a", start.Add(2*time.Hour).Unix() })
	f.open().must("refusal", requestHeaders(true, ":method", "GET", ":path", ShowPath, ":authority", GatewayName, "authorization", "Bearer "+raw))
	if over, _ := f.gate.watch.over(f.gate.watch.trust(), start.Add(90*time.Minute)); len(over) != 0 {
		t.Fatalf("cut: %v", over)
	}
	f.clock.forward(90 * time.Minute)
	f.setTrust(trust.State{RevokedTokens: []string{token.Hash(raw)}})
	if err := k.result(); !errors.Is(err, errWithdrawn) {
		t.Errorf("ended with %v", err)
	}
}

// The watcher itself cuts, and the record says why.
func TestTunnelCutByTime(t *testing.T) {
	f := newUnreadFixture(t)
	k := f.open()
	k.must("request headers", connectTo(doorForward, "sealed.example:443", f.token()))
	k.must("response headers", responseHeaders(false, viaUpstream, ":status", "200"))
	k.must("response body", responseBody("hello", false))
	f.clock.forward(time.Hour + token.Leeway)
	if err := k.result(); !errors.Is(err, errExpired) {
		t.Fatalf("ended with %v", err)
	}
	if c := f.recorder.completion(t); c.Outcome != record.Cut || !strings.Contains(c.Reason, "expired") || c.ResponseBytes != 5 {
		t.Errorf("%s %q, %d bytes", c.Outcome, c.Reason, c.ResponseBytes)
	}
}

// A token that is not good is not shown; and what is shown counts nowhere as a call.
func TestShow(t *testing.T) {
	f := newUnreadFixture(t)
	f.open().must("refusal", requestHeaders(true, ":method", "GET", ":path", ShowPath, ":authority", GatewayName, "authorization", "Bearer "+f.token()))
	if n := f.metric("sallyport_decisions_total") + f.metric("sallyport_calls_abandoned_total"); n != 0 || f.recorder.left() != 0 {
		t.Errorf("%v calls, %d intents", n, f.recorder.left())
	}
	for name, m := range map[string][]string{
		"no token":       {":method", "GET", ":path", ShowPath, ":authority", GatewayName},
		"an expired one": {":method", "GET", ":path", ShowPath, ":authority", GatewayName, "authorization", "Bearer " + f.token(func(c *token.Claims) { c.Iat, c.Exp = start.Add(-2*time.Hour).Unix(), start.Add(-time.Hour).Unix() })},
		"another path":   {":method", "GET", ":path", ShowPath + "/x", ":authority", GatewayName, "authorization", "Bearer " + f.token()},
		"by POST":        {":method", "POST", ":path", ShowPath, ":authority", GatewayName, "authorization", "Bearer " + f.token()},
	} {
		if im := f.open().must("refusal", requestHeaders(true, m...)).GetImmediateResponse(); im.GetStatus().GetCode() < 400 {
			t.Errorf("%s: %v", name, im)
		}
	}
	im := f.open().must("refusal", within("data.example:443", f.token(), true, ":method", "GET", ":path", ShowPath, ":authority", "data.example")).GetImmediateResponse()
	if im.GetStatus().GetCode() < 400 {
		t.Errorf("at another host: %v", im)
	}
}
