// Package vault reads credentials from OpenBao or HashiCorp Vault: values of the KV engine's version 2, and leases of any
// engine that makes them, such as databases. The rules come from the server's HTTP API as github.com/openbao/openbao/api
// speaks it.
package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/openbao/openbao/api/v2"

	"sallyport/extproc/secret"
	"sallyport/extproc/secret/internal/remote"
)

// Bounds and defaults.
const (
	// DefaultRefresh is how often a KV value is looked at while calls use it.
	DefaultRefresh = 30 * time.Second
	// DefaultKVMount is where a development server has its KV engine.
	DefaultKVMount = "secret"
	// DefaultAppRoleMount and DefaultKubernetesMount are the servers' own defaults.
	DefaultAppRoleMount    = "approle"
	DefaultKubernetesMount = "kubernetes"
	// longestLease keeps a server's absurd figure from overflowing; the class's TTL bounds it anyway.
	longestLease = 366 * 24 * time.Hour
)

// Config is one credential of one server. Exactly one of KV2 and Lease is set.
type Config struct {
	Address   string // https://HOST:PORT; http only for an address of this machine
	Namespace string // "" for the root namespace
	CAFile    string // PEM; "" for the system's authorities
	Auth      Auth
	KV2       *KV2
	Lease     *Lease
	Now       func() time.Time // nil for time.Now
}

// Auth is how to log in. Exactly one is set.
type Auth struct {
	TokenFile string // kept fresh by the operator's agent, read at each use
	AppRole   *AppRole
	JWT       *JWT
}

// AppRole logs in with a role id and the secret id in a file, which is read at each login.
type AppRole struct{ RoleID, SecretIDFile, Mount string }

// JWT logs in with a role and a token in a file, as Kubernetes and the JWT method of authentication do.
type JWT struct{ Role, File, Mount string }

// KV2 is one field of a value of the KV engine's version 2.
type KV2 struct {
	Mount, Path, Field string
	Refresh            time.Duration // 0 for DefaultRefresh; a change is noticed within twice this
}

// Lease is one field of what an engine makes for us, with a lease.
type Lease struct {
	Path, Field string
	Parameters  map[string]string // with any, the path is written instead of read
	NoRenew     bool              // take a new credential rather than prolong the one there is
}

// Source is one credential of one server. It implements secret.Lessor and logs in by itself.
type Source struct {
	cfg    Config
	client *api.Client
	token  secret.Source // of Auth.TokenFile

	mu    sync.Mutex
	login login
}

// login is a token that the server gave us, and its end.
type login struct {
	token   secret.Value
	renewAt time.Time // zero for a token without an end
	ends    time.Time
}

var _ secret.Lessor = (*Source)(nil)

// New checks the configuration. It asks the server for nothing, so that one that is down stops no start.
func New(cfg Config) (*Source, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	transport, err := remote.NewTransport(cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	conf := api.NewConfig()
	if conf.Error != nil {
		return nil, fmt.Errorf("vault: %w", conf.Error)
	}
	// The broker decides when to try again; a redirect would send the token to whom the answer names.
	conf.Address, conf.MaxRetries, conf.DisableRedirects, conf.Timeout = cfg.Address, 0, true, secret.DefaultFetchTimeout
	conf.HttpClient.Transport = transport
	client, err := api.NewClient(conf)
	if err != nil {
		return nil, errors.New("vault: the address cannot be used")
	}
	if cfg.Namespace != "" {
		client.SetNamespace(cfg.Namespace)
	}
	s := &Source{cfg: cfg, client: client}
	if cfg.Auth.TokenFile != "" {
		s.token = secret.File(cfg.Auth.TokenFile)
	}
	return s, nil
}

func (c *Config) validate() error {
	var errs []error
	if err := remote.CheckURL(c.Address); err != nil {
		errs = append(errs, fmt.Errorf("vault: address: %w", err))
	}
	if n := count(c.Auth.TokenFile != "", c.Auth.AppRole != nil, c.Auth.JWT != nil); n != 1 {
		errs = append(errs, fmt.Errorf("vault: auth: choose one way to log in, not %d", n))
	}
	if n := count(c.KV2 != nil, c.Lease != nil); n != 1 {
		errs = append(errs, fmt.Errorf("vault: choose one of kv2 and lease, not %d", n))
	}
	if c.KV2 != nil && (c.KV2.Path == "" || c.KV2.Field == "" || c.KV2.Refresh < 0) {
		errs = append(errs, errors.New("vault: kv2: name the path and the field; refresh is not negative"))
	}
	if c.Lease != nil && (c.Lease.Path == "" || c.Lease.Field == "") {
		errs = append(errs, errors.New("vault: lease: name the path and the field"))
	}
	return errors.Join(errs...)
}

func count(set ...bool) int {
	n := 0
	for _, s := range set {
		if s {
			n++
		}
	}
	return n
}

// String is the server and the path.
func (s *Source) String() string {
	path := ""
	if s.cfg.KV2 != nil {
		path = s.kvPath() + "#" + s.cfg.KV2.Field
	} else {
		path = s.cfg.Lease.Path + "#" + s.cfg.Lease.Field
	}
	return "vault:" + strings.TrimSuffix(s.cfg.Address, "/") + "/" + path
}

func (s *Source) kvPath() string {
	return or(s.cfg.KV2.Mount, DefaultKVMount) + "/data/" + s.cfg.KV2.Path
}

// Fetch reads the KV value, or takes a new lease.
func (s *Source) Fetch(ctx context.Context) (secret.Credential, error) {
	if s.cfg.KV2 != nil {
		return s.fetchKV(ctx)
	}
	return s.fetchLease(ctx)
}

func (s *Source) fetchKV(ctx context.Context) (secret.Credential, error) {
	var got *api.Secret
	_, err := s.with(ctx, func(c *api.Client) (err error) {
		got, err = read(ctx, c, s.kvPath())
		return err
	})
	if err != nil {
		return secret.Credential{}, err
	}
	meta, _ := got.Data["metadata"].(map[string]any)
	if meta == nil {
		return secret.Credential{}, fmt.Errorf("the answer for %s is none of the KV engine's version 2", s.kvPath())
	}
	data, _ := got.Data["data"].(map[string]any)
	if data == nil {
		return secret.Credential{}, fmt.Errorf("the answer for %s holds no data", s.kvPath())
	}
	v, err := field(data, s.cfg.KV2.Field)
	if err != nil {
		return secret.Credential{}, err
	}
	refresh := s.cfg.KV2.Refresh
	if refresh == 0 {
		refresh = DefaultRefresh
	}
	return secret.Credential{Value: v, Refresh: refresh}, nil
}

func (s *Source) fetchLease(ctx context.Context) (secret.Credential, error) {
	l, at := s.cfg.Lease, s.cfg.Now()
	var got *api.Secret
	by, err := s.with(ctx, func(c *api.Client) (err error) {
		if len(l.Parameters) == 0 {
			got, err = read(ctx, c, l.Path)
			return err
		}
		data := map[string]any{}
		for k, v := range l.Parameters {
			data[k] = v
		}
		got, err = c.Logical().WriteWithContext(ctx, l.Path, data)
		return there(got, err, l.Path)
	})
	if err != nil {
		return secret.Credential{}, err
	}
	if got.LeaseID == "" || got.LeaseDuration <= 0 {
		return secret.Credential{}, fmt.Errorf("the answer for %s holds no lease; read a fixed value with kv2", l.Path)
	}
	v, err := field(got.Data, l.Field)
	if err != nil {
		return secret.Credential{}, errors.Join(err, s.Revoke(ctx, got.LeaseID))
	}
	return secret.Credential{
		Value: v, Expires: by.bound(at.Add(seconds(got.LeaseDuration))), Lease: got.LeaseID, Renewable: got.Renewable && !l.NoRenew,
	}, nil
}

// Renew prolongs a lease for as long as the server lets it.
func (s *Source) Renew(ctx context.Context, lease string) (time.Time, error) {
	at := s.cfg.Now()
	var got *api.Secret
	by, err := s.with(ctx, func(c *api.Client) (err error) {
		got, err = c.Sys().RenewWithContext(ctx, lease, 0)
		return err
	})
	if err != nil {
		return time.Time{}, err
	}
	if got == nil || got.LeaseID != lease || got.LeaseDuration <= 0 {
		return time.Time{}, errors.New("the answer to a renewal holds no such lease")
	}
	return by.bound(at.Add(seconds(got.LeaseDuration))), nil
}

// Revoke ends a lease, and with it the credential.
func (s *Source) Revoke(ctx context.Context, lease string) error {
	_, err := s.with(ctx, func(c *api.Client) error { return c.Sys().RevokeWithContext(ctx, lease) })
	return err
}

// Close ends the login; the server ends every lease that was taken with it.
func (s *Source) Close(ctx context.Context) error {
	s.mu.Lock()
	token := s.login.token
	s.login = login{}
	s.mu.Unlock()
	if token.Empty() {
		return nil
	}
	if err := s.as(token).Auth().Token().RevokeSelfWithContext(ctx, ""); err != nil {
		return fmt.Errorf("ending the login: %w", plain(err))
	}
	return nil
}

// read is Logical().Read, except that an empty answer is not taken for a value that is gone.
func read(ctx context.Context, c *api.Client, path string) (*api.Secret, error) {
	resp, err := c.Logical().ReadRawWithContext(ctx, path)
	if resp != nil {
		defer func() { _ = resp.Body.Close() }()
	}
	if err != nil {
		return nil, there(nil, err, path)
	}
	got, err := api.ParseSecret(resp.Body)
	return got, there(got, err, path)
}

func there(got *api.Secret, err error, path string) error {
	switch {
	case status(err) == http.StatusNotFound:
		return fmt.Errorf("%w: nothing at %s, or its newest version was deleted", secret.ErrWithdrawn, path)
	case err == nil && got == nil:
		return errEmpty
	}
	return err
}

var errEmpty = errors.New("the server's answer is empty")

// field is one text of an answer; whatever else stands there is never quoted.
func field(data map[string]any, name string) (secret.Value, error) {
	switch v := data[name].(type) {
	case string:
		return secret.NewValue(v), nil
	case json.Number:
		return secret.NewValue(v.String()), nil
	case nil:
		return secret.Value{}, fmt.Errorf("the answer has no field %s", name)
	default:
		return secret.Value{}, fmt.Errorf("the field %s is no text", name)
	}
}

func seconds(n int) time.Duration { return min(time.Duration(min(n, 1<<31))*time.Second, longestLease) }

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
