package gate

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sallyport/signer/receipt"
)

var given = &receipt.Delivery{Legacy: []byte(`{"version":"1.0"}`), Envelope: []byte(`{"envelope_version":"1","payload":{"a":"<&>"}}`)}

// through passes an answer in pieces.
func through(h *handing, pieces ...string) string {
	var out bytes.Buffer
	for _, p := range pieces[:len(pieces)-1] {
		out.Write(h.pass([]byte(p)))
	}
	h.receipt = given
	out.Write(h.end([]byte(pieces[len(pieces)-1])))
	return out.String()
}

func TestReceiptInJSON(t *testing.T) {
	t.Parallel()
	const members = `"_receipt":{"version":"1.0"},"_receipt_envelope":{"envelope_version":"1","payload":{"a":"<&>"}}`
	for whole, want := range map[string]string{
		`{"a":1}`:             `{"a":1,` + members + `}`,
		`{}`:                  `{` + members + `}`,
		" { \n } \n":          " { \n " + members + "} \n",
		`{"a":{"b":{}}}`:      `{"a":{"b":{}},` + members + `}`,
		`{"a":"}"}` + "\r\n ": `{"a":"}",` + members + "}\r\n ",
		`[{"a":1}]`:           `[{"a":1}]`,
		`"text"`:              `"text"`,
		`{"cut off":`:         `{"cut off":`,
		``:                    ``,
	} {
		// However it is cut into pieces.
		for i := range len(whole) + 1 {
			for j := i; j <= len(whole); j++ {
				if got := through(&handing{}, whole[:i], whole[i:j], whole[j:]); got != want {
					t.Errorf("%q | %q | %q gives %q, want %q", whole[:i], whole[i:j], whole[j:], got, want)
				}
			}
		}
	}
}

func TestReceiptInJSONIsJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.MapOf(rapid.String(), rapid.OneOf(rapid.String().AsAny(), rapid.SliceOf(rapid.MapOf(rapid.String(), rapid.Int())).AsAny())).Draw(t, "object")
		raw, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var pieces []string
		for rest := string(raw); ; {
			n := rapid.IntRange(0, len(rest)).Draw(t, "piece")
			pieces, rest = append(pieces, rest[:n]), rest[n:]
			if rest == "" {
				break
			}
		}
		var out map[string]json.RawMessage
		if err := json.Unmarshal([]byte(through(&handing{}, pieces...)), &out); err != nil || !bytes.Equal(out["_receipt_envelope"], given.Envelope) {
			t.Fatalf("%q: %v", pieces, err)
		}
		delete(out, "_receipt")
		delete(out, "_receipt_envelope")
		want := map[string]json.RawMessage{}
		if err := json.Unmarshal(raw, &want); err != nil || len(want) != len(out) {
			t.Fatalf("%d members of %d are left (%v)", len(out), len(want), err)
		}
	})
}

func TestWithoutAReceiptNothingChanges(t *testing.T) {
	t.Parallel()
	for _, h := range []*handing{{}, {stream: true}} {
		got := string(h.pass([]byte(`{"a":{}`))) + string(h.pass([]byte("} "))) + string(h.end([]byte("\n")))
		if got != "{\"a\":{}} \n" {
			t.Errorf("got %q", got)
		}
	}
}

func TestReceiptInAStream(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ first, last, between string }{
		{"data: x\n\n", "data: [DONE]\n\n", ""},
		{"data: x\n\n", "", ""},
		{"data: x", "", "\n\n"},
		{"", "data: [DONE]", "\n\n"},
	} {
		got := through(&handing{stream: true}, c.first, c.last)
		tail, ok := strings.CutPrefix(got, c.first+c.last+c.between)
		lines := strings.Split(tail, "\n")
		if !ok || len(lines) != 4 || !strings.HasPrefix(lines[0], ":clawproxy_receipt_envelope_b64u=eyJ") || !strings.HasPrefix(lines[1], ":clawproxy_receipt_b64u=eyJ") || lines[2]+lines[3] != "" {
			t.Errorf("%+v gives %q", c, got)
		}
	}
}

const eventHash = "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ"

func TestWhoGetsReceipts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path    string
		headers []string
		kind    string
		want    bool
	}{
		"the ecosystem's path":     {"/v1/proxy/openai", nil, "application/json; charset=utf-8", true},
		"a client that records":    {"/v1/chat/completions", []string{"x-event-hash", eventHash}, "application/json", true},
		"its stream":               {"/v1/chat/completions", []string{"x-event-hash", eventHash}, "text/event-stream", true},
		"an SDK":                   {"/v1/chat/completions", nil, "application/json", false},
		"an SDK by a named door":   {"/openai/v1/chat/completions", []string{"x-event-hash", eventHash}, "application/json", false},
		"another kind of answer":   {"/v1/proxy/openai", nil, "audio/mpeg", false},
		"an answer of unsaid kind": {"/v1/proxy/openai", nil, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.recorder.delivery = given
			k := f.open()
			k.must("request headers", requestHeaders(false, append([]string{":method", "POST", ":path", c.path, ":authority", "gate.example", "authorization", "Bearer " + f.token()}, c.headers...)...))
			k.must("request body", requestBody(goodBody))
			h := k.must("response headers", responseHeaders(false, viaUpstream, ":status", "200", "content-type", c.kind, "content-length", "7")).GetResponseHeaders()
			removed := strings.Join(h.GetResponse().GetHeaderMutation().GetRemoveHeaders(), " ")
			if (removed == "content-length") != c.want {
				t.Errorf("removed %q", removed)
			}
			b := k.must("response body", responseBody(`{"a":1}`, true)).GetResponseBody().GetResponse().GetBodyMutation()
			if (b != nil) != c.want || c.want && !strings.Contains(string(b.GetBody()), "receipt") {
				t.Errorf("the body goes on as %v", b)
			}
			if got := f.recorder.completion(t).ResponseBytes; got != 7 {
				t.Errorf("%d bytes are recorded", got)
			}
		})
	}
}

func TestTrailersAfterAnEndThatIsHeldBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.recorder.delivery = given
	k := f.open()
	k.must("request headers", requestHeaders(false, ":method", "POST", ":path", "/v1/proxy/openai", ":authority", "gate.example", "authorization", "Bearer "+f.token()))
	k.must("request body", requestBody(goodBody))
	k.must("response headers", ok())
	k.must("response body", responseBody(`{"a":1}`, false))
	if err := k.mustEnd(responseTrailers()); err == nil {
		t.Error("the end of the answer is lost without an error")
	}
	if c := f.recorder.completion(t); c.Outcome != "cut" {
		t.Errorf("recorded as %s", c.Outcome)
	}
}
