package jcs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"pgregory.net/rapid"
)

func TestScanMembers(t *testing.T) {
	var got []string
	err := Scan([]byte(" {\"model\" : \"gpt\" ,\"m\\u0065ssages\":[ {\"a\":1} ], \"n\":-1.5e3, \"t\":true,\"o\":{ } } \n"), func(key, value []byte) error {
		got = append(got, string(key)+"="+string(value))
		return nil
	})
	want := []string{`model="gpt"`, `messages=[ {"a":1} ]`, `n=-1.5e3`, `t=true`, `o={ }`}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestScanRefusesOtherTopLevels(t *testing.T) {
	for _, in := range []string{``, ` `, `[]`, `"a"`, `1`, `null`, `[{}]`, `{}{}`, `{},`} {
		if err := Scan([]byte(in), func(_, _ []byte) error { return nil }); err == nil {
			t.Errorf("%q accepted", in)
		}
	}
}

func TestScanStopsAtTheVisitorsError(t *testing.T) {
	stop, calls := errors.New("stop"), 0
	err := Scan([]byte(`{"a":1,"b":2}`), func(_, _ []byte) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("got %v after %d calls", err, calls)
	}
}

// members writes an object of n members, each with the given value.
func members(n int, value string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%q:%s,", fmt.Sprintf("key-%d", i), value)
	}
	return "{" + strings.TrimSuffix(b.String(), ",") + "}"
}

func TestDuplicatesAtEverySize(t *testing.T) {
	for _, n := range []int{1, 2, linear - 1, linear, linear + 1, 2 * linear, 100, 5000} {
		for _, inner := range []string{"1", members(linear+5, "0"), members(3*linear, `{"\u0061":1,"b":2}`)} {
			if n > 100 && inner != "1" {
				continue
			}
			good := members(n, inner)
			if _, err := Parse([]byte(good)); err != nil {
				t.Fatalf("%d members: %v", n, err)
			}
			for _, i := range []int{0, n / 2, n - 1} {
				for _, spelling := range []string{`"key-%d"`, `"\u006bey-%d"`} {
					bad := good[:len(good)-1] + "," + fmt.Sprintf(spelling, i) + ":0}"
					var e *Error
					if _, err := Parse([]byte(bad)); !errors.As(err, &e) || e.Path != fmt.Sprintf("$.key-%d", i) || e.Reason != "duplicate key" {
						t.Errorf("%d members, %d again as %s: %v", n, i, spelling, err)
					}
				}
			}
		}
	}
}

// document draws a JSON text with the odd spellings that a serialiser would never write.
func document() *rapid.Generator[string] {
	text := rapid.Custom(func(t *rapid.T) string {
		parts := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "longer plain run of text", `\u0061`, `\n`, "é", "😀", `\ud83d\ude00`, "\uffff", `\/`, "\u2028"}), 0, 4).Draw(t, "parts")
		return `"` + strings.Join(parts, "") + `"`
	})
	number := rapid.SampledFrom([]string{"0", "-0", "1", "1.0", "1e2", "9007199254740991", "9007199254740992", "1e16", "1e21", "1e-400", "1e400", "0.1", "-2.5E-3", "333333333.33333329"})
	scalar := rapid.OneOf(text, number, rapid.SampledFrom([]string{"true", "false", "null"}))
	var value func(depth int) *rapid.Generator[string]
	value = func(depth int) *rapid.Generator[string] {
		if depth == 0 {
			return scalar
		}
		return rapid.Custom(func(t *rapid.T) string {
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				return "[" + strings.Join(rapid.SliceOfN(value(depth-1), 0, 4).Draw(t, "items"), " , ") + "]"
			case 1, 2:
				n := rapid.IntRange(0, 5).Draw(t, "members")
				ms := make([]string, n)
				for i := range ms {
					ms[i] = text.Draw(t, "key") + ":" + value(depth-1).Draw(t, "value")
				}
				return "{" + strings.Join(ms, ",") + "}"
			}
			return scalar.Draw(t, "scalar")
		})
	}
	return value(3)
}

func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { checkDocument(t, []byte(document().Draw(t, "document"))) })
}

// fataler is what testing.T and rapid.T have in common.
type fataler interface{ Fatalf(string, ...any) }

// checkDocument asserts what holds for every input, good or bad.
func checkDocument(t fataler, data []byte) {
	parsed, err := Parse(data)
	scanErr := Scan(data, func(_, _ []byte) error { return nil })
	if _, object := parsed.(map[string]any); object != (scanErr == nil) {
		t.Fatalf("Parse gives %T, %v; Scan %v", parsed, err, scanErr)
	}
	canonical, cErr := Canonical(data)
	compact, jErr := Compact(data)
	if (err == nil) != (cErr == nil) || (err == nil) != (jErr == nil) {
		t.Fatalf("Parse %v, Canonical %v, Compact %v", err, cErr, jErr)
	}
	if err != nil {
		return
	}
	if !json.Valid(data) {
		t.Fatalf("encoding/json refuses what is accepted here")
	}
	for name, form := range map[string][]byte{"canonical": canonical, "compact": compact} {
		again, err := Canonical(form)
		if err != nil || !bytes.Equal(again, canonical) {
			t.Fatalf("canonical of the %s form: %s, %v; want %s", name, again, err, canonical)
		}
	}
	if again, err := Compact(compact); err != nil || !bytes.Equal(again, compact) {
		t.Fatalf("compact is not idempotent: %s, %v; want %s", again, err, compact)
	}
	marshalled, err := Marshal(parsed)
	if err != nil || !bytes.Equal(marshalled, canonical) {
		t.Fatalf("Marshal(Parse) gives %s, %v; want %s", marshalled, err, canonical)
	}
}

func TestCompareUTF16(t *testing.T) {
	runes := rapid.OneOf(rapid.Rune(), rapid.SampledFrom([]rune{'a', 0x7f, 0x7ff, 0xd7ff, 0xe000, 0xfb33, 0xffff, 0x10000, 0x10ffff}))
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.StringOf(runes).Draw(t, "a")
		b := rapid.StringOf(runes).Draw(t, "b")
		want := slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
		if got := compareUTF16(a, b); got != want {
			t.Fatalf("%q against %q: got %d, want %d", a, b, got, want)
		}
	})
}

// TestStopBytes puts every byte at every place of a word, since eight are looked at together.
func TestStopBytes(t *testing.T) {
	for c := range 256 {
		for at := range 17 {
			in := bytes.Repeat([]byte{'x'}, 17)
			in[at] = byte(c)
			doc := append(append([]byte{'"'}, in...), '"')
			_, err := Parse(doc)
			if want := json.Valid(doc) && c < 0x80; (err == nil) != want {
				t.Fatalf("byte %#x at %d: %v", c, at, err)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, r := range refused {
		f.Add([]byte(r.in))
	}
	f.Add([]byte(members(40, `{"a":[1,2.5,null,"\ud83d\ude00"]}`)))
	f.Add([]byte(`{"b":1,"10":2,"9":3,"\u20ac":[1E30,1e-7]}`))
	f.Fuzz(func(t *testing.T, data []byte) { checkDocument(t, data) })
}

func FuzzString(f *testing.F) {
	f.Add([]byte(`"a\u0041\ud83d\ude00\n"`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := String(raw)
		v, parseErr := Parse(raw)
		if err != nil {
			if _, ok := v.(string); ok && raw[0] == '"' && raw[len(raw)-1] == '"' {
				t.Fatalf("String refuses what Parse takes: %v", err)
			}
			return
		}
		if parseErr != nil || v != s {
			t.Fatalf("String gives %q, Parse %v, %v", s, v, parseErr)
		}
	})
}

// prompt is a chat request of about size bytes, with the mix of text and line breaks of a long conversation.
func prompt(size int, line string) []byte {
	text := strings.Repeat(line, 4096/len(line))
	var b strings.Builder
	b.WriteString(`{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"system","content":"You are helpful."}`)
	for b.Len() < size {
		fmt.Fprintf(&b, `,{"role":"user","content":"%s"}`, text)
	}
	b.WriteString(`],"temperature":0.7}`)
	return []byte(b.String())
}

func BenchmarkScan(b *testing.B) {
	var numbers strings.Builder
	for i := range 80000 {
		fmt.Fprintf(&numbers, "%d.%d,", i, i*7)
	}
	for name, doc := range map[string][]byte{
		"prompt":  prompt(1<<20, `The quick brown fox jumps over the lazy dog, again and again.\n`),
		"code":    prompt(1<<20, `if x == \"a\" {\n\treturn y\n}\n`),
		"chinese": prompt(1<<20, `敏捷的棕色狐狸跳过了懒狗。\n`),
		"objects": []byte(`{"list":[` + strings.Repeat(`{"id":12,"name":"x","tags":["a","b"],"on":true},`, 20000) + `{}]}`),
		"numbers": []byte(`{"input":[` + numbers.String() + `0]}`),
		"members": []byte(members(60000, "1")),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(doc)))
			b.ReportAllocs()
			for b.Loop() {
				if err := Scan(doc, func(_, _ []byte) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
