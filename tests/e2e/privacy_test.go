package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"sallyport/tests/harness"
)

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// TestRedaction: through the real Envoy, what reaches an upstream is what the contract's rules leave of the body, at each
// provider and by both doors, over HTTP/1.1 and HTTP/2; receipts are of what left; and what the rules cannot be carried
// out on does not leave.
func TestRedaction(t *testing.T) {
	t.Parallel()
	o := startOutside(t)
	contract := forwardContract(o.site.Port())
	contract["redaction"] = map[string]any{"rules": []any{
		map[string]any{"path": "$.messages[*].content", "action": "mask"},
		map[string]any{"path": "$.system", "action": "remove"},
		map[string]any{"path": "$.user", "action": "hash"},
		map[string]any{"path": "$.params[*].secret", "action": "mask"},
	}}
	o.contract = o.Publish(contract)
	token := o.issue(harness.Claims{"mission_id": "redacted"})
	client := o.Proxied(t, token, o.contract, nil)
	long := strings.Repeat("a long prompt ", 20000) // some 280 KB, so that Envoy buffers many pieces
	for _, c := range []struct {
		name, url, body, want string
		reverse, chunked      bool
		code                  string
	}{
		{name: "openai", reverse: true, url: "/openai/v1/chat/completions", body: `{"model":"gpt-4o-mini", "messages":[{"role":"user","content":"hi"}],"seed":9007199254740991}`,
			want: `{"model":"gpt-4o-mini", "messages":[{"role":"user","content":"[REDACTED]"}],"seed":9007199254740991}`},
		{name: "shorter", reverse: true, url: "/openai/v1/chat/completions", body: `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"` + long + `"}]}`,
			want: `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"[REDACTED]"}]}`},
		{name: "longer", reverse: true, url: "/openai/v1/chat/completions", body: `{"model":"gpt-4o-mini","messages":[{"content":1},{"content":2}],"top_p":1.0}`,
			want: `{"model":"gpt-4o-mini","messages":[{"content":"[REDACTED]"},{"content":"[REDACTED]"}],"top_p":1.0}`},
		{name: "without a length", reverse: true, chunked: true, url: "/openai/v1/chat/completions", body: `{"model":"gpt-4o-mini","messages":[{"content":"a long one"}]}`,
			want: `{"model":"gpt-4o-mini","messages":[{"content":"[REDACTED]"}]}`},
		{name: "anthropic", reverse: true, url: "/anthropic/v1/messages", body: `{"model":"claude-3-5-haiku","system":"be kind","max_tokens":16,"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}]}`,
			want: `{"model":"claude-3-5-haiku","max_tokens":16,"messages":[{"role":"user","content":"[REDACTED]"}]}`},
		{name: "nothing to redact", reverse: true, url: "/openai/v1/chat/completions", body: `{"model":"gpt-4o-mini" , "messages":[]}`, want: `{"model":"gpt-4o-mini" , "messages":[]}`},
		{name: "a model through the forward door", url: o.url(modelHost, "/v1/chat/completions"), body: `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}`,
			want: `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"[REDACTED]"}]}`},
		{name: "a tool through the forward door", url: o.url(dataHost, "/public/mcp"), body: `{"params":[{"secret":{"a":1},"x":1}],"n":1e3}`,
			want: `{"params":[{"secret":"[REDACTED]","x":1}],"n":1e3}`},
		{name: "a form", url: o.url(dataHost, "/public/mcp"), body: "secret=1", code: "REDACTION_NOT_POSSIBLE"},
		{name: "a list", url: o.url(dataHost, "/public/mcp"), body: `[{"params":[]}]`, code: "REDACTION_NOT_POSSIBLE"},
		{name: "not JSON to a model", reverse: true, url: "/openai/v1/chat/completions", body: `{"model":"gpt-4o-mini","messages":[{"content":"a","content":"b"}]}`, code: "REDACTION_NOT_POSSIBLE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := o.site.Count()
			var a harness.Answer
			if c.reverse {
				req := o.Request(harness.Call{Path: c.url, Token: token, Body: []byte(c.body)})
				if c.chunked {
					req.ContentLength, req.Body = -1, io.NopCloser(strings.NewReader(c.body))
				}
				a = harness.Send(http.DefaultClient, req)
			} else {
				req, err := http.NewRequest(http.MethodPost, c.url, strings.NewReader(c.body))
				if err != nil {
					t.Fatal(err)
				}
				a = harness.Send(client, req)
			}
			if c.code != "" {
				if a.Status != 451 || a.Code != c.code || o.site.Count() != before {
					t.Errorf("%d %s, %d requests reached the site; want 451 %s and none: %.300s", a.Status, a.Code, o.site.Count()-before, c.code, a.Body)
				}
				return
			}
			if a.Err != nil || a.Status/100 != 2 || o.site.Count() != before+1 {
				t.Fatalf("%d %s %v: %.300s\n%s", a.Status, a.Code, a.Err, a.Body, o.lastCut())
			}
			got := o.site.Requests()[before]
			if got.BodyHash != hashOf(c.want) {
				t.Errorf("the site got another body than %.300s", c.want)
			}
			if n := got.Header.Get("Content-Length"); n != "" && n != strconv.Itoa(len(c.want)) {
				t.Errorf("content-length %s of %d bytes", n, len(c.want))
			}
			harness.Eventually(t, "the receipt is there", func() bool { _, ok := o.Evidence().Receipts[a.Receipt()]; return ok })
			p := o.Evidence().Receipts[a.Receipt()].Payload()
			if p.RequestHash != hashOf(c.want) || p.Metadata.Sallyport.RequestBytes != int64(len(c.want)) {
				t.Errorf("the receipt is of another body: %d bytes", p.Metadata.Sallyport.RequestBytes)
			}
		})
	}
	t.Run("a hashed value can be confirmed", func(t *testing.T) {
		before := o.site.Count()
		a := o.Do(harness.Call{Path: "/openai/v1/chat/completions", Token: token, Body: []byte(`{"model":"gpt-4o-mini","messages":[],"user":"jo"}`)})
		text, err := o.Run("evidence", "redaction-hash", "--job", "redacted", `"jo"`, "-c", o.Dir+"/sallyport.yaml")
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		want := `{"model":"gpt-4o-mini","messages":[],"user":"` + strings.TrimSpace(text) + `"}`
		if a.Status != 200 || o.site.Requests()[before].BodyHash != hashOf(want) {
			t.Errorf("%d %s; the command says %s", a.Status, a.Code, text)
		}
	})
}
