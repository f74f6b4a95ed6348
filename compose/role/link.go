// Package role makes each of Sallyport's processes out of its parts: signer, xds, extproc and model. A role reads the
// one configuration, opens what it owns, serves its sockets and ends with its context; nothing is decided here.
package role

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"sallyport/compose/config"
	"sallyport/envoy"
)

// listenUnix listens on a Unix socket that only this user can reach. A file left by an earlier process is replaced:
// whoever may write the directory may do that anyway.
func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("socket: %w", err)
	}
	return l, nil
}

// listenLink listens where a link says, without TLS: what serves on it adds that.
func listenLink(l config.Link) (net.Listener, error) {
	if path, ok := strings.CutPrefix(l.Listen, "unix:"); ok {
		return listenUnix(path)
	}
	lis, err := net.Listen("tcp", l.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return lis, nil
}

// dialAddress splits a link's address into what net.Dial takes.
func dialAddress(l config.Link) (network, address string) {
	if path, ok := strings.CutPrefix(l.Address, "unix:"); ok {
		return "unix", path
	}
	return "tcp", l.Address
}

// serverTLS is the serving end of a link, which requires a client certificate of the link's authorities; nil without TLS.
func serverTLS(l config.Link) (*tls.Config, error) {
	cert, pool, err := material(l.TLS)
	if err != nil || cert == nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{*cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
	}, nil
}

// clientTLS is the calling end of a link; nil without TLS.
func clientTLS(l config.Link) (*tls.Config, error) {
	cert, pool, err := material(l.TLS)
	if err != nil || cert == nil {
		return nil, err
	}
	name := l.TLS.ServerName
	if name == "" {
		host, _, err := net.SplitHostPort(l.Address)
		if err != nil {
			return nil, fmt.Errorf("tls: server_name is missing and the address names no host: %w", err)
		}
		name = host
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{*cert},
		RootCAs:      pool,
		ServerName:   name,
	}, nil
}

func material(t *config.TLS) (*tls.Certificate, *x509.CertPool, error) {
	if t == nil {
		return nil, nil, nil
	}
	cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, nil, fmt.Errorf("tls: %w", err)
	}
	pem, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, nil, fmt.Errorf("tls: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("tls: %s holds no certificate", t.CAFile)
	}
	return &cert, pool, nil
}

// Prepare makes the directories that every role needs, closed to other users.
func Prepare(c *config.Config) error {
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	run := c.RunDir()
	if filepath.Dir(run) != c.DataDir {
		return prepareShared(run)
	}
	if err := os.MkdirAll(run, 0o700); err != nil {
		return fmt.Errorf("run directory: %w", err)
	}
	return os.Chmod(run, 0o700)
}

// prepareShared makes a run directory below the temporary one, where other users could have made it first.
func prepareShared(run string) error {
	if err := os.Mkdir(run, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("run directory: %w", err)
	}
	info, err := os.Lstat(run)
	if err != nil {
		return fmt.Errorf("run directory: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(st.Uid) != os.Getuid() || info.Mode().Perm() != 0o700 {
		return fmt.Errorf("run directory %s belongs to somebody else or is open to others; remove it, or choose a shorter data_dir", run)
	}
	return nil
}

// EnvoyEndpoint is a link as Envoy reaches it.
func EnvoyEndpoint(l config.Link) envoy.Endpoint {
	network, address := dialAddress(l)
	if network == "unix" {
		return envoy.Endpoint{Socket: address}
	}
	e := envoy.Endpoint{Address: address}
	if l.TLS != nil {
		name := l.TLS.ServerName
		if host, _, err := net.SplitHostPort(address); name == "" && err == nil {
			name = host
		}
		e.TLS = &envoy.ClientTLS{CertFile: l.TLS.CertFile, KeyFile: l.TLS.KeyFile, CAFile: l.TLS.CAFile, ServerName: name}
	}
	return e
}
