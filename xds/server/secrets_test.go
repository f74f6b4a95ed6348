package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// fakeMinter mints for every host but those that begin with "no".
type fakeMinter struct {
	mu    sync.Mutex
	life  time.Duration
	err   error // for hosts that begin with "no", or for all once failing is set
	fails bool
	asked map[string]int
}

func (m *fakeMinter) Leaf(_ context.Context, host string) (*Leaf, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked[host]++
	if m.fails || strings.HasPrefix(host, "no") {
		return nil, m.err
	}
	return &Leaf{
		ChainPEM: fmt.Appendf(nil, "chain of %s, number %d", host, m.asked[host]), KeyPEM: []byte("the-private-key"),
		NotAfter: time.Now().Add(m.life),
	}, nil
}

func (m *fakeMinter) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fails, m.err = true, err
}

func (m *fakeMinter) count(host string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked[host]
}

func leafServer(t *testing.T, life time.Duration, bound int, log io.Writer) (*Server, *fakeMinter, *client) {
	t.Helper()
	m := &fakeMinter{life: life, err: ErrLeafRefused, asked: map[string]int{}}
	s, err := New(Config{Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), Minter: m, MaxLeaves: bound})
	if err != nil {
		t.Fatal(err)
	}
	return s, m, connect(t, s)
}

// leaves takes answers until each of n names was answered, acknowledging them, and gives each leaf's chain, or "removed".
func (c *client) leaves(n int) map[string]string {
	c.t.Helper()
	out := map[string]string{}
	for len(out) < n {
		r := c.next()
		for _, e := range r.GetResources() {
			var s tlsv3.Secret
			if err := e.GetResource().UnmarshalTo(&s); err != nil {
				c.t.Fatal(err)
			}
			out[e.GetName()] = string(s.GetTlsCertificate().GetCertificateChain().GetInlineBytes())
		}
		for _, name := range r.GetRemovedResources() {
			out[name] = "removed"
		}
		c.ack(r, "")
	}
	return out
}

func (c *client) unsubscribe(names ...string) {
	c.t.Helper()
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.SecretType, ResourceNamesUnsubscribe: names})
}

func (s *secrets) kept() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.leaves)
}

func TestLeavesByName(t *testing.T) {
	var log bytes.Buffer
	out := &syncWriter{w: &log}
	s, m, c := leafServer(t, time.Hour, 0, out)
	c.subscribe(resourcev3.SecretType, "a.example", "no.example", "A.example", "x*", "..")
	got := c.leaves(5)
	for name, want := range map[string]string{
		"a.example": "chain of a.example, number 1", "no.example": "removed", "A.example": "removed", "x*": "removed", "..": "removed",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	c.unsubscribe("no.example", "A.example", "x*", "..")
	before := m.count("no.example")
	c.subscribe(resourcev3.SecretType, "no.example")
	if got := c.leaves(1); got["no.example"] != "removed" || m.count("no.example") == before {
		t.Errorf("%v after %d questions: a refusal was kept", got, m.count("no.example"))
	}
	if n := s.secrets.kept(); n != 1 {
		t.Errorf("%d leaves are kept", n)
	}
	if m.count("A.example")+m.count("x*") != 0 {
		t.Error("the minter was asked for a name that is no host")
	}
	out.mu.Lock()
	defer out.mu.Unlock()
	if text := log.String(); strings.Contains(text, "private-key") || !strings.Contains(text, "a host gets no leaf") {
		t.Errorf("log: %s", text)
	}
}

// A leaf that cannot be made again because of a fault is kept; one that is refused goes.
func TestLeafRenewal(t *testing.T) {
	_, m, c := leafServer(t, 3*time.Second, 0, io.Discard)
	c.subscribe(resourcev3.SecretType, "a.example")
	c.leaves(1)
	if got := c.leaves(1); got["a.example"] != "chain of a.example, number 2" {
		t.Fatalf("%v", got)
	}
	m.fail(errors.New("the signer is away"))
	start := time.Now()
	if got := c.leaves(1); got["a.example"] != "removed" || time.Since(start) < 1900*time.Millisecond {
		t.Errorf("%v after %s: it was not kept through the fault", got, time.Since(start))
	}
}

func TestLeafRefusedAtRenewal(t *testing.T) {
	s, m, c := leafServer(t, 3*time.Second, 0, io.Discard)
	c.subscribe(resourcev3.SecretType, "a.example")
	c.leaves(1)
	m.fail(ErrLeafRefused)
	if got := c.leaves(1); got["a.example"] != "removed" || s.secrets.kept() != 0 {
		t.Errorf("%v, %d kept", got, s.secrets.kept())
	}
}

// The oldest leaves give way.
func TestLeavesAreBounded(t *testing.T) {
	s, _, c := leafServer(t, time.Hour, 3, io.Discard)
	gone := 0
	for i := range 10 {
		name := fmt.Sprintf("h%d.example", i)
		c.subscribe(resourcev3.SecretType, name)
		for answered := false; !answered; {
			got := c.leaves(1)
			for n, chain := range got {
				if chain == "removed" {
					gone++
					c.unsubscribe(n)
				}
				answered = answered || n == name
			}
		}
	}
	if n := s.secrets.kept(); n != 3 {
		t.Errorf("%d leaves are kept", n)
	}
	if gone < 6 {
		t.Errorf("Envoy was told of %d removals", gone)
	}
}

// Without a minter nobody gets a leaf.
func TestNoMinter(t *testing.T) {
	s := testServer(t, slog.New(slog.DiscardHandler))
	c := connect(t, s)
	c.subscribe(resourcev3.SecretType, "a.example")
	if got := c.leaves(1); got["a.example"] != "removed" {
		t.Error(got)
	}
}
