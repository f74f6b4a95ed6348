package issuer

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// minAdminKey is the shortest administrator key, in characters: what cannot be guessed.
const minAdminKey = 24

// AdminKey authenticates administrators by one bearer key. It holds the key's hash only.
type AdminKey struct{ sum [sha256.Size]byte }

var _ Authenticator = (*AdminKey)(nil)

// NewAdminKey takes the key itself.
func NewAdminKey(key string) (*AdminKey, error) {
	if len(key) < minAdminKey || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("administrator key: it must be at least %d printable ASCII characters without spaces", minAdminKey)
	}
	return &AdminKey{sha256.Sum256([]byte(key))}, nil
}

// LoadAdminKey reads the key from a file that only its owner can get at.
func LoadAdminKey(path string) (*AdminKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("administrator key: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("administrator key: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("administrator key: %s has mode %v: it must be a file with mode 0600", path, info.Mode())
	}
	data, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return nil, fmt.Errorf("administrator key: %w", err)
	}
	return NewAdminKey(strings.TrimSpace(string(data)))
}

// CreateAdminKey makes a key from 32 bytes of rand and writes it to a new file with mode 0600. A file that is there
// already stays as it is and is loaded; created says which.
func CreateAdminKey(path string, rand io.Reader) (key *AdminKey, created bool, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, false, fmt.Errorf("administrator key: %w", err)
	}
	raw := make([]byte, 32)
	if _, err := io.ReadFull(rand, raw); err != nil {
		return nil, false, fmt.Errorf("administrator key: %w", err)
	}
	text := base64.RawURLEncoding.EncodeToString(raw)
	err = writeNew(path, text+"\n")
	if errors.Is(err, os.ErrExist) {
		key, err = LoadAdminKey(path)
		return key, false, err
	}
	if err != nil {
		return nil, false, fmt.Errorf("administrator key: %w", err)
	}
	key, err = NewAdminKey(text)
	return key, true, err
}

// writeNew makes a file with all its content at once, or fails with os.ErrExist: another process that waits for the
// file must not find a part of it.
func writeNew(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}

// Authenticate looks at the one Authorization header. Two of them are none.
func (k *AdminKey) Authenticate(r *http.Request) (who string, ok bool) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, given, found := strings.Cut(values[0], " ")
	if !found || !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	// Hashes are compared, so that neither the key's length nor its beginning shows in the time that it takes.
	sum := sha256.Sum256([]byte(strings.TrimSpace(given)))
	return "admin", subtle.ConstantTimeCompare(sum[:], k.sum[:]) == 1
}
