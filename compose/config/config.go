// Package config reads Sallyport's one configuration file, completes it with defaults and says everything that is
// wrong with it at once. The fields and their rules are those of schema.json in this package, which editors can use.
package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"time"
)

// Config is the configuration of all roles, complete: every path is absolute and every default filled in.
type Config struct {
	File string `yaml:"-"` // absolute path of the file it was read from, "" for the defaults alone

	Listen                 string        `yaml:"listen"`
	ControlListen          string        `yaml:"control_listen"`
	ForwardListen          string        `yaml:"forward_listen"` // Off: there is no forward door
	DataDir                string        `yaml:"data_dir"`
	Audience               []string      `yaml:"audience"`
	Upstreams              []Upstream    `yaml:"upstreams"`
	SecretClasses          []SecretClass `yaml:"secret_classes"`
	RedisURL               string        `yaml:"redis_url"` // "" means the in-process store
	TrustedContractSigners []string      `yaml:"trusted_contract_signers"`
	ContractsDir           string        `yaml:"contracts_dir"`
	Evidence               Evidence      `yaml:"evidence"`
	AdminTokenFile         string        `yaml:"admin_token_file"`
	ViewerTokenFile        string        `yaml:"viewer_token_file"`
	JobBinding             []string      `yaml:"job_binding"`
	MaxBodyBytes           int64         `yaml:"max_body_bytes"`
	ExtProc                ExtProc       `yaml:"extproc"`
	Envoy                  Envoy         `yaml:"envoy"`
	Egress                 Egress        `yaml:"egress"`
	Signer                 Link          `yaml:"signer"`
	Registry               Link          `yaml:"registry"`
	XDS                    Link          `yaml:"xds"`
	LoopbackModel          LoopbackModel `yaml:"loopback_model"`
	Log                    Log           `yaml:"log"`
}

// Upstream is one model provider's endpoint.
type Upstream struct {
	Name        string `yaml:"name"`
	Provider    string `yaml:"provider"` // name in contracts
	Dialect     string `yaml:"dialect"`  // openai, anthropic, gemini or mcp
	URL         string `yaml:"url"`
	SecretClass string `yaml:"secret_class"` // "" means that no credential is sent
	CAFile      string `yaml:"ca_file"`      // "" means the system's authorities
}

// ParsedURL is the upstream's URL; Validate has seen to it that it parses.
func (u Upstream) ParsedURL() (*url.URL, error) { return url.Parse(u.URL) }

// SecretClass is a credential that the gateway may send, and where.
type SecretClass struct {
	Name         string   `yaml:"name"`
	From         Origin   `yaml:"from"`
	Inject       *Inject  `yaml:"inject"`
	Hosts        []string `yaml:"hosts"`
	Methods      []string `yaml:"methods"`
	PathPrefixes []string `yaml:"path_prefixes"`
	TTL          Duration `yaml:"ttl"`
	NeedsTool    bool     `yaml:"needs_tool"` // only for calls that the contract maps to a tool which names the class
	PerJob       bool     `yaml:"per_job"`    // each job has its own, which is revoked when the job is over
}

// Inject says how a credential is sent; nil means as the upstream's dialect does.
type Inject struct {
	Header string `yaml:"header"` // this, Query or Basic
	Format string `yaml:"format"` // with %s for the credential; of a header
	Query  string `yaml:"query"`  // name of a query parameter
	Basic  string `yaml:"basic"`  // user name, with the credential as its password
}

// Evidence says how and where calls are recorded.
type Evidence struct {
	Mode string `yaml:"mode"` // strict, sealed or async
	Dir  string `yaml:"dir"`
	// AuditorKeys are files with the public keys that bodies are sealed to where contracts say so.
	AuditorKeys []string `yaml:"auditor_keys"`
	// LogOrigin names a new transparency log; "" means sallyport/ and the gateway's key. A log keeps its name.
	LogOrigin string `yaml:"log_origin"`
	// CompressAfter is how long a segment has had no record when it is compressed.
	CompressAfter Duration `yaml:"compress_after"`
}

// ExtProc is about the deciding processes.
type ExtProc struct {
	Replicas            int    `yaml:"replicas"`
	RedactionSecretFile string `yaml:"redaction_secret_file"` // what contracts' hash rules are keyed with
}

// Envoy says which Envoy carries the calls.
type Envoy struct {
	Path string `yaml:"path"` // "" means ENVOY, then PATH, then the pinned one
	Dir  string `yaml:"dir"`  // where the pinned one is installed
}

// Egress says how the forward door reaches hosts that are no upstream.
type Egress struct {
	CAFile string              `yaml:"ca_file"` // "" means the system's authorities
	Hosts  map[string][]string `yaml:"hosts"`   // addresses of names, lower case
}

// Addresses are Hosts as addresses; Validate has seen to it that they parse.
func (e Egress) Addresses() map[string][]netip.Addr {
	out := make(map[string][]netip.Addr, len(e.Hosts))
	for name, list := range e.Hosts {
		for _, text := range list {
			if a, err := netip.ParseAddr(text); err == nil {
				out[name] = append(out[name], a)
			}
		}
	}
	return out
}

// Forward says whether there is a forward door.
func (c *Config) Forward() bool { return c.ForwardListen != Off }

// Link is a connection between two roles.
type Link struct {
	Listen  string `yaml:"listen"`  // unix:PATH or HOST:PORT
	Address string `yaml:"address"` // where the other role reaches it
	TLS     *TLS   `yaml:"tls"`     // required for HOST:PORT
}

// TLS is the material for mutual TLS on a link: what this end presents and what it requires of the other.
type TLS struct {
	CertFile   string `yaml:"cert_file"`
	KeyFile    string `yaml:"key_file"`
	CAFile     string `yaml:"ca_file"`
	ServerName string `yaml:"server_name"`
}

// LoopbackModel is the built-in model.
type LoopbackModel struct {
	Enabled *bool  `yaml:"enabled"` // never nil in a complete Config
	Listen  string `yaml:"listen"`
}

// On says whether the built-in model is to be started.
func (l LoopbackModel) On() bool { return l.Enabled != nil && *l.Enabled }

// Log is about the processes' own log.
type Log struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

// Duration is a time.Duration that is written as 10m or 1h30m.
type Duration time.Duration

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration: %w", err)
	}
	*d = Duration(v)
	return nil
}

// KeysDir is where the key rings are kept, below the data directory.
func (c *Config) KeysDir() string { return filepath.Join(c.DataDir, "keys") }

// IssuerDir is where the issuer keeps its revocations.
func (c *Config) IssuerDir() string { return filepath.Join(c.DataDir, "issuer") }

// TrustFile is the public file that names this installation's signers, for offline verification.
func (c *Config) TrustFile() string { return filepath.Join(c.DataDir, "trust.json") }
