package xds_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// handshake opens a tunnel and shakes hands in it with this server name.
func (w *forwardWorld) handshake(name string) (*tls.ConnectionState, error) {
	c, err := net.Dial("tcp", w.proxy)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprint(c, "CONNECT pub.test:443 HTTP/1.1\r\nhost: pub.test:443\r\n\r\n"); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("CONNECT: %s", resp.Status)
	}
	// Any certificate will do: what is looked at is which one comes.
	t := tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err := t.Handshake(); err != nil {
		return nil, err
	}
	s := t.ConnectionState()
	return &s, nil
}

// stat reads one of Envoy's numbers.
func (w *forwardWorld) stat(name string) (out int) {
	w.t.Helper()
	var all struct {
		Stats []struct {
			Name  string
			Value int
		}
	}
	if err := json.Unmarshal([]byte(w.adminGet("/stats?format=json&filter="+name)), &all); err != nil {
		w.t.Fatal(err)
	}
	for _, s := range all.Stats {
		out += s.Value
	}
	return out
}

func (w *forwardWorld) allocated() int {
	var m struct{ Allocated string }
	if err := json.Unmarshal([]byte(w.adminGet("/memory")), &m); err != nil {
		w.t.Fatal(err)
	}
	n := 0
	_, _ = fmt.Sscan(m.Allocated, &n)
	return n
}

// A name that gets no leaf fails its handshake at once, and is asked for again by the next.
func TestLeafRefused(t *testing.T) {
	w := newForwardWorld(t)
	for _, name := range []string{"other.example", "*", "a*", "UPPER.test", "", "xn--a.invalid", strings.Repeat("a", 60) + "." + strings.Repeat("b", 60) + ".example"} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				start := time.Now()
				if s, err := w.handshake(name); err == nil {
					t.Fatalf("got a certificate for %v", s.PeerCertificates[0].DNSNames)
				}
				if d := time.Since(start); d > 2*time.Second {
					t.Errorf("refused after %s", d)
				}
			}
		})
	}
	w.cas.mu.Lock()
	if n := w.cas.asked["other.example"]; n != 2 {
		t.Errorf("the minter was asked %d times, so a refusal was kept", n)
	}
	w.cas.mu.Unlock()
	w.until("no subscription", func() bool { return w.stat("on_demand_secret.cert_active") == 0 })
}

// A leaf that is in use is made again at two thirds of its life and pushed; one that is refused then is taken away.
func TestLeafIsRenewed(t *testing.T) {
	w := newForwardWorld(t)
	w.cas.set(4*time.Second, false)
	first, err := w.handshake("pub.test")
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(3500 * time.Millisecond)
	second, err := w.handshake("pub.test")
	if err != nil {
		t.Fatal(err)
	}
	if first.PeerCertificates[0].SerialNumber.Cmp(second.PeerCertificates[0].SerialNumber) == 0 {
		t.Error("the leaf was not renewed")
	}
	w.cas.set(time.Hour, true)
	w.until("the leaf to go", func() bool { return w.stat("on_demand_secret.cert_active") == 0 })
	if _, err := w.handshake("pub.test"); err == nil {
		t.Error("a leaf after it was refused")
	}
}

// However many names are asked for, those that are refused leave nothing behind, and of those that get a leaf no more stay
// than may.
func TestManyServerNames(t *testing.T) {
	w := newForwardWorld(t)
	many := func(format string, n int) (ok int) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		next := make(chan int)
		for range 32 {
			wg.Go(func() {
				for i := range next {
					if _, err := w.handshake(fmt.Sprintf(format, i)); err == nil {
						mu.Lock()
						ok++
						mu.Unlock()
					}
				}
			})
		}
		for i := range n {
			next <- i
		}
		close(next)
		wg.Wait()
		return ok
	}
	many("warm-%d.example", 500)
	before := w.allocated()
	n := 10_000
	if testing.Short() {
		n = 1000
	}
	if ok := many("n%d.example", n); ok != 0 {
		t.Fatalf("%d handshakes were answered", ok)
	}
	w.until("no subscription", func() bool { return w.stat("on_demand_secret.cert_active") == 0 })
	t.Logf("refused: Envoy holds %d bytes more after %d names", w.allocated()-before, n)
	if grown := w.allocated() - before; grown > 8<<20 {
		t.Errorf("%d bytes stayed in Envoy for %d names", grown, n)
	}
	if ok := many("n%d.test", 10*testLeaves); ok < 9*testLeaves {
		t.Errorf("only %d of %d handshakes were answered", ok, 10*testLeaves)
	}
	w.until("the bound", func() bool { return w.stat("on_demand_secret.cert_active") <= testLeaves })
	t.Logf("allowed: %d leaves in Envoy, %d bytes more", w.stat("on_demand_secret.cert_active"), w.allocated()-before)
}
