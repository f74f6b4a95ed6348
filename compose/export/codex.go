package export

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"sallyport/signer/contract"
)

// codexFeatures are the switches of @openai/codex 0.169.0 (`codex features list`) that are on unless switched off, by what
// they give the model. apply_patch has none: there the sandbox and the approval policy hold. shell_tool off takes unified_exec
// away with it, whatever that says. With all of them off, what is left in a request is request_user_input.
var codexFeatures = map[string]capability{
	"shell_tool": shell, "unified_exec": shell, "view_image": readFile, "image_generation": media,
	"browser_use": browse, "browser_use_external": browse, "in_app_browser": browse, "computer_use": devices,
	"multi_agent": delegate, "multi_agent_v2": delegate, "goals": plan, "memories": remember, "hooks": administer,
	"apps": connectors, "plugins": connectors, "remote_plugin": connectors, "skill_mcp_dependency_install": administer,
}

const (
	codexReadOnly  = "read-only"
	codexWorkspace = "workspace-write"
	codexProvider  = "sallyport"
)

// codexSandbox is the widest sandbox that the contract means. Codex has none that refuses reading.
func (r *rights) codexSandbox() string {
	if r.may(writeFile) {
		return codexWorkspace
	}
	return codexReadOnly
}

// codexNetwork says whether commands may use the network; behind the proxy the gateway judges each call.
func (r *rights) codexNetwork() bool { return r.may(shell) && r.may(writeFile) && r.may(fetch) }

func exportCodex(r *rights) ([]byte, error) {
	features := object{}
	for name, c := range codexFeatures {
		features[name] = r.may(c)
	}
	out := object{
		"sandbox_mode": r.codexSandbox(), "approval_policy": "never", // never asks: what the sandbox refuses stays refused
		"web_search": "disabled", "model_provider": codexProvider, "features": features, "check_for_update_on_startup": false,
		"agents":                  object{"enabled": r.may(delegate)}, // multi_agent holds for the older of two kinds only
		"sandbox_workspace_write": object{"network_access": r.codexNetwork()},
	}
	if r.may(search) {
		out["web_search"] = "live"
	}
	if r.may(shell) && !r.may(readFile) {
		r.note("tool:filesystem.read", "commands can read every file that the user can: Codex has no sandbox that refuses reading")
	}
	servers := object{}
	for _, s := range r.mcp() {
		servers[s.name] = object{"url": r.options.BaseURL + "/mcp/" + s.name, "bearer_token_env_var": "OPENAI_API_KEY", "enabled_tools": s.tools, "disabled_tools": append([]string{}, s.never...)}
		r.noteMCP(s.name)
		if slices.ContainsFunc(s.tools, func(t string) bool { return !literal(t) }) {
			r.note("mcp:"+s.name, "enabled_tools are names: write those of %s that you use", strings.Join(s.tools, ", "))
		}
	}
	if len(servers) > 0 {
		out["mcp_servers"] = servers
	}
	r.codexModel(out)
	r.note("$", "for a machine that others configure too, put sandbox_mode and approval_policy as allowed_sandbox_modes and allowed_approval_policies into /etc/codex/requirements.toml")
	return toml.Marshal(out)
}

func (r *rights) codexModel(out object) {
	door := Door{"openai", "openai", "openai"}
	i, all := -1, r.providers()
	for j, p := range all {
		if p.Dialect == "openai" && (i < 0 || p.Provider == "openai") {
			i = j
		}
	}
	switch {
	case i < 0:
		r.note("models", "the contract allows no provider that speaks OpenAI's API, so Codex has no model")
	case len(all[i].models) > 0:
		door, out["model"] = all[i].Door, all[i].models[0]
	default:
		door = all[i].Door
		r.note("models:"+door.Provider, "no model is named in full: set model to one of %s", all[i].unwritten())
	}
	base, _ := r.base(door)
	out["model_providers"] = object{codexProvider: object{"name": "Sallyport", "base_url": base, "env_key": "OPENAI_API_KEY", "wire_api": "responses"}}
}

func checkCodex(config []byte, r *rights) ([]Finding, error) {
	root := object{}
	if err := toml.Unmarshal(config, &root); err != nil {
		return nil, fmt.Errorf("not valid TOML: %w", err)
	}
	out := r.codexLayer(root, "", true)
	profiles := at(root, "profiles")
	for _, name := range keys(profiles) {
		out = append(out, r.codexLayer(at(profiles, name), "profiles."+name+".", false)...)
	}
	out = append(out, r.codexFeatures(root)...)
	out = append(out, r.codexUpstreams(root)...)
	out = append(out, r.codexServers(root)...)
	return append(out, plainSecrets(root, "")...), nil
}

// codexLayer checks the members that the top and each profile can have; the top is judged by its defaults too.
func (r *rights) codexLayer(o object, prefix string, top bool) []Finding {
	var out []Finding
	say := func(path, allows, says, instead string) {
		out = append(out, Finding{prefix + path, allows, says, instead})
	}
	mode, set := o["sandbox_mode"].(string)
	switch {
	case mode == codexReadOnly || (!set && !top):
	case mode == codexWorkspace && r.may(writeFile):
	case mode == codexWorkspace:
		say("sandbox_mode", "apply_patch and commands write in the working directory", r.says(writeFile), `"read-only"`)
	case !set:
		say("sandbox_mode", "Codex chooses the sandbox by the directory's trust", "what is not allowed is denied", fmt.Sprintf("%q", r.codexSandbox()))
	default:
		say("sandbox_mode", fmt.Sprintf("no sandbox (%q): every file and the network", mode), "what is not allowed is denied", fmt.Sprintf("%q", r.codexSandbox()))
	}
	if p, set := o["approval_policy"]; p != "never" && (set || top) {
		say("approval_policy", "the user may let a command out of the sandbox", "what is not allowed is denied", `"never"`)
	}
	if at(o, "sandbox_workspace_write")["network_access"] == true && !r.codexNetwork() {
		say("sandbox_workspace_write.network_access", "commands use the network", r.says(shell)+"; "+r.says(fetch), "false")
	}
	if roots, _ := at(o, "sandbox_workspace_write")["writable_roots"].([]any); len(roots) > 0 {
		say("sandbox_workspace_write.writable_roots", "writing outside the working directory", "no capability of the contract means it", "leave the member out")
	}
	if v, set := o["web_search"]; v != "disabled" && (set || top) && !r.may(search) {
		say("web_search", "search the web through the provider", r.says(search), `"disabled"`)
	}
	for _, k := range []string{"default_permissions", "permissions"} {
		if o[k] != nil {
			say(k, "a permission profile takes the place of sandbox_mode, and is not judged here", "what is not allowed is denied", "sandbox_mode")
		}
	}
	return out
}

func (r *rights) codexFeatures(root object) []Finding {
	var on []string
	for _, name := range keys(at(root, "features")) {
		if _, known := codexFeatures[name]; !known && at(root, "features")[name] != false {
			on = append(on, name)
		}
	}
	for name := range codexFeatures {
		if at(root, "features")[name] != false {
			on = append(on, name)
		}
	}
	slices.Sort(on)
	out := r.wider(on, codexFeatures, func(string) (string, string) { return "features", "each of them = false" }, "")
	if at(root, "agents")["enabled"] != false && !r.may(delegate) {
		out = append(out, Finding{"agents.enabled", "start and steer other agents", r.says(delegate), "false"})
	}
	return out
}

func (r *rights) codexUpstreams(root object) []Finding {
	var out []Finding
	say := func(path, allows, says, instead string) { out = append(out, Finding{path, allows, says, instead}) }
	used, _ := root["model_provider"].(string)
	providers := at(root, "model_providers")
	if len(at(providers, used)) == 0 {
		if base, _ := root["openai_base_url"].(string); base == "" || (used != "" && used != "openai") {
			say("model_provider", fmt.Sprintf("model calls to the built-in provider %q", orOpenAI(used)), "model calls go through the gateway", "a provider of model_providers whose base_url is at the gateway")
		} else if _, ok := r.atGateway(base); !ok {
			say("openai_base_url", fmt.Sprintf("model calls to %q", base), "model calls go through the gateway", r.options.BaseURL+"/openai/v1")
		}
	}
	provider := "openai"
	for _, name := range keys(providers) {
		base, _ := at(providers, name)["base_url"].(string)
		door, ok := r.atGateway(base)
		if !ok {
			say("model_providers."+name+".base_url", fmt.Sprintf("model calls to %q", base), "model calls go through the gateway", r.options.BaseURL+"/openai/v1")
		} else if name == used {
			provider = door.Provider
		}
	}
	if id, ok := root["model"].(string); ok && !r.ask(contract.ModelInvoke, provider+"/"+id).Allow {
		say("model", fmt.Sprintf("the model %q", id), "not among the models of provider "+provider, "a model that the contract names")
	}
	return out
}

func orOpenAI(name string) string {
	if name == "" {
		return "openai"
	}
	return name
}

func (r *rights) codexServers(root object) []Finding {
	var out []Finding
	servers := at(root, "mcp_servers")
	for _, name := range keys(servers) {
		s, path := at(servers, name), "mcp_servers."+name
		if s["enabled"] == false {
			continue
		}
		url, remote := s["url"].(string)
		if _, ok := r.atGateway(url); !remote || !ok {
			out = append(out, Finding{path, "an MCP server that is not at the gateway", "MCP calls go through the gateway", fmt.Sprintf("url = %q", r.options.BaseURL+"/mcp/"+name)})
		}
		tools := texts(s["enabled_tools"])
		if len(tools) == 0 {
			tools = []string{"*"}
		}
		for _, t := range tools {
			if !r.mayMCP(name, t) && !slices.ContainsFunc(r.mcp(), func(m mcpServer) bool { return m.name == name && slices.Contains(m.tools, t) }) {
				out = append(out, Finding{path + ".enabled_tools", "the MCP tool " + name + "/" + t, "no binding allows it", "the tools that the contract binds, or leave the server out"})
			}
		}
	}
	return out
}
