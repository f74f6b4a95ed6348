package xds_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"sallyport/xds/compile"
)

// closedSite is a TLS server at 127.0.0.9 that gateway cannot read: its certificate is its own. It counts the connections
// that were made to it.
type closedSite struct {
	port string
	pool *authority
	conn atomic.Int32
}

func newClosedSite(t testing.TB, name string) *closedSite {
	t.Helper()
	s := &closedSite{pool: newAuthority(t, t.TempDir())}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(rw, r.Body)
		_, _ = fmt.Fprintf(rw, "certificates of the client: %d", len(r.TLS.PeerCertificates))
	}))
	l, err := net.Listen("tcp", "127.0.0.9:0")
	if err != nil {
		t.Skipf("no more loopback addresses here: %v", err)
	}
	_ = srv.Listener.Close()
	srv.Listener = l
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{s.pool.pair(name)}, ClientAuth: tls.RequestClientCert}
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.conn.Add(1)
		}
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	_, s.port, _ = net.SplitHostPort(l.Addr().String())
	return s
}

// unread is a client of the forward door whose tunnels are inspected in one way.
func (w *forwardWorld) unread(inspect string, s *closedSite, change func(*tls.Config)) *http.Client {
	return w.client("t", func(tr *http.Transport) {
		tr.ProxyConnectHeader = http.Header{"X-Test-Inspect": {inspect}, "X-Test-Scope": {hashOf(1)}}
		tr.TLSClientConfig = &tls.Config{RootCAs: s.pool.pool, Certificates: []tls.Certificate{s.pool.pair("job")}}
		if change != nil {
			change(tr.TLSClientConfig)
		}
	})
}

// passing allows tunnels of both kinds to these hosts.
func (w *forwardWorld) passing(port uint16, hosts ...string) {
	w.t.Helper()
	var rules []compile.Egress
	for _, h := range hosts {
		for _, inspect := range []string{compile.InspectSNI, compile.InspectNone} {
			rules = append(rules, compile.Egress{Host: h, Ports: []uint16{port}, Inspect: inspect})
		}
	}
	w.allow(hashOf(1), rules...)
}

// What passes unread reaches the site itself: its own certificate, and the client's.
func TestUnreadTunnel(t *testing.T) {
	w := newForwardWorld(t)
	s := newClosedSite(t, "pub.test")
	w.passing(port(s.port), "pub.test")
	for _, inspect := range []string{compile.InspectSNI, compile.InspectNone} {
		t.Run(inspect, func(t *testing.T) {
			w.proc.over()
			c := w.unread(inspect, s, nil)
			a, err := w.send(c, "PUT", "https://pub.test:"+s.port+"/", "", strings.NewReader("hello "))
			if err != nil || a.body != "hello certificates of the client: 1" {
				t.Fatalf("%d %q %v", a.status, a.body, err)
			}
			if len(a.details) != 1 || a.details[0] != "200 via_upstream" {
				t.Errorf("the processor was shown %q", a.details)
			}
			if ended, back := w.proc.over(); ended != 0 || back == 0 {
				t.Errorf("while the tunnel is open: %d exchanges are over, %d bytes were shown", ended, back)
			}
			c.CloseIdleConnections()
			w.until("the exchange's end", func() bool { ended, _ := w.proc.over(); return ended == 1 })
		})
	}
}

// What names another server, or none, does not get as far as a connection to the site; with inspection "none" it does.
func TestUnreadServerName(t *testing.T) {
	w := newForwardWorld(t)
	s := newClosedSite(t, "pub.test")
	w.passing(port(s.port), "pub.test")
	other := func(c *tls.Config) { c.ServerName, c.InsecureSkipVerify = "other.test", true }
	none := func(c *tls.Config) { c.ServerName, c.InsecureSkipVerify = "127.0.0.9", true } // an address is not sent
	for name, x := range map[string]struct {
		inspect string
		change  func(*tls.Config)
		do      string
		passes  bool
	}{
		"another server":             {compile.InspectSNI, other, "", false},
		"no server":                  {compile.InspectSNI, none, "", false},
		"no host from the processor": {compile.InspectSNI, nil, "no-host", false},
		"in capitals":                {compile.InspectSNI, func(c *tls.Config) { c.ServerName = "PUB.test" }, "", true},
		"another server, not looked": {compile.InspectNone, other, "", true},
		"no server, not looked":      {compile.InspectNone, none, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			before := s.conn.Load()
			c := w.unread(x.inspect, s, x.change)
			c.Transport.(*http.Transport).ProxyConnectHeader.Set("X-Test-Do", x.do)
			c.Transport.(*http.Transport).ProxyConnectHeader.Set("X-Test-Token", name) // for a pool of its own
			a, err := w.send(c, "GET", "https://pub.test:"+s.port+"/", "", nil)
			if (err == nil) != x.passes {
				t.Fatalf("%d %q %v", a.status, a.body, err)
			}
			if n := s.conn.Load() - before; (n > 0) != x.passes {
				t.Errorf("%d connections were made to the site", n)
			}
		})
	}
	t.Run("no TLS", func(t *testing.T) {
		before := s.conn.Load()
		answer := w.raw(t, compile.InspectSNI, "pub.test:"+s.port, "GET / HTTP/1.1\r\nhost: pub.test\r\n\r\n")
		if answer != "" || s.conn.Load() != before {
			t.Errorf("%q came back, %d connections", answer, s.conn.Load()-before)
		}
	})
}

// While a tunnel to one host is open, one to another host does not lead to the first, although the contract allows both.
func TestUnreadTunnelsKeepTheirHost(t *testing.T) {
	w := newForwardWorld(t)
	s := newClosedSite(t, "pub.test")
	w.names.set("second.test", addrs("127.0.0.9"))
	w.passing(port(s.port), "pub.test", "second.test")
	first := w.unread(compile.InspectSNI, s, nil)
	if a, err := w.send(first, "GET", "https://pub.test:"+s.port+"/", "", nil); err != nil || a.status != http.StatusOK {
		t.Fatalf("%d %v", a.status, err)
	}
	for name, passes := range map[string]bool{"pub.test": false, "second.test": true} {
		before := s.conn.Load()
		c := w.unread(compile.InspectSNI, s, func(c *tls.Config) { c.ServerName, c.InsecureSkipVerify = name, true })
		_, err := w.send(c, "GET", "https://second.test:"+s.port+"/", "", nil)
		if n := s.conn.Load() - before; (err == nil) != passes || (n > 0) != passes {
			t.Errorf("to second.test, naming %s: %v, %d connections", name, err, n)
		}
	}
}

// raw opens a tunnel, sends text in it and reads to the end.
func (w *forwardWorld) raw(t *testing.T, inspect, authority, send string) string {
	t.Helper()
	c, err := net.Dial("tcp", w.proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nhost: %[1]s\r\nx-test-inspect: %s\r\nx-test-scope: %s\r\n\r\n", authority, inspect, hashOf(1))
	head := make([]byte, 0, 512)
	for !strings.HasSuffix(string(head), "\r\n\r\n") {
		one := make([]byte, 1)
		if _, err := c.Read(one); err != nil {
			t.Fatalf("%q %v", head, err)
		}
		head = append(head, one...)
	}
	_, _ = io.WriteString(c, send)
	rest, _ := io.ReadAll(c)
	return string(rest)
}

// A name that leads to a refused address, also only after the first answer, leads nowhere.
func TestUnreadAddresses(t *testing.T) {
	w := newForwardWorld(t)
	s := newClosedSite(t, "pub.test")
	w.names.set("private.test", addrs("127.0.0.2"))
	w.names.set("mapped.test", addrs("::ffff:127.0.0.2"))
	hosts := []string{"private.test", "mapped.test", "127.0.0.2", "nowhere.test"}
	w.passing(port(w.host.plain), hosts...)
	for _, inspect := range []string{compile.InspectSNI, compile.InspectNone} {
		for _, host := range hosts {
			t.Run(inspect+" "+host, func(t *testing.T) {
				w.proc.over()
				c := w.unread(inspect, s, func(c *tls.Config) { c.InsecureSkipVerify = true })
				a, err := w.send(c, "GET", "https://"+net.JoinHostPort(host, w.host.plain)+"/", "", nil)
				if err == nil || w.host.reached() != 0 {
					t.Fatalf("%d %q", a.status, a.body)
				}
				w.until("the exchange's end", func() bool {
					ended, back := w.proc.over()
					if back > 0 && inspect == compile.InspectSNI {
						t.Errorf("%d bytes came back", back)
					}
					return ended == 1
				})
				got := strings.Join(w.proc.answers(), ", ")
				if want := map[string]string{compile.InspectSNI: "200 via_upstream", compile.InspectNone: "dns_resolution_failure"}; !strings.Contains(got, want[inspect]) {
					t.Errorf("the processor was shown %q", got)
				}
			})
		}
	}
}

// The contract's own routes are a wall behind the processor, and name the private addresses that a tunnel may lead to.
func TestUnreadRoutes(t *testing.T) {
	w := newForwardWorld(t)
	s := newClosedSite(t, "pub.test")
	w.names.set("private.test", addrs("127.0.0.2"))
	w.names.set("elsewhere.test", addrs("127.0.0.2"))
	site, plain := []uint16{port(s.port)}, []uint16{port(w.host.plain)}
	w.allow(hashOf(1),
		compile.Egress{Host: "pub.test", Ports: site, Inspect: compile.InspectNone, Methods: []string{"GET"}},
		compile.Egress{Host: "pub.test", Ports: plain, Inspect: compile.InspectNone},
		compile.Egress{Host: "private.test", Ports: plain, Inspect: compile.InspectNone, CIDRs: prefixes("127.0.0.2/32")},
		compile.Egress{Host: "elsewhere.test", Ports: plain, Inspect: compile.InspectNone, CIDRs: prefixes("10.0.0.0/8")})
	for name, x := range map[string]struct {
		inspect, authority string
		status             string
	}{
		"named by its rule":           {compile.InspectNone, "private.test:" + w.host.plain, "200"},
		"public":                      {compile.InspectNone, "pub.test:" + w.host.plain, "200"},
		"not the address of its rule": {compile.InspectNone, "elsewhere.test:" + w.host.plain, "451"},
		"a rule about methods":        {compile.InspectNone, "pub.test:" + s.port, "451"},
		"another kind of inspection":  {compile.InspectSNI, "pub.test:" + w.host.plain, "451"},
		"another host":                {compile.InspectNone, "other.test:" + w.host.plain, "451"},
		"another port":                {compile.InspectNone, "private.test:" + s.port, "451"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := w.connect(t, x.inspect, x.authority); got != x.status {
				t.Errorf("%s, want %s", got, x.status)
			}
		})
	}
}

// connect is the status of a CONNECT.
func (w *forwardWorld) connect(t *testing.T, inspect, authority string) string {
	t.Helper()
	c, err := net.Dial("tcp", w.proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nhost: %[1]s\r\nx-test-inspect: %s\r\nx-test-scope: %s\r\n\r\n", authority, inspect, hashOf(1))
	head := make([]byte, 12)
	if _, err := io.ReadFull(c, head); err != nil {
		t.Fatal(err)
	}
	return string(head[9:])
}
