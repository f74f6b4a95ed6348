package issuer

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"sallyport/signer/ca"
	"sallyport/signer/jcs"
)

// Authority signs the certificates with which Envoy ends TLS for programs under a contract; *ca.Authority is one.
type Authority interface {
	Sign(host string, pub crypto.PublicKey, now time.Time) (chainPEM []byte, notAfter time.Time, err error)
	Certificate(names []string, ips []netip.Prefix, now time.Time) (pem []byte, err error)
}

type leafRequest struct {
	Host      string `json:"host"`       // DNS name in lower case, or IP address
	PublicKey string `json:"public_key"` // base64 of the PKIX DER, P-256
}

type leafAnswer struct {
	ChainPEM string    `json:"chain_pem"`
	NotAfter time.Time `json:"not_after"`
}

// caLeaf signs a leaf for whoever serves certificates to Envoy. The paths under /v1/ca/ are for this machine's own
// processes: the control API does not pass them on.
func (i *Issuer) caLeaf(r *http.Request, who string) (any, *refusal) {
	var q leafRequest
	if no := i.caRequest(r, &q); no != nil {
		return nil, no
	}
	der, err := base64.StdEncoding.Strict().DecodeString(q.PublicKey)
	if err != nil {
		return nil, bad("INVALID_REQUEST", "public_key: it must be the base64, with padding, of a public key in PKIX DER")
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, bad("INVALID_REQUEST", "public_key: that is no public key in PKIX DER")
	}
	chain, notAfter, err := i.cfg.CA.Sign(q.Host, pub, i.cfg.Now())
	if err != nil {
		return nil, i.caRefusal(err)
	}
	if err := i.recordLeaf(q.Host, chain, notAfter, who); err != nil {
		return nil, i.caRefusal(err)
	}
	i.cfg.Log.Info("a leaf certificate was signed", slog.String("host", q.Host), slog.Time("not_after", notAfter), slog.String("by", who))
	return leafAnswer{string(chain), notAfter.UTC()}, nil
}

// leafRecord is one line of leaves.jsonl: what could have ended TLS for which host, and until when.
type leafRecord struct {
	Host      string `json:"host"`
	ChainHash string `json:"chain_hash_b64u"` // SHA-256 of the PEM as it was given out
	Iat       int64  `json:"iat"`             // Unix seconds
	Exp       int64  `json:"exp"`             // Unix seconds
	IssuedBy  string `json:"issued_by"`
}

// recordLeaf puts the leaf on record before it is given out.
func (i *Issuer) recordLeaf(host string, chain []byte, notAfter time.Time, who string) error {
	line, err := json.Marshal(leafRecord{host, jcs.Hash(chain), i.cfg.Now().Unix(), notAfter.Unix(), who})
	if err != nil {
		return fmt.Errorf("leaf record: %w", err)
	}
	return i.leaves.append(line)
}

type caCertificateRequest struct {
	DNS   []string       `json:"dns"`   // names; one with a dot in front is for those below it only
	CIDRs []netip.Prefix `json:"cidrs"` // addresses
}

type caCertificateAnswer struct {
	PEM string `json:"pem"`
}

// caCertificate makes the CA certificate that one contract's programs trust.
func (i *Issuer) caCertificate(r *http.Request, _ string) (any, *refusal) {
	var q caCertificateRequest
	if no := i.caRequest(r, &q); no != nil {
		return nil, no
	}
	text, err := i.cfg.CA.Certificate(q.DNS, q.CIDRs, i.cfg.Now())
	if err != nil {
		return nil, i.caRefusal(err)
	}
	return caCertificateAnswer{string(text)}, nil
}

func (i *Issuer) caRequest(r *http.Request, q any) *refusal {
	if i.cfg.CA == nil {
		return refuse(http.StatusServiceUnavailable, "CA_NOT_CONFIGURED", "this signer has no certificate authority, so TLS cannot be ended for anybody")
	}
	data, no := readBody(r, maxContractBody)
	if no != nil {
		return no
	}
	return decode(data, q)
}

func (i *Issuer) caRefusal(err error) *refusal {
	switch {
	case errors.Is(err, ca.ErrHost), errors.Is(err, ca.ErrKey), errors.Is(err, ca.ErrUnconstrained):
		return bad("INVALID_REQUEST", "%v", err)
	case errors.Is(err, ca.ErrBusy):
		return refuse(http.StatusTooManyRequests, "RATE_LIMITED", "%v", err)
	default:
		i.cfg.Log.Error("the certificate authority cannot sign", slog.Any("error", err))
		return refuse(http.StatusServiceUnavailable, "CA_UNAVAILABLE", "the certificate authority cannot sign; the signer's log says why")
	}
}
