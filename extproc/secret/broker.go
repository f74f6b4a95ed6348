package secret

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"sallyport/signer/code"
)

// renewBefore is how long before the end of its lease a credential is fetched anew, so that none ends on its way.
const renewBefore = 5 * time.Second

// Broker gives calls their credentials, within the bounds of the operator's classes.
type Broker struct {
	classes map[string]*held
	now     func() time.Time
	log     *slog.Logger
}

// held is a class and the leased credential that is at hand.
type held struct {
	Class
	turn chan struct{} // one fetch at a time; a channel, so that waiting for it ends with the context
	kept atomic.Pointer[lease]
}

// lease is a credential with an end of its own, and when it was fetched.
type lease struct {
	cred    Credential
	fetched time.Time
}

// Option changes what New assumes.
type Option func(*Broker)

// WithClock makes the broker tell the time by now.
func WithClock(now func() time.Time) Option { return func(b *Broker) { b.now = now } }

// WithLog sends what is wrong with a source to log: its name and the reason, never the credential.
func WithLog(log *slog.Logger) Option { return func(b *Broker) { b.log = log } }

// New checks the classes and makes a broker of them. It fetches nothing.
func New(classes []Class, opts ...Option) (*Broker, error) {
	b := &Broker{classes: map[string]*held{}, now: time.Now, log: slog.New(slog.DiscardHandler)}
	for _, o := range opts {
		o(b)
	}
	var errs []error
	for _, c := range classes {
		if err := c.Validate(); err != nil {
			errs = append(errs, err)
		}
		if _, twice := b.classes[c.Name]; twice {
			errs = append(errs, fmt.Errorf("secret class %q is declared twice", c.Name))
		}
		c.Hosts, c.Methods, c.PathPrefixes = slices.Clone(c.Hosts), slices.Clone(c.Methods), slices.Clone(c.PathPrefixes)
		b.classes[c.Name] = &held{Class: c, turn: make(chan struct{}, 1)}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return b, nil
}

// Classes are the names of all classes, sorted.
func (b *Broker) Classes() []string {
	names := make([]string, 0, len(b.classes))
	for n := range b.classes {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Allowed says whether a credential of the class may go to t, without fetching one.
func (b *Broker) Allowed(class string, t Target) *code.Denial {
	h, ok := b.classes[class]
	if !ok {
		return code.Deny(code.SecretUnavailable, "no secret class %s is declared", class)
	}
	if reason, ok := h.allows(t); !ok {
		return code.Deny(code.SecretClassHostNotAllowed, "class %s, %s", class, reason)
	}
	if h.NeedsTool && t.Tool == "" {
		return code.Deny(code.PolicyToolRequired, "class %s, %s %s%s", class, t.Method, t.Host, t.Path)
	}
	return nil
}

// Get gives a credential of the class for a call to t, with how to inject it. maxTTL is the contract's bound, 0 for none.
// For a Basic class the value is already the encoded pair and the injection its header.
// The denial's detail goes to the client: it names the class and the target, never the source.
func (b *Broker) Get(ctx context.Context, class string, t Target, maxTTL time.Duration) (Credential, Inject, *code.Denial) {
	if d := b.Allowed(class, t); d != nil {
		return Credential{}, Inject{}, d
	}
	h := b.classes[class]
	cred, err := h.credential(ctx, b.now, maxTTL)
	if err != nil {
		b.log.ErrorContext(ctx, "secret class has no credential; calls that need it are refused",
			slog.String("class", class), slog.String("source", h.Source.String()), slog.Any("error", err))
		return Credential{}, Inject{}, code.Deny(code.SecretUnavailable, "class %s", class)
	}
	return h.shape(cred)
}

// Ready says which classes have no credential now, or nil.
func (b *Broker) Ready(ctx context.Context) error {
	var errs []error
	for _, name := range b.Classes() {
		h := b.classes[name]
		if _, err := h.credential(ctx, b.now, 0); err != nil {
			errs = append(errs, fmt.Errorf("secret class %q (%s): %w", name, h.Source, err))
		}
	}
	return errors.Join(errs...)
}

// credential is the one at hand if it is leased and young enough, else a fresh one. Local sources are asked every time:
// they keep what they know, and notice what changed.
func (h *held) credential(ctx context.Context, now func() time.Time, maxTTL time.Duration) (Credential, error) {
	if _, ok := h.Source.(local); ok {
		return h.fetch(ctx, now, maxTTL)
	}
	if c, ok := h.atHand(now().Add(renewBefore), maxTTL); ok {
		return c, nil
	}
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return Credential{}, ctx.Err()
	}
	if c, ok := h.atHand(now().Add(renewBefore), maxTTL); ok {
		return c, nil // somebody else fetched it meanwhile
	}
	c, err := h.fetch(ctx, now, maxTTL)
	if err != nil {
		if last, ok := h.atHand(now(), maxTTL); ok {
			return last, nil // its last seconds are as good as the others
		}
	}
	return c, err
}

// atHand is the kept credential if it may still be used at the given time.
func (h *held) atHand(at time.Time, maxTTL time.Duration) (Credential, bool) {
	k := h.kept.Load()
	if k == nil {
		return Credential{}, false
	}
	c := h.bounded(k.cred, k.fetched, maxTTL)
	return c, at.Before(c.Expires)
}

func (h *held) fetch(ctx context.Context, now func() time.Time, maxTTL time.Duration) (Credential, error) {
	at := now()
	cred, err := h.Source.Fetch(ctx)
	if err != nil {
		return Credential{}, err
	}
	if err := usable(cred.Value); err != nil {
		return Credential{}, err
	}
	if !cred.Expires.IsZero() {
		if !now().Before(cred.Expires) {
			return Credential{}, errors.New("the source gave a credential that has expired")
		}
		h.kept.Store(&lease{cred, at})
	}
	return h.bounded(cred, at, maxTTL), nil
}

// bounded ends a credential at the least of its lease, the class's TTL and the contract's.
func (h *held) bounded(cred Credential, fetched time.Time, maxTTL time.Duration) Credential {
	for _, ttl := range []time.Duration{h.TTL, maxTTL} {
		if end := fetched.Add(ttl); ttl > 0 && (cred.Expires.IsZero() || end.Before(cred.Expires)) {
			cred.Expires = end
		}
	}
	return cred
}

// shape turns Basic into the header that it is.
func (h *held) shape(cred Credential) (Credential, Inject, *code.Denial) {
	if h.Inject.Basic == "" {
		return cred, h.Inject, nil
	}
	pair := base64.StdEncoding.EncodeToString([]byte(h.Inject.Basic + ":" + cred.Value.Reveal()))
	cred.Value = NewValue(pair)
	return cred, Inject{Header: "authorization", Format: "Basic %s"}, nil
}
