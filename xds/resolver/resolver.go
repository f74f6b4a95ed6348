// Package resolver is the one DNS server that Envoy's forward doors ask: it resolves names as the system does and leaves
// out addresses that no contract in force lets that very name have, so that a name cannot lead into the private network,
// now or when its owner changes it (rebinding). It answers on loopback only; the wire is RFC 1035's.
//
// It is one of three walls and needs the others: c-ares (as of Envoy 1.40) answers localhost, and every name in the hosts
// file of its machine, without asking anybody, and Envoy does not look up IP addresses at all.
package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"sallyport/signer/address"
)

const (
	// DefaultTTL is how long Envoy may keep an answer: short, so that what is withdrawn or moved is noticed.
	DefaultTTL = 5 * time.Second
	// MinTTL is the least Config.TTL: below, Envoy would ask for each call.
	MinTTL = time.Second
	// MaxTTL is the greatest: above, a contract that is withdrawn would be in force for too long.
	MaxTTL = 30 * time.Second
	// DefaultTimeout bounds one lookup; c-ares asks again after about five seconds.
	DefaultTimeout = 4 * time.Second
	// DefaultConcurrency is how many questions are worked on at once. A name that nobody answers takes its place for
	// DefaultTimeout.
	DefaultConcurrency = 512
	// maxAddresses keeps every answer within the 512 bytes that a UDP answer may have for the longest name.
	maxAddresses = 8
	maxName      = 253
	maxLabel     = 63
)

// Config is what a Server needs.
type Config struct {
	// Listen is where it answers, UDP and TCP: a loopback address; port 0 takes a free one.
	Listen string
	// Lookup resolves a name, in lower case and without its last dot; nil means the system's resolver. An error that is
	// a *net.DNSError with IsNotFound says that there is no such name.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Hosts are the operator's fixed names; Lookup is not asked for them. Their addresses are guarded as all are.
	Hosts map[string][]netip.Addr
	// Permitted are the special-purpose addresses that contracts in force let this very name have; nil means none.
	Permitted   func(host string) []netip.Prefix
	TTL         time.Duration         // of answers; zero means DefaultTTL
	Timeout     time.Duration         // of one lookup; zero means DefaultTimeout
	Concurrency int                   // questions at once; zero means DefaultConcurrency
	Metrics     prometheus.Registerer // nil means none
	Log         *slog.Logger
}

// Validate names everything that is wrong, at once.
func (c Config) Validate() error {
	var errs []error
	if at, err := netip.ParseAddrPort(c.Listen); err != nil || !at.Addr().IsLoopback() {
		errs = append(errs, fmt.Errorf("resolver: it listens on a loopback address with a port, such as 127.0.0.1:0, not on %q", c.Listen))
	}
	if c.TTL != 0 && (c.TTL < MinTTL || c.TTL > MaxTTL) {
		errs = append(errs, fmt.Errorf("resolver: answers for %v; choose %v to %v", c.TTL, MinTTL, MaxTTL))
	}
	if c.Timeout < 0 || c.Concurrency < 0 {
		errs = append(errs, errors.New("resolver: timeout and concurrency must not be negative"))
	}
	if c.Log == nil {
		errs = append(errs, errors.New("resolver: no log"))
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	if c.Lookup == nil {
		c.Lookup = System
	}
	if c.Permitted == nil {
		c.Permitted = func(string) []netip.Prefix { return nil }
	}
	if c.TTL == 0 {
		c.TTL = DefaultTTL
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Concurrency == 0 {
		c.Concurrency = DefaultConcurrency
	}
	return c
}

// System asks the system's resolver for exactly this name; no search domain is tried.
func System(ctx context.Context, host string) ([]netip.Addr, error) {
	return (&net.Resolver{PreferGo: true}).LookupNetIP(ctx, "ip", host+".")
}

// guard decides what a name may lead to.
type guard struct {
	cfg     Config
	flight  singleflight.Group // by host: what Envoy asks for A and AAAA is one lookup
	metrics *metrics
	lines   lines
}

// Why a name has no answer; the values of the metric's label.
const (
	refusedName    = "name"    // no name that is looked up: an address, localhost, or no host name at all
	refusedSpecial = "special" // all its addresses are special, and no contract names them for it
	refusedAbsent  = "absent"  // there is no such name, or it has no address
	refusedFailed  = "failed"  // the lookup failed
	refusedBusy    = "busy"    // too many questions at once
)

// errNone is for names that lead nowhere, errFailed for those of which nobody knows.
var (
	errNone   = errors.New("no address")
	errFailed = errors.New("lookup failed")
)

// resolve returns the addresses that a name may lead to, IPv4 and IPv6. Where it is let have a special one, that is the
// only answer: whoever later looks at the first address that Envoy took has looked at all of them.
func (g *guard) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	fixed, known := g.cfg.Hosts[host]
	if !isName(host) || !known && isLocal(host) {
		g.metrics.refused(refusedName)
		return nil, errNone
	}
	found := fixed
	if !known {
		var err error
		if found, err = g.lookup(ctx, host); err != nil {
			return nil, err
		}
	}
	kept := g.keep(host, found)
	switch {
	case len(found) == 0:
		g.metrics.refused(refusedAbsent)
	case len(kept) == 0:
		g.metrics.refused(refusedSpecial)
	}
	if len(kept) == 0 {
		return nil, errNone
	}
	return kept, nil
}

func (g *guard) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	result, err, _ := g.flight.Do(host, func() (any, error) {
		ctx, cancel := context.WithTimeout(ctx, g.cfg.Timeout)
		defer cancel()
		return g.cfg.Lookup(ctx, host)
	})
	var missing *net.DNSError
	switch {
	case errors.As(err, &missing) && missing.IsNotFound:
		g.metrics.refused(refusedAbsent)
		return nil, errNone
	case err != nil:
		g.metrics.refused(refusedFailed)
		g.lines.warn(g.cfg.Log, "a name cannot be looked up", slog.String("host", host), slog.Any("error", err))
		return nil, errFailed
	}
	return result.([]netip.Addr), nil
}

// keep leaves out the special addresses that the name may not have, and says so in the log.
func (g *guard) keep(host string, found []netip.Addr) []netip.Addr {
	var public []netip.Addr
	var special netip.Addr // the least of those that are permitted, so that each lookup gives the same one
	permitted := g.cfg.Permitted(host)
	for _, a := range found {
		a = a.Unmap() // the network would take it for the IPv4 address, so that is what is judged
		class, isSpecial := address.Special(a)
		switch {
		case !isSpecial:
			public = append(public, a)
		case !address.Allowed(a, permitted):
			g.metrics.dropped.Inc()
			g.lines.warn(g.cfg.Log, "a name leads to a special address that no contract names for it; it is left out",
				slog.String("host", host), slog.String("address", a.String()), slog.String("class", class))
		case !special.IsValid() || a.Less(special):
			special = a
		}
	}
	if special.IsValid() {
		return []netip.Addr{special}
	}
	return public
}

// isName tells host names from addresses and from what only a DNS packet can carry. Names are in lower case here.
func isName(host string) bool {
	if host == "" || len(host) > maxName {
		return false
	}
	labels := strings.Split(host, ".")
	for _, label := range labels {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' || strings.ContainsFunc(label, notInName) {
			return false
		}
	}
	last := labels[len(labels)-1]
	return last[0] < '0' || last[0] > '9' // else some reader would take it for an IPv4 address
}

func notInName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

// isLocal is for names that mean the host itself wherever they are asked (RFC 6761), and those that systems add to it.
func isLocal(host string) bool {
	switch host {
	case "localhost", "localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback", "broadcasthost":
		return true
	}
	return strings.HasSuffix(host, ".localhost")
}
