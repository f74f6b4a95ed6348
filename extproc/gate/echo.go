package gate

import (
	"encoding/base64"
	"fmt"
	"strings"

	"sallyport/extproc/message"
	"sallyport/extproc/scrub"
	"sallyport/extproc/secret"
)

// listen makes ready to mask the credential in the answer, whatever form the host gives it back in.
func (x *exchange) listen(class string, cred secret.Credential, inject secret.Inject) {
	if class == "" {
		return
	}
	x.lent = true
	secrets := []string{cred.Value.Reveal()}
	if strings.HasPrefix(inject.Format, "Basic ") {
		// The host takes it apart, and may give back the parts.
		if text, err := base64.StdEncoding.DecodeString(secrets[0]); err == nil {
			_, password, _ := strings.Cut(string(text), ":")
			secrets = append(secrets, string(text), password)
		}
	}
	x.echo = scrub.New(secrets...)
}

// scrubHeaders masks echoes in the headers of an answer. An answer to a credential must be readable, or an echo could hide in
// it: where the host encodes it although "identity" was asked for, it does not pass.
func (x *exchange) scrubHeaders(m *message.Request) error {
	if !x.lent {
		return nil
	}
	if e := m.Header("content-encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return x.withhold("it is encoded as " + clip(e) + ", so that the credential could be echoed in it unseen")
	}
	for i := range m.Headers {
		h := &m.Headers[i]
		if masked, hit := x.echo.Text(h.Value); hit {
			h.Value = masked
			x.masked = append(x.masked, *h)
		}
	}
	return nil
}

// scrubBody masks echoes in a chunk of the answer: what follows, from the hash to the client, sees the masked bytes alone.
func (x *exchange) scrubBody(m *message.Request) {
	came := m.Body
	m.Body = x.echo.Chunk(came, m.EndOfStream)
	x.replaced = len(came) != len(m.Body) || len(came) > 0 && &came[0] != &m.Body[0]
}

// scrubTrailers ends an answer whose trailers echo the credential, or whose body has ended as an echo begins: nothing can be
// passed on in front of trailers.
func (x *exchange) scrubTrailers(m *message.Request) error {
	if x.echo.Held() {
		return x.withhold("trailers follow a body whose end is held back")
	}
	for _, h := range m.Headers {
		if _, hit := x.echo.Text(h.Value); hit {
			return x.withhold("a trailer echoes the credential")
		}
	}
	return nil
}

// onward lets a chunk of the answer pass, as scrubBody left it.
func (x *exchange) onward(m *message.Request) *message.Response {
	r := goOn(m.Kind)
	if x.replaced {
		r.Body = &message.Body{Bytes: m.Body}
	}
	return r
}

// echoed is what the receipt says of echoes, after what it says anyway; "" where there were none. It also raises the alarm.
func (x *exchange) echoed(reason string) string {
	n := x.echo.Hits()
	if n == 0 {
		return reason
	}
	x.gate.metrics.echoes.WithLabelValues(x.intent.SecretClass).Add(float64(n))
	x.gate.cfg.Log.Error("the host echoed the credential; it was masked", "receipt", x.id, "class", x.intent.SecretClass, "host", x.intent.Host, "times", n)
	text := fmt.Sprintf("the host echoed the credential %d times, which was masked", n)
	if reason == "" {
		return text
	}
	return reason + "; " + text
}
