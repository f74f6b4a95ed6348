package registry

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/signer/code"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
	"sallyport/signer/keyring"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func key(t testing.TB, b byte) *keyring.Key {
	t.Helper()
	k, err := keyring.Generate(bytes.NewReader(bytes.Repeat([]byte{b}, 64)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func seal(t testing.TB, k *keyring.Key, id string) *envelope.Envelope {
	t.Helper()
	e, err := envelope.Seal(envelope.TypeContract, map[string]any{"policy_id": id}, k, at)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// verifier does what package contract does, without the schema.
func verifier(trusted ...string) Verify {
	return func(e *envelope.Envelope, want string) *code.Denial {
		err := e.Verify(envelope.Check{Type: envelope.TypeContract, Rule: envelope.JCS, Trusted: trusted})
		var bad *envelope.Error
		switch {
		case errors.As(err, &bad) && bad.Code == envelope.ClaimNotFound:
			return code.Deny(code.WPCSignerNotAllowed, "%s", err)
		case err != nil:
			return code.Deny(code.WPCSignatureInvalid, "%s", err)
		case e.PayloadHashB64u != want:
			return code.Deny(code.WPCHashMismatch, "")
		}
		return nil
	}
}

type fixture struct {
	reg *Registry
	dir string
	key *keyring.Key
	log *bytes.Buffer
}

func open(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{dir: filepath.Join(t.TempDir(), "contracts"), key: key(t, 1), log: &bytes.Buffer{}}
	var err error
	f.reg, err = Open(Config{Dir: f.dir, Verify: verifier(f.key.DID()), Log: slog.New(slog.NewJSONHandler(&lockedWriter{w: f.log}, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

type lockedWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

func (f *fixture) put(t testing.TB, id string) string {
	t.Helper()
	hash, _, err := f.reg.Put(seal(t, f.key, id))
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

func TestPutAndGet(t *testing.T) {
	f := open(t)
	first := seal(t, f.key, "one")
	hash, existed, err := f.reg.Put(first)
	if err != nil || existed || hash != first.PayloadHashB64u {
		t.Fatalf("first put: %q %v %v", hash, existed, err)
	}
	again, err := envelope.Seal(envelope.TypeContract, map[string]any{"policy_id": "one"}, f.key, at.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if _, existed, err := f.reg.Put(again); err != nil || !existed {
		t.Fatalf("second put: %v %v", existed, err)
	}
	got, err := f.reg.Get(hash)
	if err != nil || got.IssuedAt != first.IssuedAt {
		t.Fatalf("got %+v, %v; the first envelope must stay", got, err)
	}
	second := f.put(t, "two")
	want := []string{hash, second}
	slices.Sort(want)
	if hashes, err := f.reg.Hashes(); err != nil || !slices.Equal(hashes, want) {
		t.Errorf("Hashes = %v, %v", hashes, err)
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("something was left beside the contracts: %v, %v", entries, err)
	}
	if want := fmt.Sprintf(`"policy_hash":"%s","signer":"%s","verdict":"ok"`, hash, f.key.DID()); strings.Count(f.log.String(), want) != 3 {
		t.Errorf("want a line per fetch and verdict, have %s", f.log)
	}
}

// Each file that is not what its name says is refused, and the others stay in use.
func TestAlteredFilesAreRefused(t *testing.T) {
	f := open(t)
	good := f.put(t, "good")
	for name, alter := range map[string]func(text string) string{
		"payload":   func(s string) string { return strings.Replace(s, `"policy_id":"x`, `"policy_id":"y`, 1) },
		"signature": func(s string) string { return strings.Replace(s, `"signature_b64u":"`, `"signature_b64u":"A`, 1) },
		"hash":      func(s string) string { return strings.Replace(s, `"payload_hash_b64u":"`, `"payload_hash_b64u":"A`, 1) },
		"cut":       func(s string) string { return s[:len(s)/2] },
		"empty":     func(string) string { return "" },
		"twice":     func(s string) string { return s + s },
		"member":    func(s string) string { return strings.Replace(s, "{", `{"extra":1,`, 1) },
		"another":   func(string) string { b, _ := os.ReadFile(f.reg.path(good)); return string(b) },
	} {
		t.Run(name, func(t *testing.T) {
			hash := f.put(t, "x-"+name)
			data, err := os.ReadFile(f.reg.path(hash))
			if err != nil {
				t.Fatal(err)
			}
			altered := alter(string(data))
			if altered == string(data) {
				t.Fatal("nothing was altered")
			}
			if err := os.WriteFile(f.reg.path(hash), []byte(altered), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := f.reg.Get(hash); !errors.Is(err, ErrCorrupted) {
				t.Errorf("Get: %v", err)
			}
			seen := 0
			if err := f.reg.Each(func(h string, _ *envelope.Envelope) error {
				seen++
				if h != good {
					t.Errorf("%s was visited", h)
				}
				return nil
			}); err != nil || seen != 1 {
				t.Errorf("Each: %d visited, %v", seen, err)
			}
			if !strings.Contains(f.log.String(), hash+`","verdict":"WPC_CORRUPTED"`) {
				t.Errorf("the log does not say so: %s", f.log)
			}
			if err := os.Remove(f.reg.path(hash)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	f := open(t)
	var d *code.Denial
	if _, _, err := f.reg.Put(seal(t, key(t, 2), "x")); !errors.As(err, &d) || d.Code != code.WPCSignerNotAllowed {
		t.Errorf("another signer: %v", err)
	}
	forged := seal(t, f.key, "x")
	forged.Payload = []byte(`{"policy_id":"y"}`)
	if _, _, err := f.reg.Put(forged); !errors.As(err, &d) || d.Code != code.WPCSignatureInvalid {
		t.Errorf("a forged payload: %v", err)
	}
	for _, hash := range []string{"", "x", "../../../../../../../../../../etc/passwd.......", strings.Repeat("=", 43)} {
		if _, err := f.reg.Get(hash); !errors.Is(err, ErrHash) {
			t.Errorf("Get(%q): %v", hash, err)
		}
		e := seal(t, f.key, "x")
		e.PayloadHashB64u = hash
		if _, _, err := f.reg.Put(e); !errors.Is(err, ErrHash) {
			t.Errorf("Put(%q): %v", hash, err)
		}
	}
	if _, err := f.reg.Get(jcs.Hash([]byte("nothing"))); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing there: %v", err)
	}
	// A signer that is no longer trusted: the file is sound, the contract is not used.
	hash := f.put(t, "kept")
	later, err := Open(Config{Dir: f.dir, Verify: verifier(key(t, 3).DID()), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := later.Get(hash); !errors.As(err, &d) || d.Code != code.WPCSignerNotAllowed {
		t.Errorf("a signer that no longer counts: %v", err)
	}
	if _, err := Open(Config{}); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("want three joined problems, got %v", err)
	}
}

// Many writers of one contract leave one file, and exactly one of them made it.
func TestConcurrentPuts(t *testing.T) {
	f := open(t)
	e := seal(t, f.key, "one")
	var wg sync.WaitGroup
	made := make(chan bool, 32)
	for range 32 {
		wg.Go(func() {
			_, existed, err := f.reg.Put(e)
			if err != nil {
				t.Error(err)
			}
			if !existed {
				made <- true
			}
		})
	}
	wg.Wait()
	if len(made) != 1 {
		t.Errorf("%d writers made it", len(made))
	}
	if _, err := f.reg.Get(e.PayloadHashB64u); err != nil {
		t.Error(err)
	}
}

func FuzzGet(f *testing.F) {
	fx := open(f)
	e := seal(f, fx.key, "seed")
	data, err := e.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{}`))
	hash := e.PayloadHashB64u
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(fx.reg.path(hash), data, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := fx.reg.Get(hash)
		if err == nil && got.PayloadHashB64u != hash {
			t.Errorf("a contract of another hash came back: %s", data)
		}
	})
}
