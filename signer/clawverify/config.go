package clawverify

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sallyport/signer/jcs"
)

// MaxBytes bounds one JSON input, in bytes. A bundle at every limit of the format stays below it.
const MaxBytes = 64 << 20

// ErrConfig is wrapped by errors about a verifier's configuration.
var ErrConfig = errors.New("verifier configuration")

// Config is whom a verifier believes. An empty list means nobody.
type Config struct {
	GatewaySigners     []string // sign gateway receipts
	AttestationSigners []string // sign the attestations of bundles

	// URM is the run manifest that a bundle with a urm reference needs beside it.
	URM []byte
	// Now is the time by which what may expire is judged.
	Now time.Time
	// AllowUnchecked passes bundles that hold evidence of kinds that this verifier does not read. They are named in the
	// result and count for nothing. Without it such a bundle fails.
	AllowUnchecked bool
}

// configFile is the public verifiers' configuration file.
type configFile struct {
	Version    string `json:"config_version"`
	Allowlists struct {
		Gateway     []string `json:"gateway_receipt_signer_dids,omitempty"`
		Attestation []string `json:"attestation_signer_dids,omitempty"`
		Execution   []string `json:"execution_attestation_signer_dids,omitempty"`
		Derivation  []string `json:"derivation_attestation_signer_dids,omitempty"`
		AuditResult []string `json:"audit_result_attestation_signer_dids,omitempty"`
		Web         []string `json:"web_receipt_signer_dids,omitempty"`
	} `json:"allowlists"`
}

// AddFile adds the allowlists of a configuration file of the public verifiers (WIRE 8.7).
func (c *Config) AddFile(data []byte) error {
	var f configFile
	if err := jcs.Unmarshal(data, &f); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if f.Version != "1" {
		return fmt.Errorf("%w: config_version is %q; write \"1\"", ErrConfig, f.Version)
	}
	c.GatewaySigners = merge(c.GatewaySigners, f.Allowlists.Gateway)
	c.AttestationSigners = merge(c.AttestationSigners, f.Allowlists.Attestation)
	return nil
}

// AddEnvironment adds the comma lists of the public verifiers' environment variables.
func (c *Config) AddEnvironment(get func(string) string) {
	c.GatewaySigners = merge(c.GatewaySigners, strings.Split(get("GATEWAY_RECEIPT_SIGNER_DIDS"), ","))
	c.AttestationSigners = merge(c.AttestationSigners, strings.Split(get("ATTESTATION_SIGNER_DIDS"), ","))
}

func merge(a, b []string) []string {
	out := slices.Clone(a)
	for _, s := range b {
		if s = strings.TrimSpace(s); s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
