package leaf

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// maxAnswer bounds what is read from the signer, in bytes: a CA certificate that names thousands of hosts.
const maxAnswer = 1 << 20

// Errors that the signer's answers are.
var (
	ErrRefused = errors.New("the signer refused")      // asking again does not help
	ErrSigner  = errors.New("the signer cannot do it") // now; it is gone, busy, or without an authority
)

// Signer asks the signer process for certificates, over the issuer's Unix socket.
type Signer struct {
	client *http.Client
	token  string
}

// NewSigner makes a client for the issuer's socket. It authenticates with the administrator's key.
func NewSigner(socket, adminToken string) *Signer {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}
	return &Signer{client: &http.Client{Transport: t, Timeout: signTimeout}, token: adminToken}
}

// Close lets go of idle connections.
func (s *Signer) Close() { s.client.CloseIdleConnections() }

// Sign asks for a leaf for the host and a public key in PKIX DER. It fits Config.Sign.
func (s *Signer) Sign(ctx context.Context, host string, pubDER []byte) (chainPEM []byte, notAfter time.Time, err error) {
	var a struct {
		ChainPEM string    `json:"chain_pem"`
		NotAfter time.Time `json:"not_after"`
	}
	q := map[string]string{"host": host, "public_key": base64.StdEncoding.EncodeToString(pubDER)}
	if err := s.call(ctx, "/v1/ca/leaf", q, &a); err != nil {
		return nil, time.Time{}, err
	}
	return []byte(a.ChainPEM), a.NotAfter, nil
}

// Certificate asks for the CA certificate, in PEM, that is good for these names and addresses only. "example.com" is good
// for the names below it too, ".example.com" for those only.
func (s *Signer) Certificate(ctx context.Context, dns []string, cidrs []netip.Prefix) (text []byte, err error) {
	var a struct {
		PEM string `json:"pem"`
	}
	// Lists that are empty are written as such: the signer takes no null.
	q := map[string]any{"dns": append([]string{}, dns...), "cidrs": append([]netip.Prefix{}, cidrs...)}
	if err := s.call(ctx, "/v1/ca/certificate", q, &a); err != nil {
		return nil, err
	}
	return []byte(a.PEM), nil
}

func (s *Signer) call(ctx context.Context, path string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://issuer"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSigner, err)
	}
	r.Header.Set("Authorization", "Bearer "+s.token)
	r.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(r)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSigner, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSigner, err)
	}
	if resp.StatusCode != http.StatusOK {
		return refusal(resp.StatusCode, data)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("%w: its answer cannot be read: %w", ErrSigner, err)
	}
	return nil
}

func refusal(status int, data []byte) error {
	var a struct{ Error, Message string }
	_ = json.Unmarshal(data, &a) // without a message the status has to do
	kind := ErrSigner
	if status >= 400 && status < 500 && status != http.StatusTooManyRequests {
		kind = ErrRefused
	}
	return fmt.Errorf("%w: %d %s: %s", kind, status, a.Error, a.Message)
}
