package e2e

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"sallyport/signer/jcs"
	"sallyport/signer/receipt"
	"sallyport/tests/harness"
)

// plugin is a call as the ecosystem's OpenClaw plugin makes it: its own path, the provider's JSON, and headers that bind the
// call to the run that the client records.
func plugin(token string, stream bool) (c harness.Call, run, event, nonce string) {
	run, event, nonce = "run_"+uuid.NewString(), jcs.Hash([]byte(uuid.NewString())), "nonce_"+uuid.NewString()
	return harness.Call{
		Path: "/v1/proxy/openai", Body: harness.UniqueBody("gpt-4o-mini", stream),
		Header: http.Header{"X-Cst": {token}, "X-Run-Id": {run}, "X-Event-Hash": {event}, "X-Idempotency-Key": {nonce}, "X-Openai-Api": {"chat_completions"}},
	}, run, event, nonce
}

// check holds a delivered receipt against the call.
func check(t *testing.T, s *harness.System, envelope []byte, run, event, nonce string) {
	t.Helper()
	r, err := receipt.Verify(envelope, []string{s.GatewaySignerDID})
	if err != nil || r.Binding.RunID != run || r.Binding.EventHash != event || r.Binding.Nonce != nonce || r.TokensInput != 7 {
		t.Errorf("receipt %+v (%v)\nof %s", r, err, envelope)
	}
}

func TestReceiptsReachClientsOfTheEcosystem(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{})
	token := s.Issue(nil)

	t.Run("in JSON", func(t *testing.T) {
		for range 20 { // Envoy cuts bodies where it likes
			c, run, event, nonce := plugin(token, false)
			a := s.Do(c)
			var body struct {
				Choices  []json.RawMessage
				Envelope json.RawMessage                     `json:"_receipt_envelope"`
				Receipt  struct{ Version, Signature string } `json:"_receipt"`
			}
			if err := json.Unmarshal(a.Body, &body); err != nil || a.Status != http.StatusOK || len(body.Choices) != 1 || body.Receipt.Version != "1.0" {
				t.Fatalf("%d %s (%v, %v)", a.Status, a.Body, err, a.Err)
			}
			check(t, s, body.Envelope, run, event, nonce)
		}
	})
	t.Run("in a stream", func(t *testing.T) {
		c, run, event, nonce := plugin(token, true)
		a := s.Do(c)
		_, rest, ok := strings.Cut(string(a.Body), "data: [DONE]\n\n:clawproxy_receipt_envelope_b64u=")
		env, _, _ := strings.Cut(rest, "\n")
		raw, err := base64.RawURLEncoding.DecodeString(env)
		if !ok || err != nil || !strings.HasSuffix(string(a.Body), "\n\n") {
			t.Fatalf("%s (%v)", a.Body, err)
		}
		check(t, s, raw, run, event, nonce)
		// The comments are ours: what is hashed is what the upstream sent.
		sent, _, _ := strings.Cut(string(a.Body), ":clawproxy")
		r, err := receipt.Verify(raw, []string{s.GatewaySignerDID})
		if err != nil || r.ResponseHash != jcs.Hash([]byte(sent)) {
			t.Error("the receipt's hash is not that of the upstream's bytes")
		}
	})
	t.Run("of an upstream's error", func(t *testing.T) {
		s.Upstream.Handle = func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Fail") == "" {
				s.Upstream.Chat(w, r)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":{"message":"no"}}`)
		}
		c, run, event, nonce := plugin(token, false)
		c.Header.Set("X-Fail", "1")
		a := s.Do(c)
		var body struct {
			Error    struct{ Message string }
			Envelope json.RawMessage `json:"_receipt_envelope"`
		}
		if err := json.Unmarshal(a.Body, &body); err != nil || a.Status != http.StatusBadRequest || body.Error.Message != "no" {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		r, err := receipt.Verify(body.Envelope, []string{s.GatewaySignerDID})
		if err != nil || r.Binding.RunID != run || r.Binding.EventHash != event || r.Binding.Nonce != nonce || r.Metadata.Sallyport.Status != http.StatusBadRequest {
			t.Errorf("%+v, %v", r, err)
		}
	})
	t.Run("not to others", func(t *testing.T) {
		a := s.Do(harness.Call{Token: token, Path: "/v1/chat/completions"})
		if a.Status != http.StatusOK || strings.Contains(string(a.Body), "receipt") || a.Receipt() == "" {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	})
}
