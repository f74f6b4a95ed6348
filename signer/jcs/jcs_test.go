package jcs

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestCanonical(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"RFC 8785 section 3.2.2",
			"{\n\"numbers\": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],\n" +
				`"string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false] }`,
			`{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}`},
		{"RFC 8785 section 3.2.3, UTF-16 order",
			`{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}`,
			"{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}"},
		{"no HTML or line separator escapes", `"a<b>&\u2028é\u2029\u007f😀\/"`, "\"a<b>&\u2028é\u2029\x7f😀/\""},
		{"control characters", `"\u0000\u0008\u0009\u000a\u000b\u000c\u000d\u001f"`, `"\u0000\b\t\n\u000b\f\r\u001f"`},
		{"number spellings", `[1.0,1e2,-0,0e9,-0.0,1E-7,123456789012345]`, `[1,100,0,0,0,1e-7,123456789012345]`},
		{"largest safe integers", `[9007199254740991,-9007199254740991]`, `[9007199254740991,-9007199254740991]`},
		{"nested objects are sorted", `{"b":{"d":1,"c":[{"z":1,"y":2}]},"a":0}`, `{"a":0,"b":{"c":[{"y":2,"z":1}],"d":1}}`},
		{"prefix comes first", `{"aa":1,"a":2,"":3}`, `{"":3,"a":2,"aa":1}`},
		{"array indexes are strings", `{"10":1,"9":2}`, `{"10":1,"9":2}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Canonical([]byte(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// The doubles and their text are from RFC 8785 appendix B.
func TestNumberFormat(t *testing.T) {
	tests := map[uint64]string{
		0x0000000000000000: "0",
		0x8000000000000000: "0",
		0x0000000000000001: "5e-324",
		0x8000000000000001: "-5e-324",
		0x7fefffffffffffff: "1.7976931348623157e+308",
		0xffefffffffffffff: "-1.7976931348623157e+308",
		0x4340000000000000: "9007199254740992",
		0xc340000000000000: "-9007199254740992",
		0x4430000000000000: "295147905179352830000",
		0x44b52d02c7e14af5: "9.999999999999997e+22",
		0x44b52d02c7e14af6: "1e+23",
		0x44b52d02c7e14af7: "1.0000000000000001e+23",
		0x444b1ae4d6e2ef4e: "999999999999999700000",
		0x444b1ae4d6e2ef4f: "999999999999999900000",
		0x444b1ae4d6e2ef50: "1e+21",
		0x3eb0c6f7a0b5ed8c: "9.999999999999997e-7",
		0x3eb0c6f7a0b5ed8d: "0.000001",
		0x41b3de4355555553: "333333333.3333332",
		0x41b3de4355555554: "333333333.33333325",
		0x41b3de4355555555: "333333333.3333333",
		0x41b3de4355555556: "333333333.3333334",
		0x41b3de4355555557: "333333333.33333343",
		0xbecbf647612f3696: "-0.0000033333333333333333",
		0x43143ff3c1cb0959: "1424953923781206.2",
	}
	for bits, want := range tests {
		if got := string(appendNumber(nil, math.Float64frombits(bits))); got != want {
			t.Errorf("%016x: got %s, want %s", bits, got, want)
		}
	}
}

func TestCompact(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"document order", ` { "b" : 1.0 , "a" : [ 1e2 , -0 ] } `, `{"b":1,"a":[100,0]}`},
		{"array indexes first", `{"b":1,"10":2,"9":3,"01":4,"4294967294":5,"4294967295":6,"a":{"1":0,"0":1}}`,
			`{"9":3,"10":2,"4294967294":5,"b":1,"01":4,"4294967295":6,"a":{"0":1,"1":0}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Compact([]byte(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

var refused = []struct{ name, in, path, reason string }{
	{"empty", ``, "$", "unexpected end"},
	{"white space only", " \n", "$", "unexpected end"},
	{"duplicate key", `{"a":1,"a":2}`, "$.a", "duplicate key"},
	{"duplicate key, one escaped", `{"a":1,"\u0061":2}`, "$.a", "duplicate key"},
	{"duplicate key, other escaped", `{"\u0061":1,"a":2}`, "$.a", "duplicate key"},
	{"duplicate key, deep", `{"a":[{},{"b":{"c":1,"d":2,"c":3}}]}`, "$.a[1].b.c", "duplicate key"},
	{"duplicate empty key", `{"":1,"":2}`, `$[""]`, "duplicate key"},
	{"trailing data", `{} {}`, "$", "trailing data"},
	{"trailing comma in object", `{"a":1,}`, "$", "want a member name"},
	{"trailing comma in array", `[1,]`, "$[1]", "unexpected character"},
	{"missing colon", `{"a" 1}`, "$.a", "want ':'"},
	{"missing comma", `{"a":1 "b":2}`, "$", "want ',' or '}'"},
	{"mixed brackets", `{"a":[1}`, "$.a", "want ',' or ']'"},
	{"open object", `{"a":1`, "$", "unexpected end"},
	{"open string", `{"a":"xyz`, "$.a", "unexpected end of string"},
	{"single quotes", `{'a':1}`, "$", "want a member name"},
	{"byte order mark", "\xef\xbb\xbf{}", "$", "unexpected character"},
	{"comment", `{/**/}`, "$", "want a member name"},
	{"NaN", `[NaN]`, "$[0]", "unexpected character"},
	{"half a word", `[tru]`, "$[0]", "unexpected character"},
	{"integer 2^53", `{"n":9007199254740992}`, "$.n", "integer beyond ±(2^53-1)"},
	{"integer -2^53", `[-9007199254740992]`, "$[0]", "integer beyond ±(2^53-1)"},
	{"long integer", `[100000000000000000000000000]`, "$[0]", "integer beyond ±(2^53-1)"},
	{"large integer as a fraction", `[9007199254740992.0]`, "$[0]", "integer beyond ±(2^53-1)"},
	{"large integer with an exponent", `[1e16]`, "$[0]", "integer beyond ±(2^53-1)"},
	{"overflow", `[1e309]`, "$[0]", "number too large for a double"},
	{"leading zero", `[01]`, "$[0]", "leading zero"},
	{"leading plus", `[+1]`, "$[0]", "unexpected character"},
	{"bare minus", `[-]`, "$[0]", "want a digit"},
	{"no digit behind the point", `[1.]`, "$[0]", "want a digit"},
	{"no digit before the point", `[.5]`, "$[0]", "unexpected character"},
	{"no digit in the exponent", `[1e+]`, "$[0]", "want a digit"},
	{"lone high surrogate", `{"a":"\ud83d"}`, "$.a", "lone surrogate"},
	{"lone low surrogate", `["\ude00"]`, "$[0]", "lone surrogate"},
	{"two high surrogates", `["\ud83d\ud83d"]`, "$[0]", "lone surrogate"},
	{"surrogate with a short partner", `["\ud83d\ude0"]`, "$[0]", "lone surrogate"},
	{"lone surrogate in a key", `{"\ud83d":1}`, "$", "lone surrogate"},
	{"unknown escape", `["\x41"]`, "$[0]", "unknown escape"},
	{"bad hex", `["\u00g0"]`, "$[0]", `want four hex digits behind \u`},
	{"raw line break in string", "[\"a\nb\"]", "$[0]", "control character in string"},
	{"raw NUL in string", "[\"12345678\x00\"]", "$[0]", "control character in string"},
	{"invalid UTF-8", "{\"a\":\"x\xffy\"}", "$.a", "invalid UTF-8"},
	{"overlong UTF-8", "[\"\xc0\xaf\"]", "$[0]", "invalid UTF-8"},
	{"surrogate in UTF-8", "[\"\xed\xa0\x80\"]", "$[0]", "invalid UTF-8"},
	{"invalid UTF-8 outside strings", "[1,\xff]", "$[1]", "unexpected character"},
	{"truncated UTF-8 at the end of a long string", "[\"" + strings.Repeat("a", 64) + "\xe2\x82\"]", "$[0]", "invalid UTF-8"},
}

func TestRefused(t *testing.T) {
	for _, tt := range refused {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.in))
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("accepted, or not an *Error: %v", err)
			}
			if e.Path != tt.path || e.Reason != tt.reason {
				t.Errorf("got %s: %s, want %s: %s", e.Path, e.Reason, tt.path, tt.reason)
			}
			if strings.HasPrefix(tt.in, "{") {
				if err := Scan([]byte(tt.in), func(_, _ []byte) error { return nil }); err == nil {
					t.Error("Scan accepts what Parse refuses")
				}
			}
		})
	}
}

func TestDepth(t *testing.T) {
	for _, open := range []string{"[", `{"a":`} {
		closing := map[string]string{"[": "]", `{"a":`: "}"}[open]
		nest := func(n int) []byte {
			return []byte(strings.Repeat(open, n) + "1" + strings.Repeat(closing, n))
		}
		if _, err := Parse(nest(MaxDepth)); err != nil {
			t.Errorf("depth %d of %s: %v", MaxDepth, open, err)
		}
		var e *Error
		if _, err := Parse(nest(MaxDepth + 1)); !errors.As(err, &e) || e.Reason != "nested too deep" {
			t.Errorf("depth %d of %s: %v", MaxDepth+1, open, err)
		}
	}
	// Many containers side by side are no nesting.
	if _, err := Parse([]byte("[" + strings.Repeat("[],{},", 1000) + "0]")); err != nil {
		t.Error(err)
	}
}

func TestParseValues(t *testing.T) {
	got, err := Parse([]byte(` {"s":"a\n\u00e9\ud83d\ude00","n":-1.5e1,"t":true,"f":false,"z":null,"a":[],"o":{}} `))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"s": "a\né😀", "n": -15.0, "t": true, "f": false, "z": nil, "a": []any{}, "o": map[string]any{}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v", got)
	}
}

func TestString(t *testing.T) {
	for raw, want := range map[string]string{`""`: "", `"a\"b\\\/\b\f\n\r\t"`: "a\"b\\/\b\f\n\r\t", `"\u20AC"`: "€"} {
		if got, err := String([]byte(raw)); err != nil || got != want {
			t.Errorf("%s: got %q, %v", raw, got, err)
		}
	}
	for _, raw := range []string{``, `1`, `"a`, `"a" `, `"a""b"`, ` "a"`, `"\ud800"`} {
		if got, err := String([]byte(raw)); err == nil {
			t.Errorf("%s accepted as %q", raw, got)
		}
	}
}

func TestMarshal(t *testing.T) {
	got, err := Marshal(struct {
		B string          `json:"b"`
		A json.RawMessage `json:"a"`
	}{"<&>\u2028", json.RawMessage(`{"y": 1.0, "x": 2}`)})
	if want := "{\"a\":{\"x\":2,\"y\":1},\"b\":\"<&>\u2028\"}"; err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
	for name, v := range map[string]any{"integer too large": int64(1 << 60), "not a number": math.NaN(), "channel": make(chan int)} {
		if _, err := Marshal(v); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestUnmarshal(t *testing.T) {
	type inner struct {
		N *int           `json:"n"`
		M map[string]int `json:"m,omitempty"`
	}
	type outer struct {
		inner
		S    string          `json:"s"`
		List []inner         `json:"list"`
		Raw  json.RawMessage `json:"raw"`
		Hide string          `json:"-"`
		Any  any             `json:"any"`
	}
	var v outer
	if err := Unmarshal([]byte(`{"s":"x","list":[{"n":1},{"n":null}],"raw":{"a": [1.0]},"any":{"k":null},"m":{"a":1}}`), &v); err != nil {
		t.Fatal(err)
	}
	if v.S != "x" || *v.List[0].N != 1 || v.List[1].N != nil || string(v.Raw) != `{"a": [1.0]}` || v.M["a"] != 1 {
		t.Errorf("got %+v", v)
	}
	tests := []struct{ name, in, path, reason string }{
		{"unknown member", `{"x":1}`, "$.x", "unknown member"},
		{"other case", `{"S":"x"}`, "$.S", "unknown member"},
		{"hidden field", `{"-":"x"}`, "$.-", "unknown member"},
		{"unknown member, deep", `{"list":[{},{"k":1}]}`, "$.list[1].k", "unknown member"},
		{"duplicate", `{"s":"a","s":"b"}`, "$.s", "duplicate key"},
		{"wrong type", `{"s":1}`, "$.s", "want string, not number"},
		{"null string", `{"s":null}`, "$.s", "null is not allowed here"},
		{"null element", `{"list":[null]}`, "$.list[0]", "null is not allowed here"},
		{"null document", `null`, "$", "null is not allowed here"},
		{"null in a map", `{"m":{"a b":null}}`, `$.m["a b"]`, "null is not allowed here"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var v outer
			var e *Error
			if err := Unmarshal([]byte(tt.in), &v); !errors.As(err, &e) || e.Path != tt.path || e.Reason != tt.reason {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestDecodeHash(t *testing.T) {
	good := Hash(nil)
	if good != "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU" {
		t.Fatalf("hash of nothing is %s", good)
	}
	if b, err := DecodeHash(good); err != nil || len(b) != 32 {
		t.Errorf("%v", err)
	}
	for name, s := range map[string]string{
		"empty": "", "short": good[:42], "long": good + "A", "padded": good[:42] + "=", "trailing bits": good[:42] + "V",
		"standard alphabet": strings.Replace(good, "-", "+", 1), "line break": good[:42] + "\n", "space": " " + good[:42],
	} {
		if _, err := DecodeHash(s); !errors.Is(err, ErrHash) {
			t.Errorf("%s accepted", name)
		}
	}
	if _, err := DecodeB64u("AAAA\nAAAA"); !errors.Is(err, ErrBase64) {
		t.Error("line break accepted")
	}
}

// fixtures is where the ecosystem's public vectors lie beside a checkout that has them.
var fixtures = filepath.Join("..", "..", "..", "shared", "fixtures", "claw")

func TestEcosystemVector(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(fixtures, "protocol-m-golden-vector.v1.json"))
	if err != nil {
		t.Skip("the ecosystem's vectors are not beside this checkout")
	}
	var v struct {
		Envelope json.RawMessage `json:"signature_envelope"`
		Want     string          `json:"canonical_jcs"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	if got, err := Canonical(v.Envelope); err != nil || string(got) != v.Want {
		t.Errorf("got %s, %v", got, err)
	}
}

func FuzzIsHash(f *testing.F) {
	f.Add(Hash(nil))
	f.Add(strings.Repeat("A", HashLen-1) + "B")
	f.Add(strings.Repeat("\n", HashLen))
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := DecodeHash(s); (err == nil) != IsHash(s) {
			t.Errorf("%q: %t, but decoding gives %v", s, IsHash(s), err)
		}
	})
}
