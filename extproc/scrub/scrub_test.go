package scrub

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
)

const planted = `planted/value+of=a&credential"~1`

// forms are the encodings that an echo is looked for in, of a text that the secret stands in.
var forms = map[string]func(string) string{
	"plain":          func(s string) string { return s },
	"base64":         func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"base64url":      func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
	"query":          url.QueryEscape,
	"path":           url.PathEscape,
	"small escapes":  func(s string) string { return lowerEscapes(url.QueryEscape(s)) },
	"JSON":           func(s string) string { b, _ := json.Marshal(s); return string(b) },
	"JSON of others": func(s string) string { return `"` + jsonText(s, false) + `"` },
	"JSON, slashes":  func(s string) string { b, _ := json.Marshal(s); return strings.ReplaceAll(string(b), "/", `\/`) },
}

// parts sends b in pieces that end where cuts say.
func parts(s *Scrubber, b []byte, cuts ...int) (out []byte) {
	at := 0
	for _, c := range append(cuts, len(b)) {
		c = max(at, min(c, len(b)))
		out = append(out, s.Chunk(b[at:c], false)...)
		at = c
	}
	return append(out, s.Chunk(nil, true)...)
}

// decoded says whether the secret can still be read out of a text in the form.
func decoded(form string, text []byte) string {
	switch form {
	case "base64":
		out, _ := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(text), "*", "A"))
		return string(out)
	case "base64url":
		out, _ := base64.RawURLEncoding.DecodeString(strings.ReplaceAll(string(text), "*", "A"))
		return string(out)
	}
	return string(text)
}

// TestEveryFormAtEveryCut: an echo is masked in each form, wherever it is cut, and nothing else is changed.
func TestEveryFormAtEveryCut(t *testing.T) {
	for name, form := range forms {
		for before := range 4 {
			text := []byte(form(strings.Repeat("x", before) + planted + "what follows"))
			for cut := range len(text) + 1 {
				s := New(planted)
				out := parts(s, text, cut)
				if len(out) != len(text) || s.Hits() == 0 {
					t.Fatalf("%s, %d before, cut at %d: %d hits, %q", name, before, cut, s.Hits(), out)
				}
				if d := decoded(name, out); strings.Contains(d, planted[3:len(planted)-2]) {
					t.Fatalf("%s, %d before, cut at %d: %q", name, before, cut, d)
				}
			}
			if whole, hit := New(planted).Text(string(text)); !hit || whole == string(text) {
				t.Errorf("%s as a header: %q", name, whole)
			}
		}
	}
}

// TestByteByByte: only the first bytes can be lost where an echo comes in the smallest pieces.
func TestByteByByte(t *testing.T) {
	text := "before " + planted + " after"
	cuts := make([]int, len(text))
	for i := range cuts {
		cuts[i] = i
	}
	s := New(planted)
	want := "before " + planted[:short] + strings.Repeat("*", len(planted)-short) + " after"
	if got := string(parts(s, []byte(text), cuts...)); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestNothingIsHeldOfOtherTexts: an event stream is not delayed.
func TestNothingIsHeldOfOtherTexts(t *testing.T) {
	s := New(planted)
	for i := range 100 {
		event := fmt.Appendf(nil, "data: {\"n\":%d,\"text\":\"some plant\"}\n\n", i)
		if out := s.Chunk(event, false); !bytes.Equal(out, event) || &out[0] != &event[0] {
			t.Fatalf("%q", out)
		}
		if s.Held() {
			t.Fatal("bytes are held back")
		}
	}
	if s.Chunk([]byte("ends as it begins: planted/val"), false); !s.Held() {
		t.Error("what an echo may begin with has passed")
	}
	if out := s.Chunk([]byte("ley"), true); string(out) != "planted/valley" {
		t.Errorf("%q", out)
	}
}

func TestShortSecretsAreNotLookedFor(t *testing.T) {
	if New("1234567") != nil || New() != nil || New("12345678") == nil {
		t.Error("the bound is another")
	}
	var none *Scrubber
	if out := none.Chunk([]byte("x"), true); string(out) != "x" || none.Hits() != 0 || none.Held() {
		t.Error("nothing to look for changes something")
	}
}

func FuzzChunks(f *testing.F) {
	f.Add([]byte("secret-secret"), []byte("a text with secret-secret in it"), uint64(1))
	f.Add([]byte("aaaaaaaaab"), []byte("aaaaaaaaaaaaaaaaaaaaaaaaaaaaab"), uint64(7))
	f.Fuzz(func(t *testing.T, secret, text []byte, seed uint64) {
		if len(secret) > 64 || bytes.IndexByte(secret, mask) >= 0 {
			return
		}
		s := New(string(secret))
		if s == nil {
			return
		}
		r := rand.New(rand.NewPCG(seed, seed))
		text = append(append(bytes.Clone(text), secret...), text...)
		var cuts []int
		for at := 0; at < len(text); at += 1 + r.IntN(9) {
			cuts = append(cuts, at)
		}
		out := parts(s, text, cuts...)
		if len(out) != len(text) {
			t.Fatalf("%d bytes of %d", len(out), len(text))
		}
		if bytes.Contains(out, secret) {
			t.Fatalf("the secret passed: %q", out)
		}
		for i, b := range out {
			if b != text[i] && b != mask {
				t.Fatalf("byte %d is another: %q", i, out)
			}
		}
	})
}

func BenchmarkChunk(b *testing.B) {
	chunk := bytes.Repeat([]byte(`data: {"choices":[{"delta":{"content":"a word"}}]}`+"\n\n"), 80)
	b.SetBytes(int64(len(chunk)))
	for _, secret := range []string{"planted-value-of-a-plain-key-that-is-as-long-as-keys-are", planted} {
		b.Run(secret[:8], func(b *testing.B) {
			b.SetBytes(int64(len(chunk)))
			s := New(secret)
			for b.Loop() {
				s.Chunk(chunk, false)
			}
		})
	}
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			New(planted)
		}
	})
}
