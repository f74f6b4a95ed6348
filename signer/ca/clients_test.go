package ca_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"sallyport/signer/ca"
)

// Clients that agents are written in, beside Go: each is given the server's port, the name to ask for and the file of what
// it trusts, and ends with 0 when it took the server for that name.
var clients = map[string][]string{
	"openssl":            {"openssl", "sh", "-c", `echo | openssl s_client -connect 127.0.0.1:$0 -servername "$1" -verify_hostname "$1" -verify_return_error -x509_strict -no-CApath -no-CAstore -CAfile "$2"`},
	"openssl by address": {"openssl", "sh", "-c", `echo | openssl s_client -connect 127.0.0.1:$0 -noservername -verify_ip "$1" -verify_return_error -x509_strict -no-CApath -no-CAstore -CAfile "$2"`},
	"python": {"python3", "python3", "-c", `
import socket, ssl, sys
port, name, trusted = sys.argv[1:]
c = ssl.create_default_context(cafile=trusted)
c.verify_flags |= ssl.VERIFY_X509_STRICT
with c.wrap_socket(socket.create_connection(("127.0.0.1", int(port)), 20), server_hostname=name) as s:
    assert s.recv(2) == b"ok"`},
	"node": {"node", "node", "-e", `
const [port, name, trusted] = process.argv.slice(1)
const s = require("tls").connect({host: "127.0.0.1", port, ca: require("fs").readFileSync(trusted),
  servername: /[a-z]/.test(name) ? name : "", checkServerIdentity: (_, c) => require("tls").checkServerIdentity(name, c)})
s.setTimeout(20000, () => process.exit(3))
s.on("error", (e) => { console.error(e.message); process.exit(1) })
s.on("secureConnect", () => process.exit(s.authorized ? 0 : 2))`},
}

func TestOtherClients(t *testing.T) {
	if testing.Short() {
		t.Skip("starts other programs")
	}
	a := open(t, ca.Config{})
	for client, command := range clients {
		if _, err := exec.LookPath(command[0]); err != nil {
			t.Logf("%s is not here: %v", client, err)
			continue
		}
		byAddress := client == "openssl by address"
		for _, x := range []struct {
			name, host string
			names      []string
			ips        []netip.Prefix
			good       bool
		}{
			{"the name", "api.example.com", []string{"api.example.com", "other.test"}, nil, true},
			{"below", "api.example.com", []string{".example.com"}, nil, true},
			{"below only, the name itself", "example.com", []string{".example.com"}, nil, false},
			{"another name", "evil.test", []string{"api.example.com"}, nil, false},
			{"a name under addresses", "api.example.com", nil, prefixes("127.0.0.0/8"), false},
			{"the address", "127.0.0.1", nil, prefixes("127.0.0.0/8"), true},
			{"an address under names", "127.0.0.1", []string{"api.example.com"}, nil, false},
			{"another address", "127.0.0.1", nil, prefixes("10.0.0.0/8"), false},
		} {
			isAddress := x.host == "127.0.0.1"
			if client == "openssl" && isAddress || byAddress && !isAddress {
				continue // one of the two asks by name, the other by address
			}
			t.Run(client+"/"+x.name, func(t *testing.T) {
				t.Parallel()
				port := serve(t, a, x.host)
				text, err := a.Certificate(x.names, x.ips, now)
				if err != nil {
					t.Fatal(err)
				}
				trusted := filepath.Join(t.TempDir(), "trusted.pem")
				if err := os.WriteFile(trusted, text, 0o600); err != nil {
					t.Fatal(err)
				}
				args := append(command[2:len(command):len(command)], port, x.host, trusted)
				out, err := exec.CommandContext(t.Context(), command[1], args...).CombinedOutput()
				if (err == nil) != x.good {
					t.Errorf("%v\n%s", err, bytes.TrimSpace(out))
				}
			})
		}
	}
}

// serve ends TLS with a leaf for the host and says ok to whoever comes.
func serve(t *testing.T, a *ca.Authority, host string) (port string) {
	t.Helper()
	k := key(t)
	chain, _, err := a.Sign(host, &k.PublicKey, now)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(chain, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				_, _ = c.Write([]byte("ok")) // a client that refused the leaf does not read it
			}()
		}
	}()
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
