// Package contract is the work policy contract (WPC): three dialects, read strictly and compiled to one rule set that
// decides. The dialects are the Claw ecosystem's v1 and v2 and the enterprise contract of this project's schema; where
// upstream's evaluation fails open this one refuses, and README.md here lists each difference.
package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sallyport/signer/jcs"
	"sallyport/signer/privacy"
)

// Kind is the dialect that a contract is written in.
type Kind string

// The dialects.
const (
	ClawV1     Kind = "claw-v1"
	ClawV2     Kind = "claw-v2"
	Enterprise Kind = "enterprise"
)

// MaxBytes bounds a contract, in bytes of JSON, as the ecosystem's registry does.
const MaxBytes = 64 << 10

// ErrInvalid is wrapped by every error of Parse.
var ErrInvalid = errors.New("contract invalid")

// Contract is one contract, immutable and safe for concurrent use.
type Contract struct {
	Hash     string // policy_hash_b64u: base64url SHA-256 of the canonical payload
	Kind     Kind
	PolicyID string          // "" where the dialect lets it out
	Payload  json.RawMessage // canonical JSON

	rules     []rule
	providers []string            // that some rule could allow; "*" for any
	models    map[string][]string // patterns by provider, for a refusal's text; nil in v2
	secrets   *secrets            // nil: the dialect says nothing of secret classes
	auth      auth
	egress    []EgressRule
	limits    Limits
	sockets   []endpoint // where a WebSocket may be opened, if the GET is allowed
	bindings  map[string]Binding
	tools     []string // tool: names that are allowed
	privacy   string   // hash_only, encrypted, or "" where the dialect says nothing
	redaction *privacy.Rules
	redacted  []privacy.Rule // as they are written
	notes     []Finding      // of the compilation, for Lint
}

// EgressRule is one way out beside the model providers.
type EgressRule struct {
	Host           string   `json:"host"`                 // lower case
	Subdomains     bool     `json:"subdomains,omitempty"` // also every name below Host
	OnlySubdomains bool     `json:"-"`                    // the names below Host without Host itself: v1's "*.example.com"
	Ports          []int    `json:"ports,omitempty"`      // empty: 443
	Methods        []string `json:"methods,omitempty"`    // empty: any
	PathPrefixes   []string `json:"path_prefixes,omitempty"`
	CIDRs          []string `json:"cidrs,omitempty"`   // private addresses that Host may resolve to
	Inspect        string   `json:"inspect,omitempty"` // full (also where empty), sni, none
	// WebSocket: a GET that the rule allows may ask for one (RFC 6455), whose frames then pass unread.
	WebSocket bool `json:"websocket,omitempty"`
}

// Binding ties a tool's name to what it is on the network: an endpoint, or one tool of an MCP server.
type Binding struct {
	Host        string   `json:"host,omitempty"`
	Methods     []string `json:"methods,omitempty"` // empty: any
	Path        string   `json:"path,omitempty"`    // pattern: * is a run without a slash, ** any run; empty: any path
	MCPServer   string   `json:"mcp_server,omitempty"`
	Tool        string   `json:"tool,omitempty"`
	SecretClass string   `json:"secret_class,omitempty"` // empty: the tool gets no credential
}

// Limits of one contract; zero means none.
type Limits struct {
	MaxRequestBytes int64 `json:"max_request_bytes,omitempty"` // of one request's body
}

// What is kept of bodies.
const (
	PrivacyHashOnly  = "hash_only" // their hashes
	PrivacyEncrypted = "encrypted" // themselves too, sealed to the auditors' keys
)

type secrets struct {
	Minting        string   `json:"minting"`
	AllowedClasses []string `json:"allowed_secret_classes"`
	MaxTTLSeconds  int64    `json:"max_ttl_seconds"`
}

type auth struct {
	CSTScopeHash  string `json:"cst_scope_hash"`
	PinPolicyHash *bool  `json:"pin_policy_hash"`
}

// Parse reads a contract's payload. The error wraps ErrInvalid and joins everything that is wrong, each with its path;
// what a contract means is only looked at once its shape is right.
func Parse(payload []byte) (*Contract, error) {
	if len(payload) > MaxBytes {
		return nil, fmt.Errorf("%w: $: %d bytes; the limit is %d", ErrInvalid, len(payload), MaxBytes)
	}
	canonical, err := jcs.Canonical(payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	kind, err := kindOf(canonical)
	if err != nil {
		return nil, err
	}
	if err := validate(kind, canonical); err != nil {
		return nil, err
	}
	c := &Contract{Hash: jcs.Hash(canonical), Kind: kind, Payload: canonical}
	switch kind {
	case ClawV1:
		err = c.compileV1()
	case ClawV2:
		err = c.compileV2()
	case Enterprise:
		err = c.compileEnterprise()
	}
	if err != nil {
		return nil, err
	}
	return c, c.checkPatterns()
}

func kindOf(canonical []byte) (Kind, error) {
	var head struct {
		Kind    any `json:"policy_kind"`
		Version any `json:"policy_version"`
	}
	if err := json.Unmarshal(canonical, &head); err != nil {
		return "", fmt.Errorf("%w: $: must be an object with policy_version", ErrInvalid)
	}
	switch {
	case head.Kind == "wpc":
		return Enterprise, nil
	case head.Kind != nil:
		return "", fmt.Errorf("%w: $.policy_kind: the only kind is \"wpc\"", ErrInvalid)
	case head.Version == "1":
		return ClawV1, nil
	case head.Version == "2":
		return ClawV2, nil
	}
	return "", fmt.Errorf("%w: $.policy_version: must be \"1\" or \"2\", or policy_kind must be \"wpc\"", ErrInvalid)
}

// checkPatterns holds the bound that matching relies on. The schemas' lengths keep within it; this is the wall behind.
func (c *Contract) checkPatterns() error {
	for i := range c.rules {
		for _, g := range c.rules[i].patterns() {
			if len(g.units) > maxPattern {
				return fmt.Errorf("%w: %s: a pattern is longer than %d UTF-16 units", ErrInvalid, c.rules[i].path, maxPattern)
			}
		}
	}
	return nil
}

// problems collects what is wrong with a contract's meaning.
type problems struct{ errs []error }

func (p *problems) add(path, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("%w: %s: %s", ErrInvalid, path, fmt.Sprintf(format, args...)))
}

func (p *problems) err() error { return errors.Join(p.errs...) }

// AllowsSecretClass says whether calls under the contract may use a credential of the class. The Claw dialects do not
// speak of classes; there the operator's own bounds of the class are all there is.
func (c *Contract) AllowsSecretClass(class string) bool {
	return c.secrets == nil || slices.Contains(c.secrets.AllowedClasses, class)
}

// MaxSecretTTL is how long a credential may live at most; 0 where the contract sets no bound.
func (c *Contract) MaxSecretTTL() time.Duration {
	if c.secrets == nil {
		return 0
	}
	return time.Duration(c.secrets.MaxTTLSeconds) * time.Second
}

// RequiresCST says whether credentials are only to be had with a scoped token.
func (c *Contract) RequiresCST() bool { return c.secrets == nil || c.secrets.Minting == "cst_required" }

// PinPolicyHash says whether a token must be pinned to this contract.
func (c *Contract) PinPolicyHash() bool { return c.auth.PinPolicyHash == nil || *c.auth.PinPolicyHash }

// CSTScopeHash is the scope hash (without the pin) that a token must have, 43 characters; "" where any will do.
func (c *Contract) CSTScopeHash() string { return strings.TrimPrefix(c.auth.CSTScopeHash, "sha256:") }

// Providers are the model providers that some statement could allow, sorted; "*" stands for any.
func (c *Contract) Providers() []string { return slices.Clone(c.providers) }

// MCPServers are the MCP servers of which some rule could allow a tool; "*" where a rule names none.
func (c *Contract) MCPServers() []string {
	var out []string
	for i := range c.rules {
		r := &c.rules[i]
		if r.deny || !anyMatch(r.actions, ToolExecute) {
			continue
		}
		for _, g := range r.resources {
			server, _, named := strings.Cut(strings.TrimPrefix(g.source, MCPPrefix), "/")
			switch {
			case !strings.HasPrefix(g.source, MCPPrefix):
				if couldBegin(&g, MCPPrefix) {
					return []string{"*"}
				}
			case !named || strings.ContainsAny(server, "*?"):
				return []string{"*"}
			default:
				out = append(out, server)
			}
		}
	}
	return sorted(out)
}

// MCPPrefix begins the resource of a tool of an MCP server: mcp:SERVER/TOOL.
const MCPPrefix = "mcp:"

// couldBegin says whether a pattern could match a text that begins with prefix.
func couldBegin(g *glob, prefix string) bool {
	return strings.HasPrefix(g.head, prefix) || len(g.tail) > 0 && strings.HasPrefix(prefix, g.head)
}

// Egress are the ways out beside the model providers and the bound tools.
func (c *Contract) Egress() []EgressRule { return slices.Clone(c.egress) }

// Bindings are the tools that are bound to an endpoint, by tools.allow name.
func (c *Contract) Bindings() map[string]Binding { return maps.Clone(c.bindings) }

// Redaction is what must be kept out of the bodies of requests; nil: nothing. Where it is not nil, a body that the rules
// cannot be carried out on must not pass.
func (c *Contract) Redaction() *privacy.Rules { return c.redaction }

// PrivacyMode is what is kept of bodies: PrivacyHashOnly, PrivacyEncrypted, or "" where the contract does not say.
func (c *Contract) PrivacyMode() string { return c.privacy }

// Limits are the contract's limits on one call. Decide does not see a call's size; who does holds them.
func (c *Contract) Limits() Limits { return c.limits }
