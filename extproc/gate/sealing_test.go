package gate

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"sallyport/signer/code"
	"sallyport/signer/privacy/seal"
	"sallyport/signer/record"
)

func withPrivacy(mode string) string {
	return strings.Replace(contractDoc, `"egress":`, `"receipt_privacy_mode":"`+mode+`","egress":`, 1)
}

func auditor(t *testing.T) (*seal.PrivateKey, func(*Config)) {
	t.Helper()
	k, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k, func(c *Config) { c.AuditorKeys = []*seal.PublicKey{k.Public()} }
}

// opened is a body as the auditor reads it.
func opened(f *fixture, k *seal.PrivateKey, b seal.Body) (string, error) {
	f.recorder.mu.Lock()
	defer f.recorder.mu.Unlock()
	o := seal.NewOpener(b, k)
	var out []byte
	for _, c := range f.recorder.sealed {
		text, err := o.Open(c)
		if err != nil {
			return "", err
		}
		out = append(out, text...)
	}
	return string(out), o.End()
}

// Both bodies are sealed, the request before its intent and the answer before its receipt.
func TestBodiesAreSealed(t *testing.T) {
	key, with := auditor(t)
	f := newFixture(t, with)
	f.publish(withPrivacy("encrypted"))
	k := f.allowed()
	k.must("response headers", ok())
	part := strings.Repeat("answer ", 20000)
	k.must("response body", responseBody(part, false))
	k.must("response body", responseBody(part, true))
	f.recorder.completion(t)
	i := f.recorder.intents[0]
	if i.PrivacyMode != record.PrivacyEncrypted || i.SealedTo != key.Public().ID() {
		t.Errorf("the intent says %q to %q", i.PrivacyMode, i.SealedTo)
	}
	b := seal.Body{Receipt: i.ID, Direction: seal.Request, RequestHash: i.RequestHash}
	if got, err := opened(f, key, b); err != nil || got != goodBody {
		t.Errorf("request %q, %v", got, err)
	}
	b.Direction = seal.Response
	if got, err := opened(f, key, b); err != nil || got != part+part {
		t.Errorf("answer of %d bytes, %v", len(got), err)
	}
	order := slices.DeleteFunc(f.journal.all(), func(e string) bool { return strings.HasPrefix(e, "answer") })
	want := []string{"sealed request", "intent", "sealed response", "sealed response", "sealed response", "sealed response", "sealed response", "complete"}
	if !slices.Equal(order, want) {
		t.Errorf("in this order: %v", order)
	}
}

func TestPrivacyModes(t *testing.T) {
	_, with := auditor(t)
	for _, tt := range []struct {
		contract, header, confidential string
		sealed                         bool
	}{
		{"", "", "", false},
		{"", "encrypted", "", true},
		{"", "hash_only", "", false},
		{"", "encrypted", "true", false},
		{"hash_only", "encrypted", "", false},
		{"encrypted", "", "", true},
		{"encrypted", "hash_only", "true", true}, // a client cannot take from the auditor what the contract gives
	} {
		f := newFixture(t, with)
		if tt.contract != "" {
			f.publish(withPrivacy(tt.contract))
		}
		var headers []string
		if tt.header != "" {
			headers = append(headers, privacyModeHeader, tt.header)
		}
		if tt.confidential != "" {
			headers = append(headers, confidentialHeader, tt.confidential)
		}
		f.allowed(headers...)
		if got := len(f.recorder.sealed) > 0; got != tt.sealed || (f.recorder.intents[0].PrivacyMode != "") != tt.sealed {
			t.Errorf("%+v: sealed is %v", tt, got)
		}
	}
}

func TestNothingLeavesUnsealed(t *testing.T) {
	f := newFixture(t)
	f.publish(withPrivacy("encrypted"))
	k := f.open()
	k.must("request headers", chat(f.token()))
	k.mustRefuse(code.AuditorKeyMissing, requestBody(goodBody))

	_, with := auditor(t)
	f = newFixture(t, with)
	k = f.open()
	k.must("request headers", chat(f.token(), privacyModeHeader, "none"))
	k.mustRefuse(code.InvalidRequest, requestBody(goodBody))

	f = newFixture(t, with)
	f.publish(withPrivacy("encrypted"))
	f.recorder.onSeal = func(*seal.Chunk) error { return errors.New("disk full") }
	k = f.open()
	k.must("request headers", chat(f.token()))
	k.mustRefuse(code.EvidenceDown, requestBody(goodBody))
	if f.recorder.left() != 0 {
		t.Error("an intent was recorded")
	}
}

// An answer that cannot be sealed is withheld and the call recorded as cut, wherever in it that happens.
func TestUnsealedAnswerIsWithheld(t *testing.T) {
	_, with := auditor(t)
	for name, parts := range map[string][]int{"within": {3 * seal.ChunkBytes}, "at its end": {10}} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, with)
			f.publish(withPrivacy("encrypted"))
			k := f.allowed()
			k.must("response headers", ok())
			f.recorder.onSeal = func(*seal.Chunk) error { return errors.New("disk full") }
			_ = k.mustEnd(responseBody(string(bytes.Repeat([]byte("x"), parts[0])), true))
			if c := f.recorder.completion(t); c.Outcome != record.Cut {
				t.Errorf("recorded as %s", c.Outcome)
			}
		})
	}
}

// Of a call that is cut the log has what came, with its end marked.
func TestCutAnswerIsSealedAsFarAsItCame(t *testing.T) {
	key, with := auditor(t)
	f := newFixture(t, with)
	f.publish(withPrivacy("encrypted"))
	k := f.allowed()
	k.must("response headers", ok())
	k.must("response body", responseBody("half", false))
	_ = k.hangUp()
	f.recorder.completion(t)
	i := f.recorder.intents[0]
	if got, err := opened(f, key, seal.Body{Receipt: i.ID, Direction: seal.Response, RequestHash: i.RequestHash}); err != nil || got != "half" {
		t.Errorf("%q, %v", got, err)
	}
}
