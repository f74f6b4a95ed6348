package contract

import (
	"fmt"
	"strings"
	"time"

	"sallyport/signer/code"
)

// Actions that asks name.
const (
	ModelInvoke   = "model:invoke"
	ToolExecute   = "tool:execute"
	NetworkEgress = "side_effect:network_egress"
)

// maxResource bounds what one decision can cost, in bytes of the ask's resource; real names and paths stay far below.
const maxResource = 8 << 10

// Ask is one question to a contract.
type Ask struct {
	Action   string            // ModelInvoke, ToolExecute, NetworkEgress
	Resource string            // "provider/model", "tool" or "mcp:server/tool", "METHOD host[:port]/path"
	Context  map[string]string // the ecosystem's keys, such as Agent:DID; one that is not known is left out
}

// Verdict is the answer. Denial is set exactly where Allow is false. The slices belong to the contract and must not be
// changed.
type Verdict struct {
	Allow         bool
	SIDs          []string // statements that decided: all that deny, else all that allow
	Denial        *code.Denial
	SecretClasses []string // that the call may use; nil where the dialect says nothing, empty for none
	Tool          string   // the bound tool that the call is, such as "tool:ticketing.create"; "" for none
}

// Decide answers an ask: deny wins, and what no statement allows is denied. It is pure. now is the time of the decision;
// no dialect reads it yet, conditions on time see the ask's context.
func (c *Contract) Decide(a Ask, _ time.Time) Verdict {
	if len(a.Resource) > maxResource || !readable(a.Action) || !readable(a.Resource) {
		return Verdict{Denial: code.Deny(code.PolicyConditionUnknown, "the name of what is asked has control characters, is not UTF-8 or is longer than %d bytes", maxResource)}
	}
	var t target
	if a.Action == NetworkEgress {
		t = parseTarget(a.Resource)
	}
	return c.evaluate(&a, &t)
}

// WebSocket says whether an allowed ask of NetworkEgress may open a WebSocket: whether a rule of egress with websocket speaks
// of it. That it is allowed at all is Decide's to say, so that every Deny of the GET is one of the WebSocket.
func (c *Contract) WebSocket(resource string) bool {
	if len(c.sockets) == 0 || len(resource) > maxResource || !readable(resource) {
		return false
	}
	t := parseTarget(resource)
	return t.plain && anyReaches(c.sockets, &t)
}

// evaluate applies the rule set: a Deny that applies, or may apply, denies; else an Allow that surely applies allows;
// else the default denies.
func (c *Contract) evaluate(a *Ask, t *target) Verdict {
	var allow, deny, undecided sids
	var denying *rule
	var verdict Verdict
	sure := no
	for i := range c.rules {
		r := &c.rules[i]
		switch outcome := r.applies(a, t); {
		case outcome == no:
		case r.deny:
			deny.add(r)
			if denying == nil || sure == unknown && outcome == yes {
				denying, sure = r, outcome
			}
		case outcome == unknown:
			undecided.add(r)
		default:
			if allow.add(r); verdict.Tool == "" {
				verdict.Tool, verdict.SecretClasses = r.tool, r.classes
			}
		}
	}
	switch {
	case denying != nil:
		return Verdict{SIDs: deny.list, Denial: denying.denial(a, sure)}
	case allow.list != nil:
		verdict.Allow, verdict.SIDs = true, allow.list
		return verdict
	case undecided.list != nil:
		return Verdict{SIDs: undecided.list, Denial: undecided.first.denial(a, unknown)}
	}
	return Verdict{Denial: c.explain(a)}
}

// sids collects the statements that decide. One alone, the common case, costs no allocation.
type sids struct {
	first *rule
	list  []string
}

func (s *sids) add(r *rule) {
	if s.first == nil {
		s.first, s.list = r, r.sids
		return
	}
	s.list = append(s.list[:len(s.list):len(s.list)], r.sid)
}

func (r *rule) denial(a *Ask, t truth) *code.Denial {
	switch {
	case t == unknown:
		return code.Deny(code.PolicyConditionUnknown, "statement %s cannot be decided on %s: %s", r.sid, shown(a.Resource), r.missing(a))
	case r.code != "":
		return code.Deny(r.code, "%s", r.why)
	}
	return code.Deny(code.PolicyStatementDenied, "%s asked; %s denies it", shown(a.Resource), r.sid)
}

// missing names the condition that kept the rule from being decided.
func (r *rule) missing(a *Ask) string {
	for i := range r.when {
		if w := &r.when[i]; w.holds(a, r.deny) == unknown {
			if _, present := a.Context[w.key]; !present {
				return w.key + " is not known for this call"
			}
			return w.key + " has a value that " + w.name + " cannot read"
		}
	}
	return "it has a condition"
}

// explain says what was asked and what would have been allowed, in the ecosystem's codes for models.
func (c *Contract) explain(a *Ask) *code.Denial {
	switch {
	case a.Action == ModelInvoke && c.models != nil:
		return c.explainModel(a.Resource)
	case a.Action == NetworkEgress:
		return code.Deny(code.PolicyEgressNotAllowed, "%s asked; the contract allows %s", shown(a.Resource), c.allowedFor(a.Action))
	}
	return code.Deny(code.PolicyActionNotAllowed, "%s on %s asked; the contract allows %s", shown(a.Action), shown(a.Resource), c.allowedFor(a.Action))
}

func (c *Contract) explainModel(resource string) *code.Denial {
	provider, model, _ := strings.Cut(resource, "/")
	patterns, ok := c.models[provider]
	if !ok {
		patterns, ok = c.models["*"]
	}
	switch {
	case !ok:
		return code.Deny(code.PolicyProviderNotAllowed, "%s asked; the contract allows %s", shown(provider), listed(c.providers))
	case model == "":
		return code.Deny(code.PolicyModelRequired, "the contract allows %s: %s", shown(provider), listed(patterns))
	}
	return code.Deny(code.PolicyModelNotAllowed, "%s asked; the contract allows %s: %s", shown(resource), shown(provider), listed(patterns))
}

// allowedFor lists what the Allows for an action name, conditions left aside.
func (c *Contract) allowedFor(action string) string {
	var out []string
	for i := range c.rules {
		r := &c.rules[i]
		if r.deny || !anyMatch(r.actions, action) {
			continue
		}
		for j := range r.resources {
			out = append(out, r.resources[j].source)
		}
		for j := range r.endpoints {
			out = append(out, r.endpoints[j].String())
		}
	}
	return listed(out)
}

// shown keeps what a client asked short where it is repeated to it.
func shown(s string) string { return fmt.Sprintf("%.128s", s) }

func listed(list []string) string {
	const most = 12
	switch {
	case len(list) == 0:
		return "nothing"
	case len(list) > most:
		return strings.Join(list[:most], ", ") + ", …"
	}
	return strings.Join(list, ", ")
}
