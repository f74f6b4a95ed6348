package gate

import (
	"fmt"
	"strings"
	"testing"

	"sallyport/signer/code"
	"sallyport/signer/jcs"
	"sallyport/signer/privacy"
	"sallyport/signer/token"
)

// withRules is the fixture's contract with redaction rules.
func withRules(rules string) string {
	return strings.Replace(contractDoc, `"egress":`, `"redaction":{"rules":[`+rules+`]},"egress":`, 1)
}

func secretOf(t *testing.T) *privacy.Secret {
	t.Helper()
	s, err := privacy.ParseSecret([]byte(strings.Repeat("ab", privacy.SecretBytes)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What leaves is the redacted body, and the intent's hash and size are of what leaves.
func TestRedactedBodyLeaves(t *testing.T) {
	s := secretOf(t)
	f := newFixture(t, func(c *Config) { c.RedactionSecret = s })
	f.publish(withRules(`{"path":"$.messages[*].content","action":"mask"},{"path":"user","action":"hash"},{"path":"metadata","action":"remove"}`))
	for _, job := range []string{"job-7", ""} {
		k := f.open()
		tok := f.token(func(c *token.Claims) { c.MissionID = job })
		k.must("request headers", chat(tok))
		common := k.must("request body", requestBody(`{"model":"gpt-small", "messages":[{"role":"user","content":"a secret"}],"user":"jo","metadata":{"x":1},"seed":12345678901234.50}`)).GetRequestBody().GetResponse()
		if job == "" {
			job = token.Hash(tok)
		}
		text, err := s.For(job).Text([]byte(`"jo"`))
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf(`{"model":"gpt-small", "messages":[{"role":"user","content":"[REDACTED]"}],"user":%q,"seed":12345678901234.50}`, text)
		if got := string(common.GetBodyMutation().GetBody()); got != want {
			t.Errorf("leaves as %s, want %s", got, want)
		}
		if common.GetHeaderMutation() == nil || !common.GetClearRouteCache() {
			t.Error("the rest of the answer is lost")
		}
		i := f.recorder.intents[len(f.recorder.intents)-1]
		if i.RequestHash != jcs.Hash([]byte(want)) || i.RequestBytes != int64(len(want)) {
			t.Errorf("the intent is of another body: %d bytes, %s", i.RequestBytes, i.RequestHash)
		}
	}
}

func TestUntouchedBodyIsNotSentBack(t *testing.T) {
	f := newFixture(t)
	f.publish(withRules(`{"path":"user","action":"mask"}`))
	k := f.open()
	k.must("request headers", chat(f.token()))
	if m := k.must("request body", requestBody(goodBody)).GetRequestBody().GetResponse().GetBodyMutation(); m != nil {
		t.Errorf("the body is replaced: %v", m)
	}
}

// The decision is on what leaves: a rule cannot make another model of the one that was allowed.
func TestDecidedOnWhatLeaves(t *testing.T) {
	f := newFixture(t)
	f.publish(withRules(`{"path":"model","action":"mask"}`))
	k := f.open()
	k.must("request headers", chat(f.token()))
	k.mustRefuse(code.PolicyModelNotAllowed, requestBody(goodBody))
}

func TestWhatCannotBeRedactedIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		rule, body string
		want       code.Code
	}{
		"not JSON":             {`{"path":"user","action":"mask"}`, "--x\r\ncontent-disposition: form-data", code.RedactionImpossible},
		"a list":               {`{"path":"user","action":"mask"}`, `[{"user":"jo"}]`, code.RedactionImpossible},
		"a key twice":          {`{"path":"user","action":"mask"}`, `{"model":"gpt-small","user":"jo","user":"jo"}`, code.RedactionImpossible},
		"hashed without a key": {`{"path":"user","action":"hash"}`, goodBody, code.RedactionKeyMissing},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.publish(withRules(tt.rule))
			k := f.open()
			k.must("request headers", chat(f.token()))
			k.mustRefuse(tt.want, requestBody(tt.body))
			if f.recorder.left() != 0 {
				t.Error("an intent was recorded")
			}
		})
	}
}

// A body may grow by its rules, but not beyond what the gate carries.
func TestGrownTooLarge(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.MaxBodyBytes = 200 })
	f.publish(withRules(`{"path":"stop[*]","action":"mask"}`))
	k := f.open()
	k.must("request headers", chat(f.token()))
	k.mustRefuse(code.PayloadTooLarge, requestBody(`{"model":"gpt-small","messages":[],"stop":[1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9]}`))
}
