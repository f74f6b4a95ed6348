package export

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"sallyport/signer/contract"
)

// openClawTools are the built-in tools of openclaw 2026.9.6 by what they can do. The runtime's own groups and profiles hold
// more than its documentation says, so settings are written by names alone.
var openClawTools = map[string]capability{
	"exec": shell, "process": shell, "terminal": shell, "code_execution": shell,
	"read": readFile, "ls": readFile, "pdf": readFile, "view_image": readFile,
	"write": writeFile, "edit": writeFile, "apply_patch": writeFile, // allowing write allows apply_patch too
	"web_fetch":  fetch,
	"web_search": search, "x_search": search,
	"browser": browse, "canvas": browse,
	"message": message, "conversations_list": message, "conversations_send": message, "conversations_turn": message, "talk_voice": message,
	"memory_get": remember, "memory_search": remember, "transcripts": remember,
	"agents_list": delegate, "agents_wait": delegate, "subagents": delegate, "sessions": delegate, "sessions_history": delegate,
	"sessions_list": delegate, "sessions_search": delegate, "sessions_send": delegate, "sessions_spawn": delegate,
	"sessions_yield": delegate, "session_status": delegate,
	"automations": schedule, "heartbeat_respond": schedule,
	"nodes": devices, "node_inference": devices, "dir_fetch": devices, "dir_list": devices, "file_fetch": devices, "file_write": devices,
	"mobile_ui": devices, "computer": devices, "screen": devices,
	"tts": media, "image_generate": media, "music_generate": media, "video_generate": media,
	"ask_user": plan, "progress_card": plan, "create_goal": plan, "get_goal": plan, "update_goal": plan, "intent": plan,
	"suggest_task": plan, "dismiss_task": plan, "dashboard": plan, "show_widget": plan, "theme": plan,
	"gateway": administer, "openclaw": administer, "plugins": administer, "portal": administer, "secrets": administer, "skill_workshop": administer,
}

// openClawAliases are other names of the same tools.
var openClawAliases = map[string]string{"bash": "exec", "cron": "automations", "update_plan": "progress_card"}

func exportOpenClaw(r *rights) ([]byte, error) {
	allow, deny := r.toolsFor(openClawTools, true), r.toolsFor(openClawTools, false)
	servers := object{}
	for _, s := range r.mcp() {
		name := openClawServer(s.name)
		for _, t := range s.tools {
			allow = append(allow, name+"__"+t)
		}
		for _, t := range s.never {
			deny = append(deny, name+"__"+t)
		}
		filter := object{"include": s.tools}
		if len(s.never) > 0 {
			filter["exclude"] = s.never
		}
		servers[s.name] = object{"url": r.options.BaseURL + "/mcp/" + s.name, "transport": "streamable-http", // else it is "sse"
			"headers": object{"Authorization": "Bearer ${OPENAI_API_KEY}"}, "toolFilter": filter}
		r.noteMCP(s.name)
	}
	tools := object{"allow": allow, "deny": deny, "toolSearch": false, "codeMode": false,
		"elevated": object{"enabled": false}, "exec": object{"mode": "deny"},
		"web": object{"fetch": object{"enabled": r.may(fetch), "useTrustedEnvProxy": true}, "search": object{"enabled": r.may(search)}}}
	if len(allow) == 0 { // an empty allow would allow everything
		delete(tools, "allow")
		tools["deny"] = []string{"*"}
	}
	if r.may(shell) {
		tools["exec"] = object{"mode": "full"}
	}
	if r.needsSandbox() { // in the sandbox a list of its own holds too, whose default leaves out web_fetch and MCP
		tools["sandbox"] = object{"tools": object{"allow": allow, "deny": deny}}
	}
	providers, first := r.openClawProviders()
	defaults := object{"sandbox": r.openClawSandbox()}
	if first != "" {
		defaults["model"] = object{"primary": first}
	}
	out := object{"tools": tools, "agents": object{"defaults": defaults}, "models": object{"mode": "replace", "providers": providers}}
	if len(servers) > 0 {
		out["mcp"] = object{"servers": servers}
	}
	return encode(out)
}

func (r *rights) noteMCP(server string) {
	r.note("mcp:"+server, "written as %s/mcp/%s: the gateway has no door for MCP yet, so the server does not answer", r.options.BaseURL, server)
}

var openClawName = regexp.MustCompile(`[^A-Za-z0-9_-]`)

func openClawServer(name string) string { return openClawName.ReplaceAllString(name, "-") }

// openClawSandbox: where commands or files are allowed while others of them are not, only the sandbox holds the
// difference, since a command can read and write every file. Where nothing of the kind is allowed, nothing runs.
func (r *rights) openClawSandbox() object {
	if !r.needsSandbox() {
		return object{"mode": "off"}
	}
	access := "none"
	switch {
	case r.may(writeFile):
		access = "rw"
	case r.may(readFile):
		access = "ro"
	}
	return object{"mode": "all", "workspaceAccess": access}
}

func (r *rights) needsSandbox() bool {
	local := 0
	for _, c := range []capability{shell, readFile, writeFile} {
		if r.may(c) {
			local++
		}
	}
	return local == 1 || local == 2
}

var openClawAPI = map[string]string{"openai": "openai-completions", "anthropic": "anthropic-messages", "gemini": "google-generative-ai"}

// openClawProviders: a list of models is of ids, so patterns cannot stand in it.
func (r *rights) openClawProviders() (providers object, first string) {
	providers = object{}
	for _, p := range r.providers() {
		base, key := r.base(p.Door)
		models := []object{}
		for _, id := range p.models {
			models = append(models, object{"id": id, "name": id})
			if first == "" {
				first = p.Provider + "/" + id
			}
		}
		if rest := p.unwritten(); rest != "" {
			r.note("models:"+p.Provider, "not written, since the list is of ids that are always allowed: add the models you use to models.providers.%s.models, of %s", p.Provider, rest)
		}
		providers[p.Provider] = object{"baseUrl": base, "apiKey": "${" + key + "}", "api": openClawAPI[p.Dialect], "models": models}
	}
	return providers, first
}

// openClawLayer is one place with a tool policy.
type openClawLayer struct {
	path        string
	allow, deny []string
	profile     string // "" where there is none
	wide        string // a member that widens what allow and profile say
}

func readLayer(o object, path string) openClawLayer {
	l := openClawLayer{path: path, allow: texts(o["allow"]), deny: texts(o["deny"])}
	l.profile, _ = o["profile"].(string)
	for _, k := range []string{"alsoAllow", "toolsBySender"} {
		if o[k] != nil {
			l.wide = k
		}
	}
	return l
}

// openClawGroups: the members that are known here. Other groups stand for every tool.
var openClawGroups = map[string][]capability{
	"group:runtime": {shell}, "group:fs": {readFile, writeFile}, "group:web": {search, fetch}, "group:sessions": {delegate},
	"group:agents": {delegate}, "group:memory": {remember}, "group:ui": {browse, plan}, "group:messaging": {message},
	"group:automation": {schedule, administer}, "group:nodes": {devices}, "group:media": {media, readFile},
	"group:plugins": {connectors}, "bundle-mcp": {connectors},
}

// names says whether an entry of allow or deny means a tool. surely tells a Deny, which counts only where it is certain.
func openClawNames(entry, tool string, surely bool) bool {
	entry = strings.ToLower(entry)
	if other, ok := openClawAliases[entry]; ok {
		entry = other
	}
	if members, ok := openClawGroups[entry]; ok {
		return !surely && slices.Contains(members, openClawTools[tool])
	}
	if strings.HasPrefix(entry, "group:") {
		return !surely
	}
	return wild(entry, tool) || (!surely && entry == "write" && tool == "apply_patch")
}

// reaches says whether the layer lets a tool through, and which of its members does.
func (l *openClawLayer) reaches(tool string) (bool, string) {
	if slices.ContainsFunc(l.deny, func(e string) bool { return openClawNames(e, tool, true) }) {
		return false, ""
	}
	if l.wide != "" {
		return true, l.path + "." + l.wide
	}
	for i, e := range l.allow {
		if openClawNames(e, tool, false) {
			return true, fmt.Sprintf("%s.allow[%d]", l.path, i)
		}
	}
	switch {
	case len(l.allow) > 0:
		return false, ""
	case l.profile == "minimal":
		return tool == "session_status", l.path + ".profile"
	case l.profile != "":
		return true, l.path + ".profile"
	}
	return true, l.path + ".allow"
}

func checkOpenClaw(config []byte, r *rights) ([]Finding, error) {
	v, err := parseJSON5(config)
	if err != nil {
		return nil, err
	}
	root, ok := v.(object)
	if !ok {
		return nil, fmt.Errorf("%w: the document is no object", errSyntax)
	}
	global := readLayer(at(root, "tools"), "tools")
	layers := map[string][]openClawLayer{"": {global}}
	agents := at(root, "agents", "entries")
	for _, id := range keys(agents) {
		own := readLayer(at(agents, id, "tools"), "agents.entries."+id+".tools")
		outer := global
		if own.profile != "" || own.wide != "" { // it replaces the global profile, or widens it
			outer.profile = ""
		}
		layers[id] = []openClawLayer{outer, own}
	}
	var out []Finding
	for _, id := range slices.Sorted(maps.Keys(layers)) {
		out = append(out, r.openClawWider(layers[id], id == "")...)
	}
	out = append(out, r.openClawModes(root, global, layers)...)
	out = append(out, r.openClawUpstreams(root)...)
	out = append(out, r.openClawServers(root, global)...)
	return append(out, plainSecrets(root, "")...), nil
}

// openClawWider: for an agent only what its own section lets through beyond the global one is said once more.
func (r *rights) openClawWider(layers []openClawLayer, global bool) []Finding {
	where := map[string]string{}
	for _, tool := range openClawMentioned(layers) {
		all, path := true, ""
		for i := range layers {
			ok, by := layers[i].reaches(tool)
			all = all && ok
			path = by
		}
		own := layers[len(layers)-1]
		if all && (global || own.profile != "" || own.wide != "") {
			where[tool] = path
		}
	}
	return r.wider(slices.Sorted(maps.Keys(where)), openClawTools, func(tool string) (string, string) {
		return where[tool], openClawInstead(where[tool])
	}, "")
}

// openClawMentioned are the built-in tools and the others that stand in an allow. MCP tools have a check of their own.
func openClawMentioned(layers []openClawLayer) []string {
	out := slices.Sorted(maps.Keys(openClawTools))
	for i := range layers {
		for _, e := range layers[i].allow {
			name := strings.ToLower(e)
			_, alias := openClawAliases[name]
			if _, group := openClawGroups[name]; !alias && !group && !strings.ContainsAny(name, "*:") && !strings.Contains(name, "__") && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

func openClawInstead(path string) string {
	switch {
	case strings.HasSuffix(path, ".profile"):
		return "no profile, and tools.allow with the names that the contract means"
	case strings.HasSuffix(path, ".allow"):
		return `tools.allow with the names that the contract means, or "deny": ["*"] for none (an empty allow allows everything)`
	case strings.Contains(path, ".allow["):
		return "leave the entry out; write names, no groups or patterns"
	}
	return "leave the member out and write tools.allow"
}

// openClawModes are the settings that change what the tools may do.
func (r *rights) openClawModes(root object, global openClawLayer, layers map[string][]openClawLayer) []Finding {
	var out []Finding
	say := func(path, allows, says, instead string) { out = append(out, Finding{path, allows, says, instead}) }
	sections := map[string]object{"tools": at(root, "tools")}
	for id := range layers {
		if id != "" {
			sections["agents.entries."+id+".tools"] = at(root, "agents", "entries", id, "tools")
		}
	}
	for _, path := range slices.Sorted(maps.Keys(sections)) {
		o, top := sections[path], path == "tools"
		execs, _ := global.reaches("exec")
		if mode, set := at(o, "exec")["mode"].(string); !r.may(shell) && mode != "deny" && (set || (top && execs)) {
			say(path+".exec.mode", "commands run in mode "+orDefault(mode), r.says(shell), `"deny"`)
		}
		if on, set := at(o, "elevated")["enabled"]; on != false && (set || (top && execs)) {
			say(path+".elevated.enabled", "commands may leave the sandbox", "no capability of the contract means it", "false")
		}
		if v, set := o["toolSearch"]; v != false && (set || top) {
			say(path+".toolSearch", "tools are called through tool_call, so their names cannot be seen at the gateway", "each tool is allowed by its name", "false")
		}
		if v, set := o["codeMode"]; set && v != false {
			say(path+".codeMode", "tools are called from programs, so their names cannot be seen at the gateway", "each tool is allowed by its name", "false")
		}
	}
	fetches, _ := global.reaches("web_fetch")
	web := at(root, "tools", "web", "fetch")
	if fetches && web["enabled"] != false && web["useTrustedEnvProxy"] != true {
		say("tools.web.fetch.useTrustedEnvProxy", "web_fetch goes to the network past the proxy", "every call goes through the gateway", "true")
	}
	if at(root, "proxy")["enabled"] == false {
		say("proxy.enabled", "the proxy is switched off", "every call goes through the gateway", "leave the member out and set OPENCLAW_PROXY_URL")
	}
	return append(out, r.openClawSandboxes(root, global)...)
}

func orDefault(s string) string {
	if s == "" {
		return "that the runtime chooses"
	}
	return s
}

func (r *rights) openClawSandboxes(root object, global openClawLayer) []Finding {
	local := slices.ContainsFunc([]string{"exec", "process", "read", "write", "edit", "apply_patch"}, func(t string) bool { ok, _ := global.reaches(t); return ok })
	if all := r.may(shell) && r.may(readFile) && r.may(writeFile); all || !local {
		return nil
	}
	sections := map[string]object{"agents.defaults.sandbox": at(root, "agents", "defaults", "sandbox")}
	for id := range at(root, "agents", "entries") {
		if o := at(root, "agents", "entries", id, "sandbox"); len(o) > 0 {
			sections["agents.entries."+id+".sandbox"] = o
		}
	}
	var out []Finding
	for _, path := range slices.Sorted(maps.Keys(sections)) {
		mode, set := sections[path]["mode"].(string)
		if mode == "all" || (!set && path != "agents.defaults.sandbox") {
			continue
		}
		var refused []string
		for _, c := range []capability{shell, readFile, writeFile} {
			if !r.may(c) {
				refused = append(refused, r.says(c))
			}
		}
		if !set {
			mode = "off"
		}
		out = append(out, Finding{path + ".mode", "tools that run commands or handle files work on the host itself (" + mode + ")", strings.Join(refused, "; "), `"all"`})
	}
	return out
}

func (r *rights) openClawUpstreams(root object) []Finding {
	var out []Finding
	if mode := at(root, "models")["mode"]; mode != "replace" {
		out = append(out, Finding{"models.mode", "the built-in providers stay, with their own addresses", "model calls go through the gateway", `"replace"`})
	}
	providers := at(root, "models", "providers")
	for _, name := range keys(providers) {
		p, path := at(providers, name), "models.providers."+name
		base, _ := p["baseUrl"].(string)
		door, ok := r.atGateway(base)
		if !ok {
			out = append(out, Finding{path + ".baseUrl", fmt.Sprintf("model calls to %q", base), "model calls go through the gateway", r.options.BaseURL + "/" + name})
			continue
		}
		list, _ := p["models"].([]any)
		for i := range list {
			m, _ := list[i].(object)
			id, _ := m["id"].(string)
			if !r.ask(contract.ModelInvoke, door.Provider+"/"+id).Allow {
				out = append(out, Finding{fmt.Sprintf("%s.models[%d].id", path, i), fmt.Sprintf("the model %q", id), "not among the models of provider " + door.Provider, "leave the model out"})
			}
		}
	}
	return out
}

// openClawServers checks the MCP servers and the entries of allow that name their tools.
func (r *rights) openClawServers(root object, global openClawLayer) []Finding {
	var out []Finding
	for i, e := range global.allow {
		server, tool, ok := strings.Cut(e, "__")
		if ok && !r.openClawMayMCP(server, tool) {
			out = append(out, Finding{fmt.Sprintf("tools.allow[%d]", i), "the MCP tool " + e, "no binding allows it", "leave the entry out"})
		}
	}
	confined := len(global.allow) > 0 && !slices.ContainsFunc(global.allow, func(e string) bool {
		return !strings.Contains(e, "__") && (strings.HasPrefix(e, "group:") || e == "bundle-mcp" || strings.Contains(e, "*"))
	})
	nothing := slices.Contains(global.deny, "*")
	servers := at(root, "mcp", "servers")
	for _, name := range keys(servers) {
		s, path := at(servers, name), "mcp.servers."+name
		if s["enabled"] == false {
			continue
		}
		out = append(out, r.mcpTransport(s, path)...)
		include := texts(at(s, "toolFilter")["include"])
		if len(include) == 0 {
			include = []string{"*"}
		}
		for _, tool := range include {
			if !confined && !nothing && !r.openClawMayMCP(openClawServer(name), tool) {
				out = append(out, Finding{path + ".toolFilter.include", "the MCP tool " + name + "/" + tool, "no binding allows it", "the tools that the contract binds, or leave the server out"})
			}
		}
	}
	return out
}

func (r *rights) openClawMayMCP(server, tool string) bool {
	for _, s := range r.mcp() {
		if strings.EqualFold(openClawServer(s.name), server) && (r.mayMCP(s.name, tool) || slices.Contains(s.tools, tool)) {
			return true
		}
	}
	return false
}

func (r *rights) mcpTransport(s object, path string) []Finding {
	url, remote := s["url"].(string)
	if !remote {
		return []Finding{{path + ".command", "a program on this machine, which may do what the user may", "the contract knows MCP servers behind the gateway alone", "url and transport of the gateway's door"}}
	}
	var out []Finding
	if s["transport"] != "streamable-http" {
		out = append(out, Finding{path + ".transport", "the old SSE transport, whose answers the gateway cannot judge (also where none is written)", "MCP calls are judged one by one", `"streamable-http"`})
	}
	if _, ok := r.atGateway(url); !ok {
		out = append(out, Finding{path + ".url", fmt.Sprintf("calls to %q", url), "MCP calls go through the gateway", r.options.BaseURL + "/mcp/NAME"})
	}
	return out
}
