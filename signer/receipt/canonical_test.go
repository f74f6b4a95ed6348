package receipt

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sallyport/signer/chain"
	"sallyport/signer/jcs"
	"sallyport/signer/record"
)

// sameAsGeneric holds the written-out form against the general one.
func sameAsGeneric(t interface {
	Helper()
	Errorf(string, ...any)
}, p *Payload,
) {
	t.Helper()
	want, wantErr := jcs.Marshal(p)
	got, err := p.canonical([]byte("before"))
	if (err == nil) != (wantErr == nil) {
		t.Errorf("error %v, the general way's %v", err, wantErr)
		return
	}
	if err != nil {
		return
	}
	if got = bytes.TrimPrefix(got, []byte("before")); !bytes.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if ordered, err := jcs.HashJSONOrder(got); err != nil || ordered != jcs.Hash(got) {
		t.Errorf("JSON order gives another hash: %s, %v", ordered, err)
	}
	id, err := jcs.Marshal(p.Metadata.ModelIdentity)
	if err != nil || p.Metadata.ModelIdentity.hash() != jcs.Hash(id) || p.Metadata.ModelIdentity.hash() != jcs.Hash(id) {
		t.Errorf("identity hash of %s", id)
	}
}

// TestCanonicalIsTheGenericForm fills every field that a payload has, by reflection: one that is added and not written
// fails here.
func TestCanonicalIsTheGenericForm(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := new(Payload)
		fill(t, reflect.ValueOf(p).Elem())
		sameAsGeneric(t, p)
	})
}

var (
	anyText = rapid.OneOf(rapid.Just(""), rapid.String(), rapid.SampledFrom([]string{"\x00\x1f\"\\/\b\f\n\r\t", "<&>\u2028\u2029", "a\xffb\xc3\x28\xed\xa0\x80", "é😀\ue000", "9"}))
	anyInt  = rapid.OneOf(rapid.Int64Range(-5, 5), rapid.Int64(), rapid.SampledFrom([]int64{maxSafe, maxSafe + 1, -maxSafe, -maxSafe - 1, math.MaxInt64, math.MinInt64}))
)

func fill(t *rapid.T, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i))
		}
	case reflect.String:
		v.SetString(anyText.Draw(t, "text"))
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, "flag"))
	case reflect.Int, reflect.Int64:
		v.SetInt(anyInt.Draw(t, "number"))
	case reflect.Uint64:
		v.SetUint(uint64(anyInt.Draw(t, "number")))
	default:
		t.Fatalf("a member of kind %s: teach the writer about it", v.Kind())
	}
}

func TestMetadataLimitIsTheGenericOne(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"a", "<", "\u2028", "\x01", "\xff"} {
		// Around the limit in both counts, and well inside.
		for _, n := range []int{1, 400, 2500, 2600, 2700, 5000, 7000, 16000, 16384} {
			m := Metadata{Sallyport: Detail{Path: strings.Repeat(text, n)}}
			want := jsonLen(t, &m) <= maxMetadata
			if m.fits() != want {
				t.Errorf("%d times %q: %t, want %t", n, text, m.fits(), want)
			}
		}
	}
}

func jsonLen(t *testing.T, v any) int {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return len(raw)
}

func FuzzCanonical(f *testing.F) {
	f.Add("rcpt_1", "a<b>&\u2028é😀", "\x00\xff\"\\", "", int64(1)<<53, uint64(math.MaxUint64), true)
	f.Fuzz(func(t *testing.T, a, b, c, d string, n int64, u uint64, flag bool) {
		i := &record.Logged{Intent: record.Intent{
			ID: a, RunID: b, EventHash: c, Nonce: d, MissionID: b, Subject: c, TokenHash: d, TokenScopeHash: a, PolicyHash: c, Provider: d, Model: a,
			Action: b, Resource: c, Method: d, Host: a, Path: b, SecretClass: c, RequestHash: d, RequestBytes: n, Stream: flag, TrustVersion: u,
		}}
		if flag {
			i.Chain = &chain.Link{Span: a, Parent: b, Event: chain.Event{Hash: c, Timestamp: d}}
		}
		p, err := Build(i, &record.Completion{
			ID: a, Outcome: record.Outcome(b), Reason: c, Status: int(n), ResponseHash: d, ResponseBytes: n, TokensInput: n, LatencyMS: n, UsageReported: flag,
		}, a)
		if err != nil {
			t.Fatal(err)
		}
		sameAsGeneric(t, p)
	})
}

// TestAppendIsTheGenericReceipt holds the short way to a signed receipt against the general one.
func TestAppendIsTheGenericReceipt(t *testing.T) {
	t.Parallel()
	k := fixedKey(t)
	i, c := call()
	for range 2 {
		p, err1 := Build(i, c, "gateway")
		env, err2 := Sign(p, k, time.UnixMilli(c.TimeMS))
		want, err3 := env.Encode()
		got, err4 := Append([]byte("before"), i, c, "gateway", k, time.UnixMilli(c.TimeMS))
		if err := errors.Join(err1, err2, err3, err4); err != nil || string(got) != "before"+string(want) {
			t.Errorf("got  %s\nwant %s (%v)", got, want, err)
		}
		i.EventHash, i.Nonce, i.MissionID, i.Model, c.Reason, c.Outcome = "", "", "", "", "gone\n\xff", record.Cut
	}
	i.RunID = ""
	if _, err := Append(nil, i, c, "gateway", k, time.UnixMilli(1)); !errors.Is(err, ErrPayload) {
		t.Errorf("a receipt outside the schema: %v", err)
	}
}

// TestHugeNumberIsRefused: a receipt that another party would read rounded is not made.
func TestHugeNumberIsRefused(t *testing.T) {
	t.Parallel()
	i, c := call()
	i.TrustVersion = 1 << 60
	p, err := Build(i, c, "gateway")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Sign(p, fixedKey(t), time.UnixMilli(1)); err == nil {
		t.Error("signed")
	}
	if _, err := Append(nil, i, c, "gateway", fixedKey(t), time.UnixMilli(1)); !errors.Is(err, ErrPayload) {
		t.Errorf("got %v", err)
	}
}
