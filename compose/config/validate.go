package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Validate reports everything that is wrong with a complete configuration beyond what the schema says, as Problems.
func (c *Config) Validate() error { return c.problems().err() }

func (c *Config) problems() Problems {
	v := &validator{}
	v.ports(c)
	v.upstreams(c)
	v.secretClasses(c)
	v.egress(c.Egress)
	v.rest(c)
	return v.found
}

type validator struct{ found Problems }

func (v *validator) bad(path, remedy, format string, args ...any) {
	v.found = append(v.found, Problem{Path: path, Message: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (v *validator) ports(c *Config) {
	taken := map[string]string{}
	check := func(path, addr string) {
		_, port, err := net.SplitHostPort(addr)
		n, convErr := strconv.Atoi(port)
		if err != nil || convErr != nil || n < 1 || n > 65535 {
			v.bad(path, "use HOST:PORT with a port from 1 to 65535", "%q is no address and port", addr)
			return
		}
		if by, ok := taken[addr]; ok {
			v.bad(path, "choose another port", "%s is already used by %s", addr, by)
		}
		taken[addr] = path
	}
	check("listen", c.Listen)
	check("control_listen", c.ControlListen)
	if c.Forward() {
		check("forward_listen", c.ForwardListen)
	}
	if c.LoopbackModel.On() {
		check("loopback_model.listen", c.LoopbackModel.Listen)
	}
}

// reservedDoors are first path segments of the gateway that cannot name an upstream.
var reservedDoors = []string{"v1", "v1beta", "mcp", "health", "ready"}

func (v *validator) upstreams(c *Config) {
	if len(c.Upstreams) == 0 {
		v.bad("upstreams", "declare at least one upstream, or leave loopback_model.enabled out", "there is none, and the built-in model is off")
	}
	classes := map[string]SecretClass{}
	for _, s := range c.SecretClasses {
		classes[s.Name] = s
	}
	seen := map[string]int{}
	for i, u := range c.Upstreams {
		at := fmt.Sprintf("upstreams[%d]", i)
		if first, twice := seen[u.Name]; twice {
			v.bad(at+".name", "give each upstream its own name", "%s is also the name of upstreams[%d]", u.Name, first)
		} else {
			seen[u.Name] = i
		}
		if slices.Contains(reservedDoors, u.Name) {
			v.bad(at+".name", "choose another name", "%s is a path of the gateway itself", u.Name)
		}
		to := v.serverURL(at+".url", u.URL, "https://api.openai.com")
		if u.SecretClass == "" {
			continue
		}
		s, ok := classes[u.SecretClass]
		switch {
		case !ok:
			v.bad(at+".secret_class", "declare it under secret_classes, or remove the field to send no credential", "no secret class has the name %s", u.SecretClass)
		case to != nil && !slices.ContainsFunc(s.Hosts, func(h string) bool { return covers(h, to) }):
			v.bad(at+".secret_class", "add "+to.Host+" to the hosts of "+s.Name+", or use another class", "%s may not be sent to %s", s.Name, to.Host)
		}
	}
}

// covers says whether a host of a secret class stands for an upstream's host and port. A host without a port stands for
// whatever port the upstream has, since the operator declared both; *.example.com is every name below example.com.
func covers(pattern string, u *url.URL) bool {
	pattern = strings.ToLower(pattern)
	host, authority := strings.ToLower(u.Hostname()), strings.ToLower(u.Host)
	if pattern == authority || strings.Trim(pattern, "[]") == host {
		return true
	}
	below, ok := strings.CutPrefix(pattern, "*")
	return ok && (strings.HasSuffix(authority, below) || strings.HasSuffix(host, below))
}

// Authorities are the hosts of a secret class with the ports that the upstreams of the class have.
func (c *Config) Authorities(s SecretClass) []string {
	out := make([]string, 0, len(s.Hosts))
	for _, h := range s.Hosts {
		out = append(out, strings.ToLower(h))
	}
	for _, up := range c.Upstreams {
		u, err := up.ParsedURL()
		if err != nil || up.SecretClass != s.Name || !slices.ContainsFunc(s.Hosts, func(h string) bool { return covers(h, u) }) {
			continue
		}
		out = append(out, strings.ToLower(u.Host))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// serverURL returns the URL of a server that gets a credential, nil where it cannot be used.
func (v *validator) serverURL(at, raw, example string) *url.URL {
	u, err := url.Parse(raw)
	if err != nil {
		var why *url.Error
		if errors.As(err, &why) {
			err = why.Err // without the URL, which may hold a password
		}
		v.bad(at, "write scheme, host and base path, e.g. "+example, "cannot be read: %v", err)
		return nil
	}
	switch {
	case u.Hostname() == "":
		v.bad(at, "write scheme, host and base path, e.g. "+example, "has no host")
		return nil
	case u.User != nil:
		v.bad(at, "remove the user information and use a secret class", "carries user information")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		v.bad(at, "remove everything from the ? or # on", "carries a query or fragment")
	case u.Scheme == "http" && !local(u.Hostname()):
		v.bad(at, "use https; http is for addresses of this machine", "would send the credential unencrypted to %s", u.Hostname())
	}
	return u
}

// local holds for names and addresses that never leave the machine.
func local(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

func (v *validator) secretClasses(c *Config) {
	seen := map[string]int{}
	for i, s := range c.SecretClasses {
		at := fmt.Sprintf("secret_classes[%d]", i)
		if first, twice := seen[s.Name]; twice {
			v.bad(at+".name", "give each secret class its own name", "%s is also the name of secret_classes[%d]", s.Name, first)
		}
		seen[s.Name] = i
		if s.TTL < 0 {
			v.bad(at+".ttl", "use a positive duration such as 10m", "is negative")
		}
		if s.Inject != nil {
			v.oneOf(at+".inject", map[string]bool{"header": s.Inject.Header != "", "query": s.Inject.Query != "", "basic": s.Inject.Basic != ""})
		}
		if s.PerJob && !s.From.Leases() {
			v.bad(at+".per_job", "remove it, or use vault.lease, or oauth with a revocation_url", "%s gives nothing that could be revoked", s.From)
		}
		v.origin(at+".from", s.From)
	}
}

func (v *validator) egress(e Egress) {
	for _, name := range slices.Sorted(maps.Keys(e.Hosts)) {
		at := "egress.hosts." + name
		if name == "" || name != strings.ToLower(name) || strings.ContainsAny(name, ":/* ") || strings.HasSuffix(name, ".") {
			v.bad(at, "write the name in lower case, without port, path, star or final dot", "%q is no host name", name)
		}
		for _, text := range e.Hosts[name] {
			if _, err := netip.ParseAddr(text); err != nil {
				v.bad(at, "write IP addresses, e.g. [10.0.0.7]", "%q is no address", text)
			}
		}
	}
}

func (v *validator) rest(c *Config) {
	if c.ExtProc.Replicas > 1 && c.RedisURL == "" {
		v.bad("extproc.replicas", "set redis_url, so that the processes share which tokens are spent", "%d processes cannot share the in-process store", c.ExtProc.Replicas)
	}
	if c.RedisURL != "" {
		if _, err := url.Parse(c.RedisURL); err != nil {
			v.bad("redis_url", "use redis://HOST:PORT/DB, rediss:// for TLS or unix://PATH", "cannot be read")
		}
	}
	for _, l := range []struct {
		path string
		link Link
	}{{"signer", c.Signer}, {"registry", c.Registry}, {"xds", c.XDS}} {
		v.link(l.path, l.link)
	}
}

func (v *validator) link(path string, l Link) {
	for _, a := range []struct{ field, addr string }{{"listen", l.Listen}, {"address", l.Address}} {
		if a.field == "address" && l.Address == l.Listen {
			continue
		}
		sock, unix := strings.CutPrefix(a.addr, "unix:")
		switch {
		case unix && len(sock) > maxSocketPath:
			v.bad(path+"."+a.field, "choose a shorter path", "the socket's path has %d bytes, more than the %d that the system takes", len(sock), maxSocketPath)
		case !unix && l.TLS == nil:
			v.bad(path+"."+a.field, "add "+path+".tls with cert_file, key_file and ca_file, or use a Unix socket", "%s would be reached without authentication", a.addr)
		}
	}
}
