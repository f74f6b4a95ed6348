package role

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"sallyport/signer/privacy"
)

// openRedactionSecret reads the secret, and makes it where it is missing. Of several processes that make it at once, one
// does.
func openRedactionSecret(path string) (*privacy.Secret, error) {
	s, err := ReadRedactionSecret(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	raw := make([]byte, privacy.SecretBytes)
	if _, err := rand.Read(raw); err != nil {
		return nil, fmt.Errorf("redaction secret: %w", err)
	}
	own := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := WriteFile(own, []byte(hex.EncodeToString(raw)+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("redaction secret: %w", err)
	}
	defer func() { _ = os.Remove(own) }()
	if err := os.Link(own, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("redaction secret: %w", err)
	}
	return ReadRedactionSecret(path)
}

// ReadRedactionSecret reads an installation's redaction secret.
func ReadRedactionSecret(path string) (*privacy.Secret, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("redaction secret: %w", err)
	}
	s, err := privacy.ParseSecret(raw)
	if err != nil {
		return nil, fmt.Errorf("redaction secret %s: %w", path, err)
	}
	return s, nil
}
