package gate

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"sort"
	"strings"

	"sallyport/extproc/dialect"
	"sallyport/signer/code"
)

// Upstream is one model provider's endpoint as the operator declared it.
type Upstream struct {
	Name        string   // name of its door: /NAME/…
	Provider    string   // name that contracts use
	Dialect     string   // openai, anthropic or gemini
	URL         *url.URL // scheme, host and base path
	SecretClass string   // class of the credential it needs; "" for none
}

// doors maps a path of the reverse door to an upstream and the path below it.
type doors struct {
	byName map[string]*door
	inTurn []*door          // as declared
	bare   map[string]*door // by the dialect's name, for the paths without a door's name
	tools  map[string]*door // MCP servers by name, below /mcp
}

type door struct {
	Upstream
	dialect dialect.Dialect
	at      place
	host    string // authority sent upstream
	name    string // the same without a default port: how contracts and secret classes name it

	observed observed
}

// destination is a request's way out: which upstream, which of its endpoints.
type destination struct {
	*door
	call   dialect.Call
	path   string // full upstream path, without query
	scheme string // http or https, of a host that is no provider's; "" of a provider
}

// egress holds for a host that the operator has not declared as a provider.
func (d *destination) egress() bool { return d.scheme != "" }

func newDoors(ups []Upstream) (*doors, error) {
	d := &doors{byName: map[string]*door{}, bare: map[string]*door{}, tools: map[string]*door{}}
	var errs []error
	for _, u := range ups {
		dl, ok := dialect.ByName(u.Dialect)
		if !ok {
			errs = append(errs, fmt.Errorf("upstream %q: unknown dialect %q", u.Name, u.Dialect))
			continue
		}
		if u.URL == nil || u.URL.Host == "" {
			errs = append(errs, fmt.Errorf("upstream %q: no URL", u.Name))
			continue
		}
		if d.byName[u.Name] != nil || d.tools[u.Name] != nil || u.Name == "" || u.Name == "v1" || u.Name == "mcp" {
			errs = append(errs, fmt.Errorf("upstream %q: the name is empty, reserved or used twice", u.Name))
			continue
		}
		dr := &door{Upstream: u, dialect: dl, host: strings.ToLower(u.URL.Host), name: nameOf(u.URL), at: placeOf(u.URL)}
		d.inTurn = append(d.inTurn, dr)
		if u.Dialect == dialect.MCP {
			d.tools[u.Name] = dr
			continue
		}
		d.byName[u.Name] = dr
		// A path without a door's name goes to the upstream named like the dialect, else to the first that speaks it.
		if prev, ok := d.bare[u.Dialect]; !ok || (u.Name == u.Dialect && prev.Name != u.Dialect) {
			d.bare[u.Dialect] = dr
		}
	}
	return d, errors.Join(errs...)
}

// names lists the doors for a refusal's text.
func (d *doors) names() string {
	out := make([]string, 0, len(d.byName))
	for n := range d.byName {
		out = append(out, "/"+n)
	}
	for n := range d.tools {
		out = append(out, "/mcp/"+n)
	}
	sort.Strings(out)
	return strings.Join(out, " ")
}

// find returns the door of a path and what remains below it. The door is nil where none fits.
func (d *doors) find(r *request) (dr *door, rest string) {
	first, below, _ := strings.Cut(strings.TrimPrefix(r.path, "/"), "/")
	if dr, ok := d.byName[first]; ok {
		return dr, "/" + below
	}
	if first == "mcp" {
		name, rest, _ := strings.Cut(below, "/")
		return d.tools[name], rest
	}
	if first != "v1" {
		return nil, ""
	}
	if provider, ok := strings.CutPrefix(below, "proxy/"); ok {
		return d.proxied(provider, r)
	}
	switch below {
	case "messages", "messages/count_tokens":
		return d.bare["anthropic"], r.path
	case "chat/completions", "responses", "embeddings", "models":
		return d.bare["openai"], r.path
	}
	return nil, ""
}

// proxied is the ecosystem's own path /v1/proxy/{provider}: the provider's JSON is the body, the endpoint is implied.
// Of several upstreams that could be meant, the one of that name comes first, then those of the provider as declared.
func (d *doors) proxied(provider string, r *request) (*door, string) {
	inTurn := d.inTurn
	if dr, ok := d.byName[provider]; ok {
		inTurn = append([]*door{dr}, inTurn...)
	}
	for _, dr := range inTurn {
		if dr.Provider != provider && dr.Name != provider {
			continue
		}
		switch dr.Dialect {
		case "anthropic":
			return dr, "/v1/messages"
		case "openai":
			if r.openAIAPI == "responses" {
				return dr, "/v1/responses"
			}
			return dr, "/v1/chat/completions"
		}
	}
	return nil, ""
}

// route finds the way out of a request, or says why there is none.
func (d *doors) route(r *request) (*destination, *code.Denial) {
	dr, rest := d.find(r)
	if dr == nil {
		return nil, code.Deny(code.UnknownProvider, "path %.64q; doors are %s /v1/chat/completions /v1/responses /v1/messages", r.path, d.names())
	}
	call, denial := dr.dialect.Route(r.method, rest)
	if denial != nil {
		return &destination{door: dr}, denial
	}
	return &destination{door: dr, call: call, path: dr.pathOf(call)}, nil
}

// pathOf is a call's whole path at the upstream.
func (dr *door) pathOf(call dialect.Call) string {
	if dr.mcp() {
		return cmp.Or(dr.URL.Path, "/")
	}
	return dialect.JoinPath(dr.URL.Path, call.UpstreamPath)
}

// mcp holds for a server of tools.
func (dr *door) mcp() bool { return dr.Dialect == dialect.MCP }

// placeOf is the host and port of a URL.
func placeOf(u *url.URL) place {
	port := portHTTP
	if u.Scheme == "https" {
		port = portHTTPS
	}
	p, _ := parsePlace(u.Host, port) // one that cannot be read is no place, and no request is for it
	return p
}

// belowBase is what remains of a path below the path of a base URL.
func belowBase(base, path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, strings.TrimRight(base, "/"))
	return rest, ok && strings.HasPrefix(rest, "/")
}

// nameOf is the authority of a URL without the port that its scheme implies.
func nameOf(u *url.URL) string {
	host := strings.ToLower(u.Host)
	switch u.Scheme {
	case "https":
		return strings.TrimSuffix(host, ":443")
	default:
		return strings.TrimSuffix(host, ":80")
	}
}
