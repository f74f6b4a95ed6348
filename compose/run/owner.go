package run

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	doorTimeout    = 10 * time.Second // to reach the door, TLS included
	connectTimeout = 60 * time.Second // for the gate to answer a CONNECT: it may wait for a name and for the far end
	headerTimeout  = 30 * time.Second // for a client to finish its request's header
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 256 << 10
	maxRefusalBody = 64 << 10 // bytes of a refused CONNECT's body that are shown to the client
)

// credentialHeaders are where clients put a key; the token takes the place of all of them at a base URL.
var credentialHeaders = []string{"Authorization", "Proxy-Authorization", "X-Api-Key", "X-Goog-Api-Key", "Api-Key", "X-Cst"}

// owner holds the token and takes every connection of the program to the gate's forward door.
type owner struct {
	c            *Config
	nonce        string
	requireNonce bool // the listener can be reached by others than the program
	tally        *tally
	names        *nameTable

	plain   *httputil.ReverseProxy // absolute-form, on to the gate as a proxy
	reverse *httputil.ReverseProxy // base URLs, on to the gate as a server

	showing sync.Mutex
	shown   Token // the last that the gate was shown after a renewal

	mu      sync.Mutex
	closers map[io.Closer]struct{}
	closed  bool
}

func newOwner(c *Config, nonce string) *owner {
	o := &owner{c: c, nonce: nonce, tally: newTally(), names: newNameTable(), closers: map[io.Closer]struct{}{}}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return o.dialDoor(ctx) }
	o.plain = o.proxy(&http.Transport{
		// The door is plain to this transport: dial speaks TLS itself.
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: ReverseHost}), DialContext: dial,
		DisableCompression: true, IdleConnTimeout: idleTimeout, MaxIdleConnsPerHost: 64,
	}, func(out *http.Request) { out.Header.Set("Proxy-Authorization", "Bearer "+string(c.Token())) })
	o.reverse = o.proxy(&http.Transport{
		DialContext: dial, DisableCompression: true, IdleConnTimeout: idleTimeout, MaxIdleConnsPerHost: 64,
	}, o.atBaseURL)
	return o
}

// dialDoor opens a connection to the gate's forward door.
func (o *owner) dialDoor(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, doorTimeout)
	defer cancel()
	d := net.Dialer{}
	if o.c.TLS == nil {
		return d.DialContext(ctx, "tcp", o.c.ForwardAddress)
	}
	return (&tls.Dialer{NetDialer: &d, Config: o.c.TLS}).DialContext(ctx, "tcp", o.c.ForwardAddress)
}

// track makes close end c too. It returns false, with c closed, where the owner is at its end already.
func (o *owner) track(c io.Closer) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		c.Close()
		return false
	}
	o.closers[c] = struct{}{}
	return true
}

func (o *owner) forget(c io.Closer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.closers, c)
}

// close ends all listeners and connections.
func (o *owner) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	for c := range o.closers {
		c.Close()
	}
	for _, p := range []*httputil.ReverseProxy{o.plain, o.reverse} {
		if t, ok := p.Transport.(*http.Transport); ok {
			t.CloseIdleConnections()
		}
	}
}

// serveProxy answers a listener as an HTTP proxy and as the base URLs' server.
func (o *owner) serveProxy(l net.Listener) {
	o.serve(l, http.HandlerFunc(o.request))
}

func (o *owner) serve(l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes, ErrorLog: silent}
	if !o.track(srv) {
		l.Close()
		return
	}
	defer o.forget(srv)
	_ = srv.Serve(l) // always an error: the listener's end
}

func (o *owner) request(w http.ResponseWriter, r *http.Request) {
	if o.requireNonce && !o.knows(r) {
		w.Header().Set("Proxy-Authenticate", "Basic")
		http.Error(w, "This proxy serves one program, which holds its key.", http.StatusProxyAuthRequired)
		return
	}
	switch {
	case r.Method == http.MethodConnect:
		o.connect(w, r)
	case r.URL.Host == "" || isReverseHost(r):
		r.URL.Scheme, r.URL.Host = "http", ReverseHost
		o.reverse.ServeHTTP(w, r)
	case r.URL.Scheme != "http":
		http.Error(w, "Only http:// can be asked for without CONNECT.", http.StatusBadRequest)
	default:
		o.named(r)
		o.plain.ServeHTTP(w, r)
	}
}

// isReverseHost says whether an absolute-form request is for a base URL: a client that ignores NO_PROXY asks the proxy
// for the proxy's own address.
func isReverseHost(r *http.Request) bool {
	if r.URL.Host == ReverseHost {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && r.URL.Host == local.String()
}

// knows says whether a request carries this run's placeholder, which only the program has.
func (o *owner) knows(r *http.Request) bool {
	want := Placeholder + "-" + o.nonce
	for _, name := range credentialHeaders {
		for _, v := range r.Header.Values(name) {
			if basic, ok := strings.CutPrefix(v, "Basic "); ok {
				raw, _ := base64.StdEncoding.DecodeString(basic)
				v = string(raw)
			}
			if strings.HasSuffix(v, want) {
				return true
			}
		}
	}
	return false
}

// named puts a name back where a client resolved it by itself and asks for our address of it.
func (o *owner) named(r *http.Request) {
	r.URL.Host = o.names.authority(r.URL.Host)
	r.Host = o.names.authority(r.Host)
}

// proxy makes a proxy that streams, adds no header of its own, and counts.
func (o *owner) proxy(t *http.Transport, prepare func(*http.Request)) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport: t, FlushInterval: -1, ErrorLog: silent,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.RawQuery = r.In.URL.RawQuery // as it came: the gate judges what was asked
			prepare(r.Out)
		},
		ModifyResponse: func(r *http.Response) error {
			host := r.Request.URL.Host
			refused := r.Header.Get(decisionHeader) != ""
			o.tally.answer(host, r.Header, refused, refusalCode(r, refused))
			if r.StatusCode != http.StatusSwitchingProtocols {
				r.Body = &watchedBody{ReadCloser: r.Body, cut: o.tally.cut}
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				return // the client went away
			}
			o.tally.fail(r.URL.Host)
			gatewayGone(w, err)
		},
	}
}

// atBaseURL puts the token in the place of the placeholder.
func (o *owner) atBaseURL(out *http.Request) {
	for _, name := range credentialHeaders {
		out.Header.Del(name)
	}
	if q := out.URL.Query(); strings.Contains(q.Get("key"), Placeholder) {
		q.Del("key")
		out.URL.RawQuery = q.Encode()
	}
	out.Host = ReverseHost
	out.Header.Set("Authorization", "Bearer "+string(o.c.Token()))
}

// gatewayGone says in the shape that SDKs show that the gate is not there. 503 and not 502: some clients retry it.
func gatewayGone(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusServiceUnavailable)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "error", "error": map[string]any{
		"type": "gateway_unreachable", "code": "GATEWAY_UNREACHABLE", "message": "The gateway does not answer: " + err.Error(), "param": nil,
	}})
}

// refusalCode reads the reason from a refusal's body and leaves the body as it was.
func refusalCode(r *http.Response, refused bool) string {
	if !refused {
		return ""
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxRefusalBody))
	r.Body = readCloser{io.MultiReader(strings.NewReader(string(raw)), r.Body), r.Body}
	if err != nil {
		return strconv.Itoa(r.StatusCode)
	}
	return codeIn(raw, r.StatusCode)
}

func codeIn(raw []byte, status int) string {
	var body struct {
		Error struct {
			Code any `json:"code"` // JSON-RPC has numbers there
			Data struct {
				Code string `json:"code"`
			} `json:"data"`
		} `json:"error"`
	}
	if json.Unmarshal(raw, &body) == nil {
		if code, ok := body.Error.Code.(string); ok && code != "" && len(code) <= 64 {
			return code
		}
		if c := body.Error.Data.Code; c != "" && len(c) <= 64 {
			return c
		}
	}
	return strconv.Itoa(status)
}

type readCloser struct {
	io.Reader
	io.Closer
}

// watchedBody tells when an answer broke off.
type watchedBody struct {
	io.ReadCloser
	cut func()
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, context.Canceled) && !errors.Is(err, http.ErrBodyReadAfterClose) {
		b.cut()
	}
	return n, err
}

// connect answers a CONNECT as the gate does.
func (o *owner) connect(w http.ResponseWriter, r *http.Request) {
	authority := o.names.authority(r.Host)
	if host, port, err := net.SplitHostPort(authority); err == nil && port == "80" {
		o.connectPlain(w, host)
		return
	}
	door, no, err := o.tunnel(r.Context(), authority)
	switch {
	case err != nil:
		gatewayGone(w, err)
		return
	case no != nil:
		for _, name := range []string{"Content-Type", decisionHeader} {
			if v := no.header.Get(name); v != "" {
				w.Header().Set(name, v)
			}
		}
		w.WriteHeader(no.status)
		_, _ = w.Write(no.body) // the client left; nothing to do about it
		return
	}
	defer door.Close()
	o.established(w, func(client *bufferedConn) { o.spliceTunnel(client, door) })
}

// connectPlain answers a CONNECT for the port of plain HTTP. Some clients open their WebSockets so (Node's, Python's websockets);
// the gate ends TLS in its tunnels and takes plain HTTP only as a proxy does.
func (o *owner) connectPlain(w http.ResponseWriter, host string) {
	o.established(w, func(client *bufferedConn) {
		o.carry(client, host, netip.AddrPortFrom(netip.IPv4Unspecified(), 80), plainTimeout)
	})
}

// established tells the client that its tunnel is there, and has handle carry what goes through it.
func (o *owner) established(w http.ResponseWriter, handle func(*bufferedConn)) {
	client, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return // only HTTP/1.1 is spoken here, which can be hijacked
	}
	defer client.Close()
	if !o.track(client) {
		return
	}
	defer o.forget(client)
	_ = client.SetDeadline(time.Time{})
	if _, err := io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	early := make([]byte, buf.Reader.Buffered())
	_, _ = io.ReadFull(buf, early) // from memory
	in := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(early), client), max(maxSniff, len(early)))
	_, _ = in.Peek(len(early)) // from memory too: what is read ahead must be in the buffer
	handle(&bufferedConn{Conn: client, r: in})
}

// refusal is the gate's answer to a CONNECT that it refuses.
type refusal struct {
	status int
	header http.Header
	body   []byte
}

// tunnel asks the gate for a connection to an authority and counts the answer: a connection, a refusal or an error.
func (o *owner) tunnel(ctx context.Context, authority string) (net.Conn, *refusal, error) {
	door, no, header, err := o.askTunnel(ctx, authority)
	switch {
	case err != nil:
		if ctx.Err() == nil {
			o.tally.fail(authority)
		}
	case no != nil:
		o.tally.answer(authority, header, true, codeIn(no.body, no.status))
	default:
		o.tally.answer(authority, header, false, "")
	}
	return door, no, err
}

func (o *owner) askTunnel(ctx context.Context, authority string) (net.Conn, *refusal, http.Header, error) {
	if strings.ContainsAny(authority, " \r\n\t") {
		return nil, nil, nil, fmt.Errorf("%q is no authority", authority)
	}
	door, err := o.dialDoor(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	_ = door.SetDeadline(time.Now().Add(connectTimeout))
	stop := context.AfterFunc(ctx, func() { _ = door.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	token := o.c.Token()
	resp, rest, err := exchangeConnect(door, authority, token)
	if err != nil {
		door.Close()
		return nil, nil, nil, fmt.Errorf("CONNECT: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		defer door.Close()
		defer resp.Body.Close() // the body of the other answer is the tunnel
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusalBody))
		if err != nil {
			body = nil // what was refused stays so without its text
		}
		return nil, &refusal{resp.StatusCode, resp.Header, body}, resp.Header, nil
	}
	_ = door.SetDeadline(time.Time{})
	return newTunnelConn(&bufferedConn{Conn: door, r: rest}, token), nil, resp.Header, nil
}

func exchangeConnect(door net.Conn, authority string, token Token) (*http.Response, *bufio.Reader, error) {
	head := "CONNECT " + authority + " HTTP/1.1\r\nHost: " + authority + "\r\nProxy-Authorization: Bearer " + string(token) + "\r\n\r\n"
	if _, err := io.WriteString(door, head); err != nil {
		return nil, nil, err
	}
	rest := bufio.NewReader(door)
	resp, err := http.ReadResponse(rest, &http.Request{Method: http.MethodConnect})
	return resp, rest, err
}

// silent takes net/http's own log: what goes wrong between the program and us is the program's to see.
var silent = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)

// hostPort writes an authority for CONNECT.
func hostPort(host string, port uint16) string {
	if a, err := netip.ParseAddr(host); err == nil {
		return netip.AddrPortFrom(a, port).String()
	}
	return host + ":" + strconv.Itoa(int(port))
}
