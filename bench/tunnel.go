package main

import (
	"crypto/tls"
	"encoding/base64"
	"net"

	"sallyport/bench/load"
)

// site is what clients of a forward proxy reach through its tunnels.
type site struct {
	authority string      // host:port
	tls       *tls.Config // that trusts the proxy's authority and no other, so that no tunnel passes unopened
}

// placeholder stands in for the API key inside tunnels, as programs have it that may hold none. The gate under measure
// knows it by its text.
const placeholder = "sallyport-placeholder"

// proxied is a client's way through a proxy's tunnels, one for each token.
func (s *site) proxied(proxy string, tokens ...string) target {
	t := target{Address: s.authority, TLS: s.tls}
	for _, token := range tokens {
		tunnel := &load.Tunnel{Proxy: proxy}
		if token != "" {
			tunnel.Authorization = proxyAuthorization(token)
		}
		t.Tunnels, t.Headers = append(t.Tunnels, tunnel), append(t.Headers, bearer(placeholder))
	}
	return t
}

// at is the same way to another host, "" for the same one. TLS inside still wants the site's name: such a tunnel is to be
// refused before there is any.
func (t target) at(host string) target {
	if host != "" {
		t.Address = net.JoinHostPort(host, portOf(t.Address))
	}
	return t
}

// proxyAuthorization is what a client sends whose proxy's URL is http://job:TOKEN@proxy.
func proxyAuthorization(token string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte("job:"+token))
}
