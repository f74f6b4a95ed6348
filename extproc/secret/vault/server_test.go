package vault_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// until waits for a condition.
func until(t *testing.T, otherwise string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatal(otherwise)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
