package contract

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"sallyport/signer/jcs"
	"sallyport/signer/privacy"
)

// enterprise is the secrets-boundary contract with this project's extensions: models, egress, tools.bindings, limits.
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
	Secrets   secrets `json:"secrets"`
	Privacy   string  `json:"receipt_privacy_mode"`
	Redaction struct {
		Rules []privacy.Rule `json:"rules"`
	} `json:"redaction"`
	Auth   auth   `json:"auth"`
	Limits Limits `json:"limits"`
}

func (c *Contract) compileEnterprise() error {
	var p enterprise
	if err := json.Unmarshal(c.Payload, &p); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c.PolicyID, c.secrets, c.auth, c.limits, c.bindings = p.PolicyID, &p.Secrets, p.Auth, p.Limits, p.Tools.Bindings
	c.privacy = p.Privacy
	if err := c.checkEnterprise(&p); err != nil {
		return err
	}
	c.compileModels(&p)
	c.compileTools(&p)
	for i, r := range p.Egress.Rules {
		c.addEgress(r, fmt.Sprintf("$.egress.rules[%d]", i))
	}
	return nil
}

func (c *Contract) checkEnterprise(p *enterprise) error {
	var wrong problems
	if h := c.CSTScopeHash(); h != "" {
		if _, err := jcs.DecodeHash(h); err != nil {
			wrong.add("$.auth.cst_scope_hash", "%v", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Tools.Bindings)) {
		b, at := p.Tools.Bindings[name], "$.tools.bindings"+step(name)
		if !slices.Contains(p.Tools.Allow, name) {
			wrong.add(at, "the tool is not in tools.allow")
		}
		if b.SecretClass != "" && !c.AllowsSecretClass(b.SecretClass) {
			wrong.add(at+".secret_class", "%q is not in secrets.allowed_secret_classes", b.SecretClass)
		}
		if b.Path != "" && !plainPath(b.Path) {
			wrong.add(at+".path", "%q is not in its plain form", b.Path)
		}
	}
	for i, r := range p.Egress.Rules {
		at := fmt.Sprintf("$.egress.rules[%d]", i)
		for j, prefix := range r.PathPrefixes {
			if !plainPath(prefix) {
				wrong.add(fmt.Sprintf("%s.path_prefixes[%d]", at, j), "%q is not in its plain form", prefix)
			}
		}
		if r.WebSocket && r.Inspect != "" && r.Inspect != InspectFull {
			wrong.add(at+".websocket", "inspect is %q, so that no request is seen that could ask for one; let it say full, or leave websocket out", r.Inspect)
		}
		if r.WebSocket && len(r.Methods) > 0 && !slices.Contains(r.Methods, http.MethodGet) {
			wrong.add(at+".websocket", "it begins as a GET, which methods does not name; add GET, or leave websocket out")
		}
		for j, cidr := range r.CIDRs {
			if _, err := parsePrefix(cidr); err != nil {
				wrong.add(fmt.Sprintf("%s.cidrs[%d]", at, j), "%v", err)
			}
		}
	}
	c.compileRedaction(p.Redaction.Rules, "$.redaction.rules", &wrong)
	for i, r := range p.Egress.Rules {
		unread, instead := ".inspect", `use "full"`
		switch {
		case r.WebSocket:
			unread, instead = ".websocket", "leave it out"
		case r.Inspect == "" || r.Inspect == InspectFull:
			continue
		}
		if c.privacy == PrivacyEncrypted {
			wrong.add(fmt.Sprintf("$.egress.rules[%d]%s", i, unread), "what passes unread cannot be sealed for the auditor; %s, or another receipt_privacy_mode", instead)
		}
		if c.redaction != nil {
			wrong.add(fmt.Sprintf("$.egress.rules[%d]%s", i, unread), "what passes unread cannot be redacted; %s, or remove redaction", instead)
		}
	}
	return wrong.err()
}

// providerRoute takes the route's name off "provider:<gateway>/<route>".
func providerRoute(capability string) (string, bool) {
	rest, ok := strings.CutPrefix(capability, "provider:")
	if !ok {
		return "", false
	}
	_, route, ok := strings.Cut(rest, "/")
	return strings.ToLower(route), ok
}

// compileModels: tools.allow names the providers' routes, models narrows them. Where both speak of providers, both must
// allow; a provider without a list of models may use any.
func (c *Contract) compileModels(p *enterprise) {
	routes := map[string]string{} // to where it stands
	for i, t := range p.Tools.Allow {
		if route, ok := providerRoute(t); ok {
			routes[route] = fmt.Sprintf("$.tools.allow[%d]", i)
		}
	}
	lists, at := map[string][]string{}, maps.Clone(routes)
	for i, m := range p.Models {
		path := fmt.Sprintf("$.models[%d]", i)
		if _, ok := routes[m.Provider]; !ok && len(routes) > 0 {
			c.note(SeverityError, "unreachable", path, "tools.allow names providers, and "+m.Provider+" is none of them",
				"add \"provider:sallyport/"+m.Provider+"\" to tools.allow, or remove the list")
			continue
		}
		lists[m.Provider] = append(lists[m.Provider], m.Models...)
		at[m.Provider] = path
	}
	c.models = map[string][]string{}
	denied := map[string]bool{}
	for _, t := range p.Tools.Deny {
		route, ok := providerRoute(t)
		denied[route] = ok
	}
	for _, provider := range slices.Sorted(maps.Keys(at)) {
		c.addModels(provider, lists[provider], "models:"+provider, at[provider], notNil(c.secrets.AllowedClasses))
		if !denied[provider] {
			c.providers = append(c.providers, provider)
		}
	}
}

// httpRequest is the capability of calling any host: denied, it closes every way out that no tool is bound to.
const httpRequest = "tool:http.request"

// compileTools allows and denies tools where a call can be seen: by the tool's name, and on the network where the tool is
// bound. What an agent does inside its own machine is for its runtime's tool policy.
func (c *Contract) compileTools(p *enterprise) {
	var bound []endpoint
	for _, name := range slices.Sorted(maps.Keys(p.Tools.Bindings)) {
		if b := p.Tools.Bindings[name]; b.Host != "" {
			bound = append(bound, endpointOf(b))
		}
	}
	for i, t := range p.Tools.Allow {
		if strings.HasPrefix(t, "tool:") {
			c.tools = append(c.tools, t)
			c.addTool(t, false, "tools.allow:"+t, fmt.Sprintf("$.tools.allow[%d]", i))
		}
	}
	for i, t := range p.Tools.Deny {
		sid, path := "tools.deny:"+t, fmt.Sprintf("$.tools.deny[%d]", i)
		if route, ok := providerRoute(t); ok {
			c.addRule(rule{sid: sid, path: path, deny: true, actions: []glob{literalGlob(ModelInvoke)}, resources: []glob{modelGlob(route, anyModel)}})
			continue
		}
		c.addTool(t, true, sid, path)
		if t == httpRequest {
			c.addRule(rule{sid: sid, path: path, deny: true, actions: []glob{literalGlob(NetworkEgress)}, unless: append([]endpoint{}, bound...)})
		}
	}
}

func (c *Contract) addTool(name string, deny bool, sid, path string) {
	b, bound := c.bindings[name]
	base := rule{sid: sid, path: path, deny: deny, classes: []string{}}
	if bound {
		base.tool = name
	}
	if b.SecretClass != "" {
		base.classes = []string{b.SecretClass}
	}
	byName := base
	byName.actions = []glob{literalGlob(ToolExecute)}
	byName.resources = []glob{literalGlob(strings.TrimPrefix(name, "tool:")), literalGlob(name)}
	if b.MCPServer != "" {
		at := MCPPrefix + b.MCPServer + "/"
		if b.Tool == "*" {
			byName.resources = append(byName.resources, v2Glob(at+"**"))
		} else {
			byName.resources = append(byName.resources, literalGlob(at+b.Tool))
		}
	}
	c.addRule(byName)
	if b.Host != "" {
		base.actions, base.endpoints = []glob{literalGlob(NetworkEgress)}, []endpoint{endpointOf(b)}
		c.addRule(base)
	}
}

// addEgress keeps the rule for the routes and allows it. A way out that is no tool gets no credential.
func (c *Contract) addEgress(e EgressRule, path string) {
	c.egress = append(c.egress, e)
	if e.WebSocket {
		get := e
		get.Methods = []string{http.MethodGet}
		c.sockets = append(c.sockets, endpointsOf(get)...)
	}
	r := rule{sid: "egress:" + e.Host, path: path, actions: []glob{literalGlob(NetworkEgress)}, endpoints: endpointsOf(e), way: true}
	if c.secrets != nil {
		r.classes = []string{}
	}
	c.addRule(r)
}

func notNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
