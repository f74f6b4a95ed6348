// Package compile turns contracts, upstreams and the gateway's settings into the Envoy resources that enforce them.
// The shapes come from the Envoy v3 API; where a setting exists because of how Envoy 1.40.0 really behaves, the
// comment beside it says what was measured.
package compile

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"regexp/syntax"
	"strings"
	"time"
)

// DefaultConnectTimeout is long enough for a TLS connection across the world and short enough that a dead
// address is reported while the client still waits.
const DefaultConnectTimeout = 5 * time.Second

// Endpoint is one thing that an upstream may be asked: a method and a path below the upstream's base path.
// Exactly one of Path and Regex is set.
type Endpoint struct {
	Method string // exact, e.g. POST
	Path   string // exact path that starts with a slash, or a prefix where Prefix is set
	Prefix bool   // Path covers everything below it, at segment borders only
	Regex  string // RE2, matched against the whole path without the query
}

// Upstream is one place where calls may go, as the operator declared it.
type Upstream struct {
	Name           string   // unique; letters, digits, dot, dash, underscore
	Provider       string   // what contracts call it, e.g. openai
	URL            *url.URL // scheme http or https, host, optional base path; nothing else
	Endpoints      []Endpoint
	CAFile         string        // PEM file of the authorities that may vouch for it; empty: Config of the control plane decides
	Addresses      []netip.Addr  // of the host, where the operator names them; empty: the name is looked up
	ConnectTimeout time.Duration // 0: DefaultConnectTimeout
}

var upstreamName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Validate reports everything that is wrong with u, joined.
func (u *Upstream) Validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("upstream %q: "+format, append([]any{u.Name}, args...)...))
	}
	if !upstreamName.MatchString(u.Name) {
		bad("name must be 1 to 64 letters, digits, dots, dashes or underscores")
	}
	if u.Provider == "" {
		bad("provider is missing")
	}
	if u.CAFile != "" && !filepath.IsAbs(u.CAFile) {
		bad("ca file %q must be an absolute path, because Envoy reads it", u.CAFile)
	}
	if u.ConnectTimeout < 0 {
		bad("connect timeout is negative")
	}
	errs = append(errs, u.validateURL(bad)...)
	for i, e := range u.Endpoints {
		if err := e.validate(); err != nil {
			bad("endpoint %d: %w", i, err)
		}
	}
	return errors.Join(errs...)
}

func (u *Upstream) validateURL(bad func(string, ...any)) []error {
	if u.URL == nil {
		bad("url is missing")
		return nil
	}
	if u.URL.Scheme != "http" && u.URL.Scheme != "https" {
		bad("url scheme %q must be http or https", u.URL.Scheme)
	}
	if u.URL.Hostname() == "" {
		bad("url has no host")
	}
	if host := u.URL.Hostname(); strings.HasSuffix(host, ".") || strings.ContainsAny(host, "*%") {
		bad("url host %q must be a plain name or address", host)
	}
	if u.URL.User != nil || u.URL.RawQuery != "" || u.URL.Fragment != "" || u.URL.Opaque != "" {
		bad("url must not carry user information, query or fragment")
	}
	if p := u.URL.EscapedPath(); p != "" && (!strings.HasPrefix(p, "/") || !plainPath(p)) {
		bad("url path %q must be plain: no encoded characters, dot segments or doubled slashes", p)
	}
	if u.URL.Port() != "" {
		if _, err := netip.ParseAddrPort("127.0.0.1:" + u.URL.Port()); err != nil || u.URL.Port() == "0" {
			bad("url port %q is not between 1 and 65535", u.URL.Port())
		}
	}
	return nil
}

func (e Endpoint) validate() error {
	if !methodToken.MatchString(e.Method) {
		return fmt.Errorf("method %q is not an upper-case HTTP method", e.Method)
	}
	if (e.Path == "") == (e.Regex == "") {
		return errors.New("exactly one of path and regex must be set")
	}
	if e.Regex != "" {
		if e.Prefix {
			return errors.New("a regex cannot be a prefix")
		}
		return validateRegex(e.Regex)
	}
	if !strings.HasPrefix(e.Path, "/") || !plainPath(e.Path) {
		return fmt.Errorf("path %q must start with a slash and be plain", e.Path)
	}
	if e.Prefix && (e.Path == "/" || strings.HasSuffix(e.Path, "/")) {
		return fmt.Errorf("prefix %q must name a segment and not end in a slash", e.Path)
	}
	return nil
}

// maxProgram bounds a regex as compiled, in instructions. Envoy 1.40.0 refuses the whole route table over 100, and calls
// that wait for the table then hang (measured), so that is said here, before anything is published.
const maxProgram = 90

func validateRegex(text string) error {
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return fmt.Errorf("regex: %w", err)
	}
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return fmt.Errorf("regex: %w", err)
	}
	if n := len(prog.Inst); n > maxProgram {
		return fmt.Errorf("regex %q compiles to %d instructions; Envoy takes at most about 100: write it without counted repetitions", text, n)
	}
	return nil
}

var methodToken = regexp.MustCompile(`^[A-Z]{1,20}$`)

// plainPath holds for paths that mean the same to every reader. A trailing slash is allowed here.
func plainPath(p string) bool {
	if strings.ContainsAny(p, "%;\\?#") || strings.Contains(p, "//") {
		return false
	}
	for seg := range strings.SplitSeq(p, "/") {
		if seg == "." || seg == ".." {
			return false
		}
	}
	for _, r := range p {
		if r <= ' ' || r > '~' {
			return false
		}
	}
	return true
}

// Authority is what the processor must write into :authority for a call to u: the URL's host in lower case, with the
// port only where the URL names one.
func (u *Upstream) Authority() string { return strings.ToLower(u.URL.Host) }

// BasePath is the URL's path without a trailing slash; the processor writes it in front of the endpoint's path.
func (u *Upstream) BasePath() string { return strings.TrimRight(u.URL.Path, "/") }

// ClusterName is the name of u's Envoy cluster. The prefix keeps it apart from the clusters of the bootstrap.
func (u *Upstream) ClusterName() string { return clusterPrefix + u.Name }

const clusterPrefix = "upstream/"

func (u *Upstream) port() uint32 {
	var port uint32 = 80
	if u.URL.Scheme == "https" {
		port = 443
	}
	if ap, err := netip.ParseAddrPort(net.JoinHostPort("127.0.0.1", u.URL.Port())); err == nil {
		port = uint32(ap.Port())
	}
	return port
}

// ValidateAll checks each upstream and what must hold between them: unique names, and one way of reaching each
// authority, because an authority decides the cluster.
func ValidateAll(ups []Upstream) error {
	var errs []error
	names := map[string]bool{}
	first := map[string]*Upstream{}
	for i := range ups {
		u := &ups[i]
		if err := u.Validate(); err != nil {
			errs = append(errs, err)
			continue
		}
		if names[u.Name] {
			errs = append(errs, fmt.Errorf("upstream %q: the name is used twice", u.Name))
		}
		names[u.Name] = true
		o, ok := first[u.Authority()]
		if !ok {
			first[u.Authority()] = u
			continue
		}
		if o.URL.Scheme != u.URL.Scheme || o.CAFile != u.CAFile {
			errs = append(errs, fmt.Errorf("upstream %q: reaches %s by another scheme or ca file than upstream %q", u.Name, u.Authority(), o.Name))
		}
	}
	return errors.Join(errs...)
}
