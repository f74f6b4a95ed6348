package run

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// sniffTimeout is how long a client may take to say a name. A protocol in which the server speaks first loses that
	// much where the address is not known to stand for a name.
	sniffTimeout = 3 * time.Second
	// plainTimeout is the same where the name is known and only plain HTTP is to be told from the rest.
	plainTimeout = 300 * time.Millisecond
	maxSniff     = 16 << 10 // bytes of a ClientHello or of a request line
)

// serveTransparent takes the connections that the program opened without a proxy. dst tells where one was meant to go.
func (o *owner) serveTransparent(l net.Listener, dst func(net.Conn) (netip.AddrPort, error)) {
	o.accept(l, func(c net.Conn) {
		to, err := dst(c)
		if err != nil {
			o.tally.fail("(destination unknown)")
			return
		}
		o.transparent(c, to)
	})
}

// accept hands each connection of a listener to handle, in a goroutine of its own, and closes it afterwards.
func (o *owner) accept(l net.Listener, handle func(net.Conn)) {
	if !o.track(l) {
		return
	}
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // out of descriptors: it passes
			continue
		}
		go func() {
			defer c.Close()
			if o.track(c) {
				defer o.forget(c)
				handle(c)
			}
		}()
	}
}

func (o *owner) transparent(c net.Conn, dst netip.AddrPort) {
	host, wait := o.names.name(dst.Addr()), plainTimeout
	if host == "" {
		wait = sniffTimeout
	}
	o.carry(&bufferedConn{Conn: c, r: bufio.NewReaderSize(c, maxSniff)}, host, dst, wait)
}

// carry takes a connection where it was meant to go: host, where it is known, else what its first bytes name, else dst.
func (o *owner) carry(in *bufferedConn, host string, dst netip.AddrPort, wait time.Duration) {
	if host == "" || dst.Port() != 443 {
		kind, name := sniff(in, wait)
		if kind == plainHTTP {
			o.plainHTTP(in, host, dst)
			return
		}
		if host == "" {
			host = name
		}
	}
	if host == "" {
		host = dst.Addr().String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	door, no, err := o.tunnel(ctx, hostPort(host, dst.Port()))
	if err != nil || no != nil {
		abort(in.Conn)
		return
	}
	defer door.Close()
	o.spliceTunnel(in, door)
}

// abort lets the program see a reset rather than an orderly end, as from a host that refuses.
func abort(c net.Conn) {
	if tc, ok := c.(*net.TCPConn); ok {
		_ = tc.SetLinger(0)
	}
	c.Close()
}

// protocol is what a connection's first bytes say.
type protocol int

const (
	unknown protocol = iota
	plainHTTP
	tlsHello
)

// sniff looks at the first bytes without taking them. The name is a ClientHello's.
func sniff(c *bufferedConn, wait time.Duration) (protocol, string) {
	_ = c.SetReadDeadline(time.Now().Add(wait))
	defer func() { _ = c.SetReadDeadline(time.Time{}) }()
	first, err := c.r.Peek(1)
	switch {
	case err != nil:
		return unknown, ""
	case first[0] == 0x16:
		return tlsHello, helloName(c.r)
	case isRequestLine(c.r):
		return plainHTTP, ""
	default:
		return unknown, ""
	}
}

var methods = []string{"GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "PATCH ", "TRACE "}

// isRequestLine reads no further than a method; HTTP/2 with prior knowledge (PRI) is not among them.
func isRequestLine(r *bufio.Reader) bool {
	for n := 1; n <= len("OPTIONS "); n++ {
		head, err := r.Peek(n)
		if err != nil {
			return false
		}
		if slices.Contains(methods, string(head)) {
			return true
		}
		if !slices.ContainsFunc(methods, func(m string) bool { return strings.HasPrefix(m, string(head)) }) {
			return false
		}
	}
	return false
}

// helloName is the server name of the ClientHello that r begins with, as the standard library reads it.
func helloName(r *bufio.Reader) string {
	name := ""
	known := errors.New("enough")
	_ = tls.Server(&peekConn{r: r}, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		name = strings.ToLower(h.ServerName)
		return nil, known
	}}).Handshake() // it always fails: only the name is wanted
	return name
}

// peekConn reads a buffered reader's bytes without taking them, and writes nowhere.
type peekConn struct {
	net.Conn // nil: nothing else is called before the ClientHello is read
	r        *bufio.Reader
	at       int
}

// Read waits for more bytes than were shown so far.
func (c *peekConn) Read(p []byte) (int, error) {
	head, err := c.r.Peek(max(c.at+1, min(c.r.Buffered(), c.at+len(p))))
	if len(head) <= c.at {
		return 0, err // the buffer is full, the time is over or the client has ended
	}
	n := copy(p, head[c.at:])
	c.at += n
	return n, nil
}

func (*peekConn) Write(p []byte) (int, error)      { return len(p), nil }
func (*peekConn) SetDeadline(time.Time) error      { return nil }
func (*peekConn) SetReadDeadline(time.Time) error  { return nil }
func (*peekConn) SetWriteDeadline(time.Time) error { return nil }
func (*peekConn) Close() error                     { return nil }

// plainHTTP forwards each request of a connection that speaks HTTP without TLS, as a client of the proxy would have
// asked.
func (o *owner) plainHTTP(c net.Conn, host string, dst netip.AddrPort) {
	if host == "" {
		host = dst.Addr().String()
	}
	l := newOneConn(c)
	o.serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host != "" || r.Method == http.MethodConnect {
			http.Error(w, "This is no proxy.", http.StatusBadRequest)
			return
		}
		authority := o.names.authority(r.Host)
		if authority == "" {
			authority = host
		}
		// The request's own name counts: the gate decides on it and goes there. The port is the connection's.
		name, _, err := net.SplitHostPort(authority)
		if err != nil {
			name = strings.Trim(authority, "[]")
		}
		authority = hostPort(name, dst.Port())
		if dst.Port() == 80 {
			authority = strings.TrimSuffix(authority, ":80")
		}
		r.URL.Scheme, r.URL.Host, r.Host = "http", authority, authority
		o.plain.ServeHTTP(w, r)
	}))
	<-l.done
}

// oneConn is a listener of a single connection.
type oneConn struct {
	next chan net.Conn
	addr net.Addr
	done chan struct{} // closed when the connection is
}

func newOneConn(c net.Conn) *oneConn {
	l := &oneConn{next: make(chan net.Conn, 1), addr: c.LocalAddr(), done: make(chan struct{})}
	l.next <- &notifyConn{Conn: c, done: l.done}
	return l
}

// Accept gives the connection, and then waits for its end.
func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.next:
		return c, nil
	case <-l.done:
		return nil, io.EOF
	}
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.addr }

// notifyConn tells of its end.
type notifyConn struct {
	net.Conn
	done chan struct{}
	once sync.Once
}

// Close may be called more than once.
func (c *notifyConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return c.Conn.Close()
}
