package secret

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Class is one kind of credential: where it comes from, how it is injected, and where it may ever go, whatever a
// contract says.
type Class struct {
	Name   string
	Source Source
	Inject Inject
	// Hosts are authorities without a default port: "api.example.com", "api.example.com:8443", "*.example.com" for
	// every name below example.com (not itself). A class without hosts may go nowhere, which is an error.
	Hosts []string
	// Methods are HTTP methods; empty means any.
	Methods []string
	// PathPrefixes match whole segments: "/v1" is /v1 and /v1/…, not /v10. Empty means any path.
	PathPrefixes []string
	// NeedsTool keeps the class to calls that the contract maps to a tool which names the class.
	NeedsTool bool
	// PerJob gives each job a credential of its own, which is given back at the source when the job is over. The source
	// must be a Lessor.
	PerJob bool
	// TTL bounds how long a fetched credential is used; 0 means that the class sets no bound.
	TTL time.Duration
}

// Inject says how a credential goes into a request. At most one of Header, Query and Basic is set; none of them means
// the provider's own header.
type Inject struct {
	Header string // lower case
	Format string // with one %s, for Header; empty means the bare value
	Query  string // name of a query parameter
	Basic  string // user name; the credential is the password
}

// Target is where a credential is about to go.
type Target struct {
	Host   string // authority, without a default port
	Method string
	Path   string // without query
	Tool   string // of the contract, that names the class for this call; "" for none
}

var (
	className   = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,63}$`)
	headerName  = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
	queryName   = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)
	methodName  = regexp.MustCompile(`^[A-Z]{1,16}$`)
	hostLabel   = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)
	pathTrick   = regexp.MustCompile(`(?i)%2f|%5c|%2e|%00|[\\;\x00-\x20?#]|//|/\.\.?(/|$)`)
	reservedHdr = regexp.MustCompile(`^(x-sallyport-.*|x-envoy-.*|host|content-length|transfer-encoding|connection|upgrade|te|trailer)$`)
)

// Validate names everything that is wrong, at once.
func (c *Class) Validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("secret class %q: "+format, append([]any{c.Name}, args...)...))
	}
	if !className.MatchString(c.Name) {
		bad("the name must be 1 to 64 characters of a-z 0-9 _ . -")
	}
	if c.Source == nil {
		bad("it has no source: use env:NAME or file:PATH")
	}
	if _, lessor := c.Source.(Lessor); c.PerJob && c.Source != nil && !lessor {
		bad("its source cannot make a credential for each job: remove per_job, or use one with leases")
	}
	if c.TTL < 0 {
		bad("the ttl is negative")
	}
	if len(c.Hosts) == 0 {
		bad("it names no host, so it could go nowhere: list the hosts that may receive it")
	}
	for _, h := range c.Hosts {
		if err := checkHost(h); err != nil {
			bad("host %q: %w", h, err)
		}
	}
	for _, m := range c.Methods {
		if !methodName.MatchString(m) {
			bad("method %q: write it in capitals", m)
		}
	}
	for _, p := range c.PathPrefixes {
		if !strings.HasPrefix(p, "/") || pathTrick.MatchString(p) {
			bad("path prefix %q: it must be a plain path that starts with /", p)
		}
	}
	if err := c.Inject.validate(); err != nil {
		bad("inject: %w", err)
	}
	return errors.Join(errs...)
}

func (i *Inject) validate() error {
	var errs []error
	ways := 0
	if i.Header != "" {
		ways++
		if !headerName.MatchString(i.Header) || reservedHdr.MatchString(i.Header) {
			errs = append(errs, fmt.Errorf("header %q is no header that a credential may go in (names are in lower case)", i.Header))
		}
	}
	if i.Query != "" {
		ways++
		if !queryName.MatchString(i.Query) {
			errs = append(errs, fmt.Errorf("query parameter %q is not a plain name", i.Query))
		}
	}
	if i.Basic != "" {
		ways++
		if strings.ContainsAny(i.Basic, ":\r\n\x00") {
			errs = append(errs, errors.New("a Basic user name has no colon and no control characters"))
		}
	}
	if ways > 1 {
		errs = append(errs, errors.New("choose one of header, query and basic"))
	}
	if i.Format != "" {
		if i.Header == "" {
			errs = append(errs, errors.New("a format needs a header"))
		}
		if strings.Count(i.Format, "%") != 1 || !strings.Contains(i.Format, "%s") || strings.ContainsAny(i.Format, "\r\n\x00") {
			errs = append(errs, fmt.Errorf("format %q must hold %%s once and no other %%", i.Format))
		}
	}
	return errors.Join(errs...)
}

func checkHost(h string) error {
	name, port, hasPort := splitPort(h)
	if hasPort {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || strconv.Itoa(n) != port {
			return fmt.Errorf("port %q is not 1 to 65535", port)
		}
	}
	if ip := strings.Trim(name, "[]"); net.ParseIP(ip) != nil {
		return nil
	}
	rest, wild := strings.CutPrefix(name, "*.")
	labels := strings.Split(rest, ".")
	if wild && len(labels) < 2 {
		return errors.New("a wildcard needs at least two labels below it")
	}
	for _, l := range labels {
		if !hostLabel.MatchString(l) {
			return errors.New("write a lower-case host name, *.name for everything below it, or an address")
		}
	}
	return nil
}

// splitPort cuts the port off an authority, if it has one. An IPv6 address stands in brackets.
func splitPort(authority string) (host, port string, has bool) {
	i := strings.LastIndexByte(authority, ':')
	if i < 0 || strings.HasSuffix(authority, "]") {
		return authority, "", false
	}
	return authority[:i], authority[i+1:], true
}

// allows says whether a credential of this class may go to t, and if not, why.
// plainPath tells whether all readers of a path see the same one. Nearly every path is of characters that cannot be part
// of a trick, which is told without the expression.
func plainPath(p string) bool {
	if !strings.HasPrefix(p, "/") {
		return false
	}
	for i := range len(p) {
		switch c := p[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-':
		case c == '/' && (i+1 == len(p) || p[i+1] != '/' && p[i+1] != '.'):
		default:
			return !pathTrick.MatchString(p)
		}
	}
	return true
}

func (c *Class) allows(t Target) (reason string, ok bool) {
	switch {
	case !anyOf(c.Hosts, t.Host, hostMatches):
		return "host " + t.Host, false
	case len(c.Methods) > 0 && !anyOf(c.Methods, t.Method, func(a, b string) bool { return a == b }):
		return "method " + t.Method, false
	case !plainPath(t.Path):
		return "a path that is not in its plain form", false
	case len(c.PathPrefixes) > 0 && !anyOf(c.PathPrefixes, t.Path, pathMatches):
		return "path " + t.Path, false
	}
	return "", true
}

func anyOf(list []string, s string, match func(pattern, s string) bool) bool {
	for _, p := range list {
		if match(p, s) {
			return true
		}
	}
	return false
}

func hostMatches(pattern, host string) bool {
	host = strings.ToLower(host)
	below, wild := strings.CutPrefix(pattern, "*")
	if !wild {
		return host == pattern
	}
	label, ok := strings.CutSuffix(host, below)
	return ok && !anyOf(strings.Split(label, "."), "", func(l, _ string) bool { return !hostLabel.MatchString(l) })
}

func pathMatches(prefix, path string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || strings.HasSuffix(prefix, "/") || rest[0] == '/')
}
