package xds_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/envoy"
	"sallyport/signer/code"
	"sallyport/xds/compile"
)

// echo tells the client what the processor had been shown.
func echo(rw http.ResponseWriter, r *http.Request) {
	for h := range seen {
		if v := r.Header.Get(h); v != "" {
			rw.Header().Set(h, v)
		}
	}
}

// forwardWorld is a world with the forward door, names of its own, and a TLS host pub.test at 127.0.0.9.
type forwardWorld struct {
	*world
	proxy string // address of the forward door
	names *names
	host  *hosts
}

// refusedHere stands for the special-purpose addresses; 127.0.0.9 stays open, because the public servers are there.
func refusedHere() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range []string{"127.0.0.0/29", "10.0.0.0/8", "169.254.0.0/16", "64:ff9b::/96", "::ffff:0:0/96", "::1/128", "fc00::/7"} {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func newForwardWorld(t testing.TB, opts ...option) *forwardWorld {
	t.Helper()
	n := newNames(t)
	var door compile.Door
	all := append(opts, func(d *compile.Door, _ *envoy.Config) { door = *d })
	w := &forwardWorld{world: newWorld(t, all...), names: n}
	exit := &compile.EgressConfig{Resolver: n.addr, CAFile: w.cas.file, Refused: refusedHere()}
	door.Egress = exit
	leaf, err := w.cas.issue("proxy.test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ls, err := compile.ForwardListeners(compile.Forward{Door: door, Certificate: &compile.Certificate{ChainPEM: leaf.ChainPEM, KeyPEM: leaf.KeyPEM}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := errors.Join(w.server.SetEgress(exit), w.server.SetListeners(append(ls, w.door)...), w.server.WaitApplied(ctx)); err != nil {
		t.Fatal(err)
	}
	w.proxy = w.listening("door/forward")
	w.host = newHosts(t, w.cas)
	n.set("pub.test", []netip.Addr{netip.MustParseAddr("127.0.0.9")})
	return w
}

// allow puts a contract with these ways out in force.
func (w *forwardWorld) allow(hash string, rules ...compile.Egress) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := errors.Join(w.server.PutContract(compile.Allow{Hash: hash, Providers: []string{"openai"}, Egress: rules}), w.server.WaitApplied(ctx))
	if err != nil {
		w.t.Fatal(err)
	}
}

// client sends its calls through the proxy with this token.
func (w *forwardWorld) client(token string, change ...func(*http.Transport)) *http.Client {
	tr := &http.Transport{
		Proxy:              http.ProxyURL(&url.URL{Scheme: "http", Host: w.proxy}),
		ProxyConnectHeader: http.Header{"X-Test-Token": {token}},
		TLSClientConfig:    &tls.Config{RootCAs: w.cas.pool},
		ForceAttemptHTTP2:  true,
	}
	for _, c := range change {
		c(tr)
	}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// send asks through the proxy; the processor gives it the scope.
func (w *forwardWorld) send(c *http.Client, method, to, scope string, body io.Reader) (answer, error) {
	req, err := http.NewRequest(method, to, body)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("x-test-scope", scope)
	req.Header.Set("x-test-scheme", req.URL.Scheme)
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	return w.read(resp), nil
}

// hosts are a TLS and a plain server at 127.0.0.9 and a plain one at 127.0.0.2, the "private" one, on the plain one's port.
type hosts struct {
	tls, plain string // ports
	mu         sync.Mutex
	private    int // calls that reached the private one
}

func newHosts(t testing.TB, ca *authority) *hosts {
	t.Helper()
	h := &hosts{}
	handler := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		echo(rw, r)
		rw.Header().Set("x-proto", r.Proto)
		for _, name := range []string{compile.SchemeHeader, compile.ScopeHeader, compile.InspectHeader, "proxy-authorization"} {
			if v := r.Header.Get(name); v != "" {
				rw.Header().Set("x-leaked", name)
			}
		}
		_, _ = io.Copy(rw, r.Body)
	})
	secure := httptest.NewUnstartedServer(handler)
	secure.EnableHTTP2 = true
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{ca.pair("pub.test"), ca.pair("a.sub.test")}}
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	plain := httptest.NewUnstartedServer(handler)
	for _, s := range []*httptest.Server{secure, plain} {
		l, err := net.Listen("tcp", "127.0.0.9:0")
		if err != nil {
			t.Skipf("no more loopback addresses here: %v", err)
		}
		_ = s.Listener.Close()
		s.Listener = l
	}
	secure.StartTLS()
	plain.Start()
	t.Cleanup(secure.Close)
	t.Cleanup(plain.Close)
	_, h.tls, _ = net.SplitHostPort(secure.Listener.Addr().String())
	_, h.plain, _ = net.SplitHostPort(plain.Listener.Addr().String())
	l, err := net.Listen("tcp", "127.0.0.2:"+h.plain)
	if err != nil {
		t.Skipf("no second loopback address here: %v", err)
	}
	private := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.private++
		_, _ = io.WriteString(rw, "private")
	})}
	go func() { _ = private.Serve(l) }()
	t.Cleanup(func() { _ = private.Close() })
	return h
}

func (h *hosts) reached() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.private
	h.private = 0
	return n
}

func port(text string) uint16 { return netip.MustParseAddrPort("127.0.0.1:" + text).Port() }

// A program that knows only its proxy is answered through the tunnel, over HTTP/1.1 and HTTP/2, and the processor is shown
// what the tunnel was opened with.
func TestForwardTunnel(t *testing.T) {
	w := newForwardWorld(t)
	w.allow(hashOf(1), compile.Egress{Host: "pub.test", Ports: []uint16{port(w.host.tls)}, Methods: []string{"GET", "PUT"}})
	base := "https://pub.test:" + w.host.tls
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			c := w.client("tok-1", func(tr *http.Transport) { tr.ForceAttemptHTTP2 = proto == "HTTP/2.0" })
			w.proc.attributes()
			a, err := w.send(c, "GET", base+"/x", hashOf(1), nil)
			if err != nil || a.status != http.StatusOK {
				t.Fatalf("%d %q %v", a.status, a.body, err)
			}
			for h, want := range map[string]string{
				"x-seen-chain": "inner", "x-seen-sni": "pub.test", "x-seen-token": "tok-1", "x-seen-peer": "192.0.2.7",
				"x-seen-authority": "pub.test:" + w.host.tls, "x-leaked": "",
			} {
				if got := a.header.Get(h); got != want {
					t.Errorf("%s = %q, want %q", h, got, want)
				}
			}
			c.CloseIdleConnections()
			if attrs := w.proc.attributes(); len(attrs) != 2 || attrs[0]["xds.filter_chain_name"] != "forward" {
				t.Errorf("the processor was shown %v", attrs)
			}
		})
	}
	t.Run("not in the contract", func(t *testing.T) {
		a, err := w.send(w.client("t"), "DELETE", base+"/x", hashOf(1), nil)
		if err != nil {
			t.Fatal(err)
		}
		a.refused(t, code.RouteNotAllowed)
	})
	t.Run("access log", func(t *testing.T) {
		w.until("a line of the tunnel", func() bool { return strings.Contains(w.accessLog(), "rcpt_connect") })
	})
}

// What the door refuses by itself.
func TestForwardRefusals(t *testing.T) {
	w := newForwardWorld(t)
	w.allow(hashOf(1), compile.Egress{Host: "pub.test", Ports: []uint16{port(w.host.tls)}})
	for name, header := range map[string]http.Header{
		"no verdict":               {"X-Test-Do": {"no-verdict"}},
		"processor closes":         {"X-Test-Do": {"close"}},
		"inspection without route": {"X-Test-Inspect": {"raw"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := w.client("t", func(tr *http.Transport) { tr.ProxyConnectHeader = header })
			if a, err := w.send(c, "GET", "https://pub.test:"+w.host.tls+"/", hashOf(1), nil); err == nil {
				t.Fatalf("got %d %q", a.status, a.body)
			}
			if n := w.proc.seen(); len(n) != 1 {
				t.Errorf("the processor was asked %d times", len(n))
			}
		})
	}
	t.Run("host without a leaf", func(t *testing.T) {
		start := time.Now()
		_, err := w.send(w.client("t"), "GET", "https://other.example/", hashOf(1), nil)
		if err == nil || time.Since(start) > 3*time.Second {
			t.Fatalf("%v after %s", err, time.Since(start))
		}
	})
	t.Run("other server name is shown to the processor", func(t *testing.T) {
		c := w.client("t", func(tr *http.Transport) { tr.TLSClientConfig.ServerName = "fronted.test" })
		a, err := w.send(c, "GET", "https://pub.test:"+w.host.tls+"/", hashOf(1), nil)
		if err != nil || a.header.Get("x-seen-sni") != "fronted.test" {
			t.Fatalf("%d %q %v: the processor could not have refused it", a.status, a.header.Get("x-seen-sni"), err)
		}
	})
}

// The TLS side takes any client certificate, asks for one, and shows its digest to the processor.
func TestForwardClientCertificate(t *testing.T) {
	w := newForwardWorld(t)
	w.allow(hashOf(1), compile.Egress{Host: "pub.test", Ports: []uint16{port(w.host.plain)}})
	to := "http://pub.test:" + w.host.plain + "/"
	secure := func(certs ...tls.Certificate) *http.Client {
		return w.client("t", func(tr *http.Transport) {
			tr.Proxy, tr.ForceAttemptHTTP2 = http.ProxyURL(&url.URL{Scheme: "https", Host: w.proxy}), false
			tr.TLSClientConfig = &tls.Config{RootCAs: w.cas.pool, ServerName: "proxy.test", Certificates: certs, NextProtos: []string{"http/1.1"}}
		})
	}
	cert := newAuthority(t, t.TempDir()).pair("job")
	a, err := w.send(secure(cert), "GET", to, hashOf(1), nil)
	if err != nil || a.status != http.StatusOK {
		t.Fatalf("%d %q %v", a.status, a.body, err)
	}
	sum := sha256.Sum256(cert.Certificate[0])
	if got := a.header.Get("x-seen-digest"); got != hex.EncodeToString(sum[:]) || a.header.Get("x-seen-chain") != "forward-mtls" {
		t.Errorf("digest %q, chain %q", got, a.header.Get("x-seen-chain"))
	}
	a, err = w.send(secure(), "GET", to, hashOf(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	a.refused(t, code.GateUnavailable) // without a certificate
}

// Tunnels that are open at the same time keep their own identity, also while others are given up half way.
func TestTunnelsKeepTheirIdentity(t *testing.T) {
	w := newForwardWorld(t)
	w.allow(hashOf(1), compile.Egress{Host: "pub.test", Ports: []uint16{port(w.host.tls)}})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 { // tunnels that their client leaves as soon as it has asked for them
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if c, err := net.Dial("tcp", w.proxy); err == nil {
					_, _ = fmt.Fprintf(c, "CONNECT pub.test:%s HTTP/1.1\r\nhost: pub.test:%[1]s\r\nx-test-token: gone\r\n\r\n", w.host.tls)
					_ = c.Close()
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	var calls sync.WaitGroup
	for i := range 100 {
		calls.Go(func() {
			token := fmt.Sprintf("token-%d", i)
			c := w.client(token)
			for range 5 {
				a, err := w.send(c, "GET", "https://pub.test:"+w.host.tls+"/", hashOf(1), nil)
				if err != nil || a.status != http.StatusOK || a.header.Get("x-seen-token") != token {
					t.Errorf("%s: %d, seen as %q, %v", token, a.status, a.header.Get("x-seen-token"), err)
					return
				}
				c.CloseIdleConnections()
			}
		})
	}
	calls.Wait()
	close(stop)
	wg.Wait()
}

// Five MiB go through a tunnel both ways, also where a single body may have less: the limit is a body's, not a tunnel's.
func TestTunnelCarriesLargeBodies(t *testing.T) {
	w := newForwardWorld(t, func(d *compile.Door, _ *envoy.Config) { d.MaxBody = 2 << 20 })
	w.allow(hashOf(1), compile.Egress{Host: "pub.test", Ports: []uint16{port(w.host.tls)}})
	c := w.client("t", func(tr *http.Transport) { tr.ForceAttemptHTTP2 = false; tr.MaxConnsPerHost = 1 })
	part := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	for range 5 {
		a, err := w.send(c, "PUT", "https://pub.test:"+w.host.tls+"/", hashOf(1), bytes.NewReader(part))
		if err != nil || a.status != http.StatusOK || a.body != string(part) {
			t.Fatalf("%d, %d bytes, %v", a.status, len(a.body), err)
		}
	}
	if n := len(w.proc.seen()); n != 6 {
		t.Errorf("the processor was asked %d times, so it was not one tunnel", n)
	}
	a, err := w.send(w.client("t"), "PUT", "https://pub.test:"+w.host.tls+"/", hashOf(1), bytes.NewReader(bytes.Repeat(part, 3)))
	if err != nil {
		t.Fatal(err)
	}
	a.refused(t, code.PayloadTooLarge)
}
