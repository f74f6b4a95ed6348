package compile

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// Egress is one way out beside the model providers: an egress rule of a contract, or the host that a tool is bound to.
type Egress struct {
	Host           string         // a name in lower case, or an address
	Subdomains     bool           // also every name below Host
	OnlySubdomains bool           // the names below Host without Host itself
	Ports          []uint16       // empty: 443
	Methods        []string       // empty: any
	PathPrefixes   []string       // each ends at a slash, its own or the path's; empty: any path
	PathPattern    string         // instead of prefixes: * is a run without a slash, ** any run, ? one character but a slash
	CIDRs          []netip.Prefix // addresses among the refused ones that Host may resolve to
	Inspect        string         // empty or full: calls; sni, none: tunnels that pass unread
	WebSocket      bool           // a GET may open a WebSocket
}

var egressHost = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?$`)

// Validate reports everything that is wrong with e, joined.
func (e *Egress) Validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("egress %q: "+format, append([]any{e.Host}, args...)...))
	}
	addr, err := netip.ParseAddr(e.Host)
	switch {
	case err == nil && addr.Zone() != "":
		bad("an address must not name a zone")
	case err == nil && (e.Subdomains || e.OnlySubdomains):
		bad("an address has no subdomains")
	case err != nil && (!egressHost.MatchString(e.Host) || strings.Contains(e.Host, "..")):
		bad("host must be a plain name in lower case or an address")
	}
	for _, m := range e.Methods {
		if !methodToken.MatchString(m) {
			bad("method %q is not an upper-case HTTP method", m)
		}
	}
	for _, p := range e.PathPrefixes {
		if !strings.HasPrefix(p, "/") {
			bad("path prefix %q must start with a slash", p)
		}
	}
	if len(e.PathPrefixes) > 0 && e.PathPattern != "" {
		bad("name either path prefixes or a path pattern")
	}
	if slices.Contains(e.Ports, 0) {
		bad("port 0 is none")
	}
	for _, c := range e.CIDRs {
		if !c.IsValid() {
			bad("cidr %q is not valid", c)
		}
	}
	switch e.Inspect {
	case "", InspectFull, InspectSNI, InspectNone:
	default:
		bad("inspect %q must be full, sni or none", e.Inspect)
	}
	if e.WebSocket && e.unread() {
		bad("with inspect %s nothing is seen that could ask for a WebSocket", e.Inspect)
	}
	return errors.Join(errs...)
}

// way is one rule at one port and scheme.
type way struct {
	rule   *Egress
	scheme string // https, http, the tunnels', or wss, ws of WebSockets over the first two
	domain string // exact, or with a leading "*."
}

func (e *Egress) unread() bool { return e.Inspect == InspectSNI || e.Inspect == InspectNone }

// ways are those of a rule. The scheme's own port is left out of the authority, and is no port of the
// other scheme.
func (e *Egress) ways() []way {
	ports := e.Ports
	if len(ports) == 0 {
		ports = []uint16{443}
	}
	host := e.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	var out []way
	add := func(scheme, suffix string) {
		if !e.OnlySubdomains {
			out = append(out, way{e, scheme, host + suffix})
		}
		if e.Subdomains || e.OnlySubdomains {
			out = append(out, way{e, scheme, "*." + host + suffix})
		}
	}
	calls := func(scheme, suffix string) {
		add(scheme, suffix)
		if e.WebSocket {
			add(socketOver[scheme], suffix)
		}
	}
	for _, p := range ports {
		switch {
		case e.unread():
			add(tunnelScheme, ":"+strconv.Itoa(int(p))) // CONNECT always names the port
		case p == 443:
			calls("https", "")
		case p == 80:
			calls("http", "")
		default:
			suffix := ":" + strconv.Itoa(int(p))
			calls("https", suffix)
			calls("http", suffix)
		}
	}
	return out
}

// covers says whether every authority of domain d belongs to the wildcard w too. Envoy looks only at the narrowest
// domain, so that one must carry the routes of the wider ones.
func covers(w, d string) bool {
	tail, ok := strings.CutPrefix(w, "*")
	return ok && w != d && strings.HasSuffix(d, tail)
}

// addEgress adds the rules' routes to the virtual hosts of the upstreams, whose own routes stay first.
func addEgress(hosts []*routev3.VirtualHost, rules []Egress, refused []netip.Prefix) ([]*routev3.VirtualHost, error) {
	byDomain := map[string]*routev3.VirtualHost{}
	for _, vh := range hosts {
		byDomain[vh.GetName()] = vh
	}
	var all []way
	for i := range rules {
		all = append(all, rules[i].ways()...)
	}
	order(all)
	for _, w := range all {
		if byDomain[w.domain] == nil {
			byDomain[w.domain] = &routev3.VirtualHost{Name: w.domain, Domains: []string{w.domain}}
			hosts = append(hosts, byDomain[w.domain])
		}
	}
	for domain, vh := range byDomain {
		for _, w := range all {
			if w.domain != domain && !covers(w.domain, domain) {
				continue
			}
			routes, err := w.routes(refused)
			if err != nil {
				return nil, err
			}
			vh.Routes = append(vh.Routes, routes...)
		}
	}
	slices.SortFunc(hosts, func(a, b *routev3.VirtualHost) int { return strings.Compare(a.GetName(), b.GetName()) })
	return hosts, nil
}

// order puts the rules that name addresses first, because Envoy takes the first route that matches, then the narrower
// domains, then by text, so that the same rules always compile to the same bytes.
func order(all []way) {
	slices.SortStableFunc(all, func(a, b way) int {
		if an, bn := len(a.rule.CIDRs) > 0, len(b.rule.CIDRs) > 0; an != bn {
			if an {
				return -1
			}
			return 1
		}
		if d := len(b.domain) - len(a.domain); d != 0 {
			return d
		}
		return strings.Compare(fmt.Sprint(a.domain, a.scheme, *a.rule), fmt.Sprint(b.domain, b.scheme, *b.rule))
	})
}

func (w way) routes(refused []netip.Prefix) ([]*routev3.Route, error) {
	if w.rule.unread() {
		return w.unread(refused)
	}
	named := len(w.rule.CIDRs) > 0
	headers := []*routev3.HeaderMatcher{exactHeader(SchemeHeader, w.scheme)}
	switch {
	case w.socket():
		headers = append(headers, exactHeader(":method", http.MethodGet))
	case len(w.rule.Methods) > 0:
		headers = append(headers, oneOf(":method", w.rule.Methods), noUpgrade())
	default:
		headers = append(headers, noUpgrade())
	}
	var out []*routev3.Route
	for _, m := range w.rule.paths() {
		m.Headers = headers
		r := &routev3.Route{Match: m, Action: w.action(named), Metadata: egressMetadata()}
		if named {
			var err error
			if r.TypedPerFilterConfig, err = exemption(refused, w.rule.CIDRs); err != nil {
				return nil, err
			}
		}
		out = append(out, r)
	}
	return out, nil
}

func (e *Egress) paths() []*routev3.RouteMatch {
	switch {
	case e.PathPattern != "":
		return []*routev3.RouteMatch{patternMatch(e.PathPattern)}
	case len(e.PathPrefixes) == 0:
		return []*routev3.RouteMatch{prefixMatch("/")}
	}
	var out []*routev3.RouteMatch
	for _, p := range e.PathPrefixes {
		out = append(out, prefixMatch(p))
	}
	return out
}

func prefixMatch(p string) *routev3.RouteMatch {
	if strings.HasSuffix(p, "/") {
		return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: p}}
	}
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: p}}
}

// patternMatch is the pattern as a regex, or where Envoy would refuse that for its length, the literal beginning: the
// processor matched the whole pattern before.
func patternMatch(p string) *routev3.RouteMatch {
	if text := patternRegex(p); validateRegex(text) == nil {
		return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: text}}}
	}
	if i := strings.IndexAny(p, "*?"); i >= 0 {
		p = p[:i]
		return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: p}}
	}
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: p}}
}

func patternRegex(p string) string {
	if p == "*" {
		return ".*"
	}
	var b strings.Builder
	for p != "" {
		switch {
		case strings.HasPrefix(p, "**"):
			b.WriteString(".*")
			p = strings.TrimPrefix(p[2:], "/") // ** swallows a slash behind it
		case p[0] == '*':
			b.WriteString("[^/]*")
			p = p[1:]
		case p[0] == '?':
			b.WriteString("[^/]")
			p = p[1:]
		default:
			i := strings.IndexAny(p, "*?")
			if i < 0 {
				i = len(p)
			}
			b.WriteString(regexp.QuoteMeta(p[:i]))
			p = p[i:]
		}
	}
	return b.String()
}

func oneOf(name string, values []string) *routev3.HeaderMatcher {
	if len(values) == 1 {
		return exactHeader(name, values[0])
	}
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
		StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{
			SafeRegex: &matcherv3.RegexMatcher{Regex: strings.Join(values, "|")},
		}},
	}}
}
