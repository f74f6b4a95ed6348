package receipt

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"

	"sallyport/signer/jcs"
)

func TestLegacyFormIsSignedOverItsMembersInOrder(t *testing.T) {
	t.Parallel()
	k := fixedKey(t)
	i, c := call()
	for range 2 {
		p, err := Build(i, c, "gateway")
		if err != nil {
			t.Fatal(err)
		}
		raw, err := AppendLegacy([]byte("before"), p, k.KID(), k)
		if err != nil {
			t.Fatal(err)
		}
		raw = bytes.TrimPrefix(raw, []byte("before"))
		var l map[string]any
		if err := json.Unmarshal(raw, &l); err != nil {
			t.Fatal(err)
		}
		// The ecosystem's order, whatever order the members stand in.
		var signed strings.Builder
		for n, m := range []string{"version", "proxyDid", "provider", "model", "requestHash", "responseHash", "timestamp", "latencyMs", "kid", "binding", "privacyMode"} {
			signed.WriteString(map[bool]string{true: "{", false: ","}[n == 0])
			if m == "binding" {
				signed.WriteString(`"binding":{`)
				b, first := l[m].(map[string]any), true
				for _, m := range []string{"runId", "eventHash", "nonce", "policyHash", "tokenScopeHashB64u"} {
					if v, ok := b[m]; ok {
						signed.WriteString(map[bool]string{true: "", false: ","}[first])
						first = false
						signed.Write(plainJSON(t, m))
						signed.WriteByte(':')
						signed.Write(plainJSON(t, v))
					}
				}
				signed.WriteByte('}')
				continue
			}
			signed.Write(plainJSON(t, m))
			signed.WriteByte(':')
			signed.Write(plainJSON(t, l[m]))
		}
		signed.WriteByte('}')
		sig, err := jcs.DecodeB64u(l["signature"].(string))
		if err != nil || !ed25519.Verify(k.Public(), []byte(signed.String()), sig) {
			t.Errorf("the signature is not over %s (%v)", signed.String(), err)
		}
		if h := l["requestHash"].(string); len(h) != 64 || l["latencyMs"].(float64) != float64(p.LatencyMS) {
			t.Errorf("got %s", raw)
		}
		i.EventHash, i.Nonce, i.PolicyHash, i.TokenScopeHash = "", "", "", ""
	}
	bad, err := Build(i, c, "gateway")
	if err != nil {
		t.Fatal(err)
	}
	bad.RequestHash = "?"
	if _, err := AppendLegacy(nil, bad, k.KID(), k); err == nil {
		t.Error("a receipt whose hash is none has an older form")
	}
}

func plainJSON(t *testing.T, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	// JSON.stringify writes these two as they are.
	s := strings.NewReplacer(`\u2028`, "\u2028", `\u2029`, "\u2029").Replace(strings.TrimSuffix(b.String(), "\n"))
	return []byte(s)
}
