package xds_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"sallyport/signer/code"
	"sallyport/xds/compile"
)

func addrs(texts ...string) (out []netip.Addr) {
	for _, s := range texts {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// Plain HTTP goes by the contract's rules too; its connection is shared with no other scheme.
func TestPlainHTTPThroughTheProxy(t *testing.T) {
	w := newForwardWorld(t)
	p := port(w.host.plain)
	w.allow(hashOf(1),
		compile.Egress{Host: "pub.test", Ports: []uint16{p}, Methods: []string{"GET", "POST"}, PathPrefixes: []string{"/a", "/b/"}},
		compile.Egress{Host: "sub.test", OnlySubdomains: true, Ports: []uint16{p}, PathPattern: "/v1/*/x/**"},
		compile.Egress{Host: "a.sub.test", Ports: []uint16{p}, PathPrefixes: []string{"/own"}},
		compile.Egress{Host: "unread.test", Ports: []uint16{p}, Inspect: "sni"})
	w.allow(hashOf(2))
	for _, name := range []string{"a.sub.test", "b.sub.test", "sub.test", "unread.test"} {
		w.names.set(name, addrs("127.0.0.9"))
	}
	c := w.client("t")
	for _, tc := range []struct {
		method, host, path, scope string
		ok                        bool
	}{
		{"GET", "pub.test", "/a", hashOf(1), true},
		{"GET", "pub.test", "/a/x?q=1", hashOf(1), true},
		{"GET", "pub.test", "/ab", hashOf(1), false},
		{"GET", "pub.test", "/b/x", hashOf(1), true},
		{"POST", "pub.test", "/a", hashOf(1), true},
		{"PUT", "pub.test", "/a", hashOf(1), false},
		{"GET", "pub.test", "/a", hashOf(2), false},
		{"GET", "b.sub.test", "/v1/n/x/y/z", hashOf(1), true},
		{"GET", "b.sub.test", "/v1/n/m/x/", hashOf(1), false},
		{"GET", "b.sub.test", "/own", hashOf(1), false},
		{"GET", "a.sub.test", "/own", hashOf(1), true},
		{"GET", "a.sub.test", "/v1/n/x/y", hashOf(1), true}, // the wider rule counts at the narrower domain
		{"GET", "sub.test", "/v1/n/x/y", hashOf(1), false},
		{"GET", "unread.test", "/", hashOf(1), false},
	} {
		t.Run(fmt.Sprint(tc.method, " ", tc.host, tc.path, " ", tc.scope[42:]), func(t *testing.T) {
			a, err := w.send(c, tc.method, "http://"+tc.host+":"+w.host.plain+tc.path, tc.scope, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !tc.ok {
				a.refused(t, code.RouteNotAllowed)
				return
			}
			if a.status != http.StatusOK || a.header.Get("x-seen-chain") != "forward" || a.header.Get("x-leaked") != "" {
				t.Fatalf("%d %q %v", a.status, a.body, a.header)
			}
		})
	}
	t.Run("body", func(t *testing.T) {
		body := bytes.Repeat([]byte("x"), 5<<20)
		a, err := w.send(c, "POST", "http://pub.test:"+w.host.plain+"/a", hashOf(1), bytes.NewReader(body))
		if err != nil || a.body != string(body) {
			t.Fatalf("%d, %d bytes, %v", a.status, len(a.body), err)
		}
	})
}

// No answer of the DNS leads to a refused address, unless the contract's own rule names it.
func TestAddressGuard(t *testing.T) {
	w := newForwardWorld(t)
	p := port(w.host.plain)
	cidr := []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}
	var open []compile.Egress
	for name, answer := range map[string][]netip.Addr{
		"private.test": addrs("127.0.0.2"), "both.test": addrs("127.0.0.9", "127.0.0.2"), "reversed.test": addrs("127.0.0.2", "127.0.0.9"),
		"mapped.test": addrs("::ffff:127.0.0.2"), "nat64.test": addrs("64:ff9b::7f00:2"), "loop6.test": addrs("::1"),
		"metadata.test": addrs("169.254.169.254"), "localhost": addrs("127.0.0.2"), "localhost.test": addrs("127.0.0.2"),
	} {
		w.names.set(name, answer)
		open = append(open, compile.Egress{Host: name, Ports: []uint16{p}})
	}
	open = append(open, compile.Egress{Host: "127.0.0.2", Ports: []uint16{p}}, compile.Egress{Host: "::1", Ports: []uint16{p}})
	w.allow(hashOf(1), open...)
	w.allow(hashOf(2), compile.Egress{Host: "private.test", Ports: []uint16{p}, CIDRs: cidr},
		compile.Egress{Host: "metadata.test", Ports: []uint16{p}, CIDRs: cidr},
		compile.Egress{Host: "127.0.0.2", Ports: []uint16{p}, CIDRs: cidr},
		compile.Egress{Host: "pub.test", Ports: []uint16{p}, CIDRs: cidr})
	c := w.client("t")
	get := func(t *testing.T, host, scope string) answer {
		t.Helper()
		a, err := w.send(c, "GET", "http://"+host+":"+w.host.plain+"/", scope, nil)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	refused := func(t *testing.T, host, scope string) {
		t.Helper()
		a := get(t, host, scope)
		if a.status < 400 || a.code == "" || w.host.reached() != 0 {
			t.Errorf("%d %s %q", a.status, a.code, a.body)
		}
		t.Log(a.status, a.code, a.details)
	}
	named := func(t *testing.T) {
		t.Helper()
		if a := get(t, "private.test", hashOf(2)); a.body != "private" {
			t.Errorf("%d %q", a.status, a.body)
		}
		w.host.reached()
	}
	t.Run("named", named)
	for _, host := range []string{"private.test", "mapped.test", "nat64.test", "loop6.test", "metadata.test", "localhost", "localhost.test", "127.0.0.2", "[::1]"} {
		t.Run(host, func(t *testing.T) { refused(t, host, hashOf(1)) })
	}
	t.Run("named again", named)
	t.Run("address that is named", func(t *testing.T) {
		if a := get(t, "127.0.0.2", hashOf(2)); a.body != "private" {
			t.Errorf("%d %q", a.status, a.body)
		}
		w.host.reached()
	})
	t.Run("other address than the named", func(t *testing.T) { refused(t, "metadata.test", hashOf(2)) })
	t.Run("public one where private is named", func(t *testing.T) {
		if a := get(t, "pub.test", hashOf(2)); a.status != http.StatusOK {
			t.Errorf("%d %q", a.status, a.body)
		}
	})
	for _, host := range []string{"both.test", "reversed.test"} {
		t.Run(host, func(t *testing.T) {
			if a := get(t, host, hashOf(1)); a.status != http.StatusOK || w.host.reached() != 0 {
				t.Errorf("%d %q", a.status, a.body)
			}
		})
	}
}

// A name that first has a public address and then a private one never leads to the private one, not even when the first
// address stops answering.
func TestRebinding(t *testing.T) {
	w := newForwardWorld(t)
	w.names.set("rebind.test", addrs("127.0.0.9"), addrs("127.0.0.2"))
	w.names.set("dead.test", addrs("127.0.0.3", "127.0.0.2")) // nothing listens at .3 (refused as well)
	p := port(w.host.plain)
	w.allow(hashOf(1), compile.Egress{Host: "rebind.test", Ports: []uint16{p}}, compile.Egress{Host: "dead.test", Ports: []uint16{p}})
	c := w.client("t")
	end := time.Now().Add(6 * time.Second)
	for time.Now().Before(end) {
		for _, host := range []string{"rebind.test", "dead.test"} {
			if _, err := w.send(c, "GET", "http://"+host+":"+w.host.plain+"/", hashOf(1), nil); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	if n := w.names.questions("rebind.test"); n < 2 {
		t.Errorf("the name was asked for %d times, so nothing was rebound", n)
	}
	if n := w.host.reached(); n != 0 {
		t.Errorf("the private server was reached %d times", n)
	}
}

// A host that is also an upstream's authority keeps the upstream's endpoints first.
func TestEgressBesideAnUpstream(t *testing.T) {
	w := newForwardWorld(t)
	upPort := netip.MustParseAddrPort(w.upstream.srv.Listener.Addr().String()).Port()
	w.allow(hashOf(1), compile.Egress{Host: "127.0.0.1", CIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Ports: []uint16{upPort}})
	c := w.client("t")
	base := w.upstream.srv.URL
	for _, path := range []string{"/base/v1/models", "/elsewhere"} {
		a, err := w.send(c, "GET", base+path, hashOf(1), nil)
		if err != nil || a.status != http.StatusOK {
			t.Errorf("%s: %d %q %v", path, a.status, a.body, err)
		}
	}
	w.until("both in the access log", func() bool {
		log := w.accessLog()
		return bytes.Contains([]byte(log), []byte(`"upstream":"main"`)) && bytes.Contains([]byte(log), []byte(`"egress/named/http"`))
	})
}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// Envoy's guard looks at the first address of an answer, and its connection then tries them all (1.40.0). The public cache
// holds no refused address, so nothing follows there; the one for named addresses is only as narrow as the resolver's answer.
// The resolver must therefore give a single address for a host that contracts name addresses for.
func TestOnlyTheFirstAddressIsChecked(t *testing.T) {
	w := newForwardWorld(t)
	p := port(w.host.plain)
	w.names.set("half.test", addrs("127.0.0.4", "127.0.0.2")) // nothing listens at .4
	w.names.set("one.test", addrs("127.0.0.4"))
	w.allow(hashOf(1),
		compile.Egress{Host: "half.test", Ports: []uint16{p}, CIDRs: prefixes("127.0.0.4/32")},
		compile.Egress{Host: "one.test", Ports: []uint16{p}, CIDRs: prefixes("127.0.0.4/32")})
	c := w.client("t")
	get := func(host string) answer {
		a, err := w.send(c, "GET", "http://"+host+":"+w.host.plain+"/", hashOf(1), nil)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := get("half.test"); a.body != "private" || w.host.reached() != 1 {
		t.Errorf("Envoy no longer goes on to the second address (%d %q): tell the resolver", a.status, a.body)
	}
	get("one.test").refused(t, code.UpstreamUnreachable)
}
