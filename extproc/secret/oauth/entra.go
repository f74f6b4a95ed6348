package oauth

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"sallyport/extproc/secret"
)

// DefaultAuthorityHost is Entra ID's in the public cloud.
const DefaultAuthorityHost = "https://login.microsoftonline.com"

// Entra is an access token of Microsoft Entra ID. What is empty comes from the variables that Microsoft's own libraries
// read; of the ways to show who asks, those of the variables count only where none is set here, in the order secret,
// certificate, federated token.
type Entra struct {
	Scopes          []string
	AuthorityHost   string // AZURE_AUTHORITY_HOST, else DefaultAuthorityHost
	TenantID        string // AZURE_TENANT_ID
	ClientID        string // AZURE_CLIENT_ID
	SecretFile      string // AZURE_CLIENT_SECRET holds the secret itself
	CertificateFile string // AZURE_CLIENT_CERTIFICATE_PATH; PEM with the key, without a password
	AssertionFile   string // AZURE_FEDERATED_TOKEN_FILE
	CAFile          string
}

// Config is the general configuration. getenv reads the environment, as os.Getenv does.
func (e Entra) Config(getenv func(string) string) (Config, error) {
	fill := func(field *string, variable string) {
		if *field == "" {
			*field = getenv(variable)
		}
	}
	fill(&e.AuthorityHost, "AZURE_AUTHORITY_HOST")
	fill(&e.TenantID, "AZURE_TENANT_ID")
	fill(&e.ClientID, "AZURE_CLIENT_ID")
	if e.AuthorityHost == "" {
		e.AuthorityHost = DefaultAuthorityHost
	}
	auth := Auth{KeyFile: e.CertificateFile, AssertionFile: e.AssertionFile}
	if e.SecretFile != "" {
		auth.Secret = secret.File(e.SecretFile)
	}
	if auth == (Auth{}) {
		switch {
		case getenv("AZURE_CLIENT_SECRET") != "":
			auth.Secret = secret.Env("AZURE_CLIENT_SECRET")
		case getenv("AZURE_CLIENT_CERTIFICATE_PATH") != "":
			auth.KeyFile = getenv("AZURE_CLIENT_CERTIFICATE_PATH")
		default:
			auth.AssertionFile = getenv("AZURE_FEDERATED_TOKEN_FILE")
		}
	}
	var errs []error
	if e.TenantID == "" || strings.ContainsAny(e.TenantID, "/?#%\\ ") {
		errs = append(errs, errors.New("entra: tenant_id: name the tenant, or set AZURE_TENANT_ID"))
	}
	if e.ClientID == "" {
		errs = append(errs, errors.New("entra: client_id: name the application, or set AZURE_CLIENT_ID"))
	}
	if auth == (Auth{}) {
		errs = append(errs, errors.New("entra: set secret_file, certificate_file or assertion_file, or one of AZURE_CLIENT_SECRET, AZURE_CLIENT_CERTIFICATE_PATH, AZURE_FEDERATED_TOKEN_FILE"))
	}
	if len(e.Scopes) == 0 {
		errs = append(errs, errors.New("entra: scopes: name what the token is for, such as https://cognitiveservices.azure.com/.default"))
	}
	if err := errors.Join(errs...); err != nil {
		return Config{}, err
	}
	to, err := url.JoinPath(e.AuthorityHost, e.TenantID, "oauth2", "v2.0", "token")
	if err != nil {
		return Config{}, fmt.Errorf("entra: authority_host cannot be used")
	}
	return Config{TokenURL: to, CAFile: e.CAFile, ClientID: e.ClientID, Auth: auth, Scopes: e.Scopes}, nil
}
