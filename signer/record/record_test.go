package record

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

var anyText = rapid.OneOf(rapid.Just(""), rapid.String(), rapid.SampledFrom([]string{"\x00\x1f\x7f\"\\/\b\f\n\r\t", "<&>\u2028\u2029", "a\xffb\xc3\x28\xed\xa0\x80", "é😀\ue000\ufffd", "9"}))

// fill sets every field by reflection, so that one that is added and not written is noticed.
func fill(t *rapid.T, v reflect.Value) {
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString(anyText.Draw(t, "text"))
		case reflect.Bool:
			f.SetBool(rapid.Bool().Draw(t, "flag"))
		case reflect.Int, reflect.Int64:
			f.SetInt(rapid.Int64().Draw(t, "number"))
		case reflect.Uint64:
			f.SetUint(rapid.Uint64().Draw(t, "number"))
		default:
			t.Fatalf("a field of kind %s: teach the writers about it", f.Kind())
		}
	}
}

func TestJSONIsTheGenericForm(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		i := new(Intent)
		fill(t, reflect.ValueOf(i).Elem())
		want, err := json.Marshal(i)
		if err != nil {
			t.Fatal(err)
		}
		if got := i.AppendJSON([]byte("before")); string(got) != "before"+string(want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

func TestBinaryRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := &Settlement{Intent: new(Intent), Completion: new(Completion)}
		fill(t, reflect.ValueOf(s.Intent).Elem())
		fill(t, reflect.ValueOf(s.Completion).Elem())
		i, err := DecodeIntent(s.Intent.AppendBinary(nil))
		if err != nil || *i != *s.Intent {
			t.Errorf("intent %+v, %v; want %+v", i, err, s.Intent)
		}
		c, err := DecodeCompletion(s.Completion.AppendBinary(nil))
		if err != nil || *c != *s.Completion {
			t.Errorf("completion %+v, %v; want %+v", c, err, s.Completion)
		}
		raw := s.AppendBinary(nil)
		both, err := DecodeSettlement(raw)
		if err != nil || *both.Intent != *s.Intent || *both.Completion != *s.Completion {
			t.Errorf("settlement %+v, %v", both, err)
		}
		if _, err := DecodeSettlement(raw[:rapid.IntRange(0, len(raw)-1).Draw(t, "cut")]); err == nil {
			t.Error("a settlement that ends early was read")
		}
		if _, err := DecodeSettlement(append(raw, 0)); err == nil {
			t.Error("trailing data was read over")
		}
	})
}

// FuzzDecode: whatever is read is written back as the same bytes.
func FuzzDecode(f *testing.F) {
	f.Add((&Intent{ID: "rcpt_1", TimeMS: -1, Stream: true}).AppendBinary(nil))
	f.Add((&Completion{ID: "rcpt_1", Outcome: Completed, Status: 200}).AppendBinary(nil))
	f.Add((&Settlement{&Intent{}, &Completion{}}).AppendBinary(nil))
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Add([]byte{0x80, 0x00})
	f.Fuzz(func(t *testing.T, in []byte) {
		if i, err := DecodeIntent(in); err == nil && !bytes.Equal(i.AppendBinary(nil), in) {
			t.Errorf("intent %x", in)
		}
		if c, err := DecodeCompletion(in); err == nil && !bytes.Equal(c.AppendBinary(nil), in) {
			t.Errorf("completion %x", in)
		}
		if s, err := DecodeSettlement(in); err == nil && !bytes.Equal(s.AppendBinary(nil), in) {
			t.Errorf("settlement %x", in)
		}
	})
}

func BenchmarkIntent(b *testing.B) {
	i := &Intent{ID: "rcpt_00000000-0000-4000-8000-000000000000", RunID: "run_0f1e2d3c", Subject: "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", TokenHash: EmptyHash, TokenScopeHash: EmptyHash, PolicyHash: EmptyHash, Provider: "openai", Model: "gpt-4o-mini", Action: "model:invoke", Resource: "openai/gpt-4o-mini", Method: "POST", Host: "api.openai.com", Path: "/v1/chat/completions", RequestHash: EmptyHash}
	buf := make([]byte, 0, 4096)
	b.Run("json", func(b *testing.B) {
		for b.Loop() {
			buf = i.AppendJSON(buf[:0])
		}
	})
	b.Run("binary", func(b *testing.B) {
		for b.Loop() {
			buf = i.AppendBinary(buf[:0])
		}
	})
	b.Run("decode", func(b *testing.B) {
		raw := i.AppendBinary(nil)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := DecodeIntent(raw); err != nil {
				b.Fatal(err)
			}
		}
	})
}
