package receipt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
	"sallyport/signer/keyring"
	"sallyport/signer/record"
)

func fixedKey(t testing.TB) *keyring.Key {
	t.Helper()
	k, err := keyring.Generate(bytes.NewReader(make([]byte, 64)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func call() (*record.Logged, *record.Completion) {
	h := jcs.Hash([]byte("body"))
	i := &record.Logged{Intent: record.Intent{
		ID: "rcpt_1", TimeMS: 1_760_000_000_123, RunID: "run_1", EventHash: h, Nonce: "nonce_1", MissionID: "job", Subject: "did:key:zAgent",
		TokenHash: strings.Repeat("ab", 32), TokenScopeHash: h, PolicyHash: h, Provider: "openai", Model: "a<b>&\u2028é😀",
		Action: "model:invoke", Resource: "openai/x", Method: "POST", Host: "api.example", Path: "/v1/x", SecretClass: "k",
		RequestHash: h, RequestBytes: 4, Stream: true, TrustVersion: 3,
	}}
	c := &record.Completion{ID: "rcpt_1", TimeMS: 1_760_000_000_456, Outcome: record.Completed, Status: 200, ResponseHash: h, ResponseBytes: 4, TokensInput: 7, TokensOutput: 3, UsageReported: true, LatencyMS: 333}
	return i, c
}

func signed(t testing.TB, k *keyring.Key) []byte {
	t.Helper()
	i, c := call()
	p, err := Build(i, c, "gateway")
	if err != nil {
		t.Fatal(err)
	}
	env, err := Sign(p, k, time.UnixMilli(c.TimeMS))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := env.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestSignAndVerify(t *testing.T) {
	t.Parallel()
	k := fixedKey(t)
	r, err := Verify(signed(t, k), []string{k.DID()})
	if err != nil {
		t.Fatal(err)
	}
	i, c := call()
	if r.Model != i.Model || r.TokensInput != c.TokensInput || r.Metadata.Sallyport.Outcome != record.Completed || r.Binding.RunID != i.RunID {
		t.Errorf("got %+v", r)
	}
	if _, err := Verify(signed(t, k), nil); err == nil {
		t.Error("an empty list of gateways trusts somebody")
	}
}

// TestPayloadIsCanonical: both kinds of reader, those that hash in document order and those that hash JCS, agree.
func TestPayloadIsCanonical(t *testing.T) {
	t.Parallel()
	env, err := envelope.Parse(signed(t, fixedKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	ordered, err1 := jcs.HashJSONOrder(env.Payload)
	canonical, err2 := jcs.HashCanonical(env.Payload)
	if errors.Join(err1, err2) != nil || ordered != canonical || ordered != env.PayloadHashB64u {
		t.Errorf("hashes %s %s %s", ordered, canonical, env.PayloadHashB64u)
	}
}

// TestEachFieldIsCovered changes every leaf of the envelope in turn. All of the payload and of what makes the signature
// must be caught; issued_at is outside the signature (WIRE 1), and that is asserted too.
func TestEachFieldIsCovered(t *testing.T) {
	t.Parallel()
	k := fixedKey(t)
	var tree map[string]any
	if err := json.Unmarshal(signed(t, k), &tree); err != nil {
		t.Fatal(err)
	}
	changed := 0
	walk(tree, "", func(path string, change func(), undo func()) {
		change()
		raw, err := jcs.Marshal(tree)
		undo()
		if err != nil {
			t.Fatal(err)
		}
		changed++
		if _, err := Verify(raw, []string{k.DID()}); (err == nil) != (path == ".issued_at") {
			t.Errorf("change of %s: %v", path, err)
		}
	})
	if changed < 40 {
		t.Errorf("only %d fields were changed", changed)
	}
}

func walk(v any, path string, visit func(path string, change, undo func())) {
	m, ok := v.(map[string]any)
	if !ok {
		return
	}
	for name, old := range m {
		at := path + "." + name
		if _, nested := old.(map[string]any); nested {
			walk(old, at, visit)
			continue
		}
		visit(at, func() { m[name] = other(at, old) }, func() { m[name] = old })
	}
}

func other(path string, v any) any {
	switch x := v.(type) {
	case float64:
		return x + 1
	case bool:
		return !x
	case string:
		if strings.HasSuffix(path, ".issued_at") || strings.HasSuffix(path, ".timestamp") {
			return "2030-01-01T00:00:00.000Z"
		}
		if strings.HasPrefix(x, "B") {
			return "A" + x[1:]
		}
		return "B" + x[1:]
	}
	panic(fmt.Sprintf("%s: %T", path, v))
}

func TestLimitsAreKept(t *testing.T) {
	t.Parallel()
	i, c := call()
	c.LatencyMS, c.TokensInput, c.TokensOutput, i.Model = 1<<40, 1<<40, -5, ""
	p, err := Build(i, c, "gateway")
	if err != nil {
		t.Fatal(err)
	}
	if p.LatencyMS != maxLatencyMS || p.TokensInput != maxTokens || p.TokensOutput != 0 || p.Model != "unknown" {
		t.Errorf("got %+v", p)
	}
	if err := p.check(); err != nil {
		t.Error(err)
	}
}

func FuzzVerify(f *testing.F) {
	k := fixedKey(f)
	good := signed(f, k)
	f.Add(good)
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := Verify(in, []string{k.DID()})
		if err != nil {
			return
		}
		// Whatever verifies must carry the one payload that was ever signed with this key.
		want, err := Verify(good, []string{k.DID()})
		if err != nil || r.Payload != want.Payload {
			t.Errorf("a forged receipt verifies: %s", in)
		}
	})
}

func BenchmarkBuild(b *testing.B) {
	i, c := call()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Build(i, c, "gateway"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSign is the whole of a receipt: built, signed and encoded. Of it, the Ed25519 signature alone is BenchmarkKey.
func BenchmarkSign(b *testing.B) {
	k := fixedKey(b)
	b.ReportAllocs()
	i, c := call()
	var buf []byte
	for b.Loop() {
		var err error
		if buf, err = Append(buf[:0], i, c, "gateway", k, time.UnixMilli(c.TimeMS)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkKey(b *testing.B) {
	k := fixedKey(b)
	msg := []byte(jcs.Hash(nil))
	b.ReportAllocs()
	for b.Loop() {
		k.Sign(msg)
	}
}
