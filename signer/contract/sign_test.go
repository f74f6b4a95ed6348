package contract_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"sallyport/signer/code"
	"sallyport/signer/contract"
	"sallyport/signer/didkey"
	"sallyport/signer/envelope"
)

// testKey is a Signer whose seed is one repeated byte.
type testKey struct{ private ed25519.PrivateKey }

func newKey(b byte) testKey {
	return testKey{ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))}
}

func (k testKey) DID() string            { return didkey.Encode(k.private.Public().(ed25519.PublicKey)) }
func (k testKey) Sign(msg []byte) []byte { return ed25519.Sign(k.private, msg) }

func TestSignAndVerify(t *testing.T) {
	key := newKey(1)
	for _, name := range []string{"enterprise", "seed", "tools", "egress", "v1", "v2"} {
		c := example(t, name)
		env, err := contract.Sign(c.Payload, key, now)
		if err != nil {
			t.Fatal(err)
		}
		got, denial := contract.Verify(env, c.Hash, []string{newKey(2).DID(), key.DID()})
		if denial != nil || got.Hash != c.Hash || env.PayloadHashB64u != c.Hash || env.EnvelopeType != envelope.TypeContract {
			t.Errorf("%s: %v %+v", name, denial, env)
		}
	}
}

func TestSignRefusesWhatIsInvalid(t *testing.T) {
	raw, err := os.ReadFile(glob(t, "testdata/broken/*-egress-default-allow.json")[0])
	if err != nil {
		t.Fatal(err)
	}
	if env, err := contract.Sign(raw, newKey(1), now); env != nil || !errors.Is(err, contract.ErrInvalid) {
		t.Errorf("%v, %v", env, err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	key, other := newKey(1), newKey(2)
	c, narrow := example(t, "enterprise"), example(t, "seed")
	good := func() *envelope.Envelope {
		env, err := contract.Sign(c.Payload, key, now)
		if err != nil {
			t.Fatal(err)
		}
		return env
	}
	unchecked, err := envelope.Seal(envelope.TypeContract, json.RawMessage(`{"policy_version":"9"}`), key, now)
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := envelope.Seal(envelope.TypeGatewayReceipt, c.Payload, key, now)
	if err != nil {
		t.Fatal(err)
	}
	alter := func(f func(*envelope.Envelope)) *envelope.Envelope {
		env := good()
		f(env)
		return env
	}
	for _, x := range []struct {
		name    string
		env     *envelope.Envelope
		hash    string
		trusted []string
		want    code.Code
	}{
		{"nobody trusted", good(), c.Hash, nil, code.WPCSignerNotAllowed},
		{"another signer trusted", good(), c.Hash, []string{other.DID()}, code.WPCSignerNotAllowed},
		{"another contract asked for", good(), narrow.Hash, []string{key.DID()}, code.WPCHashMismatch},
		{"no hash asked for", good(), "", []string{key.DID()}, code.WPCHashMismatch},
		{"payload replaced", alter(func(e *envelope.Envelope) { e.Payload = narrow.Payload }), c.Hash, []string{key.DID()}, code.WPCHashMismatch},
		{"payload and hash replaced", alter(func(e *envelope.Envelope) { e.Payload, e.PayloadHashB64u = narrow.Payload, narrow.Hash }), narrow.Hash, []string{key.DID()}, code.WPCSignatureInvalid},
		{"signer replaced", alter(func(e *envelope.Envelope) { e.SignerDID = other.DID() }), c.Hash, []string{other.DID()}, code.WPCSignatureInvalid},
		{"an end that nobody signed", alter(func(e *envelope.Envelope) { e.ExpiresAt = "2027-01-01T00:00:00.000Z" }), c.Hash, []string{key.DID()}, code.WPCEnvelopeInvalid},
		{"another type", receipt, c.Hash, []string{key.DID()}, code.WPCEnvelopeInvalid},
		{"signed, but no contract", unchecked, unchecked.PayloadHashB64u, []string{key.DID()}, code.WPCEnvelopeInvalid},
		{"empty", &envelope.Envelope{}, "", []string{key.DID()}, code.WPCEnvelopeInvalid},
		{"none", nil, c.Hash, []string{key.DID()}, code.WPCNotFound},
	} {
		t.Run(x.name, func(t *testing.T) {
			got, denial := contract.Verify(x.env, x.hash, x.trusted)
			if got != nil || denial == nil || denial.Code != x.want {
				t.Errorf("got %v, %v, want %s", got, denial, x.want)
			}
		})
	}
}

// Whatever is accepted must be stable under its own canonical form and must not break what works on contracts. The body
// is kept cheap: an engine that is stopped inside a slow one reports a failure.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"examples/*.json", "testdata/broken/*.json"} {
		for _, file := range glob(f, pattern) {
			raw, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(raw)
			// The schemas are compiled at first use; done here, it does not count as what an input reached.
			if _, err := contract.Parse(raw); (err != nil) != strings.HasPrefix(file, "testdata/broken/") {
				f.Fatalf("%s: %v", file, err)
			}
		}
	}
	asks := []contract.Ask{modelAsk("openai/gpt-4o-mini"), modelAsk("openai/"), ask(contract.ToolExecute, "x"), ask(contract.NetworkEgress, "GET a.x.com/v1"), ask(contract.NetworkEgress, "odd")}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := contract.Parse(raw)
		if err != nil {
			if c != nil || !errors.Is(err, contract.ErrInvalid) {
				t.Fatalf("%v, %v", c, err)
			}
			return
		}
		for _, a := range asks {
			if v := c.Decide(a, now); v.Allow != (v.Denial == nil) {
				t.Fatalf("%+v: %+v", a, v)
			}
		}
		contract.Lint(c)
		if changes := contract.Diff(c, c); len(changes) != 0 {
			t.Fatalf("differs from itself: %+v", changes)
		}
		if again, err := contract.Parse(c.Payload); err != nil || again.Hash != c.Hash {
			t.Fatalf("its own payload: %v", err)
		}
	})
}
