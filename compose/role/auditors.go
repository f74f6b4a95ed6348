package role

import (
	"fmt"
	"os"

	"sallyport/signer/privacy/seal"
)

// auditorKeys reads the public keys that bodies are sealed to.
func auditorKeys(files []string) ([]*seal.PublicKey, error) {
	var out []*seal.PublicKey
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("evidence.auditor_keys: %w", err)
		}
		k, err := seal.ParsePublic(raw)
		if err != nil {
			return nil, fmt.Errorf("evidence.auditor_keys: %s: %w", file, err)
		}
		out = append(out, k)
	}
	return out, nil
}
