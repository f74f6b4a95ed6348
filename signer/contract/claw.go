package contract

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sallyport/signer/code"
	"sallyport/signer/privacy"
)

// v1 is the Claw ecosystem's first version, as far as it is evaluated.
type v1 struct {
	PolicyID    string         `json:"policy_id"`
	Providers   []string       `json:"allowed_providers"`
	Models      []string       `json:"allowed_models"`
	MinimumTier string         `json:"minimum_model_identity_tier"`
	AuditPacks  []string       `json:"required_audit_packs"`
	Redaction   []privacy.Rule `json:"redaction_rules"`
	Privacy     string         `json:"receipt_privacy_mode"`
	Egress      []string       `json:"egress_allowlist"`
}

// compileV1 takes the strict reading: provider and model, both. What cannot be carried out here denies.
func (c *Contract) compileV1() error {
	var p v1
	if err := json.Unmarshal(c.Payload, &p); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c.PolicyID = p.PolicyID
	providers := p.Providers
	if len(providers) == 0 {
		providers = []string{"*"}
	}
	c.models = map[string][]string{}
	for _, provider := range sorted(providers) {
		c.addModels(provider, p.Models, "allowed_models", "$.allowed_models", nil)
	}
	c.providers = sorted(providers)
	if p.MinimumTier != "" && p.MinimumTier != "closed_opaque" {
		c.denyModels("minimum_model_identity_tier", code.PolicyModelTierTooLow, "every model call here is closed_opaque; the contract asks for "+p.MinimumTier)
	}
	var wrong problems
	c.compileRedaction(p.Redaction, "$.redaction_rules", &wrong)
	c.privacy = p.Privacy
	if len(p.AuditPacks) > 0 {
		c.notEnforced("$.required_audit_packs", "check audit packs where the evidence is verified")
	}
	for i, host := range p.Egress {
		name, below := strings.CutPrefix(host, "*.")
		c.addEgress(EgressRule{Host: name, OnlySubdomains: below}, fmt.Sprintf("$.egress_allowlist[%d]", i))
	}
	return wrong.err()
}

// addModels allows a provider's models; without patterns any model, and calls that name none.
func (c *Contract) addModels(provider string, patterns []string, sid, path string, classes []string) {
	r := rule{sid: sid, path: path, actions: []glob{literalGlob(ModelInvoke)}, classes: classes}
	c.models[provider] = patterns
	if len(patterns) == 0 {
		c.models[provider] = []string{"*"}
		r.resources = []glob{modelGlob(provider, anyModel)}
	}
	for _, m := range patterns {
		r.resources = append(r.resources, modelGlob(provider, m))
	}
	c.addRule(r)
}

func (c *Contract) denyModels(member string, k code.Code, why string) {
	c.addRule(rule{sid: member, path: "$." + member, deny: true, actions: []glob{literalGlob(ModelInvoke)}, resources: []glob{v2Glob("*")}, code: k, why: why})
	c.note(SeverityError, "cannot-pass", "$."+member, "no model call can pass: "+why, "remove the member, or use a gateway that carries it out")
}

func sorted(list []string) []string {
	out := slices.Clone(list)
	slices.Sort(out)
	return slices.Compact(out)
}

// v2 is the Claw ecosystem's second version, as far as it is evaluated.
type v2 struct {
	PolicyID   string          `json:"policy_id"`
	Inherits   string          `json:"inherits"`
	Coverage   string          `json:"coverage_enforcement"`
	Web        json.RawMessage `json:"witnessed_web_policy"`
	Statements []statement     `json:"statements"`
}

type statement struct {
	SID        string                       `json:"sid"`
	Effect     string                       `json:"effect"`
	Actions    []string                     `json:"actions"`
	Resources  []string                     `json:"resources"`
	Conditions map[string]map[string]string `json:"conditions"`
}

func (c *Contract) compileV2() error {
	var p v2
	if err := json.Unmarshal(c.Payload, &p); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c.PolicyID = p.PolicyID
	var wrong problems
	if p.Inherits != "" {
		wrong.add("$.inherits", "a parent that is not here would be ignored; write the parent's statements into this contract")
	}
	seen := map[string]bool{}
	for i, s := range p.Statements {
		at := fmt.Sprintf("$.statements[%d]", i)
		if seen[s.SID] {
			wrong.add(at+".sid", "%q is used twice", s.SID)
		}
		seen[s.SID] = true
		c.addStatement(s, at, &wrong)
	}
	if p.Coverage != "" {
		c.notEnforced("$.coverage_enforcement", "check coverage where the evidence is verified")
	}
	if p.Web != nil {
		c.notEnforced("$.witnessed_web_policy", "check web witnesses where the evidence is verified")
	}
	c.providers = c.providersOfStatements()
	return wrong.err()
}

func (c *Contract) addStatement(s statement, at string, wrong *problems) {
	r := rule{sid: s.SID, path: at, deny: s.Effect == "Deny"}
	for _, a := range s.Actions {
		r.actions = append(r.actions, v2Glob(a))
	}
	for _, res := range s.Resources {
		r.resources = append(r.resources, v2Glob(res))
	}
	for _, op := range slices.Sorted(maps.Keys(s.Conditions)) {
		for _, key := range slices.Sorted(maps.Keys(s.Conditions[op])) {
			cond, err := newCondition(op, key, s.Conditions[op][key])
			if err != nil {
				wrong.add(at+".conditions."+op+step(key), "%v", err)
			}
			r.when = append(r.when, cond)
		}
	}
	c.addRule(r)
	c.warnOfRoutes(&r, at)
}

// providersOfStatements is what the routes must be open for: the literal provider in front of a resource, or any.
func (c *Contract) providersOfStatements() []string {
	var out []string
	for i := range c.rules {
		r := &c.rules[i]
		if r.deny || !anyMatch(r.actions, ModelInvoke) {
			continue
		}
		for _, g := range r.resources {
			provider, _, found := strings.Cut(g.source, "/")
			switch {
			case strings.ContainsAny(provider, "*?"):
				return []string{"*"}
			case found:
				out = append(out, provider)
			}
		}
	}
	return sorted(out)
}
