package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"sallyport/signer/code"
)

// v1 is WIRE 5.2's first version, as far as it is evaluated.
type v1 struct {
	PolicyID    string            `json:"policy_id"`
	Providers   []string          `json:"allowed_providers"`
	Models      []string          `json:"allowed_models"`
	MinimumTier string            `json:"minimum_model_identity_tier"`
	Redaction   []json.RawMessage `json:"redaction_rules"`
	Privacy     string            `json:"receipt_privacy_mode"`
	Egress      []string          `json:"egress_allowlist"`
}

// compileV1 takes the strict reading: provider and model, both. What cannot be enforced here denies.
func (c *Contract) compileV1() error {
	var p v1
	if err := json.Unmarshal(c.Payload, &p); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c.PolicyID = p.PolicyID
	providers, models := orAny(p.Providers), orAny(p.Models)
	c.models = map[string][]string{}
	allow := rule{sid: "allowed_models", actions: []glob{v2Glob(ModelInvoke)}}
	for _, provider := range providers {
		c.models[provider] = models
		for _, m := range models {
			allow.resources = append(allow.resources, v1Glob(provider+"/"+m))
		}
	}
	c.providers = sorted(providers)
	c.rules = append(c.rules, allow)
	if p.MinimumTier != "" && p.MinimumTier != "closed_opaque" {
		c.denyModels("minimum_model_identity_tier", code.PolicyModelTierTooLow, "the contract asks for "+p.MinimumTier)
	}
	if len(p.Redaction) > 0 {
		c.denyModels("redaction_rules", code.PolicyConditionUnknown, "redaction_rules are not carried out by this gateway")
	}
	if p.Privacy == "encrypted" {
		c.denyModels("receipt_privacy_mode", code.PolicyConditionUnknown, "encrypted receipts are not made by this gateway")
	}
	for _, host := range p.Egress {
		c.addEgress(EgressRule{Host: strings.TrimPrefix(host, "*."), Subdomains: strings.HasPrefix(host, "*.")})
	}
	return nil
}

func (c *Contract) denyModels(sid string, k code.Code, why string) {
	c.rules = append(c.rules, rule{sid: sid, deny: true, actions: []glob{v2Glob(ModelInvoke)}, resources: []glob{v2Glob("*")}, code: k, why: why})
}

func orAny(list []string) []string {
	if len(list) == 0 {
		return []string{"*"}
	}
	return list
}

func sorted(list []string) []string {
	out := slices.Clone(list)
	slices.Sort(out)
	return slices.Compact(out)
}

// v2 is WIRE 5.2's second version, as far as it is evaluated.
type v2 struct {
	PolicyID   string `json:"policy_id"`
	Inherits   string `json:"inherits"`
	Statements []struct {
		SID        string                       `json:"sid"`
		Effect     string                       `json:"effect"`
		Actions    []string                     `json:"actions"`
		Resources  []string                     `json:"resources"`
		Conditions map[string]map[string]string `json:"conditions"`
	} `json:"statements"`
}

func (c *Contract) compileV2() error {
	var p v2
	if err := json.Unmarshal(c.Payload, &p); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c.PolicyID = p.PolicyID
	var errs []error
	bad := func(path, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: %s: %s", ErrInvalid, path, fmt.Sprintf(format, args...)))
	}
	if p.Inherits != "" {
		bad("$.inherits", "a parent that is not here would be ignored; write the parent's statements into this contract")
	}
	sids := map[string]bool{}
	for i, s := range p.Statements {
		at := fmt.Sprintf("$.statements[%d]", i)
		if sids[s.SID] {
			bad(at+".sid", "%q is used twice", s.SID)
		}
		sids[s.SID] = true
		r := rule{sid: s.SID, deny: s.Effect == "Deny"}
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
					bad(fmt.Sprintf("%s.conditions.%s[%q]", at, op, key), "%v", err)
				}
				r.when = append(r.when, cond)
			}
		}
		c.rules = append(c.rules, r)
	}
	c.providers = c.providersOfStatements()
	return errors.Join(errs...)
}

func newCondition(op, key, expected string) (condition, error) {
	c := condition{operator: op, key: key, expected: expected}
	var err error
	switch op {
	case "StringLike", "StringNotLike":
		c.pattern = v2Glob(expected)
	case "NumericEquals", "NumericLessThan", "NumericGreaterThan":
		if c.number, err = strconv.ParseFloat(expected, 64); err != nil {
			err = fmt.Errorf("%q is not a number", expected)
		}
	case "Bool":
		if c.expected = strings.ToLower(expected); c.expected != "true" && c.expected != "false" {
			err = fmt.Errorf("%q is neither true nor false", expected)
		}
	case "IpAddress":
		c.prefix, err = parsePrefix(expected)
	}
	return c, err
}

func parsePrefix(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a CIDR", s)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// providersOfStatements is what the routes must be open for: the literal provider in front of a resource, or any.
func (c *Contract) providersOfStatements() []string {
	var out []string
	for _, r := range c.rules {
		if r.deny || !anyMatch(r.actions, ModelInvoke) {
			continue
		}
		for _, g := range r.resources {
			provider, _, found := strings.Cut(g.source, "/")
			if !found || strings.ContainsAny(provider, "*?") {
				return []string{"*"}
			}
			out = append(out, provider)
		}
	}
	return sorted(out)
}

// enterprise is the seed's shape with the design's extensions.
type enterprise struct {
	PolicyID string `json:"policy_id"`
	Tools    struct {
		Allow    []string           `json:"allow"`
		Deny     []string           `json:"deny"`
		Bindings map[string]Binding `json:"bindings"`
	} `json:"tools"`
	Models []struct {
		Provider string   `json:"provider"`
		Models   []string `json:"models"`
	} `json:"models"`
	Egress struct {
		Rules []EgressRule `json:"rules"`
	} `json:"egress"`
	Secrets secrets `json:"secrets"`
	Auth    auth    `json:"auth"`
	Limits  Limits  `json:"limits"`
}

func (c *Contract) compileEnterprise() error {
	var p enterprise
	if err := json.Unmarshal(c.Payload, &p); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c.PolicyID, c.secrets, c.auth, c.limits, c.bindings = p.PolicyID, &p.Secrets, p.Auth, p.Limits, p.Tools.Bindings
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(p.Tools.Bindings)) {
		b := p.Tools.Bindings[name]
		if !slices.Contains(p.Tools.Allow, name) {
			errs = append(errs, fmt.Errorf("%w: $.tools.bindings[%q]: the tool is not in tools.allow", ErrInvalid, name))
		}
		if b.SecretClass != "" && !c.AllowsSecretClass(b.SecretClass) {
			errs = append(errs, fmt.Errorf("%w: $.tools.bindings[%q].secret_class: %q is not in secrets.allowed_secret_classes", ErrInvalid, name, b.SecretClass))
		}
	}
	for i, r := range p.Egress.Rules {
		for j, cidr := range r.CIDRs {
			if _, err := parsePrefix(cidr); err != nil {
				errs = append(errs, fmt.Errorf("%w: $.egress.rules[%d].cidrs[%d]: %w", ErrInvalid, i, j, err))
			}
		}
	}
	c.compileModels(&p)
	c.compileTools(&p)
	for _, r := range p.Egress.Rules {
		c.addEgress(r)
	}
	return errors.Join(errs...)
}

// compileModels: tools.allow names the providers' routes, models narrows them. Where both speak of providers, both must
// allow; a provider without a list of models may use any.
func (c *Contract) compileModels(p *enterprise) {
	routes := map[string]bool{}
	for _, t := range p.Tools.Allow {
		if route, ok := providerRoute(t); ok {
			routes[route] = true
		}
	}
	listed := map[string][]string{}
	for _, m := range p.Models {
		listed[m.Provider] = append(listed[m.Provider], m.Models...)
	}
	c.models = map[string][]string{}
	for provider, models := range listed {
		if len(routes) == 0 || routes[provider] {
			c.models[provider] = models
		}
	}
	for provider := range routes {
		if _, ok := listed[provider]; !ok {
			c.models[provider] = []string{"*"}
		}
	}
	c.providers = slices.Sorted(maps.Keys(c.models))
	for _, provider := range c.providers {
		r := rule{sid: "models:" + provider, actions: []glob{v2Glob(ModelInvoke)}}
		for _, m := range c.models[provider] {
			r.resources = append(r.resources, v1Glob(provider+"/"+m))
		}
		c.rules = append(c.rules, r)
	}
}

// providerRoute takes the route's name off "provider:<gateway>/<route>".
func providerRoute(tool string) (string, bool) {
	rest, ok := strings.CutPrefix(tool, "provider:")
	if !ok {
		return "", false
	}
	_, route, ok := strings.Cut(rest, "/")
	return route, ok
}

// httpRequest is the capability of calling any host: denied, it closes every way out that no tool is bound to.
const httpRequest = "tool:http.request"

// BoundTool is the context key of a network egress ask that names the tool it was mapped to.
const BoundTool = "Tool:Name"

func (c *Contract) compileTools(p *enterprise) {
	add := func(sid string, deny bool, action, resource string, when ...condition) {
		c.rules = append(c.rules, rule{sid: sid, deny: deny, actions: []glob{v2Glob(action)}, resources: []glob{v2Glob(resource)}, when: when})
	}
	for _, t := range p.Tools.Allow {
		if name, ok := strings.CutPrefix(t, "tool:"); ok {
			c.tools = append(c.tools, t)
			add("tools.allow:"+t, false, ToolExecute, name)
		}
	}
	for _, t := range p.Tools.Deny {
		if route, ok := providerRoute(t); ok {
			c.rules = append(c.rules, rule{sid: "tools.deny:" + t, deny: true, actions: []glob{v2Glob(ModelInvoke)}, resources: []glob{v1Glob(route + "/*")}})
			continue
		}
		add("tools.deny:"+t, true, ToolExecute, strings.TrimPrefix(t, "tool:"))
		if t == httpRequest {
			// A call without a tool's name is a generic one: the key is missing, which a negation takes as unknown, and
			// unknown denies.
			add("tools.deny:"+t, true, NetworkEgress, "**", condition{operator: "StringNotLike", key: BoundTool, expected: "?*", pattern: v2Glob("?*")})
		}
	}
}

// addEgress keeps the rule for the routes and compiles it to statements on "METHOD host/path".
func (c *Contract) addEgress(e EgressRule) {
	c.egress = append(c.egress, e)
	r := rule{sid: "egress:" + e.Host, actions: []glob{v2Glob(NetworkEgress)}}
	hosts := []string{e.Host}
	if e.Subdomains {
		hosts = append(hosts, "*."+e.Host)
	}
	for _, m := range orAny(e.Methods) {
		for _, h := range hosts {
			for _, p := range e.PathPrefixes {
				p = strings.TrimSuffix(p, "/")
				r.resources = append(r.resources, v2Glob(m+" "+h+p), v2Glob(m+" "+h+p+"/**"))
			}
			if len(e.PathPrefixes) == 0 {
				r.resources = append(r.resources, v2Glob(m+" "+h+"/**"))
			}
		}
	}
	c.rules = append(c.rules, r)
}
