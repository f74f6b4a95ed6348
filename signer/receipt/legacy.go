package receipt

import (
	"encoding/hex"
	"strconv"

	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
)

// Delivery is what a client of the ecosystem gets of a call: the receipt in its signed envelope, and in the older form that
// its plugins take too (WIRE 6.3, 6.5).
type Delivery struct {
	Legacy   []byte // JSON
	Envelope []byte // JSON
}

// legacyVersion is the version of the older form.
const legacyVersion = "1.0"

// AppendLegacy appends a receipt's older form, signed by the same key, whose key id is given. The signature covers the members
// in the order that the ecosystem's verifiers write them in, so they are written by hand.
func AppendLegacy(dst []byte, p *Payload, kid string, s envelope.Signer) ([]byte, error) {
	request, err := hexOf(p.RequestHash)
	if err != nil {
		return nil, err
	}
	response, err := hexOf(p.ResponseHash)
	if err != nil {
		return nil, err
	}
	w := writer{}
	w.text(`{"version":`, legacyVersion)
	w.text(`,"proxyDid":`, s.DID())
	w.text(`,"provider":`, p.Provider)
	w.text(`,"model":`, p.Model)
	w.text(`,"requestHash":`, request)
	w.text(`,"responseHash":`, response)
	w.text(`,"timestamp":`, p.Timestamp)
	w.integer(`,"latencyMs":`, p.LatencyMS)
	w.text(`,"kid":`, kid)
	w.text(`,"binding":{"runId":`, p.Binding.RunID)
	for _, m := range []struct{ name, value string }{
		{`,"eventHash":`, p.Binding.EventHash}, {`,"nonce":`, p.Binding.Nonce}, {`,"policyHash":`, p.Binding.PolicyHash},
		{`,"tokenScopeHashB64u":`, p.Binding.TokenScopeHash},
	} {
		if m.value != "" {
			w.text(m.name, m.value)
		}
	}
	w.raw(`},"privacyMode":"hash_only"}`)
	if w.err != nil {
		return nil, w.err
	}
	dst = append(dst, w.buf[:len(w.buf)-1]...)
	dst = append(dst, `,"signature":`...)
	dst = strconv.AppendQuote(dst, jcs.EncodeB64u(s.Sign(w.buf)))
	return append(dst, '}'), nil
}

// hexOf is the older spelling of a hash.
func hexOf(b64u string) (string, error) {
	raw, err := jcs.DecodeB64u(b64u)
	return hex.EncodeToString(raw), err
}
