package contract

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// defaultPort is the port of an endpoint that names none: what leaves here is TLS.
const defaultPort = 443

// endpoint is a set of places on the network.
type endpoint struct {
	methods []string // empty: any
	host    string
	below   bool  // the names below host too
	notHost bool  // with below: but not host itself
	ports   []int // never empty
	prefix  string
	path    *glob      // nil: prefix counts
	vars    []variable // of path
}

// endpointsOf splits a rule into one endpoint for each path prefix.
func endpointsOf(e EgressRule) []endpoint {
	base := endpoint{methods: e.Methods, host: e.Host, below: e.Subdomains || e.OnlySubdomains, notHost: e.OnlySubdomains, ports: e.Ports}
	if len(base.ports) == 0 {
		base.ports = []int{defaultPort}
	}
	if len(e.PathPrefixes) == 0 {
		base.prefix = "/"
		return []endpoint{base}
	}
	out := make([]endpoint, len(e.PathPrefixes))
	for i, p := range e.PathPrefixes {
		out[i] = base
		out[i].prefix = p
	}
	return out
}

// endpointOf is the place of a tool that is bound to a host.
func endpointOf(b Binding) (endpoint, error) {
	e := endpointsOf(EgressRule{Host: b.Host, Ports: b.Ports, Methods: b.Methods})[0]
	if b.Path == "" {
		return e, nil
	}
	g, vars, err := readTemplate(b.Path)
	e.path, e.vars = &g, vars
	return e, err
}

func (e *endpoint) String() string {
	methods, host, path := "any method", e.host, e.prefix+"…"
	if len(e.methods) > 0 {
		methods = strings.Join(sorted(e.methods), ",")
	}
	switch {
	case e.notHost:
		host = "*." + host
	case e.below:
		host += " and below"
	}
	if e.path != nil {
		path = e.path.source
	}
	out := methods + " " + host
	if len(e.ports) != 1 || e.ports[0] != defaultPort {
		out += " ports " + strings.Trim(fmt.Sprint(e.ports), "[]")
	}
	return out + " " + path
}

// target is an ask's resource, read as "METHOD host[:port]/path".
type target struct {
	plain              bool // it could be read, and its path has no two readings
	method, host, path string
	decoded            string // path with its escapes undone
	port               int
}

func parseTarget(resource string) (t target) {
	method, rest, ok := strings.Cut(resource, " ")
	slash := strings.IndexByte(rest, '/')
	if !ok || method == "" || slash < 1 {
		return t
	}
	t = target{method: method, host: rest[:slash], path: rest[slash:], port: defaultPort}
	if i := strings.LastIndexByte(t.host, ':'); i > 0 && t.host[len(t.host)-1] != ']' {
		port, err := strconv.ParseUint(t.host[i+1:], 10, 16)
		if err != nil {
			return t
		}
		t.host, t.port = t.host[:i], int(port)
	}
	if strings.ContainsFunc(t.host, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return t // folding could make another name of it (k of the Kelvin sign)
	}
	t.host = strings.TrimSuffix(strings.ToLower(t.host), ".")
	decoded, err := url.PathUnescape(t.path)
	t.decoded = decoded
	t.plain = err == nil && readable(decoded) && strings.ToUpper(method) == method && plainHost(t.host) && plainPath(t.path)
	return t
}

// plainHost says whether a host in lower case has only one reading: no empty labels, and nothing that ends a host
// elsewhere.
func plainHost(h string) bool {
	return h != "" && h[0] != '.' && !strings.HasSuffix(h, ".") && !strings.Contains(h, "..") && !strings.ContainsAny(h, " \\@?#%")
}

// spellings are the texts that patterns for a plain target may have been written for. A Deny must also meet the text as
// it came, and the path with its escapes undone, so that no other way to write the place leads around it.
func (t *target) spellings(resource string, deny bool) []string {
	paths := []string{t.path}
	if deny && t.decoded != t.path {
		paths = append(paths, t.decoded)
	}
	var out []string
	if deny {
		out = append(out, resource)
	}
	for _, path := range paths {
		out = append(out, t.method+" "+t.host+":"+strconv.Itoa(t.port)+path)
		if t.port == defaultPort {
			out = append(out, t.method+" "+t.host+path)
		}
	}
	return out
}

// plainPath says whether a path has only one reading: no empty or dot segments, no encoded dot, slash, backslash,
// semicolon or percent sign, escapes in capitals (RFC 3986, 6.2.2.1), no parameters, query or fragment.
func plainPath(p string) bool {
	if p == "" || p[0] != '/' || strings.Contains(p, "//") {
		return false
	}
	for i := range len(p) {
		switch p[i] {
		case '\\', ';', '?', '#', ' ':
			return false
		case '%':
			if i+2 >= len(p) || p[i+1:i+3] != strings.ToUpper(p[i+1:i+3]) || slices.Contains([]string{"2E", "2F", "5C", "25", "3B"}, p[i+1:i+3]) {
				return false
			}
		case '/':
			segment, _, _ := strings.Cut(p[i+1:], "/")
			if segment == "." || segment == ".." {
				return false
			}
		}
	}
	return true
}

func (e *endpoint) match(t *target) bool {
	if len(e.methods) > 0 && !slices.Contains(e.methods, t.method) || !slices.Contains(e.ports, t.port) || !e.matchHost(t.host) {
		return false
	}
	if e.path != nil {
		return e.path.match(t.path)
	}
	return under(e.prefix, t.path)
}

func (e *endpoint) matchHost(host string) bool {
	if host == e.host {
		return !e.notHost
	}
	name, ok := strings.CutSuffix(host, e.host)
	return e.below && ok && strings.HasSuffix(name, ".") && len(name) > 1
}

// under says whether path is prefix or lies below it; a prefix ends at a slash, its own or the path's.
func under(prefix, path string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(prefix, "/"))
}

// covers says whether e surely matches everything that f matches.
func (e *endpoint) covers(f *endpoint) bool {
	if len(e.methods) > 0 && (len(f.methods) == 0 || !within(f.methods, e.methods)) || !within(f.ports, e.ports) || !e.coversHost(f) {
		return false
	}
	switch {
	case e.path == nil && f.path == nil:
		return under(e.prefix, f.prefix)
	case e.path == nil:
		open := len(f.path.tail) > 0 // then what follows head must not lead out of the prefix's last segment
		return under(e.prefix, f.path.head) && (!open || len(f.path.head) > len(e.prefix) || strings.HasSuffix(e.prefix, "/"))
	case f.path == nil:
		return len(e.path.units) == 1 && e.path.units[0].kind == anyRun
	}
	return e.path.covers(f.path)
}

func (e *endpoint) coversHost(f *endpoint) bool {
	switch {
	case e.host != f.host:
		return e.matchHost(f.host) // then what lies below f lies below e too
	case f.notHost:
		return e.below
	}
	return !e.notHost && (e.below || !f.below)
}

func within[T comparable](part, whole []T) bool {
	return !slices.ContainsFunc(part, func(x T) bool { return !slices.Contains(whole, x) })
}

// overlaps says whether some call could be in both; it looks at the hosts only, on the side of yes.
func (e *endpoint) overlaps(f *endpoint) bool {
	return e.host == f.host || e.matchHost(f.host) || f.matchHost(e.host)
}
