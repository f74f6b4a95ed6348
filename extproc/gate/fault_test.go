package gate

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport/signer/code"
	"sallyport/signer/jcs"
	"sallyport/signer/record"
	"sallyport/signer/token"
	"sallyport/signer/trust"
)

var errAway = errors.New("the signer is away")

func TestIntentFails(t *testing.T) {
	f := newFixture(t)
	f.recorder.onIntent = func() error { return errAway }
	k := f.open()
	k.must("request headers", chat(f.token()))
	im := k.mustRefuse(code.EvidenceDown, requestBody(goodBody))
	if strings.Contains(string(im.GetBody()), errAway.Error()) {
		t.Error("the client is told what is wrong inside")
	}
	if err := k.end(); err != nil {
		t.Error(err)
	}
	if f.metric("sallyport_decisions_total", "allow") != 0 || f.metric("sallyport_calls_cut_total") != 0 {
		t.Error("counted as allowed or as cut")
	}
}

// The answer's end is not released unless its receipt is recorded: the stream must fail, since Envoy takes a clean
// close as "go on".
func TestCompleteFails(t *testing.T) {
	for name, last := range map[string]func(k *talk) *extprocv3.ProcessingRequest{
		"last chunk": func(k *talk) *extprocv3.ProcessingRequest {
			k.must("response headers", ok())
			return responseBody("{}", true)
		},
		"trailers": func(k *talk) *extprocv3.ProcessingRequest {
			k.must("response headers", ok())
			return responseTrailers()
		},
		"headers alone": func(*talk) *extprocv3.ProcessingRequest {
			return responseHeaders(true, viaUpstream, ":status", "204")
		},
		"an answer of Envoy's own": func(*talk) *extprocv3.ProcessingRequest {
			return responseHeaders(false, "upstream_reset", ":status", "503")
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			tries := make(chan struct{}, 8)
			f.recorder.onComplete = func() error { tries <- struct{}{}; return errAway }
			k := f.allowed()
			err := k.mustEnd(last(k))
			if status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), string(code.EvidenceDown)) {
				t.Errorf("ends with %v", err)
			}
			// Once for the answer and once more, in the background, as cut.
			for range 2 {
				select {
				case <-tries:
				case <-time.After(patience):
					t.Fatal("not tried")
				}
			}
			if f.metric("sallyport_calls_cut_total") != 1 || f.metric("sallyport_calls_settled_total") != 0 {
				t.Error("not counted as cut, or as settled")
			}
		})
	}
}

// Whoever ends an open answer, it is recorded as cut, with what had passed until then.
func TestCut(t *testing.T) {
	const chunk = `{"half":`
	midway := func(k *talk) {
		k.must("response headers", ok())
		k.must("response body", responseBody(chunk, false))
	}
	for name, tc := range map[string]struct {
		until func(k *talk)
		end   func(k *talk) error
		clean bool
		hash  string
	}{
		"client gone midway":           {midway, (*talk).hangUp, false, jcs.Hash([]byte(chunk))},
		"stream closed midway":         {midway, (*talk).end, true, jcs.Hash([]byte(chunk))},
		"client gone before an answer": {func(*talk) {}, (*talk).hangUp, false, jcs.Hash(nil)},
		"answer cannot be sent": {func(*talk) {}, func(k *talk) error {
			k.broken.Store(true)
			return k.mustEnd(ok())
		}, false, jcs.Hash(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			k := f.allowed(idempotencyHeader, "key-1")
			tc.until(k)
			if err := tc.end(k); (err == nil) != tc.clean {
				t.Errorf("ends with %v", err)
			}
			c := f.recorder.completion(t)
			if c.Outcome != record.Cut || c.Reason == "" || c.ResponseHash != tc.hash {
				t.Errorf("completion %+v", c)
			}
			if f.metric("sallyport_calls_cut_total") != 1 {
				t.Error("not counted")
			}
		})
	}
}

// A client that goes away at the very end does not take the receipt with it.
func TestClientGoneAtTheReceipt(t *testing.T) {
	f := newFixture(t)
	k := f.allowed()
	k.must("response headers", ok())
	f.recorder.onComplete = func() error { k.hangUpMeanwhile(); return nil }
	_ = k.mustEnd(responseBody("{}", true))
	if c := f.recorder.completion(t); c.Outcome != record.Completed || len(f.recorder.done) != 0 {
		t.Errorf("completion %+v", c)
	}
}

// The verdict may be lost on its way: the intent is recorded, so the call must be settled.
func TestVerdictCannotBeSent(t *testing.T) {
	f := newFixture(t)
	k := f.open()
	k.must("request headers", chat(f.token()))
	k.broken.Store(true)
	_ = k.mustEnd(requestBody(goodBody))
	if c := f.recorder.completion(t); c.Outcome != record.Cut || c.ID != f.recorder.intents[0].ID {
		t.Errorf("completion %+v", c)
	}
}

func TestRevokedWhileStreaming(t *testing.T) {
	tok := ""
	for name, withdraw := range map[string]func(f *fixture) trust.State{
		"the token": func(*fixture) trust.State { return trust.State{RevokedTokens: []string{token.Hash(tok)}} },
		"the job":   func(*fixture) trust.State { return trust.State{RevokedMissions: []string{"job-1"}} },
		"the contract": func(f *fixture) trust.State {
			return trust.State{RevokedPolicies: []string{f.contract.PayloadHashB64u}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			tok = f.token(func(c *token.Claims) { c.MissionID = "job-1" })
			k := f.open()
			k.must("request headers", chat(tok))
			k.must("request body", requestBody(goodBody))
			k.must("response headers", ok())
			k.must("response body", responseBody("one", false))
			f.setTrust(trust.State{RevokedTokens: []string{token.Hash("another")}}) // a newer word that is not about this call
			k.must("response body", responseBody("two", false))
			f.setTrust(withdraw(f))
			if err := k.mustEnd(responseBody("three", true)); status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), string(code.TokenRevoked)) {
				t.Errorf("ends with %v", err)
			}
			if c := f.recorder.completion(t); c.Outcome != record.Cut || c.ResponseHash != jcs.Hash([]byte("onetwo")) {
				t.Errorf("completion %+v", c)
			}
			f.open().mustRefuse(code.TokenRevoked, chat(tok))
		})
	}
}

// A body may come long after its headers; what was withdrawn in between does not leave.
func TestRevokedBeforeTheBody(t *testing.T) {
	f := newFixture(t)
	tok := f.token()
	k := f.open()
	k.must("request headers", chat(tok))
	f.setTrust(trust.State{RevokedTokens: []string{token.Hash(tok)}})
	k.mustRefuse(code.TokenRevoked, requestBody(goodBody))
	if f.recorder.left() != 0 {
		t.Error("an intent is recorded")
	}
}

func TestMessagesOutOfTurn(t *testing.T) {
	nothing := func(*talk) {}
	headers := func(k *talk) { k.must("request headers", chat(k.f.token())) }
	allowed := func(k *talk) { headers(k); k.must("request body", requestBody(goodBody)) }
	answered := func(k *talk) { allowed(k); k.must("response headers", ok()) }
	settled := func(k *talk) { answered(k); k.must("response body", responseBody("{}", true)) }
	refused := func(k *talk) { k.mustRefuse(code.TokenRequired, requestHeaders(true, ":path", "/v1/models")) }
	trailers := &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: &extprocv3.HttpTrailers{}}}
	for name, tc := range map[string]struct {
		before  func(k *talk)
		message *extprocv3.ProcessingRequest
	}{
		"body first":                       {nothing, requestBody(goodBody)},
		"an upstream's answer first":       {nothing, ok()},
		"answer's headers without details": {nothing, responseHeaders(false, "", ":status", "200")},
		"answer's body first":              {nothing, responseBody("{}", true)},
		"answer's trailers first":          {nothing, responseTrailers()},
		"request trailers":                 {nothing, trailers},
		"nothing in it":                    {nothing, &extprocv3.ProcessingRequest{}},
		"headers twice":                    {headers, requestHeaders(true)},
		"an upstream's answer to no call":  {headers, ok()},
		"trailers in place of the body":    {headers, trailers},
		"body twice":                       {allowed, requestBody(goodBody)},
		"headers after the verdict":        {allowed, requestHeaders(true)},
		"answer's body before its headers": {allowed, responseBody("{}", true)},
		"answer's headers twice":           {answered, ok()},
		"body after the last":              {settled, responseBody("more", false)},
		"trailers after the last":          {settled, responseTrailers()},
		"an answer to a refused call":      {refused, ok()},
		"a second call on one stream":      {refused, requestHeaders(true)},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			k := f.open()
			tc.before(k)
			left, allows := f.recorder.left(), f.metric("sallyport_decisions_total", "allow")
			if err := k.mustEnd(tc.message); status.Code(err) != codes.Aborted {
				t.Errorf("ends with %v", err)
			}
			if f.recorder.left() != left || f.metric("sallyport_decisions_total", "allow") != allows {
				t.Error("something was allowed")
			}
		})
	}
}

// Envoy takes a clean close before a verdict as "go on unchanged".
func TestEndBeforeAVerdict(t *testing.T) {
	for name, before := range map[string]func(k *talk){
		"at once":       func(*talk) {},
		"after headers": func(k *talk) { k.must("request headers", chat(k.f.token())) },
	} {
		for how, end := range map[string]func(k *talk) error{
			"closed": (*talk).end,
			"gone":   (*talk).hangUp,
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				f := newFixture(t)
				k := f.open()
				before(k)
				if err := end(k); err == nil {
					t.Error("ends cleanly")
				}
				if f.metric("sallyport_calls_abandoned_total") != 1 || len(f.recorder.refusals) != 0 || f.recorder.left() != 0 {
					t.Error("not counted as abandoned, or recorded")
				}
			})
		}
	}
}

func TestPanics(t *testing.T) {
	boom := func() error { panic("a fault in the test's recorder") }
	t.Run("before the verdict", func(t *testing.T) {
		f := newFixture(t)
		f.recorder.onIntent = boom
		k := f.open()
		k.must("request headers", chat(f.token()))
		im := k.mustRefuse(code.GateInternal, requestBody(goodBody))
		if err := k.end(); err != nil {
			t.Errorf("a refusal was given, and yet the stream ends with %v", err)
		}
		if strings.Contains(string(im.GetBody()), "fault in the test") || f.metric("sallyport_panics_total") != 1 {
			t.Error("the client is told, or it is not counted")
		}
	})
	t.Run("in the refusal too", func(t *testing.T) {
		f := newFixture(t)
		f.recorder.onIntent = boom
		f.recorder.onRefuse = func() { _ = boom() }
		k := f.open()
		k.must("request headers", chat(f.token()))
		if err := k.mustEnd(requestBody(goodBody)); status.Code(err) != codes.Internal {
			t.Errorf("ends with %v", err)
		}
	})
	t.Run("while refusing", func(t *testing.T) {
		f := newFixture(t)
		f.recorder.onRefuse = func() { _ = boom() }
		if err := f.open().mustEnd(requestHeaders(true, ":path", "/v1/models")); status.Code(err) != codes.Internal {
			t.Errorf("ends with %v", err)
		}
	})
	t.Run("at the receipt", func(t *testing.T) {
		f := newFixture(t)
		both := sync.WaitGroup{}
		both.Add(2)
		f.recorder.onComplete = func() error { both.Done(); return boom() }
		k := f.allowed()
		k.must("response headers", ok())
		if err := k.mustEnd(responseBody("{}", true)); status.Code(err) != codes.Internal {
			t.Errorf("ends with %v", err)
		}
		both.Wait() // the second one, in the background, must not end the process
		f.recorder.onComplete = nil
		f.allowed()
	})
}

// Envoy's own answers before a verdict: recorded as the refusals that they are, and passed on.
func TestRefusedByEnvoy(t *testing.T) {
	for _, tc := range []struct {
		name, details, status string
		seen                  bool // the request's headers
		want                  code.Code
	}{
		{"body too large", "request_payload_too_large", "413", true, code.PayloadTooLarge},
		{"encoded slash", "path_normalization_failed", "400", false, code.PathNotCanonical},
		{"bad request", "http1.codec_error", "400", false, code.InvalidRequest},
		{"overloaded", "overload", "503", false, code.GateUnavailable},
		{"no status", "something", "", false, code.InvalidRequest},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			k := f.open()
			if tc.seen {
				k.must("request headers", chat(f.token()))
			}
			r := k.must("response headers", responseHeaders(false, tc.details, ":status", tc.status))
			if len(f.recorder.refusals) != 1 || f.recorder.refusals[0].Code != string(tc.want) || f.recorder.left() != 0 {
				t.Fatalf("recorded %+v, %d intents", f.recorder.refusals, f.recorder.left())
			}
			set := headersSet(r.GetResponseHeaders().GetResponse().GetHeaderMutation())
			if set[decisionHeader] != f.recorder.refusals[0].ID {
				t.Errorf("told as %q", set)
			}
			k.must("response body", responseBody("Envoy's own text", true))
			k.must("response trailers", responseTrailers())
			if err := k.end(); err != nil {
				t.Error(err)
			}
			if len(f.recorder.done) != 0 {
				t.Error("a completion without an intent")
			}
		})
	}
}

// Envoy's own answer to an allowed call: recorded as cut with Envoy's reason, and passed on.
func TestUpstreamUnreachable(t *testing.T) {
	f := newFixture(t)
	k := f.allowed()
	r := k.must("response headers", responseHeaders(false, "upstream_reset_before_response_started{connection_failure}", ":status", "503"))
	if r.GetModeOverride() == nil {
		t.Error("the body is still asked for")
	}
	c := f.recorder.completion(t)
	if c.Outcome != record.Cut || c.Status != 0 || !strings.Contains(c.Reason, "connection_failure") {
		t.Errorf("completion %+v", c)
	}
	k.must("response body", responseBody("no healthy upstream", true))
	if err := k.end(); err != nil {
		t.Error(err)
	}
	if f.metric("sallyport_calls_cut_total") != 1 || len(f.recorder.done) != 0 {
		t.Error("not settled once")
	}
}
