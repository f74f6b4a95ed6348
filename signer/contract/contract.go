// Package contract is the work policy contract (WPC): three dialects, read strictly and compiled to one rule set that
// decides. The dialects are WIRE 5.2 (Claw v1, Claw v2) and the design's enterprise contract; where upstream's
// evaluation fails open this one refuses, and README.md here lists each difference.
package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sallyport/signer/code"
	"sallyport/signer/jcs"
)

// Kind is the dialect that a contract is written in.
type Kind string

// The dialects.
const (
	ClawV1     Kind = "claw-v1"
	ClawV2     Kind = "claw-v2"
	Enterprise Kind = "enterprise"
)

// Actions that asks name.
const (
	ModelInvoke   = "model:invoke"
	ToolExecute   = "tool:execute"
	NetworkEgress = "side_effect:network_egress"
)

// maxContract bounds a contract, in bytes of JSON (WIRE 5.4).
const maxContract = 64 << 10

// ErrInvalid is wrapped by every error of Parse.
var ErrInvalid = errors.New("contract invalid")

// Contract is one contract, immutable.
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
	bindings  map[string]Binding
	tools     []string // tool: names that are allowed
}

// Ask is one question to a contract.
type Ask struct {
	Action   string            // ModelInvoke, ToolExecute, NetworkEgress
	Resource string            // "provider/model", a tool's name, "METHOD host/path"
	Context  map[string]string // WIRE 5.2; a key that is not known is left out
}

// Verdict is the answer. Denial is set exactly where Allow is false.
type Verdict struct {
	Allow  bool
	SIDs   []string // statements that decided
	Denial *code.Denial
}

// EgressRule is one way out beside the model providers.
type EgressRule struct {
	Host         string   `json:"host"`
	Subdomains   bool     `json:"subdomains,omitempty"` // also every name below Host
	Ports        []int    `json:"ports,omitempty"`      // empty: 443
	Methods      []string `json:"methods,omitempty"`    // empty: any
	PathPrefixes []string `json:"path_prefixes,omitempty"`
	CIDRs        []string `json:"cidrs,omitempty"` // private addresses that Host may resolve to
	Inspect      string   `json:"inspect,omitempty"`
}

// Binding ties a tool's name to the endpoint that it is.
type Binding struct {
	Host        string   `json:"host,omitempty"`
	Methods     []string `json:"methods,omitempty"`
	Path        string   `json:"path,omitempty"`
	MCPServer   string   `json:"mcp_server,omitempty"`
	Tool        string   `json:"tool,omitempty"`
	SecretClass string   `json:"secret_class,omitempty"`
}

// Limits of one contract; zero means none.
type Limits struct {
	MaxRequestBytes int64 `json:"max_request_bytes,omitempty"`
}

type secrets struct {
	Minting        string   `json:"minting"`
	AllowedClasses []string `json:"allowed_secret_classes"`
	MaxTTLSeconds  int64    `json:"max_ttl_seconds"`
}

type auth struct {
	CSTScopeHash  string `json:"cst_scope_hash"`
	PinPolicyHash *bool  `json:"pin_policy_hash"`
}

// Parse reads a contract's payload. The error joins everything that is wrong, each with its path.
func Parse(payload []byte) (*Contract, error) {
	if len(payload) > maxContract {
		return nil, fmt.Errorf("%w: %d bytes; the limit is %d", ErrInvalid, len(payload), maxContract)
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
	return c, nil
}

func kindOf(canonical []byte) (Kind, error) {
	var head struct {
		Kind    string `json:"policy_kind"`
		Version any    `json:"policy_version"`
	}
	if err := json.Unmarshal(canonical, &head); err != nil {
		return "", fmt.Errorf("%w: $: must be an object with policy_version", ErrInvalid)
	}
	switch {
	case head.Kind == "wpc":
		return Enterprise, nil
	case head.Kind != "":
		return "", fmt.Errorf("%w: $.policy_kind: %q; the only kind is \"wpc\"", ErrInvalid, head.Kind)
	case head.Version == "1":
		return ClawV1, nil
	case head.Version == "2":
		return ClawV2, nil
	}
	return "", fmt.Errorf("%w: $.policy_version: must be \"1\" or \"2\", or policy_kind must be \"wpc\"", ErrInvalid)
}

// Decide answers an ask: deny wins, what no statement allows is denied. It is pure; now is for limits in time that
// dialects may come to have.
func (c *Contract) Decide(a Ask, _ time.Time) Verdict {
	v := evaluate(c.rules, &a)
	if v.Allow || c.models == nil || a.Action != ModelInvoke || v.Denial.Code != code.PolicyActionNotAllowed {
		return v
	}
	v.Denial = c.explainModel(a.Resource)
	return v
}

// explainModel says which part of the resource is not allowed, in the codes of WIRE 5.3.
func (c *Contract) explainModel(resource string) *code.Denial {
	provider, model, _ := strings.Cut(resource, "/")
	patterns, ok := c.models[provider]
	if !ok {
		patterns, ok = c.models["*"]
	}
	switch {
	case !ok:
		return code.Deny(code.PolicyProviderNotAllowed, "%s asked; the contract allows %s", provider, orNothing(c.providers))
	case model == "":
		return code.Deny(code.PolicyModelRequired, "the contract allows %s: %s", provider, orNothing(patterns))
	}
	return code.Deny(code.PolicyModelNotAllowed, "%.128s asked; the contract allows %s: %s", resource, provider, orNothing(patterns))
}

func orNothing(list []string) string {
	const most = 12
	switch {
	case len(list) == 0:
		return "nothing"
	case len(list) > most:
		return strings.Join(list[:most], ", ") + ", …"
	}
	return strings.Join(list, ", ")
}

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

// Egress are the ways out beside the model providers.
func (c *Contract) Egress() []EgressRule { return slices.Clone(c.egress) }

// Limits are the contract's limits.
func (c *Contract) Limits() Limits { return c.limits }
