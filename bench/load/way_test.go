package load

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

const name = "example.com" // in the certificate of httptest's servers

// secret is a server over TLS, and a client's configuration for it.
func secret(t *testing.T) (address string, conf *tls.Config) {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != "" {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = io.Copy(w, r.Body)
	}))
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.Listener.Addr().String(), &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12}
}

// tunneller is a proxy for one authority that leads to one address.
type tunneller struct {
	to     string
	greets bool // says something as soon as the tunnel is there
	opened atomic.Int64
}

func (p *tunneller) serve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.one(conn)
		}
	}()
	return l.Addr().String()
}

func (p *tunneller) one(client net.Conn) {
	defer client.Close()
	in := bufio.NewReader(client)
	r, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	if r.Method != http.MethodConnect || r.Host != name+":443" || r.Header.Get("Proxy-Authorization") != "Basic good" {
		fmt.Fprint(client, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 7\r\n\r\nno, you")
		return
	}
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer server.Close()
	p.opened.Add(1)
	greeting := ""
	if p.greets {
		greeting = "hello"
	}
	fmt.Fprint(client, "HTTP/1.1 200 Connection established\r\n\r\n"+greeting)
	go func() { _, _ = io.Copy(server, in) }() // ends with either connection
	_, _ = io.Copy(client, server)
}

// TestTunnels: each connection is one tunnel, and its calls go through it.
func TestTunnels(t *testing.T) {
	to, conf := secret(t)
	proxy := &tunneller{to: to}
	address := proxy.serve(t)
	p := plan(name+":443", 3, get(name, Want{Status: 200, Size: 3}))
	p.TLS = conf
	for range p.Connections {
		p.Tunnels = append(p.Tunnels, &Tunnel{Proxy: address, Authorization: "Basic good"})
	}
	r, err := Run(t.Context(), p)
	if err != nil || r.Errors != 0 || r.Answered["x"] < 6 {
		t.Fatalf("%v, %v, %d answered", err, r.FirstErr, r.Answered["x"])
	}
	if n := proxy.opened.Load(); n != 3 {
		t.Errorf("%d tunnels for 3 connections", n)
	}
	p.Tunnels[2].Authorization = ""
	var no *NoTunnel
	if _, err := Run(t.Context(), p); !errors.As(err, &no) || no.Reply.Status != http.StatusProxyAuthRequired {
		t.Errorf("one of three tunnels is refused, and the measurement ends with %v", err)
	}
}

// TestTunnelsThatAreNone: what a proxy says instead is told.
func TestTunnelsThatAreNone(t *testing.T) {
	to, conf := secret(t)
	address, greeter := (&tunneller{to: to}).serve(t), (&tunneller{to: to, greets: true}).serve(t)
	stranger := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: name, MinVersion: tls.VersionTLS12}
	for what, c := range map[string]struct {
		way  Way
		want string // the answer's body, or in the error
	}{
		"as it should be":      {Way{name + ":443", conf, &Tunnel{address, "Basic good"}}, "ask"},
		"refused":              {Way{name + ":443", conf, &Tunnel{address, ""}}, "no, you"},
		"another host":         {Way{"other:443", conf, &Tunnel{address, "Basic good"}}, "no, you"},
		"speaks first":         {Way{name + ":443", conf, &Tunnel{greeter, "Basic good"}}, "sends something before"},
		"of another authority": {Way{name + ":443", stranger, &Tunnel{address, "Basic good"}}, "unknown authority"},
	} {
		t.Run(what, func(t *testing.T) {
			a, err := Once(t.Context(), c.way, get(name, Want{}))
			switch {
			case err != nil && !strings.Contains(err.Error(), c.want):
				t.Errorf("%v, want %q", err, c.want)
			case err == nil && string(a.Body) != c.want:
				t.Errorf("%d %q, want %q", a.Status, a.Body, c.want)
			}
		})
	}
}
