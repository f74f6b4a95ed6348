package role

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"sallyport/compose/config"
	"sallyport/signer/didkey"
	"sallyport/signer/jcs"
	"sallyport/signer/jobkey"
	"sallyport/signer/keyring"
)

// Keys are the signer's three rings and the keys of jobs. They are apart, so that each can be replaced, and trusted, by itself.
type Keys struct {
	Gateway  *keyring.Ring // receipts
	Contract *keyring.Ring // contracts
	Issuer   *keyring.Ring // tokens
	Jobs     *jobkey.Keys  // chains and bundles
}

// openKeys opens the rings, and makes those that do not exist yet.
func openKeys(c *config.Config, log *slog.Logger) (*Keys, error) {
	k := &Keys{}
	var errs []error
	for _, r := range []struct {
		name string
		ring **keyring.Ring
	}{{"gateway", &k.Gateway}, {"contract", &k.Contract}, {"issuer", &k.Issuer}} {
		dir := filepath.Join(c.KeysDir(), r.name)
		ring, created, err := keyring.OpenOrCreate(dir, rand.Reader)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		*r.ring = ring
		if created {
			log.Warn("DEVELOPMENT KEYS: a signing key was generated in a file; for production put one there that was made and is kept as your rules say",
				"key", r.name, "kid", ring.Active().KID(), "dir", dir)
		}
	}
	jobs, err := jobkey.OpenOrCreate(filepath.Join(c.KeysDir(), "jobs.root"), rand.Reader)
	k.Jobs = jobs
	return k, errors.Join(append(errs, err)...)
}

// Trust names this installation's signers, for whoever verifies offline. It holds nothing secret.
type Trust struct {
	GatewaySigners  []string `json:"gateway_signer_dids"`  // sign receipts
	ContractSigners []string `json:"contract_signer_dids"` // sign contracts
	IssuerKIDs      []string `json:"issuer_kids"`          // sign tokens
	// LogKeys are the verifier keys of the transparency log, as signed notes write them: Ed25519, then ML-DSA-65.
	LogKeys []string `json:"log_verifier_keys,omitempty"`
}

func (k *Keys) trust() Trust {
	t := Trust{GatewaySigners: dids(k.Gateway), ContractSigners: dids(k.Contract)}
	for _, v := range k.Issuer.VerifyKeys() {
		t.IssuerKIDs = append(t.IssuerKIDs, v.KID)
	}
	return t
}

// dids are a ring's signers, the active one first.
func dids(r *keyring.Ring) []string {
	out := []string{r.Active().DID()}
	for _, v := range r.VerifyKeys() {
		if d := didkey.Encode(v.Public); d != out[0] {
			out = append(out, d)
		}
	}
	return out
}

// ReadTrust reads the trust file of an installation.
func ReadTrust(path string) (Trust, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Trust{}, fmt.Errorf("trust file: %w", err)
	}
	var t Trust
	if err := jcs.Unmarshal(raw, &t); err != nil {
		return Trust{}, fmt.Errorf("trust file %s: %w", path, err)
	}
	return t, nil
}

func writeTrust(path string, t Trust) error {
	raw, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return fmt.Errorf("trust file: %w", err)
	}
	return WriteFile(path, append(raw, '\n'), 0o644)
}

// trustedContractSigners resolves "self" to this installation's contract keys.
func trustedContractSigners(c *config.Config) ([]string, error) {
	var out []string
	for _, s := range c.TrustedContractSigners {
		if s != config.Self {
			out = append(out, s)
			continue
		}
		t, err := ReadTrust(c.TrustFile())
		if err != nil {
			return nil, fmt.Errorf("trusted_contract_signers names self, but this machine's signer has not been started; start it, or write out the DID of its contract key: %w", err)
		}
		out = append(out, t.ContractSigners...)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// WriteFile replaces a file at once: a reader sees the old content or the new, never a part.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
