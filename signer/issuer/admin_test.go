package issuer

import (
	"bytes"
	"crypto/rand"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func authenticates(k *AdminKey, authorization string) bool {
	_, ok := k.Authenticate(&http.Request{Header: http.Header{"Authorization": {authorization}}})
	return ok
}

func TestAdminKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "admin")
	k, created, err := CreateAdminKey(path, rand.Reader)
	if err != nil || !created {
		t.Fatalf("%v %v", created, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key := strings.TrimSpace(string(text))
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	again, created, err := CreateAdminKey(path, rand.Reader)
	if err != nil || created {
		t.Fatalf("again: %v %v, want the key that is there", created, err)
	}
	for _, k := range []*AdminKey{k, again} {
		if !authenticates(k, "Bearer "+key) || !authenticates(k, "bearer "+key) || authenticates(k, "Bearer "+key[1:]) {
			t.Error("the key in the file is not the key")
		}
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAdminKey(path); err == nil || !strings.Contains(err.Error(), "0600") {
		t.Errorf("a file that others read: %v", err)
	}
	if _, err := LoadAdminKey(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, _, err := CreateAdminKey(filepath.Join(t.TempDir(), "new"), bytes.NewReader(nil)); err == nil {
		t.Error("a key without randomness")
	}
}

func TestAdminKeyIsChecked(t *testing.T) {
	for _, bad := range []string{"", "short", strings.Repeat("a", 23), strings.Repeat("a", 30) + " b", strings.Repeat("ä", 30)} {
		if _, err := NewAdminKey(bad); err == nil {
			t.Errorf("%q is taken", bad)
		} else if bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
}
