// Package oauth gets access tokens by OAuth 2.0: client credentials (RFC 6749, section 4.4), with the client's secret, a
// signed assertion or somebody else's (RFC 7521 and 7523), token exchange (RFC 8693), and a service account's own assertion
// (RFC 7523, section 2.1). Microsoft Entra ID is a server of the first kind, Google of the last. Tokens can be revoked by
// RFC 7009 where the server has a place for it.
package oauth

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"sallyport/extproc/secret"
	"sallyport/extproc/secret/internal/remote"
)

const (
	// DefaultRefresh is how often a token is replaced of which the server does not say how long it lives.
	DefaultRefresh = 5 * time.Minute
	// longestLife keeps a server's absurd figure from overflowing; the class's TTL bounds it anyway.
	longestLife = 366 * 24 * time.Hour

	grantExchange  = "urn:ietf:params:oauth:grant-type:token-exchange"
	assertionJWT   = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	defaultSubject = "urn:ietf:params:oauth:token-type:jwt"
)

// Config is one kind of access token of one server.
type Config struct {
	TokenURL      string // https; http only for an address of this machine
	RevocationURL string // "" where the server has none; tokens then end by themselves
	CAFile        string // PEM; "" for the system's authorities
	ClientID      string
	Auth          Auth
	Scopes        []string
	Parameters    map[string]string // further parameters of the request, such as audience or resource
	Exchange      *Exchange         // nil for client credentials
	Now           func() time.Time  // nil for time.Now
}

// Auth is how the client shows who it is. Exactly one of Secret, KeyFile and AssertionFile is set. Files are read at each
// request, so that they can be replaced.
type Auth struct {
	Secret secret.Source
	Basic  bool // the secret goes by HTTP Basic, not in the body

	KeyFile  string // PEM: the private key and, where the server wants its thumbprint, the certificate
	KeyID    string // kid of the assertion; "" for none
	Audience string // of the assertion; "" for the token URL

	AssertionFile string // a JWT that somebody else keeps fresh, such as a workload identity's
}

// Exchange is the token that is exchanged for the one that calls get.
type Exchange struct {
	SubjectTokenFile   string
	SubjectTokenType   string // "" for a JWT
	RequestedTokenType string // "" leaves it to the server
}

// Source is one kind of access token. It implements secret.Lessor; without a RevocationURL nothing is leased.
type Source struct {
	cfg  Config
	http *http.Client

	mu     sync.Mutex
	tokens map[string]token // that can be revoked, by the lease's name
}

type token struct {
	value secret.Value
	ends  time.Time // zero where the server does not say
}

var _ secret.Lessor = (*Source)(nil)

// reserved are parameters that the configuration sets by fields of its own.
var reserved = []string{
	"grant_type", "scope", "client_id", "client_secret", "client_assertion", "client_assertion_type",
	"subject_token", "subject_token_type", "requested_token_type",
}

// New checks the configuration. It asks the server for nothing.
func New(cfg Config) (*Source, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	through, err := newClient(cfg.CAFile)
	if err != nil {
		return nil, err
	}
	return &Source{cfg: cfg, tokens: map[string]token{}, http: through}, nil
}

func newClient(caFile string) (*http.Client, error) {
	transport, err := remote.NewTransport(caFile)
	if err != nil {
		return nil, fmt.Errorf("oauth: %w", err)
	}
	return &http.Client{
		Transport: transport, Timeout: secret.DefaultFetchTimeout,
		// A redirect would send what opens the server to whom its answer names.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

func (c *Config) validate() error {
	var errs []error
	if err := remote.CheckURL(c.TokenURL); err != nil {
		errs = append(errs, fmt.Errorf("oauth: token_url: %w", err))
	}
	if c.RevocationURL != "" {
		if err := remote.CheckURL(c.RevocationURL); err != nil {
			errs = append(errs, fmt.Errorf("oauth: revocation_url: %w", err))
		}
	}
	if c.ClientID == "" {
		errs = append(errs, errors.New("oauth: name the client_id"))
	}
	ways := 0
	for _, set := range []bool{c.Auth.Secret != nil, c.Auth.KeyFile != "", c.Auth.AssertionFile != ""} {
		if set {
			ways++
		}
	}
	if ways != 1 {
		errs = append(errs, fmt.Errorf("oauth: auth: choose one of a secret, a key and an assertion, not %d", ways))
	}
	for _, name := range reserved {
		if _, set := c.Parameters[name]; set {
			errs = append(errs, fmt.Errorf("oauth: parameters: %s has a field of its own", name))
		}
	}
	if c.Exchange != nil && c.Exchange.SubjectTokenFile == "" {
		errs = append(errs, errors.New("oauth: exchange: name the subject_token_file"))
	}
	return errors.Join(errs...)
}

// String is the server and the client.
func (s *Source) String() string { return "oauth:" + s.cfg.TokenURL + "#" + s.cfg.ClientID }

// Fetch asks for a token. It ends when the server says or, where the token is a JWT that says so, before.
func (s *Source) Fetch(ctx context.Context) (secret.Credential, error) {
	params, err := s.grant(ctx)
	if err != nil {
		return secret.Credential{}, err
	}
	client, err := s.identify(ctx, params)
	if err != nil {
		return secret.Credential{}, err
	}
	client.Scopes, client.EndpointParams = s.cfg.Scopes, params
	cred, err := ask(ctx, s.http, client, s.cfg.Now())
	if err != nil {
		return secret.Credential{}, err
	}
	if s.cfg.RevocationURL != "" {
		cred.Lease = s.remember(token{cred.Value, cred.Expires})
	}
	return cred, nil
}

// ask makes the request, at the time at.
func ask(ctx context.Context, through *http.Client, client *clientcredentials.Config, at time.Time) (secret.Credential, error) {
	got, err := client.Token(context.WithValue(ctx, oauth2.HTTPClient, through))
	if err != nil {
		return secret.Credential{}, plain(err)
	}
	if !strings.EqualFold(got.Type(), "Bearer") { // such a token opens nothing without a proof that only its client can make
		return secret.Credential{}, errors.New("the server gave no bearer token")
	}
	cred := secret.Credential{Value: secret.NewValue(got.AccessToken)}
	if !got.Expiry.IsZero() {
		cred.Expires = at.Add(min(time.Until(got.Expiry), longestLife))
	}
	if end, ok := jwtEnd(got.AccessToken); ok && (cred.Expires.IsZero() || end.Before(cred.Expires)) {
		cred.Expires = end
	}
	if cred.Expires.IsZero() {
		cred.Refresh = DefaultRefresh
	}
	return cred, nil
}

// grant are the parameters of the request but for those that say who asks.
func (s *Source) grant(ctx context.Context) (url.Values, error) {
	params := url.Values{}
	for name, value := range s.cfg.Parameters {
		params.Set(name, value)
	}
	x := s.cfg.Exchange
	if x == nil {
		return params, nil
	}
	subject, err := secret.File(x.SubjectTokenFile).Fetch(ctx)
	if err != nil {
		return nil, fmt.Errorf("subject_token_file: %w", err)
	}
	params.Set("grant_type", grantExchange)
	params.Set("subject_token", subject.Value.Reveal())
	params.Set("subject_token_type", defaultSubject)
	if x.SubjectTokenType != "" {
		params.Set("subject_token_type", x.SubjectTokenType)
	}
	if x.RequestedTokenType != "" {
		params.Set("requested_token_type", x.RequestedTokenType)
	}
	return params, nil
}

// identify adds to params what shows who asks, or has it in the client.
func (s *Source) identify(ctx context.Context, params url.Values) (*clientcredentials.Config, error) {
	client := &clientcredentials.Config{ClientID: s.cfg.ClientID, TokenURL: s.cfg.TokenURL, AuthStyle: oauth2.AuthStyleInParams}
	a := s.cfg.Auth
	switch {
	case a.Secret != nil:
		c, err := a.Secret.Fetch(ctx)
		if err != nil {
			return nil, fmt.Errorf("the client's secret: %w", err)
		}
		if c.Value.Empty() {
			return nil, fmt.Errorf("the client's secret (%s) is empty", a.Secret)
		}
		client.ClientSecret = c.Value.Reveal()
		if a.Basic {
			client.AuthStyle = oauth2.AuthStyleInHeader
		}
		return client, nil
	case a.AssertionFile != "":
		c, err := secret.File(a.AssertionFile).Fetch(ctx)
		if err != nil {
			return nil, fmt.Errorf("assertion_file: %w", err)
		}
		params.Set("client_assertion", c.Value.Reveal())
	default:
		assertion, err := s.assertion(ctx)
		if err != nil {
			return nil, err
		}
		params.Set("client_assertion", assertion.Reveal())
	}
	params.Set("client_assertion_type", assertionJWT)
	return client, nil
}

// remember gives a token a name by which it can be revoked, and forgets those that have ended.
func (s *Source) remember(t token) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	maps.DeleteFunc(s.tokens, func(_ string, t token) bool { return !t.ends.IsZero() && !now.Before(t.ends) })
	name := uuid.NewString()
	s.tokens[name] = t
	return name
}

// Renew is no part of these grants: a new token is asked for instead.
func (s *Source) Renew(context.Context, string) (time.Time, error) {
	return time.Time{}, errors.New("access tokens are not renewed")
}

// Revoke ends a token at the server.
func (s *Source) Revoke(ctx context.Context, lease string) error {
	s.mu.Lock()
	t, ok := s.tokens[lease]
	s.mu.Unlock()
	if !ok {
		return nil // it has ended
	}
	params := url.Values{"token": {t.value.Reveal()}, "token_type_hint": {"access_token"}}
	client, err := s.identify(ctx, params)
	if err != nil {
		return err
	}
	if client.AuthStyle == oauth2.AuthStyleInParams {
		params.Set("client_id", client.ClientID)
		if client.ClientSecret != "" {
			params.Set("client_secret", client.ClientSecret)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.RevocationURL, strings.NewReader(params.Encode()))
	if err != nil {
		return errors.New("the revocation_url cannot be used")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if client.AuthStyle == oauth2.AuthStyleInHeader {
		req.SetBasicAuth(url.QueryEscape(client.ClientID), url.QueryEscape(client.ClientSecret))
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return remote.Reason(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answered a revocation with status %d", resp.StatusCode)
	}
	s.mu.Lock()
	delete(s.tokens, lease)
	s.mu.Unlock()
	return nil
}
