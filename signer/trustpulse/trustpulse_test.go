package trustpulse

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/signer/jcs"
)

const good = `{"trust_pulse_version":"1","run_id":"r","agent_did":"did:key:z","issued_at":"2026-01-01T00:00:00.000Z","duration_ms":12,"evidence_class":"self_reported","tier_uplift":false,"tools":[{"name":"a<b>","calls":3}],"files":[{"path":"src/a b.go","touches":0}]}`

func TestParse(t *testing.T) {
	if _, err := Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"another version":       {`"1"`, `"2"`},
		"an uplift":             {`"tier_uplift":false`, `"tier_uplift":true`},
		"no uplift":             {`"tier_uplift":false,`, ``},
		"another class":         {`self_reported`, `attested`},
		"a member more":         {`"run_id"`, `"x":1,"run_id"`},
		"a member twice":        {`"run_id"`, `"run_id":"q","run_id"`},
		"no run":                {`"r"`, `""`},
		"an absolute path":      {`src/a b.go`, `/etc/passwd`},
		"a path of a home":      {`src/a b.go`, `~/x`},
		"a way up":              {`src/a b.go`, `src/../../x`},
		"a backslash":           {`src/a b.go`, `src\\x`},
		"no path":               {`src/a b.go`, ``},
		"a negative count":      {`"calls":3`, `"calls":-3`},
		"half a call":           {`"calls":3`, `"calls":3.5`},
		"no count":              {`,"calls":3`, ``},
		"no tools":              {`"tools":[{"name":"a<b>","calls":3}],`, ``},
		"no time":               {`2026-01-01T00:00:00.000Z`, `yesterday`},
		"a long name":           {`a<b>`, strings.Repeat("n", maxName+1)},
		"too many tools":        {`{"name":"a<b>","calls":3}`, strings.Repeat(`{"name":"n","calls":1},`, maxTools) + `{"name":"n","calls":1}`},
		"something behind it":   {`0}]}`, `0}]} {}`},
		"nobody":                {`did:key:z`, `me`},
		"a time that is a text": {`"duration_ms":12`, `"duration_ms":"12"`},
	} {
		doc := strings.Replace(good, change[0], change[1], 1)
		if doc == good {
			t.Fatalf("%s: nothing is changed", name)
		}
		if _, err := Parse([]byte(doc)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Parse([]byte(good + strings.Repeat(" ", MaxBytes))); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

func TestStore(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	if _, err := s.Newest("k"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	put := func(doc string) *Stored {
		t.Helper()
		d, err := Parse([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		out, err := s.Put("k", []byte(doc), d, time.UnixMilli(1767225600000))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	first := put(good)
	want, err := jcs.HashJSONOrder([]byte(good))
	if err != nil || first.Hash != want || first.Status != Unverified || first.CreatedAt != "2026-01-01T00:00:00.000Z" {
		t.Errorf("%+v %v", first, err)
	}
	second := put(strings.Replace(good, `"calls":3`, `"calls":4`, 1))
	put(good) // there already: nothing is added
	if got, err := s.Newest("k"); err != nil || got.Hash != second.Hash || string(got.Document) != string(second.Document) {
		t.Errorf("%+v %v", got, err)
	}
	names, err := filepath.Glob(filepath.Join(s.Dir, "k", "*.json"))
	if err != nil || len(names) != 2 {
		t.Fatal(names, err)
	}
	raw, err := os.ReadFile(names[1])
	if err == nil {
		err = os.WriteFile(names[1], []byte(strings.Replace(string(raw), `"calls":4`, `"calls":5`, 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Newest("k"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("an altered document: %v", err)
	}
}
