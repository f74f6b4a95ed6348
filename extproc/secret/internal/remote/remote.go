// Package remote is what the sources of credentials that are servers have in common: whom they may speak to, how much of
// an answer they read, and how they say what went wrong without a word of it.
package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"sallyport/extproc/secret"
)

// MaxAnswer bounds what is read of one answer, in bytes. A certificate chain with its key has some 10 KiB.
const MaxAnswer = 256 << 10

// ErrTooLong is the error of an answer beyond MaxAnswer.
var ErrTooLong = fmt.Errorf("the server's answer is longer than %d bytes", MaxAnswer)

// CheckURL says what is wrong with the URL of a server that gets or gives a credential, or nil.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "" || (u.Scheme != "https" && u.Scheme != "http"):
		return errors.New("write a URL with https, a host and, where needed, a port and a path")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return errors.New("remove user, query and fragment from the URL")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return errors.New("use https; http is for addresses of this machine")
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// NewTransport speaks to a server directly, so that no proxy of the environment sees a credential, and reads no more of an
// answer than MaxAnswer. An empty caFile means the system's authorities.
func NewTransport(caFile string) (http.RoundTripper, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s holds no PEM certificate", caFile)
		}
	}
	return &bounded{&http.Transport{
		TLSClientConfig: conf, ForceAttemptHTTP2: true, TLSHandshakeTimeout: secret.DefaultFetchTimeout,
		MaxResponseHeaderBytes: 64 << 10, IdleConnTimeout: time.Minute,
	}}, nil
}

// Reason says why a server could not be asked, without a word of its answer.
func Reason(err error) error {
	var opErr *net.OpError
	var certErr *tls.CertificateVerificationError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return errors.New("the server did not answer in time")
	case errors.Is(err, ErrTooLong):
		return ErrTooLong
	case errors.As(err, &certErr):
		return certErr
	case errors.As(err, &opErr):
		return fmt.Errorf("the server cannot be reached: %s: %w", opErr.Op, opErr.Err)
	}
	return errors.New("the server's answer cannot be read")
}

type bounded struct{ http.RoundTripper }

func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if resp != nil {
		resp.Body = &boundedBody{resp.Body, MaxAnswer}
	}
	return resp, err
}

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, ErrTooLong
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left+1)])
	if b.left -= n; b.left < 0 {
		return 0, ErrTooLong
	}
	return n, err
}
