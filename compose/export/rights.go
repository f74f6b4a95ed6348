package export

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"sallyport/signer/contract"
)

// capability is something that an agent can do with a tool of its runtime. Every tool of a runtime belongs to one.
type capability string

const (
	shell      capability = "shell.exec"
	readFile   capability = "filesystem.read"
	writeFile  capability = "filesystem.write"
	fetch      capability = "http.request"
	search     capability = "web.search"
	browse     capability = "browser"
	message    capability = "messaging"
	remember   capability = "memory"
	delegate   capability = "agents"
	schedule   capability = "automation"
	devices    capability = "nodes"
	media      capability = "media"
	plan       capability = "planning"
	administer capability = "runtime.admin"
	connectors capability = "plugins"
)

type kind struct {
	capability
	means string
}

// capabilities are all, with what a reader understands by them.
var capabilities = []kind{
	{shell, "run commands"}, {readFile, "read files"}, {writeFile, "write files"}, {fetch, "call any host"},
	{search, "search the web"}, {browse, "drive a browser"}, {message, "send messages"}, {remember, "keep a memory"},
	{delegate, "start and steer other agents"}, {schedule, "leave work for later"}, {devices, "use other machines and screens"},
	{media, "make pictures and sound"}, {plan, "keep a plan and ask the user"}, {administer, "change the runtime itself"},
	{connectors, "use the tools of plugins"},
}

// rights are a contract seen from a runtime.
type rights struct {
	contract *contract.Contract
	options  Options
	notes    []Note
}

func newRights(c *contract.Contract, o Options) *rights { return &rights{contract: c, options: o} }

func (r *rights) note(path, format string, args ...any) {
	r.notes = append(r.notes, Note{path, fmt.Sprintf(format, args...)})
}

// ask asks without a context: what only some calls may do is not in settings, which hold for all.
func (r *rights) ask(action, resource string) contract.Verdict {
	return r.contract.Decide(contract.Ask{Action: action, Resource: resource}, time.Time{})
}

// may says whether the contract allows a capability. tool:http.request opens no host by itself: the runtime's web tool is
// for the hosts of egress, and so it is allowed where there are such, unless the capability is denied.
func (r *rights) may(c capability) bool {
	v := r.ask(contract.ToolExecute, string(c))
	if c != fetch {
		return v.Allow
	}
	return len(r.contract.Egress()) > 0 && (v.Allow || len(v.SIDs) == 0)
}

// says is what the contract says of a capability that it does not allow.
func (r *rights) says(c capability) string {
	switch v := r.ask(contract.ToolExecute, string(c)); {
	case len(v.SIDs) > 0 && !v.Allow:
		return fmt.Sprintf("tool:%s is denied (%s)", c, strings.Join(v.SIDs, ", "))
	case c == fetch:
		return "no egress rule opens a host"
	default:
		return fmt.Sprintf("tool:%s is not allowed, and what is not allowed is denied", c)
	}
}

// toolsFor takes from a runtime's table of tools the names whose capability the contract does (or does not) allow.
func (r *rights) toolsFor(table map[string]capability, allowed bool) []string {
	out := []string{}
	for name, c := range table {
		if r.may(c) == allowed {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// mcpServer is one MCP server and the names or patterns of its tools.
type mcpServer struct {
	name         string
	tools, never []string
}

// mcp are the MCP servers that the contract allows tools of, by name. Conditional permissions are left out, conditional
// refusals kept.
func (r *rights) mcp() []mcpServer {
	var out []mcpServer
	patterns := r.contract.Patterns(contract.ToolExecute)
	for _, p := range patterns {
		server, tool, ok := mcpName(p.Source)
		if !ok || p.Deny || p.Conditional || strings.ContainsAny(server, "*?") {
			continue
		}
		if literal(tool) && !r.ask(contract.ToolExecute, p.Source).Allow {
			continue
		}
		i := slices.IndexFunc(out, func(s mcpServer) bool { return s.name == server })
		if i < 0 {
			i, out = len(out), append(out, mcpServer{name: server})
		}
		out[i].tools = append(out[i].tools, strings.ReplaceAll(tool, "**", "*"))
	}
	for _, p := range patterns {
		for i := range out {
			if server, tool, ok := mcpName(p.Source); ok && p.Deny && server == out[i].name {
				out[i].never = append(out[i].never, strings.ReplaceAll(tool, "**", "*"))
			}
		}
	}
	slices.SortFunc(out, func(a, b mcpServer) int { return strings.Compare(a.name, b.name) })
	return out
}

func mcpName(pattern string) (server, tool string, ok bool) {
	rest, ok := strings.CutPrefix(pattern, "mcp:")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, "/")
}

func literal(pattern string) bool { return !strings.ContainsAny(pattern, "*? ") }

// mayMCP says whether the contract allows every tool that the pattern names at a server.
func (r *rights) mayMCP(server, tool string) bool {
	if literal(tool) {
		return r.ask(contract.ToolExecute, "mcp:"+server+"/"+tool).Allow
	}
	for _, s := range r.mcp() {
		if strings.EqualFold(s.name, server) {
			return (slices.Contains(s.tools, tool) || slices.Contains(s.tools, "*")) && len(s.never) == 0
		}
	}
	return false
}

// provider is one model provider that the contract allows.
type provider struct {
	Door
	models   []string // that are named in full, sorted
	patterns []string // that stand for others
}

// unwritten are the models that have no id in settings: patterns, those under conditions, and "any" where there is no list.
func (p provider) unwritten() string {
	if len(p.models) == 0 && len(p.patterns) == 0 {
		return "any"
	}
	return strings.Join(p.patterns, ", ")
}

// providers are those of the contract, by name.
func (r *rights) providers() []provider {
	var out []provider
	for _, name := range r.contract.Providers() {
		if name == "*" {
			r.note("$", "any model provider is allowed; settings name each: only the gateway's doors are written")
			for _, d := range r.options.Doors {
				out = append(out, r.provider(d.Provider))
			}
			continue
		}
		out = append(out, r.provider(name))
	}
	slices.SortFunc(out, func(a, b provider) int { return strings.Compare(a.Provider, b.Provider) })
	return slices.CompactFunc(out, func(a, b provider) bool { return a.Provider == b.Provider })
}

func (r *rights) provider(name string) provider {
	p := provider{Door: Door{Name: name, Provider: name, Dialect: "openai"}}
	if i := slices.IndexFunc(r.options.Doors, func(d Door) bool { return d.Provider == name }); i >= 0 {
		p.Door = r.options.Doors[i]
	} else {
		r.note("$", "the gateway has no door known here for provider %s: written as /%s, OpenAI's API", name, name)
	}
	for _, x := range r.contract.Patterns(contract.ModelInvoke) {
		of, model, ok := strings.Cut(x.Source, "/")
		switch {
		case !ok || x.Deny || of != name:
		case !literal(model) || x.Conditional:
			p.patterns = append(p.patterns, model)
		case r.ask(contract.ModelInvoke, x.Source).Allow:
			p.models = append(p.models, model)
		}
	}
	slices.Sort(p.models)
	p.models = slices.Compact(p.models)
	return p
}

// base is a provider's base URL at the gateway, and the variable with the key, as clients of the dialect want them.
func (r *rights) base(d Door) (baseURL, keyVariable string) {
	base := r.options.BaseURL + "/" + d.Name
	switch d.Dialect {
	case "anthropic":
		return base, "ANTHROPIC_API_KEY"
	case "gemini":
		return base + "/v1beta", "GEMINI_API_KEY"
	default:
		return base + "/v1", "OPENAI_API_KEY"
	}
}

// atGateway says whether a URL lies at the gateway, and through which door.
func (r *rights) atGateway(raw string) (Door, bool) {
	rest, ok := strings.CutPrefix(raw, r.options.BaseURL+"/")
	if !ok || strings.Contains(rest, "..") {
		return Door{}, false
	}
	name, _, _ := strings.Cut(rest, "/")
	for _, d := range append(slices.Clone(r.options.Doors), Door{name, name, "openai"}) {
		if d.Name == name {
			return d, true
		}
	}
	return Door{}, false
}

// hosts are what the runtime's web tool may call, "*." before those whose subdomains are meant.
func (r *rights) hosts() []string {
	var out []string
	for _, e := range r.contract.Egress() {
		if !e.OnlySubdomains {
			out = append(out, e.Host)
		}
		if e.Subdomains || e.OnlySubdomains {
			out = append(out, "*."+e.Host)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// describe notes what no runtime's settings can carry.
func (r *rights) describe() {
	for _, p := range r.contract.Patterns(contract.ToolExecute) {
		name := strings.TrimPrefix(p.Source, "tool:")
		b, bound := r.contract.Bindings()["tool:"+name]
		known := slices.ContainsFunc(capabilities, func(k kind) bool { return string(k.capability) == name })
		switch {
		case p.Source == name && r.contract.Kind == contract.Enterprise: // the same name stands with "tool:" too
		case known || strings.HasPrefix(name, "mcp:"):
		case p.Conditional && !p.Deny:
			r.note(p.Source, "the contract allows it under conditions; settings hold always, so it is left out")
		case p.Deny:
			r.note(p.Source, "no built-in tool has that name; a plugin's tool of that kind is left out as all that is not allowed")
		case bound && b.MCPServer != "":
		case bound:
			r.note(p.Source, "bound to %s: no built-in tool, the gateway holds it at the call", b.Host)
		default:
			r.note(p.Source, "no built-in tool has that name, so it allows nothing here")
		}
	}
	if !r.ask(contract.ToolExecute, string(fetch)).Allow || len(r.contract.Egress()) > 0 {
		return
	}
	r.note("tool:"+string(fetch), "allowed by name, but no egress rule opens a host: the web tool stays off")
}
