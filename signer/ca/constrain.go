package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// maxConstraints is above what a contract of 64 KiB can name.
const maxConstraints = 4096

// nowhere is a name that nothing has (RFC 6761). A certificate that is good for it alone is good for no DNS name; to
// exclude the empty name, which should mean all, is understood by fewer clients.
const nowhere = "invalid"

// Certificate is a CA certificate with this authority's key and subject and a serial number of its own, in PEM: whoever
// trusts it trusts this authority's leaves only for the names and addresses that it is given (RFC 5280, section 4.2.1.10,
// critical). "example.com" is good for that name and all below it, since X.509 cannot say less; ".example.com" for those
// below only. What is not named is excluded: all addresses where ips is empty, all names where names is. With both empty
// it is ErrUnconstrained. It is good for thirty days from now; a program that runs longer needs a new one.
func (a *Authority) Certificate(names []string, ips []netip.Prefix, now time.Time) ([]byte, error) {
	switch {
	case len(names)+len(ips) == 0:
		return nil, ErrUnconstrained
	case len(names)+len(ips) > maxConstraints:
		return nil, fmt.Errorf("%w: %d hosts; a CA certificate names at most %d", ErrHost, len(names)+len(ips), maxConstraints)
	}
	t := authorityTemplate(a.cert.Subject, later(now.Add(-backdate), a.cert.NotBefore))
	t.NotAfter = earlier(now.Add(constrainedLife), a.cert.NotAfter)
	t.SubjectKeyId = a.cert.SubjectKeyId
	if !now.Before(t.NotAfter) || now.Before(t.NotBefore) {
		return nil, ErrExpired
	}
	if err := errors.Join(permitNames(t, names), permitIPs(t, ips)); err != nil {
		return nil, err
	}
	return a.sign(t, &a.key.PublicKey)
}

func permitNames(t *x509.Certificate, names []string) error {
	t.PermittedDNSDomainsCritical = true
	var errs []error
	for _, name := range names {
		if err := checkName(strings.TrimPrefix(name, ".")); err != nil {
			errs = append(errs, err)
		}
	}
	t.PermittedDNSDomains = names
	if len(names) == 0 {
		t.PermittedDNSDomains = []string{nowhere}
	}
	return errors.Join(errs...)
}

func permitIPs(t *x509.Certificate, ips []netip.Prefix) error {
	if len(ips) == 0 {
		t.ExcludedIPRanges = []*net.IPNet{
			{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
			{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
		}
		return nil
	}
	var errs []error
	for _, p := range ips {
		if !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
			errs = append(errs, fmt.Errorf("%w: %q is no range of IP addresses", ErrHost, p))
			continue
		}
		p = p.Masked()
		t.PermittedIPRanges = append(t.PermittedIPRanges, &net.IPNet{
			IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
		})
	}
	return errors.Join(errs...)
}
