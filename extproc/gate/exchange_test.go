package gate

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"sallyport/extproc/replay"
	"sallyport/signer/code"
	"sallyport/signer/jcs"
	"sallyport/signer/record"
	"sallyport/signer/token"
	"sallyport/signer/trust"
)

func headersSet(m *extprocv3.HeaderMutation) map[string]string {
	out := map[string]string{}
	for _, h := range m.GetSetHeaders() {
		out[h.GetHeader().GetKey()] = string(h.GetHeader().GetRawValue())
		if h.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			out[h.GetHeader().GetKey()] += " (appended)"
		}
	}
	return out
}

// The record comes before the call leaves, and before the last byte is released.
func TestAllowedCall(t *testing.T) {
	f := newFixture(t)
	k := f.open()
	tok := f.token()
	first := k.must("request headers", chat(tok, "x-run-id", "run-1", "x-api-key", tok, "cookie", "t="+tok))
	if first.GetDynamicMetadata() != nil || f.recorder.left() != 0 {
		t.Fatal("allowed before the body was seen")
	}
	r := k.must("request body", requestBody(goodBody))
	verdict := r.GetDynamicMetadata().GetFields()[metadataNamespace].GetStructValue().GetFields()
	if verdict[verdictKey].GetStringValue() != verdictAllow {
		t.Errorf("the guard is not told: %v", r.GetDynamicMetadata())
	}
	common := r.GetRequestBody().GetResponse()
	set := headersSet(common.GetHeaderMutation())
	for name, want := range map[string]string{
		":authority": "api.example", ":path": "/v1/chat/completions?trace=1", "authorization": "Bearer " + realKey,
		scopeHeader: f.contract.PayloadHashB64u, "accept-encoding": "identity",
	} {
		if set[name] != want {
			t.Errorf("%s leaves as %q, want %q", name, set[name], want)
		}
	}
	gone := common.GetHeaderMutation().GetRemoveHeaders()
	for _, h := range []string{"x-api-key", "cookie", "x-run-id"} {
		if !slices.Contains(gone, h) {
			t.Errorf("%s leaves: %q", h, gone)
		}
	}
	if slices.Contains(gone, "authorization") || !common.GetClearRouteCache() {
		t.Errorf("the swapped credential is removed again, or the route is the old one: %q", gone)
	}

	ans := k.must("response headers", ok())
	id := headersSet(ans.GetResponseHeaders().GetResponse().GetHeaderMutation())[receiptHeader]
	k.must("response body", responseBody(`{"id":"x","usage":{"prompt_tokens":7,`, false))
	k.must("response body", responseBody(`"completion_tokens":5}}`, true))
	if err := k.end(); err != nil {
		t.Errorf("the stream ends with %v", err)
	}

	want := []string{"answer request headers", "intent", "answer request body", "answer response headers", "answer response body", "complete", "answer response body"}
	if got := f.journal.all(); !slices.Equal(got, want) {
		t.Errorf("order:\n got %q\nwant %q", got, want)
	}
	i, c := f.recorder.intents[0], f.recorder.completion(t)
	if i.ID != id || !strings.HasPrefix(id, "rcpt_") || verdict[receiptKey].GetStringValue() != id {
		t.Errorf("receipt %q is told as %q", i.ID, id)
	}
	if i.RunID != "run-1" || i.Model != "gpt-small" || i.Resource != "openai/gpt-small" || i.Host != "api.example" || i.Path != "/v1/chat/completions" ||
		i.SecretClass != "openai_key" || i.Peer != "192.0.2.7" || i.TokenHash != token.Hash(tok) || i.PolicyHash != f.contract.PayloadHashB64u ||
		i.RequestHash != jcs.Hash([]byte(goodBody)) || i.RequestBytes != int64(len(goodBody)) || i.TrustVersion != 1 {
		t.Errorf("intent %+v", i)
	}
	answer := `{"id":"x","usage":{"prompt_tokens":7,"completion_tokens":5}}`
	if c.Outcome != record.Completed || c.Status != 200 || c.ResponseHash != jcs.Hash([]byte(answer)) || c.ResponseBytes != int64(len(answer)) ||
		c.TokensInput != 7 || c.TokensOutput != 5 || !c.UsageReported {
		t.Errorf("completion %+v", c)
	}
	if f.metric("sallyport_decisions_total", "allow") != 1 || f.metric("sallyport_calls_settled_total", "openai", "completed") != 1 || f.metric("sallyport_calls_cut_total") != 0 {
		t.Error("the metrics say something else")
	}
}

// Every way in which an answer can end settles exactly once, before that end is released.
func TestAnswerEnds(t *testing.T) {
	for name, finish := range map[string]func(k *talk){
		"with its headers": func(k *talk) {
			k.must("response headers", responseHeaders(true, viaUpstream, ":status", "204"))
		},
		"with its trailers": func(k *talk) {
			k.must("response headers", ok())
			k.must("response body", responseBody("{}", false))
			k.must("response trailers", responseTrailers())
		},
		"with an empty chunk": func(k *talk) {
			k.must("response headers", ok())
			k.must("response body", responseBody("{}", false))
			k.must("response body", responseBody("", true))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			k := f.allowed()
			finish(k)
			events := f.journal.all()
			if n := len(events); events[n-2] != "complete" || !strings.HasPrefix(events[n-1], "answer response") {
				t.Errorf("order %q", events)
			}
			if err := k.end(); err != nil {
				t.Error(err)
			}
			if c := f.recorder.completion(t); c.Outcome != record.Completed {
				t.Errorf("outcome %s", c.Outcome)
			}
		})
	}
}

// Without a body the headers alone decide, and the verdict and the receipt are the same.
func TestDecidedByHeadersAlone(t *testing.T) {
	f := newFixture(t, func(c *Config) {
		c.Upstreams = append(c.Upstreams, up(t, "lists", "lists", "openai", "https://lists.example"))
	})
	list := func(door string) *extprocv3.ProcessingRequest {
		return requestHeaders(true, ":method", "GET", ":path", "/"+door+"/v1/models", "x-cst", f.token())
	}
	f.open().mustRefuse(code.PolicyModelRequired, list("openai")) // there the contract names models, and a list has none
	if f.recorder.left() != 0 {
		t.Fatal("an intent is recorded")
	}
	f.publish(`{"policy_version":"2","policy_id":"lists","issuer_did":"did:web:policy.example.com",
 "statements":[{"sid":"All","effect":"Allow","actions":["model:invoke"],"resources":["**"]}]}`)
	k := f.open()
	r := k.must("request headers", list("lists"))
	if r.GetDynamicMetadata() == nil || f.recorder.left() != 1 {
		t.Errorf("no verdict for the guard, or no intent: %v", r)
	}
	if set := headersSet(r.GetRequestHeaders().GetResponse().GetHeaderMutation()); set[":authority"] != "lists.example" || set["authorization"] != "" {
		t.Errorf("leaves with %q", set)
	}
	k.must("response headers", responseHeaders(true, "", ":status", "200")) // an Envoy that gives no details
	if c := f.recorder.completion(t); c.Outcome != record.Completed || c.ResponseHash != jcs.Hash(nil) {
		t.Errorf("completion %+v", c)
	}
}

// What is refused leaves no intent, says so to the recorder and to the client under one id, and counts once.
func TestRefusals(t *testing.T) {
	path := "/openai/v1/chat/completions"
	withToken := func(change ...func(*token.Claims)) func(*fixture) []string {
		return func(f *fixture) []string { return []string{":path", path, "x-cst", f.token(change...)} }
	}
	plus := func(more ...string) func(*fixture) []string {
		return func(f *fixture) []string { return append([]string{":path", path, "x-cst", f.token()}, more...) }
	}
	for name, tc := range map[string]struct {
		headers func(f *fixture) []string
		body    string
		want    code.Code
	}{
		"no token":                {func(*fixture) []string { return []string{":path", path} }, "", code.TokenRequired},
		"a token of nobody":       {func(*fixture) []string { return []string{":path", path, "x-cst", shaped("a")} }, "", code.TokenUnknownKID},
		"a path with a trick":     {func(f *fixture) []string { return []string{":path", "/openai/../openai", "x-cst", f.token()} }, "", code.PathNotCanonical},
		"a reserved header":       {plus(scopeHeader, "x"), "", code.HeaderReserved},
		"no such door":            {func(f *fixture) []string { return []string{":path", "/nowhere", "x-cst", f.token()} }, "", code.UnknownProvider},
		"no such door, no token":  {func(*fixture) []string { return []string{":path", "/nowhere"} }, "", code.TokenRequired},
		"another audience":        {withToken(func(c *token.Claims) { c.Aud = token.Audience{"other.example"} }), "", code.TokenBadAudience},
		"expired":                 {withToken(func(c *token.Claims) { c.Iat, c.Exp = start.Unix()-200, start.Unix()-100 }), "", code.TokenExpired},
		"bound to a certificate":  {withToken(func(c *token.Claims) { c.Cnf = &token.Confirmation{X5tS256: jcs.Hash(nil)} }), "", code.JobBindingMismatch},
		"no pin":                  {withToken(func(c *token.Claims) { c.PolicyHash = "" }), "", code.PolicyRequired},
		"no such contract":        {withToken(func(c *token.Claims) { c.PolicyHash = jcs.Hash([]byte("none")) }), "", code.WPCNotFound},
		"another client":          {plus(clientDIDHeader, "did:web:other.example"), "", code.TokenSubMismatch},
		"another pin":             {plus(policyHashHeader, jcs.Hash(nil)), "", code.PolicyHashMismatch},
		"bad run id":              {plus(runIDHeader, "a b"), "", code.InvalidRequest},
		"bad idempotency key":     {plus(idempotencyHeader, strings.Repeat("a", 129)), "", code.InvalidRequest},
		"an upgrade":              {plus("upgrade", "websocket"), "", code.UpgradeNotSupported},
		"compressed":              {plus("content-encoding", "gzip"), "", code.PayloadEncoded},
		"another model":           {plus(), `{"model":"gpt-large"}`, code.PolicyModelNotAllowed},
		"no JSON":                 {plus(), `{"model":"gpt-small"`, code.InvalidRequest},
		"two models":              {plus(), `{"model":"gpt-large","model":"gpt-small"}`, code.InvalidRequest},
		"empty body":              {plus(), ` `, code.PayloadEmpty},
		"too large":               {plus(), `{"model":"gpt-small","x":"` + strings.Repeat("x", 2000) + `"}`, code.PayloadTooLarge},
		"scope of something else": {withToken(func(c *token.Claims) { c.Scope = []string{"billing:read"} }), goodBody, code.TokenInsufficientScope},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, func(c *Config) { c.MaxBodyBytes = 1000 })
			k := f.open()
			m := requestHeaders(false, append([]string{":method", "POST"}, tc.headers(f)...)...)
			if tc.body != "" {
				k.must("request headers", m)
				m = requestBody(tc.body)
			}
			im := k.mustRefuse(tc.want, m)
			if err := k.end(); err != nil {
				t.Errorf("the stream ends with %v", err)
			}
			if f.recorder.left() != 0 || len(f.recorder.refusals) != 1 {
				t.Fatalf("%d intents, %d refusals", f.recorder.left(), len(f.recorder.refusals))
			}
			r := f.recorder.refusals[0]
			if id := headersSet(im.GetHeaders())[decisionHeader]; r.ID != id || !strings.HasPrefix(id, "dec_") || r.Code != string(tc.want) || r.Peer != "192.0.2.7:4711" {
				t.Errorf("recorded as %+v, told as %q", r, id)
			}
			if !strings.HasPrefix(im.GetDetails(), "sallyport_") {
				t.Errorf("details %q would be taken for Envoy's own", im.GetDetails())
			}
			if f.metric("sallyport_decisions_total", "deny", string(tc.want)) != 1 || f.metric("sallyport_decisions_total") != 1 {
				t.Error("not counted once")
			}
		})
	}
}

func TestBodyWithTrailersIsRefused(t *testing.T) {
	f := newFixture(t)
	k := f.open()
	k.must("request headers", chat(f.token()))
	m := requestBody(goodBody)
	m.GetRequestBody().EndOfStream = false
	k.mustRefuse(code.InvalidRequest, m)
}

// A single-use token passes once, and so does an idempotency key; a refused call gives the key back.
func TestUsedUp(t *testing.T) {
	f := newFixture(t)
	once := f.token(func(c *token.Claims) { c.Nonce, c.MissionID = "n-1", "job-1" })
	ask := func(tok string, more ...string) *talk {
		k := f.open()
		k.must("request headers", chat(tok, more...))
		return k
	}
	ask(once).must("request body", requestBody(goodBody))
	ask(once).mustRefuse(code.TokenReplayed, requestBody(goodBody))

	idem := []string{idempotencyHeader, "key-1"}
	fail := errors.New("the signer is away")
	f.recorder.onIntent = func() error { return fail }
	ask(f.token(), idem...).mustRefuse(code.EvidenceDown, requestBody(goodBody))
	f.recorder.onIntent = nil
	k := ask(f.token(), idem...)
	k.must("request body", requestBody(goodBody))
	ask(f.token(), idem...).mustRefuse(code.IdempotencyInUse, requestBody(goodBody))
	k.must("response headers", responseHeaders(true, viaUpstream, ":status", "200"))
	ask(f.token(), idem...).mustRefuse(code.IdempotencyNoReplay, requestBody(goodBody))
	ask(f.token(), idem...).mustRefuse(code.IdempotencyMismatch, requestBody(`{"model":"gpt-small","n":2}`))
	if f.recorder.left() != 2 {
		t.Errorf("%d calls left, want 2", f.recorder.left())
	}
}

// A job belongs to the first who used it.
func TestBinding(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Binding = []string{BindRunID, BindPeerAddress} })
	tok := f.token(func(c *token.Claims) { c.MissionID = "job-1" })
	for _, tc := range []struct {
		run, peer string
		want      code.Code
	}{
		{"run-1", "192.0.2.7:1", ""},
		{"run-1", "192.0.2.7:2", ""},
		{"run-2", "192.0.2.7:1", code.JobBindingMismatch},
		{"run-1", "192.0.2.8:1", code.JobBindingMismatch},
	} {
		k := f.open()
		m := chat(tok, runIDHeader, tc.run)
		m.Attributes = attributes("source.address", tc.peer)
		k.must("request headers", m)
		if tc.want == "" {
			k.must("request body", requestBody(goodBody))
		} else {
			left := f.recorder.left()
			k.mustRefuse(tc.want, requestBody(goodBody))
			if f.recorder.left() != left {
				t.Error("an intent was recorded for a job that is somebody else's")
			}
		}
	}
}

// A claim and an intent are under way at the same time once the job's binding is known. If the claim fails then, the call
// is refused, and its intent is settled as cut.
func TestClaimFailsBesideItsIntent(t *testing.T) {
	var store *replay.Memory
	f := newFixture(t, func(c *Config) {
		c.Binding = []string{BindRunID}
		store = replay.NewMemory(c.Now)
		c.Replay = store
	})
	tok := f.token(func(c *token.Claims) { c.MissionID = "job-1" })
	call := func() *talk {
		k := f.open()
		k.must("request headers", chat(tok, runIDHeader, "run-1"))
		return k
	}
	call().must("request body", requestBody(goodBody))
	_ = store.Close()
	call().mustRefuse(code.ReplayStoreDown, requestBody(goodBody))
	if c := f.recorder.completion(t); c.Outcome != record.Cut || c.ID != f.recorder.intents[1].ID || !strings.Contains(c.Reason, string(code.ReplayStoreDown)) {
		t.Errorf("completion %+v", c)
	}
	if f.metric("sallyport_decisions_total", "allow") != 1 {
		t.Error("counted as allowed")
	}
}

func TestReplayStoreAway(t *testing.T) {
	f := newFixture(t, func(c *Config) {
		store := replay.NewMemory(c.Now)
		_ = store.Close()
		c.Replay = store
	})
	k := f.open()
	k.must("request headers", chat(f.token(func(c *token.Claims) { c.Nonce = "n-1" })))
	k.mustRefuse(code.ReplayStoreDown, requestBody(goodBody))
	if f.recorder.left() != 0 || f.gate.Ready(context.Background()) == nil {
		t.Error("recorded, or ready without a store")
	}
}

func TestStaleTrust(t *testing.T) {
	f := newFixture(t)
	f.clock.forward(DefaultStaleness)
	f.open().must("request headers", chat(f.token()))
	if err := f.gate.Ready(context.Background()); err != nil {
		t.Errorf("not ready at the limit: %v", err)
	}
	f.clock.forward(time.Nanosecond)
	f.open().mustRefuse(code.TrustStateStale, chat(f.token()))
	if f.gate.Ready(context.Background()) == nil {
		t.Error("ready on an old word")
	}
	f.setTrust(trust.State{})
	f.open().must("request headers", chat(f.token()))
	f.recorder.trust.Store(nil)
	f.open().mustRefuse(code.TrustStateStale, chat(f.token()))
}
