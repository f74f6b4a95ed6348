// Package leaf keeps the certificates with which Envoy ends TLS inside a CONNECT tunnel: one for each host that some
// contract in force allows to be read, made when Envoy first asks. The key pairs are made here; the signer process, which
// alone holds the authority's key, signs them.
package leaf

import (
	"container/list"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// DefaultMax is how many leaves are kept: far more hosts than contracts name, and some two megabytes.
	DefaultMax = 1024
	// signTimeout bounds one call of the signer; whoever waits for it may leave sooner.
	signTimeout = 10 * time.Second
	// retryAfter is how long a leaf that could not be renewed is used before the next try.
	retryAfter = 5 * time.Second
	// leastLeft is how long a leaf must still be good for to be given out; less is none to a client whose clock is ahead.
	leastLeft = time.Minute
)

// ErrNotAllowed is for a host that no contract in force allows to be read.
var ErrNotAllowed = errors.New("no contract in force allows this host with inspect full, so no certificate is made for it")

// Leaf is a certificate and its key, as Envoy takes them. It is immutable.
type Leaf struct {
	ChainPEM []byte
	KeyPEM   []byte
	NotAfter time.Time
}

// Config is what a Cache needs.
type Config struct {
	// Allowed says whether a contract in force allows the host to be read. It is asked on every call, so that a contract
	// that is withdrawn takes effect on what is cached too.
	Allowed func(host string) bool
	// Sign signs a public key (PKIX DER) for the host; (*Signer).Sign does.
	Sign func(ctx context.Context, host string, pubDER []byte) (chainPEM []byte, notAfter time.Time, err error)
	Max  int              // leaves that are kept; zero means DefaultMax
	Now  func() time.Time // nil means time.Now
}

// Validate names everything that is missing, at once.
func (c Config) Validate() error {
	var errs []error
	if c.Allowed == nil {
		errs = append(errs, errors.New("leaf certificates: nothing says which hosts are allowed"))
	}
	if c.Sign == nil {
		errs = append(errs, errors.New("leaf certificates: no signer"))
	}
	if c.Max < 0 {
		errs = append(errs, errors.New("leaf certificates: the number that is kept must not be negative"))
	}
	return errors.Join(errs...)
}

// Cache makes leaves and keeps the ones that were used last. It is safe for concurrent use.
type Cache struct {
	cfg    Config
	flight singleflight.Group // by host

	mu      sync.Mutex
	entries map[string]*list.Element
	order   *list.List // of *entry, the one used last in front
}

type entry struct {
	host  string
	leaf  *Leaf
	renew time.Time // from when on a newer one is asked for
}

// New makes an empty cache.
func New(c Config) (*Cache, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Max == 0 {
		c.Max = DefaultMax
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Cache{cfg: c, entries: map[string]*list.Element{}, order: list.New()}, nil
}

// Leaf returns the host's leaf, made where there is none or where two thirds of its life have passed. A host that is not
// allowed is ErrNotAllowed and costs nothing. Any other error is the signer's; it is not kept, and a leaf that is still
// good is returned in its place.
func (c *Cache) Leaf(ctx context.Context, host string) (*Leaf, error) {
	if !c.cfg.Allowed(host) {
		c.forget(host)
		return nil, fmt.Errorf("%w: %q", ErrNotAllowed, clip(host))
	}
	old, fresh := c.cached(host)
	if fresh {
		return old, nil
	}
	// The flight goes on when the one who began it leaves: others wait for it too.
	done := c.flight.DoChan(host, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signTimeout)
		defer cancel()
		return c.make(ctx, host)
	})
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("leaf certificate for %q: %w", clip(host), ctx.Err())
	case r := <-done:
		if r.Err != nil && old != nil {
			c.retryLater(host)
			return old, nil
		}
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*Leaf), nil
	}
}

// Len is how many leaves are kept.
func (c *Cache) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.order.Len()
}

// make asks the signer for a new leaf and keeps it.
func (c *Cache) make(ctx context.Context, host string) (*Leaf, error) {
	if l, fresh := c.cached(host); fresh {
		return l, nil // a flight that ended just now made it
	}
	now := c.cfg.Now()
	l, err := c.sign(ctx, host, now)
	if err != nil {
		return nil, fmt.Errorf("leaf certificate for %q: %w", clip(host), err)
	}
	life := l.NotAfter.Sub(now)
	c.keep(&entry{host: host, leaf: l, renew: now.Add(life * 2 / 3)})
	return l, nil
}

func (c *Cache) sign(ctx context.Context, host string, now time.Time) (*Leaf, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	chain, notAfter, err := c.cfg.Sign(ctx, host, public)
	if err != nil {
		return nil, err
	}
	l := &Leaf{ChainPEM: chain, KeyPEM: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), NotAfter: notAfter}
	return l, check(l, host, now)
}

// check makes sure that what the signer gave is of use: Envoy would refuse a resource that is not, and say less.
func check(l *Leaf, host string, now time.Time) error {
	pair, err := tls.X509KeyPair(l.ChainPEM, l.KeyPEM)
	switch {
	case err != nil:
		return fmt.Errorf("the signer's certificate is not of our key: %w", err)
	case pair.Leaf.VerifyHostname(host) != nil:
		return errors.New("the signer's certificate is for another host")
	case l.NotAfter.After(pair.Leaf.NotAfter) || l.NotAfter.Sub(now) < leastLeft:
		return fmt.Errorf("the signer's certificate ends at %v; are the clocks right?", pair.Leaf.NotAfter)
	}
	return nil
}

// cached returns the leaf that is kept, nil where it is no longer good, and whether it need not be renewed yet.
func (c *Cache) cached(host string) (l *Leaf, fresh bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.entries[host]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(el)
	e, now := el.Value.(*entry), c.cfg.Now()
	if e.leaf.NotAfter.Sub(now) < leastLeft {
		return nil, false
	}
	return e.leaf, now.Before(e.renew)
}

func (c *Cache) keep(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.entries[e.host]; ok {
		el.Value = e
		c.order.MoveToFront(el)
		return
	}
	c.entries[e.host] = c.order.PushFront(e)
	for c.order.Len() > c.cfg.Max {
		c.remove(c.order.Back())
	}
}

func (c *Cache) forget(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.entries[host]; ok {
		c.remove(el)
	}
}

func (c *Cache) remove(el *list.Element) {
	delete(c.entries, c.order.Remove(el).(*entry).host)
}

// retryLater lets the leaf that could not be renewed be used for a while without another try.
func (c *Cache) retryLater(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.entries[host]; ok {
		e := *el.Value.(*entry)
		e.renew = c.cfg.Now().Add(retryAfter)
		el.Value = &e
	}
}

func clip(s string) string {
	const shown = 80
	if len(s) > shown {
		return s[:shown] + "…"
	}
	return s
}
