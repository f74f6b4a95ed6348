package role

import (
	"os"
	"strings"
	"time"

	"sallyport/compose/config"
	"sallyport/extproc/secret"
	"sallyport/extproc/secret/oauth"
	"sallyport/extproc/secret/vault"
)

// Source is where a class's credential comes from. It asks no server for anything. The static one occurs in the built-in
// defaults only; the schema of the file does not know it.
func Source(from config.Origin) (secret.Source, error) {
	switch value, static := strings.CutPrefix(from.Local, "static:"); {
	case from.Vault != nil:
		return vaultSource(from.Vault)
	case from.OAuth != nil:
		return oauthSource(oauthConfig(from.OAuth))
	case from.Entra != nil:
		c, err := oauth.Entra(*from.Entra).Config(os.Getenv)
		if err != nil {
			return nil, err
		}
		return oauthSource(c)
	case from.Google != nil:
		g := oauth.Google{CredentialsFile: from.Google.CredentialsFile, Scopes: from.Google.Scopes, CAFile: from.Google.CAFile}
		if g.CredentialsFile == "" {
			g.CredentialsFile = os.Getenv("GOOGLE_APPLICATION_CREDENTIALS")
		}
		return oauth.NewGoogle(g)
	case static:
		return secret.Static(value), nil
	}
	return secret.ParseSource(from.Local)
}

func vaultSource(v *config.Vault) (secret.Source, error) {
	c := vault.Config{Address: v.Address, Namespace: v.Namespace, CAFile: v.CAFile, Auth: vault.Auth{TokenFile: v.Auth.TokenFile}}
	if a := v.Auth.AppRole; a != nil {
		c.Auth.AppRole = &vault.AppRole{RoleID: a.RoleID, SecretIDFile: a.SecretIDFile, Mount: a.Mount}
	}
	if k := v.Auth.Kubernetes; k != nil {
		c.Auth.JWT = &vault.JWT{Role: k.Role, File: k.JWTFile, Mount: k.Mount}
	}
	if k := v.KV2; k != nil {
		c.KV2 = &vault.KV2{Mount: k.Mount, Path: k.Path, Field: k.Field, Refresh: time.Duration(k.Refresh)}
	}
	if l := v.Lease; l != nil {
		c.Lease = &vault.Lease{Path: l.Path, Field: l.Field, Parameters: l.Parameters, NoRenew: l.Renew != nil && !*l.Renew}
	}
	s, err := vault.New(c)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func oauthConfig(o *config.OAuth) oauth.Config {
	c := oauth.Config{
		TokenURL: o.TokenURL, RevocationURL: o.RevocationURL, CAFile: o.CAFile, ClientID: o.ClientID, Scopes: o.Scopes, Parameters: o.Parameters,
		Auth: oauth.Auth{
			Basic: o.Auth.Method != config.SecretInBody, KeyFile: o.Auth.KeyFile, KeyID: o.Auth.KeyID, Audience: o.Auth.Audience,
			AssertionFile: o.Auth.AssertionFile,
		},
	}
	if o.Auth.SecretFile != "" {
		c.Auth.Secret = secret.File(o.Auth.SecretFile)
	}
	if x := o.Exchange; x != nil {
		c.Exchange = (*oauth.Exchange)(x)
	}
	return c
}

func oauthSource(c oauth.Config) (secret.Source, error) {
	s, err := oauth.New(c)
	if err != nil {
		return nil, err
	}
	return s, nil
}
