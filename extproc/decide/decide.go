// Package decide is the decision on one call: a pure function of the contract, the verified token, what the call asks
// for and the time. It knows no Envoy, clock or store; the rules come from the contract (WPC) and from the token (CST).
package decide

import (
	"slices"
	"strings"
	"time"

	"sallyport/signer/code"
	"sallyport/signer/contract"
	"sallyport/signer/token"
)

// ModelInvoke is the action of every call to a model provider's endpoint.
const ModelInvoke = contract.ModelInvoke

// Ask is what a call asks for, as a dialect read it from the request.
type Ask struct {
	Provider    string // name that contracts use, e.g. "openai"
	Model       string // "" where the request names none
	Method      string
	WebSocket   bool   // the GET asks for a WebSocket
	Egress      bool   // the call goes to a host that is no model provider's; Provider is then that host
	Host        string // upstream authority, without a default port
	Path        string // upstream path, without query
	Tool        string // of an MCP server, as mcp:SERVER/TOOL; "" for anything else
	Session     bool   // Tool is no tool but what a session with the server needs; it passes where some tool of the server could
	SecretClass string // class that the operator bound to the upstream; "" where the upstream needs none
	BodyBytes   int64  // size of the request's body
}

// Action is what contracts call what is asked for.
func (a Ask) Action() string {
	switch {
	case a.Egress:
		return contract.NetworkEgress
	case a.Tool != "":
		return contract.ToolExecute
	}
	return ModelInvoke
}

// Resource is how contracts name what is asked for.
func (a Ask) Resource() string {
	if a.Egress {
		return a.Method + " " + a.Host + a.Path
	}
	if a.Tool != "" {
		return a.Tool
	}
	return a.Provider + "/" + a.Model
}

// scope is the provider that the token's scope must reach: for a host that is no provider's, a scope without a name.
func (a Ask) scope() string {
	if a.Egress {
		return ""
	}
	return a.Provider
}

// Verdict is the outcome. Denial is nil exactly where the call may pass.
type Verdict struct {
	Denial       *code.Denial
	SIDs         []string      // statements that decided
	SecretClass  string        // that the call gets its credential from; "" for none
	SecretMaxTTL time.Duration // longest life of the credential; 0 where the contract sets none
}

// Decide says whether the token's job may make the call under the contract at the given time.
// The token must have been verified before; the contract must be the one the token is pinned to, which is checked again here.
func Decide(c *contract.Contract, t *token.Token, a Ask, now time.Time) Verdict {
	if d := pinned(c, t); d != nil {
		return Verdict{Denial: d}
	}
	if !t.AllowsProvider(a.scope()) {
		return Verdict{Denial: code.Deny(code.TokenInsufficientScope, "provider %s asked", a.Provider)}
	}
	v := c.Decide(contract.Ask{Action: a.Action(), Resource: a.Resource(), Context: callContext(t, a, now)}, now)
	if inSession := a.Session && reaches(c, a.Provider); !v.Allow && !inSession {
		d := v.Denial
		if d == nil {
			d = code.Deny(code.PolicyActionNotAllowed, "%s on %s", a.Action(), a.Resource())
		}
		return Verdict{Denial: d, SIDs: v.SIDs}
	}
	if a.WebSocket && !c.WebSocket(a.Resource()) {
		return Verdict{Denial: code.Deny(code.UpgradeNotSupported, "no egress rule that allows %.128s says websocket: true", a.Resource()), SIDs: v.SIDs}
	}
	class := a.SecretClass
	if a.Egress {
		if len(v.SecretClasses) > 1 {
			return Verdict{Denial: code.Deny(code.PolicySecretNotAllowed, "the call may use %d classes, and cannot say which; bind the tool to one", len(v.SecretClasses)), SIDs: v.SIDs}
		}
		class = strings.Join(v.SecretClasses, "") // one or none
	}
	if class != "" && !c.AllowsSecretClass(class) {
		return Verdict{Denial: code.Deny(code.PolicySecretNotAllowed, "class %s", class), SIDs: v.SIDs}
	}
	if most := c.Limits().MaxRequestBytes; most > 0 && a.BodyBytes > most {
		return Verdict{Denial: code.Deny(code.PayloadTooLarge, "%d bytes; the contract's limits.max_request_bytes is %d", a.BodyBytes, most), SIDs: v.SIDs}
	}
	return Verdict{SIDs: v.SIDs, SecretClass: class, SecretMaxTTL: c.MaxSecretTTL()}
}

// reaches says whether the contract could allow some tool of the MCP server that a provider is.
func reaches(c *contract.Contract, provider string) bool {
	server, ok := strings.CutPrefix(provider, contract.MCPPrefix)
	servers := c.MCPServers()
	return ok && (slices.Contains(servers, server) || slices.Contains(servers, "*"))
}

// pinned checks that token and contract belong together, in both directions.
func pinned(c *contract.Contract, t *token.Token) *code.Denial {
	switch {
	case t.PolicyHash == "":
		return code.Deny(code.PolicyRequired, "")
	case t.PolicyHash != c.Hash:
		return code.Deny(code.PolicyHashMismatch, "")
	}
	if want := c.CSTScopeHash(); want != "" && want != token.ScopeHashWithoutPin(t.Claims) {
		return code.Deny(code.PolicyScopeHashMismatch, "")
	}
	return nil
}

// callContext is the context of WIRE 5.2 as far as it is known before the call leaves. A key that is not known is left
// out, so that a condition on it cannot be met by accident.
func callContext(t *token.Token, a Ask, now time.Time) map[string]string {
	ctx := map[string]string{
		"Agent:DID":               t.Sub,
		"SideEffect:TargetDomain": a.Host,
		"Context:Hour":            now.UTC().Format("15"),
	}
	if a.Egress {
		ctx["SideEffect:TargetDomain"], _, _ = strings.Cut(a.Host, ":")
	} else {
		ctx["Model:Provider"] = a.Provider
	}
	if a.Model != "" {
		ctx["Model:Name"] = a.Model
	}
	return ctx
}
