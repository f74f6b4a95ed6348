package load

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Way is how a connection is made.
type Way struct {
	Address string      // host:port that the calls are for
	TLS     *tls.Config // nil for plain HTTP
	Tunnel  *Tunnel     // nil to connect to Address itself
}

// Tunnel has a connection made by an HTTP proxy: CONNECT (RFC 9110, section 9.3.6), and what is spoken inside is TLS where
// the way says so.
type Tunnel struct {
	Proxy         string // host:port, spoken to in plain HTTP
	Authorization string // Proxy-Authorization of the CONNECT, "" for none
}

// NoTunnel is a proxy's answer to a CONNECT that it refuses.
type NoTunnel struct{ Reply *Reply }

func (e *NoTunnel) Error() string {
	return fmt.Sprintf("the proxy answers CONNECT with %d: %.300s", e.Reply.Status, e.Reply.Body)
}

// dial connects, asks for the tunnel and shakes hands, within Longest. A *NoTunnel is the proxy's refusal.
func (w Way) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: Longest}
	to := w.Address
	if w.Tunnel != nil {
		to = w.Tunnel.Proxy
	}
	conn, err := d.DialContext(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	secured, err := w.ready(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return secured, nil
}

func (w Way) ready(ctx context.Context, conn net.Conn) (net.Conn, error) {
	if w.Tunnel != nil {
		if err := conn.SetDeadline(time.Now().Add(Longest)); err != nil {
			return nil, err
		}
		if err := w.Tunnel.open(conn, w.Address); err != nil {
			return nil, err
		}
	}
	if w.TLS == nil {
		return conn, nil
	}
	secured := tls.Client(conn, w.TLS)
	return secured, secured.HandshakeContext(ctx)
}

// open asks the proxy for a tunnel to an authority.
func (t *Tunnel) open(conn net.Conn, authority string) error {
	auth := ""
	if t.Authorization != "" {
		auth = "Proxy-Authorization: " + t.Authorization + "\r\n"
	}
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", authority, authority, auth); err != nil {
		return err
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return fmt.Errorf("CONNECT: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		reply, err := keep(resp)
		if err != nil {
			return fmt.Errorf("CONNECT: %w", err)
		}
		return &NoTunnel{reply}
	}
	// The body of a 200 would be the tunnel itself: it is neither read nor closed.
	if in.Buffered() > 0 {
		return errors.New("CONNECT: the proxy sends something before it was asked for anything")
	}
	return nil
}
