package export

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestJSON5(t *testing.T) {
	for name, x := range map[string]struct {
		in   string
		want any
	}{
		"comments and commas":   {"// a\n{a: 1, /* b */ 'b': [1, 2,],}", object{"a": 1.0, "b": []any{1.0, 2.0}}},
		"strings":               {`"a\x41\u00e9\ud83d\ude00\` + "\n" + `b"`, "aAé😀b"},
		"numbers":               {"[+1, -.5, 5., 0x1F, 1e3]", []any{1.0, -0.5, 5.0, 31.0, 1000.0}},
		"words":                 {"[true, false, null]", []any{true, false, nil}},
		"keys":                  {`{$a_1: 1, "b c": 2}`, object{"$a_1": 1.0, "b c": 2.0}},
		"empty":                 {"{ }", object{}},
		"byte order mark":       {"\ufeff[]", []any{}},
		"a slash in a string":   {`"http://x"`, "http://x"},
		"a quote of other kind": {`'"'`, `"`},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := parseJSON5([]byte(x.in)); err != nil || !reflect.DeepEqual(got, x.want) {
				t.Errorf("%v %#v, want %#v", err, got, x.want)
			}
		})
	}
}

func TestJSON5Refuses(t *testing.T) {
	for name, in := range map[string]string{
		"nothing": "", "two documents": "{} {}", "a key twice": `{a: 1, "a": 2}`, "no colon": "{a 1}", "no comma": "[1 2]", "two commas": "[1,,2]",
		"a comma alone": "[,]", "open object": "{a: 1", "open string": `"a`, "open comment": "/* ", "a line's end in a string": "\"a\nb\"",
		"half a pair": `"\ud800"`, "octal": "[010]", "a word": "[yes]", "infinity": "[Infinity]", "too large": "[1e999]", "number as key": "{1a: 1}",
		"too deep": strings.Repeat("[", maxConfigDepth+1), "not UTF-8": "\"\xff\"", "escape of a digit": `"\1"`, "cut escape": `"\u00`,
	} {
		t.Run(name, func(t *testing.T) {
			if v, err := parseJSON5([]byte(in)); err == nil {
				t.Errorf("read as %#v", v)
			}
		})
	}
}

// FuzzJSON5: nothing ends the process, and what encoding/json writes of the result is read as the same.
func FuzzJSON5(f *testing.F) {
	for _, s := range []string{`{a: [1, 'x', {"b": null}], // c` + "\n}", `"\u00e9\x41"`, "[0x1F, -.5]", "{", "[[["} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		v, err := parseJSON5(in)
		if err != nil {
			return
		}
		again, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if w, err := parseJSON5(again); err != nil || !reflect.DeepEqual(v, w) {
			t.Fatalf("%v: %#v became %#v", err, v, w)
		}
	})
}
