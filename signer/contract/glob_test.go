package contract

import (
	"strings"
	"testing"
	"unicode/utf16"

	"pgregory.net/rapid"
)

func TestV2Glob(t *testing.T) {
	for _, x := range []struct {
		pattern, text string
		want          bool
	}{
		{"*", "a/b", true}, {"**", "a/b", true}, {"*", "", true}, {"**", "", true}, {"", "", true}, {"", "a", false},
		{"tool:*", "tool:a", true}, {"tool:*", "tool:a/b", false}, {"tool:*", "tool:", true},
		{"src/**/x.ts", "src/x.ts", true}, {"src/**/x.ts", "src/a/b/x.ts", true}, {"src/**/x.ts", "srcx.ts", false},
		{"**/secrets/**", "mysecrets/k", true}, {"**/secrets/**", "a/secrets", false},
		{"a?c", "abc", true}, {"a?c", "a/c", false}, {"a?c", "a😀c", false}, {"a??c", "a😀c", true},
		{"A", "a", false}, {"a.c", "abc", false}, {"a[b]", "a[b]", true}, {"é*", "éa", true},
		{"***", "a/b", true}, {"*/", "a/", true}, {"*a*b", "xaxb", true}, {"*a*b", "xbxa", false}, {"x*", "X", false},
	} {
		if g := v2Glob(x.pattern); g.match(x.text) != x.want {
			t.Errorf("%q on %q: want %v", x.pattern, x.text, x.want)
		}
	}
}

func TestModelGlob(t *testing.T) {
	for _, x := range []struct {
		provider, model, text string
		want                  bool
	}{
		{"openai", "gpt-4*", "openai/GPT-4o", true}, {"openai", "GPT-4*", "OpenAI/gpt-4/x", true}, {"openai", "gpt-4*", "openai/my-gpt-4", false},
		{"openai", "*", "openai/x", true}, {"openai", "*", "openai/", false}, {"openai", "**", "openai/", false}, {"openai", anyModel, "openai/", true},
		{"openai", "a?b", "openai/axb", false}, {"openai", "a?b", "openai/A?B", true}, {"openai", "*é", "openai/É", false},
		{"*", "m", "any/m", true}, {"*", "m", "any/x/m", false}, {"*", "*", "any/x/m", true}, {"*", anyModel, "/", true},
		{"openai", "k", "openai/\u212A", false}, // the Kelvin sign folds to k in Unicode
	} {
		if g := modelGlob(x.provider, x.model); g.match(x.text) != x.want {
			t.Errorf("%q %q on %q: want %v", x.provider, x.model, x.text, x.want)
		}
	}
}

// naive is v2's pattern language as a reader would write it down, in exponential time.
func naive(p string, text []uint16) bool {
	switch {
	case p == "*":
		return true
	case p == "":
		return len(text) == 0
	case strings.HasPrefix(p, "**"):
		rest := strings.TrimPrefix(p[2:], "/")
		for i := 0; i <= len(text); i++ {
			if naiveRest(rest, text[i:]) {
				return true
			}
		}
		return false
	case p[0] == '*':
		for i := 0; ; i++ {
			if naiveRest(p[1:], text[i:]) {
				return true
			}
			if i == len(text) || text[i] == '/' {
				return false
			}
		}
	case p[0] == '?':
		return len(text) > 0 && text[0] != '/' && naiveRest(p[1:], text[1:])
	}
	head := utf16.Encode([]rune(p)[:1])
	for i, c := range head {
		if i >= len(text) || text[i] != c {
			return false
		}
	}
	return naiveRest(string([]rune(p)[1:]), text[len(head):])
}

// naiveRest is naive behind the pattern's beginning, where a * alone is only a run without a slash.
func naiveRest(p string, text []uint16) bool {
	if p == "*" {
		for _, c := range text {
			if c == '/' {
				return false
			}
		}
		return true
	}
	return naive(p, text)
}

func FuzzV2Glob(f *testing.F) {
	for _, s := range [][2]string{{"src/**/x.ts", "src/x.ts"}, {"*a*b?", "xaxb😀"}, {"**/**/**", "a/b"}, {"***/", "//"}, {"é?*", "é\U0001F600"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 24 || len(text) > 24 || strings.Count(pattern, "*") > 6 || !readable(text) || !readable(pattern) {
			return
		}
		g := v2Glob(pattern)
		if want := naive(pattern, utf16.Encode([]rune(text))); g.match(text) != want {
			t.Errorf("%q on %q: want %v", pattern, text, want)
		}
	})
}

var (
	patternText = rapid.StringOfN(rapid.SampledFrom([]rune("ab/*?é😀")), 0, 8, -1)
	plainText   = rapid.StringOfN(rapid.SampledFrom([]rune("aAb/é😀")), 0, 8, -1)
)

func TestGlobIsTheNaiveOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern, text := patternText.Draw(t, "pattern"), plainText.Draw(t, "text")
		g := v2Glob(pattern)
		if want := naive(pattern, utf16.Encode([]rune(text))); g.match(text) != want {
			t.Fatalf("%q on %q: want %v", pattern, text, want)
		}
	})
}

func anyGlob(t *rapid.T, name string) glob {
	p := patternText.Draw(t, name)
	if rapid.Bool().Draw(t, name+" is of a model") {
		return modelGlob(rapid.SampledFrom([]string{"a", "*"}).Draw(t, name+" provider"), p)
	}
	return v2Glob(p)
}

// covers decides what a diff calls widening, so it must never say yes where it is no.
func TestCoversIsSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, h := anyGlob(t, "g"), anyGlob(t, "h")
		text := plainText.Draw(t, "text")
		if g.covers(&h) && h.match(text) && !g.match(text) {
			t.Fatalf("%q is said to cover %q, but not on %q", g.source, h.source, text)
		}
	})
}

func TestCovers(t *testing.T) {
	for _, x := range []struct {
		g, h string
		want bool
	}{
		{"*", "a/**", true}, {"**", "*", true}, {"a*", "ab*", true}, {"a*", "a**", false}, {"a**", "a*", true}, {"ab*", "a*", false},
		{"a?", "ab", true}, {"a?", "a/", false}, {"a*", "a??", true}, {"a?*", "a*", false}, {"openai/gpt-4*", "openai/gpt-4o-mini", true}, {"a*b", "a*b", true},
	} {
		g, h := v2Glob(x.g), v2Glob(x.h)
		if g.covers(&h) != x.want {
			t.Errorf("%q covers %q: want %v", x.g, x.h, x.want)
		}
	}
	g, h := modelGlob("a", "B*"), modelGlob("a", "bc")
	if !g.covers(&h) {
		t.Error("case")
	}
	if g := v2Glob("a/b*"); g.covers(&h) {
		t.Error("a pattern with case cannot cover one without")
	}
}

// A pattern built to make backtracking matchers explode, on a text that almost matches, and at the largest size.
func TestHostilePattern(t *testing.T) {
	g := v2Glob(strings.Repeat("*a", maxPattern/2))
	if g.match(strings.Repeat("a", 8191) + "b") {
		t.Error("matched")
	}
	if !g.match(strings.Repeat("a", 8192)) {
		t.Error("not matched")
	}
}

func TestReadable(t *testing.T) {
	for s, want := range map[string]bool{"": true, "a b/ü😀": true, "a\nb": false, "é\n": false, "\x00": false, "é\x1b": false, "a\u2028": false, "a\u0085": false, "\xff": false, "\x7f": false} {
		if readable(s) != want {
			t.Errorf("%q: want %v", s, want)
		}
	}
}

func BenchmarkGlobHostile(b *testing.B) {
	g := v2Glob(strings.Repeat("*a", 256))
	text := strings.Repeat("a", 1023) + "b"
	for b.Loop() {
		if g.match(text) {
			b.Fatal("matched")
		}
	}
}
