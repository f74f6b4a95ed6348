package export

import (
	"fmt"
	"slices"
	"strings"

	"sallyport/signer/contract"
)

// claudeTools are the tools of @anthropic-ai/claude-code 2.1.330 (its sdk-tools.d.ts) by what they can do.
var claudeTools = map[string]capability{
	"Bash": shell, "BashOutput": shell, "KillShell": shell, "PowerShell": shell, "Monitor": shell, "TaskStop": shell, "REPL": shell,
	"Read": readFile, "Glob": readFile, "Grep": readFile, "LS": readFile, "LSP": readFile,
	"Edit": writeFile, "MultiEdit": writeFile, "Write": writeFile, "NotebookEdit": writeFile, "EnterWorktree": writeFile, "ExitWorktree": writeFile,
	"WebFetch": fetch, "WebSearch": search,
	"Agent": delegate, "Task": delegate, "Workflow": delegate, "SendMessage": delegate,
	"CronCreate": schedule, "CronDelete": schedule, "CronList": schedule, "ScheduleWakeup": schedule, "RemoteTrigger": schedule,
	"SendFeedback": message, "PushNotification": message, "ReadNotifications": message, "Artifact": message, "Projects": message, "ClaudeDesign": message,
	"TodoWrite": plan, "TaskCreate": plan, "TaskGet": plan, "TaskUpdate": plan, "TaskList": plan, "AskUserQuestion": plan,
	"EnterPlanMode": plan, "ExitPlanMode": plan, "ReportFindings": plan, "ProposeGoal": plan,
	"Skill": administer, "ProposeSkills": administer, "ShowOnboardingRolePicker": administer, "OfferChromeSetup": administer, "RefreshMcpTools": administer,
	"ListMcpResourcesTool": connectors, "ReadMcpResourceTool": connectors, "ReadMcpResourceDirTool": connectors,
}

// exportClaude writes managed-settings.json: there alone the rules of users and projects can be switched off. A tool in
// deny is taken from the model, and deny wins over allow; so every tool that is not allowed is named there.
func exportClaude(r *rights) ([]byte, error) {
	allow := slices.DeleteFunc(r.toolsFor(claudeTools, true), func(t string) bool { return t == "WebFetch" })
	deny := r.toolsFor(claudeTools, false)
	if r.may(fetch) {
		for _, h := range r.hosts() {
			allow = append(allow, "WebFetch(domain:"+h+")")
		}
		r.note("egress", "WebFetch asks the user for every other host; methods, ports and paths are held by the gateway alone")
	}
	servers := []object{}
	for _, s := range r.mcp() {
		for _, t := range s.tools {
			allow = append(allow, "mcp__"+s.name+"__"+t)
		}
		for _, t := range s.never {
			deny = append(deny, "mcp__"+s.name+"__"+t)
		}
		servers = append(servers, object{"serverName": s.name})
		r.note("mcp:"+s.name, "add the server to .mcp.json: {\"type\": \"http\", \"url\": \"%s/mcp/%s\"}; the gateway has no door for MCP yet", r.options.BaseURL, s.name)
	}
	out := object{
		"env": object{"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"},
		"permissions": object{"allow": allow, "ask": []string{}, "deny": deny, // "default" asks where no rule stands, and without a terminal refuses
			"defaultMode": "default", "disableBypassPermissionsMode": "disable"},
		"allowManagedPermissionRulesOnly": true, "allowManagedHooksOnly": true,
		"allowedMcpServers": servers, "enableAllProjectMcpServers": false,
	}
	if r.needsSandbox() && r.may(shell) {
		out["sandbox"] = object{"enabled": true, "allowUnsandboxedCommands": false}
		if !r.may(readFile) {
			r.note("tool:filesystem.read", "commands can read the files of the user's machine: the sandbox refuses writing outside the working directory only")
		}
	}
	r.claudeModel(out)
	return encode(out)
}

func (r *rights) claudeModel(out object) {
	for _, p := range r.providers() {
		if p.Dialect != "anthropic" {
			continue
		}
		base, _ := r.base(p.Door)
		out["env"].(object)["ANTHROPIC_BASE_URL"] = base
		if len(p.models) > 0 {
			out["model"] = p.models[0]
		} else {
			r.note("models:"+p.Provider, "no model is named in full: set \"model\" to one of %s", p.unwritten())
		}
		return
	}
	out["env"].(object)["ANTHROPIC_BASE_URL"] = r.options.BaseURL + "/anthropic"
	r.note("models", "the contract allows no provider that speaks Anthropic's API, so Claude Code has no model")
}

// claudeRule is one rule of permissions: a tool, and what of it.
func claudeRule(rule string) (tool, what string) {
	tool, what, _ = strings.Cut(rule, "(")
	return strings.TrimSpace(tool), strings.TrimSuffix(what, ")")
}

func checkClaude(config []byte, r *rights) ([]Finding, error) {
	v, err := parseJSON5(config)
	if err != nil {
		return nil, err
	}
	root, ok := v.(object)
	if !ok {
		return nil, fmt.Errorf("%w: the document is no object", errSyntax)
	}
	out := r.claudeTools(root)
	out = append(out, r.claudeRules(root)...)
	out = append(out, r.claudeModes(root)...)
	out = append(out, r.claudeUpstream(root)...)
	return append(out, plainSecrets(root, "")...), nil
}

// claudeDenied says whether a whole tool is denied: a rule with a part denies that part only.
func claudeDenied(deny []string, tool string) bool {
	return slices.ContainsFunc(deny, func(rule string) bool {
		t, what := claudeRule(rule)
		return (t == tool || t == "*") && (what == "" || what == "*" || what == "**")
	})
}

// claudeTools: without a rule the user is asked, or in some modes nobody, so only a Deny takes a tool away.
func (r *rights) claudeTools(root object) []Finding {
	p := at(root, "permissions")
	allow, deny := texts(p["allow"]), texts(p["deny"])
	var free, asked []string
	for tool := range claudeTools {
		switch {
		case claudeDenied(deny, tool):
		case p["defaultMode"] == "bypassPermissions" || slices.ContainsFunc(allow, func(s string) bool { t, _ := claudeRule(s); return t == tool }):
			free = append(free, tool)
		default:
			asked = append(asked, tool)
		}
	}
	slices.Sort(free)
	slices.Sort(asked)
	out := r.wider(free, claudeTools, func(tool string) (string, string) {
		i := slices.IndexFunc(allow, func(s string) bool { t, _ := claudeRule(s); return t == tool })
		if i < 0 {
			return "permissions.defaultMode", "the tools in permissions.deny, and \"default\""
		}
		return fmt.Sprintf("permissions.allow[%d]", i), "the tools in permissions.deny, which wins"
	}, "")
	return append(out, r.wider(asked, claudeTools, func(string) (string, string) {
		return "permissions.deny", "the tools in permissions.deny"
	}, ", when the user or the mode agrees")...)
}

// claudeRules are the rules whose part is of interest: hosts and MCP tools.
func (r *rights) claudeRules(root object) []Finding {
	var out []Finding
	for _, list := range []string{"allow", "ask"} {
		for i, rule := range texts(at(root, "permissions")[list]) {
			path := fmt.Sprintf("permissions.%s[%d]", list, i)
			tool, what := claudeRule(rule)
			host, _ := strings.CutPrefix(what, "domain:")
			_, known := claudeTools[tool]
			switch {
			case strings.HasPrefix(tool, "mcp__"):
				server, name, _ := strings.Cut(strings.TrimPrefix(tool, "mcp__"), "__")
				if name == "" {
					name = "*"
				}
				if !r.mayMCP(server, name) && !slices.ContainsFunc(r.mcp(), func(s mcpServer) bool { return s.name == server && slices.Contains(s.tools, name) }) {
					out = append(out, Finding{path, "the MCP tool " + server + "/" + name, "no binding allows it", "leave the rule out"})
				}
			case tool == "WebFetch" && r.may(fetch) && !r.mayHost(host):
				out = append(out, Finding{path, fmt.Sprintf("fetching from %q", orAny(host)), "no egress rule opens that host", "WebFetch(domain:HOST) with hosts of " + strings.Join(r.hosts(), ", ")})
			case !known:
				out = append(out, Finding{path, "the tool " + tool, "no capability of the contract means it", "leave the rule out"})
			}
		}
	}
	return out
}

func orAny(host string) string {
	if host == "" {
		return "any host"
	}
	return host
}

func (r *rights) mayHost(host string) bool {
	host = strings.ToLower(host)
	below := host != "" && !strings.Contains(strings.TrimPrefix(host, "*."), "*")
	return below && slices.ContainsFunc(r.hosts(), func(h string) bool {
		return h == host || (strings.HasPrefix(h, "*.") && strings.HasSuffix(host, h[1:]))
	})
}

func (r *rights) claudeModes(root object) []Finding {
	var out []Finding
	say := func(path, allows, says, instead string) { out = append(out, Finding{path, allows, says, instead}) }
	p := at(root, "permissions")
	if p["disableBypassPermissionsMode"] != "disable" {
		say("permissions.disableBypassPermissionsMode", "the user may switch every question off (--dangerously-skip-permissions)", "what is not allowed is denied", `"disable"`)
	}
	switch mode := p["defaultMode"]; mode {
	case nil, "default", "plan":
	case "acceptEdits":
		if !r.may(writeFile) {
			say("permissions.defaultMode", "files are edited without a question", r.says(writeFile), `"default"`)
		}
	default:
		say("permissions.defaultMode", fmt.Sprintf("tools run without a question in mode %q", mode), "what is not allowed is denied", `"default"`)
	}
	if root["enableAllProjectMcpServers"] == true {
		say("enableAllProjectMcpServers", "every MCP server that a project brings along", "each MCP server is bound by name", "false")
	}
	for name := range at(root, "mcpServers") {
		if !slices.ContainsFunc(r.mcp(), func(s mcpServer) bool { return s.name == name }) {
			say("mcpServers."+name, "the MCP server "+name, "no binding allows it", "leave the server out")
		}
	}
	if r.may(shell) && r.needsSandbox() && (at(root, "sandbox")["enabled"] != true || at(root, "sandbox")["allowUnsandboxedCommands"] != false) {
		refused := r.says(readFile)
		if !r.may(writeFile) {
			refused = r.says(writeFile)
		}
		say("sandbox", "commands run on the host itself", refused, `{"enabled": true, "allowUnsandboxedCommands": false}`)
	}
	slices.SortStableFunc(out, func(a, b Finding) int { return strings.Compare(a.Path, b.Path) })
	return out
}

func (r *rights) claudeUpstream(root object) []Finding {
	var out []Finding
	env := at(root, "env")
	base, _ := env["ANTHROPIC_BASE_URL"].(string)
	door, ok := r.atGateway(base + "/")
	if !ok {
		out = append(out, Finding{"env.ANTHROPIC_BASE_URL", fmt.Sprintf("model calls to %q (Anthropic's own address where it is empty)", base), "model calls go through the gateway", r.options.BaseURL + "/anthropic"})
		door = Door{Provider: "anthropic"}
	}
	for _, k := range []string{"NO_PROXY", "no_proxy", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY"} {
		if s, set := env[k].(string); set && s != "" && s != "0" {
			out = append(out, Finding{"env." + k, "calls that do not go to the gateway", "every call goes through the gateway", "leave the variable out"})
		}
	}
	if id, ok := root["model"].(string); ok && !r.ask(contract.ModelInvoke, door.Provider+"/"+id).Allow {
		out = append(out, Finding{"model", fmt.Sprintf("the model %q", id), "not among the models of provider " + door.Provider, "a model that the contract names"})
	}
	return out
}
