package workload

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sallyport/bench/load"
)

type noPace struct{ firsts, gaps int }

func (p *noPace) First(time.Duration) { p.firsts++ }
func (p *noPace) Gap(time.Duration)   { p.gaps++ }

// whole is a body as it goes over the wire.
func wire(t *testing.T, b load.Body) []byte {
	t.Helper()
	out := append([]byte(nil), b.Before...)
	for left := b.Fill; left > 0; left -= int64(len(b.Block)) {
		out = append(out, b.Block[:min(left, int64(len(b.Block)))]...)
	}
	return append(out, b.After...)
}

// TestUpstreamAnswersWhatIsWanted holds the two halves of a workload against each other: what the call wants is what the
// upstream answers to its body.
func TestUpstreamAnswersWhatIsWanted(t *testing.T) {
	for _, name := range []string{Chat, Embeddings, SingleUse, Tenants, "stream-1", "stream-7", "prompt-1KiB", "prompt-3MiB", "upload-2MiB", "download-1KiB", "download-3MiB"} {
		t.Run(name, func(t *testing.T) {
			c, err := New(name, Params{Gap: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			body := wire(t, c.Body)
			if !json.Valid(body) || len(body) < HeadSize {
				t.Fatalf("%d bytes, JSON: %v", len(body), json.Valid(body))
			}
			if kind, size := Size(name); kind == "prompt" || kind == "upload" {
				if int64(len(body)) != size {
					t.Errorf("a body of %d bytes, want %d", len(body), size)
				}
			}
			w, pace := httptest.NewRecorder(), &noPace{}
			if err := Respond(w, c.Path, body[:HeadSize], pace); err != nil {
				t.Fatal(err)
			}
			answer := w.Body.Bytes()
			if c.Want.Events > 0 {
				if got := bytes.Count(answer, []byte("\n\n")); got != c.Want.Events || !bytes.HasSuffix(answer, []byte(LastEvent)) {
					t.Errorf("%d events, want %d", got, c.Want.Events)
				}
				if pace.firsts != 1 || pace.gaps != c.Want.Events-2 {
					t.Errorf("%d first events and %d gaps were paced", pace.firsts, pace.gaps)
				}
				return
			}
			if !json.Valid(answer) || int64(len(answer)) != c.Want.Size {
				t.Errorf("%d bytes, want %d; JSON: %v", len(answer), c.Want.Size, json.Valid(answer))
			}
		})
	}
}

func TestUnknownNames(t *testing.T) {
	for _, name := range []string{"", "mcp", "stream", "stream-0", "stream--1", "stream-100000", "prompt-1", "prompt-1TiB", "prompt-0MiB", "download-1MB", "Chat", "refused-other"} {
		if err := Check(name); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{Refusals, Mix, RefusedExpired, "stream-500", "upload-1GiB"} {
		if err := Check(name); err != nil {
			t.Error(err)
		}
	}
}

// TestForeignUpstreamGetsAKnownModel leaves out what only our upstream understands.
func TestForeignUpstreamGetsAKnownModel(t *testing.T) {
	c, err := New("stream-50", Params{Loose: true})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(c.Body.Before), `"model":"`+Model+`"`) || c.Want.Events != load.AnyEvents {
		t.Errorf("%s, %+v", c.Body.Before, c.Want)
	}
}

func TestTooShortAnAnswerIsAnError(t *testing.T) {
	w := httptest.NewRecorder()
	if err := Respond(w, ChatPath, []byte(`{"model":"gpt-4o-mini-answer-5","messages"`), &noPace{}); err == nil {
		raw, _ := io.ReadAll(w.Body)
		t.Errorf("%s", raw)
	}
}
