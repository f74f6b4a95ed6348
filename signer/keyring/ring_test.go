package keyring

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/signer/code"
	"sallyport/signer/jcs"
)

// counter is randomness that a test can repeat: each read gives one byte over and over, and the next read another.
type counter struct{ next byte }

func (c *counter) Read(p []byte) (int, error) {
	c.next++
	for i := range p {
		p[i] = c.next
	}
	return len(p), nil
}

var now = time.Unix(1_800_000_000, 0)

func create(t *testing.T) (*Ring, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	r, created, err := OpenOrCreate(dir, &counter{})
	if err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	return r, dir
}

func TestOpenOrCreate(t *testing.T) {
	r, dir := create(t)
	again, created, err := OpenOrCreate(dir, &counter{next: 9})
	if err != nil || created || again.Active().KID() != r.Active().KID() {
		t.Errorf("opened again: created %v, %v", created, err)
	}
	opened, err := Open(dir)
	if err != nil || !opened.Active().Public().Equal(r.Active().Public()) {
		t.Error(err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, keyPath(dir, r.Active().KID()): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v", path, info.Mode().Perm(), err)
		}
	}
	msg := []byte("message")
	if !ed25519.Verify(r.Active().Public(), msg, opened.Active().Sign(msg)) {
		t.Error("the signature does not verify")
	}
}

func TestOneKeyFromManyStarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	var made sync.Map
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			r, created, err := OpenOrCreate(dir, &counter{next: byte(i * 10)})
			if err != nil {
				t.Error(err)
				return
			}
			made.Store(r.Active().KID(), created)
		})
	}
	group.Wait()
	kids := 0
	made.Range(func(_, _ any) bool { kids++; return true })
	if kids != 1 {
		t.Errorf("%d keys", kids)
	}
}

func TestNoRandomness(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if _, _, err := OpenOrCreate(dir, strings.NewReader("short")); err == nil {
		t.Error("a key was made from too little randomness")
	}
	if _, err := Open(dir); err == nil {
		t.Error("an empty ring opens")
	}
}

// file writes a key file for the seed of one repeated byte.
func file(t *testing.T, dir string, seed byte, edit func(*fileForm)) string {
	t.Helper()
	key := fromSeed(bytes.Repeat([]byte{seed}, 32))
	f := fileForm{KID: key.KID(), SeedB64u: jcs.EncodeB64u(key.private().Seed())}
	edit(&f)
	data, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	path := keyPath(dir, key.KID())
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func public(f *fileForm) {
	seed, _ := jcs.DecodeB64u(f.SeedB64u)
	f.SeedB64u, f.X = "", jcs.EncodeB64u(fromSeed(seed).Public())
}

func TestOpenRefuses(t *testing.T) {
	active := func(f *fileForm) { f.Active = true }
	tests := []struct {
		name string
		want []string
		make func(t *testing.T, dir string)
	}{
		{"empty", []string{"holds no key"}, func(*testing.T, string) {}},
		{"no active key", []string{"no key is active"}, func(t *testing.T, dir string) { file(t, dir, 1, func(*fileForm) {}) }},
		{"two active keys", []string{"is active, and so is"}, func(t *testing.T, dir string) { file(t, dir, 1, active); file(t, dir, 2, active) }},
		{"wide directory", []string{"mode is 0750", "chmod 0700"}, func(t *testing.T, dir string) {
			file(t, dir, 1, active)
			must(t, os.Chmod(dir, 0o750))
		}},
		{"wide file", []string{"mode is 0640", "chmod 0600"}, func(t *testing.T, dir string) { must(t, os.Chmod(file(t, dir, 1, active), 0o640)) }},
		{"all problems at once", []string{"unknown member", "mode is 0604", "seed_b64u is not"}, nil},
		{"same key twice", []string{"holds the same key as"}, func(t *testing.T, dir string) {
			must(t, os.Rename(file(t, dir, 1, active), filepath.Join(dir, "other.json")))
			file(t, dir, 1, public)
		}},
		{"kid of another key", []string{"the key's own is"}, func(t *testing.T, dir string) {
			file(t, dir, 1, func(f *fileForm) { f.Active, f.KID = true, "0123456789abcdef" })
		}},
		{"no kid", []string{"the key's own is"}, func(t *testing.T, dir string) { file(t, dir, 1, func(f *fileForm) { f.Active, f.KID = true, "" }) }},
		{"x of another key", []string{"x is not the public key"}, func(t *testing.T, dir string) {
			file(t, dir, 1, func(f *fileForm) { f.X = jcs.EncodeB64u(fromSeed(bytes.Repeat([]byte{7}, 32)).Public()) })
		}},
		{"neither seed nor x", []string{"x is not the base64url"}, func(t *testing.T, dir string) { file(t, dir, 1, func(f *fileForm) { f.SeedB64u = "" }) }},
		{"active without a seed", []string{"must have a seed_b64u"}, func(t *testing.T, dir string) { file(t, dir, 1, func(f *fileForm) { public(f); f.Active = true }) }},
		{"active with an end", []string{"must not have an end"}, func(t *testing.T, dir string) {
			file(t, dir, 1, func(f *fileForm) { f.Active, f.NotAfterUnix = true, 5 })
		}},
		{"negative end", []string{"not_after_unix is negative"}, func(t *testing.T, dir string) { file(t, dir, 1, func(f *fileForm) { f.NotAfterUnix = -5 }) }},
		{"a directory as key", []string{"is a d"}, func(t *testing.T, dir string) {
			file(t, dir, 1, active)
			must(t, os.Mkdir(filepath.Join(dir, "sub.json"), 0o700))
		}},
		{"too large", []string{"larger than"}, func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "a.json"), bytes.Repeat([]byte{' '}, maxKeyFile+1), 0o600))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.Chmod(dir, 0o700))
			if tt.make == nil {
				must(t, os.WriteFile(filepath.Join(dir, "a.json"), []byte(`{"extra":1}`), 0o600))
				must(t, os.Chmod(file(t, dir, 1, active), 0o604))
				file(t, dir, 2, func(f *fileForm) { f.SeedB64u = "AAAA" })
			} else {
				tt.make(t, dir)
			}
			_, err := Open(dir)
			if err == nil {
				t.Fatal("opened")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
		})
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFaultyRingIsNeverReplaced(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o700))
	file(t, dir, 1, func(*fileForm) {})
	if _, created, err := OpenOrCreate(dir, &counter{}); err == nil || created {
		t.Errorf("created %v, %v", created, err)
	}
}

func TestRotate(t *testing.T) {
	r, dir := create(t)
	old := r.Active()
	if err := r.Rotate(&counter{next: 1}, time.Time{}); !errors.Is(err, ErrNoEnd) {
		t.Errorf("without an end: %v", err)
	}
	until := now.Add(time.Hour)
	must(t, r.Rotate(&counter{next: 1}, until))
	opened, err := Open(dir)
	must(t, err)
	for name, ring := range map[string]*Ring{"in memory": r, "on disk": opened} {
		t.Run(name, func(t *testing.T) {
			if ring.Active().KID() == old.KID() {
				t.Fatal("the old key signs")
			}
			keys := ring.VerifyKeys()
			if len(keys) != 2 || keys[0].KID != ring.Active().KID() || keys[1].KID != old.KID() || !keys[0].NotAfter.IsZero() || !keys[1].NotAfter.Equal(until) {
				t.Errorf("%+v", keys)
			}
			set := NewKeySet(keys)
			if _, d := set.Lookup(old.KID(), until); d != nil {
				t.Error(d)
			}
			if _, d := set.Lookup(old.KID(), until.Add(time.Second)); d == nil || d.Code != code.TokenKIDExpired {
				t.Errorf("after its end: %v", d)
			}
			if jwks := ring.JWKS(until); len(jwks.Keys) != 2 || jwks.Keys[0].KID != ring.Active().KID() {
				t.Errorf("%+v", jwks)
			}
			if jwks := ring.JWKS(until.Add(time.Second)); len(jwks.Keys) != 1 {
				t.Errorf("%+v", jwks)
			}
		})
	}
	data, err := os.ReadFile(keyPath(dir, old.KID()))
	must(t, err)
	if bytes.Contains(data, []byte("seed")) {
		t.Error("the old key's private part is still on disk")
	}
	stale, err := Open(dir)
	must(t, err)
	must(t, r.Rotate(&counter{next: 2}, until))
	if err := stale.Rotate(&counter{next: 3}, until); !errors.Is(err, ErrChanged) {
		t.Errorf("a ring that is out of date rotates: %v", err)
	}
}

// TestRotationCutOff stops a rotation after its first file, as a power cut would.
func TestRotationCutOff(t *testing.T) {
	r, dir := create(t)
	old := r.Active().KID()
	file(t, dir, 9, func(f *fileForm) { f.Active, f.Replaces = true, &replaced{KID: old, UntilUnix: now.Unix()} })
	for range 2 {
		opened, err := Open(dir)
		must(t, err)
		keys := opened.VerifyKeys()
		if len(keys) != 2 || keys[1].KID != old || !keys[1].NotAfter.Equal(now) {
			t.Errorf("%+v", keys)
		}
	}
}

func TestLeftoversAreIgnored(t *testing.T) {
	_, dir := create(t)
	must(t, os.WriteFile(filepath.Join(dir, ".new-123"), []byte(`{"kid`), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "README"), []byte("keys"), 0o644))
	if _, err := Open(dir); err != nil {
		t.Error(err)
	}
}

func TestKeySet(t *testing.T) {
	key := fromSeed(bytes.Repeat([]byte{1}, 32))
	entry := func(end int64) VerifyKey {
		v := VerifyKey{KID: "lies", Public: key.Public()}
		if end > 0 {
			v.NotAfter = time.Unix(end, 0)
		}
		return v
	}
	set := NewKeySet([]VerifyKey{entry(0), entry(200), entry(100), entry(300), entry(0), {KID: "short", Public: key.Public()[:31]}})
	if set.Len() != 1 {
		t.Errorf("%d keys", set.Len())
	}
	if got, d := set.Lookup(key.KID(), time.Unix(100, 0)); d != nil || !got.Equal(key.Public()) {
		t.Error(d)
	}
	if _, d := set.Lookup(key.KID(), time.Unix(101, 0)); d == nil || d.Code != code.TokenKIDExpired {
		t.Errorf("the earliest end does not count: %v", d)
	}
	for name, lookup := range map[string]func() (ed25519.PublicKey, *code.Denial){
		"other kid": func() (ed25519.PublicKey, *code.Denial) { return set.Lookup("lies", now) },
		"no kid":    func() (ed25519.PublicKey, *code.Denial) { return set.Lookup("", now) },
		"nil set":   func() (ed25519.PublicKey, *code.Denial) { return (*KeySet)(nil).Lookup(key.KID(), now) },
		"empty set": func() (ed25519.PublicKey, *code.Denial) { return NewKeySet(nil).Lookup(key.KID(), now) },
	} {
		if _, d := lookup(); d == nil || d.Code != code.TokenUnknownKID {
			t.Errorf("%s: %v", name, d)
		}
	}
}

func TestJWKSForm(t *testing.T) {
	r, _ := create(t)
	got, err := json.Marshal(r.JWKS(now))
	must(t, err)
	want := `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w","kid":"34750f98bd59fcfc","alg":"EdDSA","use":"sig","ext":true}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestVerifyKeyJSON(t *testing.T) {
	key := fromSeed(bytes.Repeat([]byte{1}, 32))
	for _, v := range []VerifyKey{{key.KID(), key.Public(), time.Time{}}, {key.KID(), key.Public(), now}} {
		data, err := json.Marshal(v)
		must(t, err)
		var got VerifyKey
		must(t, json.Unmarshal(data, &got))
		if got.KID != v.KID || !got.Public.Equal(v.Public) || !got.NotAfter.Equal(v.NotAfter) {
			t.Errorf("%s gives %+v", data, got)
		}
	}
	good, err := json.Marshal(VerifyKey{key.KID(), key.Public(), now})
	must(t, err)
	for _, bad := range []string{`{}`, `null`, `[]`, strings.Replace(string(good), `"kid":"3`, `"kid":"4`, 1), strings.Replace(string(good), `{`, `{"a":1,`, 1), strings.Replace(string(good), `"x":"i`, `"x":"`, 1)} {
		var got VerifyKey
		if err := got.UnmarshalJSON([]byte(bad)); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestPrivatePartIsNeverShown(t *testing.T) {
	r, _ := create(t)
	key := r.Active()
	seed := key.private().Seed()
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", slog.Any("key", key), slog.Any("ring", r))
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", slog.Any("key", key), slog.Any("ring", r))
	encoded, err := json.Marshal(map[string]any{"key": key, "ring": r})
	must(t, err)
	shown := log.String() + string(encoded)
	forms := []string{string(seed), jcs.EncodeB64u(seed)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%U", "%c"} {
		shown += fmt.Sprintf(verb, key) + fmt.Sprintf(verb, struct{ K *Key }{key}) + fmt.Sprintf(verb, *r.active) + fmt.Sprintf(verb, []*Key{key})
		forms = append(forms, strings.Trim(fmt.Sprintf(verb, seed), "[]"))
	}
	for _, form := range forms {
		if strings.Contains(shown, form) {
			t.Errorf("%q is shown", form)
		}
	}
	if !strings.Contains(shown, key.KID()) {
		t.Error("not even the key id is shown")
	}
}

func FuzzKeyFile(f *testing.F) {
	key := fromSeed(bytes.Repeat([]byte{1}, 32))
	f.Add([]byte(`{"kid":"` + key.KID() + `","seed_b64u":"` + jcs.EncodeB64u(key.private().Seed()) + `","active":true}`))
	f.Add([]byte(`{"kid":"` + key.KID() + `","x":"` + jcs.EncodeB64u(key.Public()) + `","active":false,"not_after_unix":5,"replaces":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := parseFile(data)
		if err != nil {
			return
		}
		if e.active && e.key == nil || len(e.verify.Public) != ed25519.PublicKeySize {
			t.Fatalf("accepted: %s", data)
		}
	})
}
