package secret

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"sallyport/signer/code"
)

// Broker gives calls their credentials, within the bounds of the operator's classes. Close ends it.
type Broker struct {
	classes map[string]*held
	now     func() time.Time
	log     *slog.Logger
	timeout time.Duration // of one fetch

	life    context.Context // of the fetches that are on their way
	end     context.CancelFunc
	mu      sync.Mutex
	closed  bool
	flights sync.WaitGroup
	looking sync.Once
}

// Option changes what New assumes.
type Option func(*Broker)

// WithClock makes the broker tell the time by now.
func WithClock(now func() time.Time) Option { return func(b *Broker) { b.now = now } }

// WithLog sends what is wrong with a source to log: its name and the reason, never the credential.
func WithLog(log *slog.Logger) Option { return func(b *Broker) { b.log = log } }

// WithFetchTimeout bounds one fetch, in place of DefaultFetchTimeout.
func WithFetchTimeout(d time.Duration) Option { return func(b *Broker) { b.timeout = d } }

// New checks the classes and makes a broker of them. It fetches nothing.
func New(classes []Class, opts ...Option) (*Broker, error) {
	b := &Broker{classes: map[string]*held{}, now: time.Now, log: slog.New(slog.DiscardHandler), timeout: DefaultFetchTimeout}
	b.life, b.end = context.WithCancel(context.Background())
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
		b.classes[c.Name] = &held{Class: c, b: b, jobs: &jobs{holders: map[string]*holder{}}}
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
	return b.GetFor(ctx, nil, class, t, maxTTL)
}

// GetFor is Get for a call of a job, which is asked for only where the class gives each job its own.
func (b *Broker) GetFor(ctx context.Context, job func() Job, class string, t Target, maxTTL time.Duration) (Credential, Inject, *code.Denial) {
	if d := b.Allowed(class, t); d != nil {
		return Credential{}, Inject{}, d
	}
	h := b.classes[class]
	var cred Credential
	var err error
	if h.PerJob {
		cred, err = h.ofJob(ctx, job, maxTTL)
	} else {
		cred, err = h.credential(ctx, maxTTL)
	}
	if err != nil {
		b.log.ErrorContext(ctx, "secret class has no credential; calls that need it are refused",
			slog.String("class", class), slog.String("source", h.Source.String()), slog.Any("error", err))
		return Credential{}, Inject{}, code.Deny(code.SecretUnavailable, "class %s", class)
	}
	return h.shape(cred)
}

// Ready says which classes have no credential now, or nil. It asks all at once, except those of which each job has its own.
func (b *Broker) Ready(ctx context.Context) error {
	names := b.Classes()
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			h := b.classes[name]
			if h.PerJob {
				return
			}
			if _, err := h.credential(ctx, 0); err != nil {
				errs[i] = fmt.Errorf("secret class %q (%s): %w", name, h.Source, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close gives back at their sources the credentials that are leased and the logins that were made, and waits for that
// until ctx ends. Afterwards only local sources give credentials.
func (b *Broker) Close(ctx context.Context) error {
	b.mu.Lock()
	closed := b.closed
	b.closed = true
	b.mu.Unlock()
	if closed {
		return nil
	}
	b.end()
	b.flights.Wait()
	names := b.Classes()
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { errs[i] = b.classes[name].close(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
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
