// Package decide is the decision on one call: a pure function of the contract, the verified token, what the call asks
// for and the time. It knows no Envoy, clock or store; the rules come from the contract (WPC) and from the token (CST).
package decide

import (
	"time"

	"sallyport/signer/code"
	"sallyport/signer/contract"
	"sallyport/signer/token"
)

// ModelInvoke is the action of every call to a model provider's endpoint.
const ModelInvoke = "model:invoke"

// Ask is what a call asks for, as a dialect read it from the request.
type Ask struct {
	Provider    string // name that contracts use, e.g. "openai"
	Model       string // "" where the request names none
	Method      string
	Host        string // upstream authority, without a default port
	Path        string // upstream path, without query
	SecretClass string // class that the operator bound to the upstream; "" where the upstream needs none
	BodyBytes   int64  // size of the request's body
}

// Resource is how contracts name what is asked for.
func (a Ask) Resource() string { return a.Provider + "/" + a.Model }

// Verdict is the outcome. Denial is nil exactly where the call may pass.
type Verdict struct {
	Denial       *code.Denial
	SIDs         []string      // statements that decided
	SecretMaxTTL time.Duration // longest life of the credential; 0 where the contract sets none
}

// Decide says whether the token's job may make the call under the contract at the given time.
// The token must have been verified before; the contract must be the one the token is pinned to, which is checked again here.
func Decide(c *contract.Contract, t *token.Token, a Ask, now time.Time) Verdict {
	if d := pinned(c, t); d != nil {
		return Verdict{Denial: d}
	}
	if !t.AllowsProvider(a.Provider) {
		return Verdict{Denial: code.Deny(code.TokenInsufficientScope, "provider %s asked", a.Provider)}
	}
	v := c.Decide(contract.Ask{Action: ModelInvoke, Resource: a.Resource(), Context: modelContext(t, a, now)}, now)
	if !v.Allow {
		d := v.Denial
		if d == nil {
			d = code.Deny(code.PolicyActionNotAllowed, "%s on %s", ModelInvoke, a.Resource())
		}
		return Verdict{Denial: d, SIDs: v.SIDs}
	}
	if a.SecretClass != "" && !c.AllowsSecretClass(a.SecretClass) {
		return Verdict{Denial: code.Deny(code.PolicySecretNotAllowed, "class %s", a.SecretClass), SIDs: v.SIDs}
	}
	if most := c.Limits().MaxRequestBytes; most > 0 && a.BodyBytes > most {
		return Verdict{Denial: code.Deny(code.PayloadTooLarge, "%d bytes; the contract's limits.max_request_bytes is %d", a.BodyBytes, most), SIDs: v.SIDs}
	}
	return Verdict{SIDs: v.SIDs, SecretMaxTTL: c.MaxSecretTTL()}
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

// modelContext is the context of WIRE 5.2 as far as it is known before the call leaves. A key that is not known is left
// out, so that a condition on it cannot be met by accident.
func modelContext(t *token.Token, a Ask, now time.Time) map[string]string {
	ctx := map[string]string{
		"Agent:DID":               t.Sub,
		"Model:Provider":          a.Provider,
		"SideEffect:TargetDomain": a.Host,
		"Context:Hour":            now.UTC().Format("15"),
	}
	if a.Model != "" {
		ctx["Model:Name"] = a.Model
	}
	return ctx
}
