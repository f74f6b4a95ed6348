package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"sallyport/extproc/secret"
	"sallyport/extproc/secret/internal/remote"
)

const (
	grantJWT      = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	googleAccount = "service_account"
)

// Google is an access token of a Google Cloud service account, by the key file that Google gives out for it. Files of
// other kinds are refused: some of them name programs to run and places to ask.
type Google struct {
	CredentialsFile string // JSON, read at each request
	Scopes          []string
	CAFile          string
	Now             func() time.Time // nil for time.Now
}

type googleSource struct {
	Google
	http *http.Client
}

// NewGoogle checks the configuration. It asks nobody for anything.
func NewGoogle(g Google) (secret.Source, error) {
	var errs []error
	if g.CredentialsFile == "" {
		errs = append(errs, errors.New("google: name the credentials_file, or set GOOGLE_APPLICATION_CREDENTIALS"))
	}
	if len(g.Scopes) == 0 {
		errs = append(errs, errors.New("google: scopes: name what the token is for, such as https://www.googleapis.com/auth/cloud-platform"))
	}
	through, err := newClient(g.CAFile)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	if g.Now == nil {
		g.Now = time.Now
	}
	return &googleSource{g, through}, nil
}

func (g *googleSource) String() string { return "google:" + g.CredentialsFile }

// account is what a key file holds of use.
type account struct {
	Type         string `json:"type"`
	ClientEmail  string `json:"client_email"`
	PrivateKeyID string `json:"private_key_id"`
	PrivateKey   string `json:"private_key"`
	TokenURI     string `json:"token_uri"`
}

// Fetch asks for a token with an assertion that the account's key signed.
func (g *googleSource) Fetch(ctx context.Context) (secret.Credential, error) {
	file, err := secret.File(g.CredentialsFile).Fetch(ctx)
	if err != nil {
		return secret.Credential{}, fmt.Errorf("credentials_file: %w", err)
	}
	var a account
	if err := json.Unmarshal([]byte(file.Value.Reveal()), &a); err != nil || a.Type != googleAccount || a.ClientEmail == "" {
		return secret.Credential{}, fmt.Errorf("credentials_file %s is not the key file of a service account", g.CredentialsFile)
	}
	if err := remote.CheckURL(a.TokenURI); err != nil {
		return secret.Credential{}, fmt.Errorf("credentials_file %s: token_uri: %w", g.CredentialsFile, err)
	}
	key, _, err := parseKey([]byte(a.PrivateKey))
	if err != nil {
		return secret.Credential{}, fmt.Errorf("credentials_file %s: private_key: %w", g.CredentialsFile, err)
	}
	now := g.Now()
	assertion, err := sign(jose.SigningKey{Algorithm: jose.RS256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", a.PrivateKeyID), map[string]any{
		"iss": a.ClientEmail, "aud": a.TokenURI, "scope": strings.Join(g.Scopes, " "), "iat": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	})
	if err != nil {
		return secret.Credential{}, fmt.Errorf("credentials_file %s: %w", g.CredentialsFile, err)
	}
	return ask(ctx, g.http, &clientcredentials.Config{TokenURL: a.TokenURI, EndpointParams: url.Values{
		"grant_type": {grantJWT}, "assertion": {assertion.Reveal()},
	}, AuthStyle: oauth2.AuthStyleInParams}, now)
}
