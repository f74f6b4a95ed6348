package jobkey

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeysAreOneForEachJobAndStay(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "jobs.root")
	dids := map[string]string{}
	for range 2 {
		k, err := OpenOrCreate(file, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		for _, job := range []string{"", "a", "b", "a\x00b"} {
			did := k.For(job).DID()
			if old := dids[job]; old != "" && old != did || did != k.For(job).DID() {
				t.Errorf("job %q has another key now", job)
			}
			dids[job] = did
		}
	}
	other := map[string]bool{}
	for _, did := range dids {
		other[did] = true
	}
	if len(other) != len(dids) {
		t.Errorf("two jobs share a key: %v", dids)
	}
	k, _ := OpenOrCreate(file, rand.Reader)
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for range maxCached + 10 { // the cache stays bounded and right
		k.For(rand.Text())
	}
	if len(k.ready) > maxCached || k.For("a").DID() != dids["a"] {
		t.Errorf("%d keys kept", len(k.ready))
	}
	if s := fmt.Sprint(k); strings.Contains(s, string(raw)) {
		t.Error("the root is printed")
	}
}

func TestBadRoot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, write := range map[string]func(file string) error{
		"short":  func(f string) error { return os.WriteFile(f, make([]byte, 31), 0o600) },
		"empty":  func(f string) error { return os.WriteFile(f, nil, 0o600) },
		"public": func(f string) error { return os.WriteFile(f, make([]byte, 32), 0o644) }, //nolint:gosec // that is the fault
		"dir":    func(f string) error { return os.Mkdir(f, 0o700) },
	} {
		file := filepath.Join(dir, name)
		if err := write(file); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenOrCreate(file, rand.Reader); !errors.Is(err, ErrRoot) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := OpenOrCreate(filepath.Join(dir, "none", "file"), rand.Reader); !errors.Is(err, ErrRoot) {
		t.Errorf("no directory: %v", err)
	}
}
