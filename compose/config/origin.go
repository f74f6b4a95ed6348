package config

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// DefaultJWTFile is where Kubernetes puts the token of a pod's service account.
const DefaultJWTFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// SecretInBody is the method of a client's secret that is not HTTP Basic.
const SecretInBody = "post"

// Origin is where a credential comes from. Exactly one field is set.
type Origin struct {
	Local  string  `yaml:"-"` // env:NAME or file:PATH; static:VALUE only in the built-in defaults
	Vault  *Vault  `yaml:"vault"`
	OAuth  *OAuth  `yaml:"oauth"`
	Entra  *Entra  `yaml:"entra"`
	Google *Google `yaml:"google"`
}

// Vault is one credential of an OpenBao or HashiCorp Vault server.
type Vault struct {
	Address   string      `yaml:"address"`
	Namespace string      `yaml:"namespace"`
	CAFile    string      `yaml:"ca_file"` // "" means the system's authorities
	Auth      VaultAuth   `yaml:"auth"`
	KV2       *VaultKV2   `yaml:"kv2"` // this or Lease
	Lease     *VaultLease `yaml:"lease"`
}

// VaultAuth is how to log in. Exactly one field is set.
type VaultAuth struct {
	TokenFile  string           `yaml:"token_file"`
	AppRole    *VaultAppRole    `yaml:"approle"`
	Kubernetes *VaultKubernetes `yaml:"kubernetes"`
}

// VaultAppRole is a role id, and a file with the secret id.
type VaultAppRole struct {
	RoleID       string `yaml:"role_id"`
	SecretIDFile string `yaml:"secret_id_file"`
	Mount        string `yaml:"mount"` // "" means the server's default
}

// VaultKubernetes is a role, and a file with a token that vouches for us.
type VaultKubernetes struct {
	Role    string `yaml:"role"`
	JWTFile string `yaml:"jwt_file"`
	Mount   string `yaml:"mount"` // "" means the server's default
}

// VaultKV2 is one field of a stored value.
type VaultKV2 struct {
	Mount   string   `yaml:"mount"`
	Path    string   `yaml:"path"`
	Field   string   `yaml:"field"`
	Refresh Duration `yaml:"refresh"` // 0 means the source's default
}

// VaultLease is one field of what an engine makes for us.
type VaultLease struct {
	Path       string            `yaml:"path"`
	Field      string            `yaml:"field"`
	Parameters map[string]string `yaml:"parameters"`
	Renew      *bool             `yaml:"renew"` // nil means yes
}

// OAuth is an access token by client credentials (RFC 6749, section 4.4) or by token exchange (RFC 8693).
type OAuth struct {
	TokenURL      string            `yaml:"token_url"`
	RevocationURL string            `yaml:"revocation_url"` // "" for a server that has none
	CAFile        string            `yaml:"ca_file"`        // "" means the system's authorities
	ClientID      string            `yaml:"client_id"`
	Auth          OAuthAuth         `yaml:"auth"`
	Scopes        []string          `yaml:"scopes"`
	Parameters    map[string]string `yaml:"parameters"`
	Exchange      *OAuthExchange    `yaml:"exchange"`
}

// OAuthAuth is how the gateway shows who it is. Exactly one of the files is set.
type OAuthAuth struct {
	SecretFile    string `yaml:"secret_file"`
	Method        string `yaml:"method"`   // of the secret: basic, the default, or post
	KeyFile       string `yaml:"key_file"` // with a certificate too, where the server wants its thumbprint
	KeyID         string `yaml:"key_id"`
	Audience      string `yaml:"audience"`       // of what the key signs; "" means the token URL
	AssertionFile string `yaml:"assertion_file"` // a JWT that somebody else keeps fresh there
}

// OAuthExchange is the token that is exchanged.
type OAuthExchange struct {
	SubjectTokenFile   string `yaml:"subject_token_file"`
	SubjectTokenType   string `yaml:"subject_token_type"`   // "" means a JWT's
	RequestedTokenType string `yaml:"requested_token_type"` // "" leaves it to the server
}

// Entra is an access token of Microsoft Entra ID. What is left out comes from the AZURE_* variables that Microsoft's own
// libraries read.
type Entra struct {
	Scopes          []string `yaml:"scopes"`
	AuthorityHost   string   `yaml:"authority_host"`   // AZURE_AUTHORITY_HOST, else the public cloud's
	TenantID        string   `yaml:"tenant_id"`        // AZURE_TENANT_ID
	ClientID        string   `yaml:"client_id"`        // AZURE_CLIENT_ID
	SecretFile      string   `yaml:"secret_file"`      // AZURE_CLIENT_SECRET is the secret itself
	CertificateFile string   `yaml:"certificate_file"` // AZURE_CLIENT_CERTIFICATE_PATH
	AssertionFile   string   `yaml:"assertion_file"`   // AZURE_FEDERATED_TOKEN_FILE
	CAFile          string   `yaml:"ca_file"`
}

// Google is an access token of a Google Cloud service account.
type Google struct {
	CredentialsFile string   `yaml:"credentials_file"` // GOOGLE_APPLICATION_CREDENTIALS
	Scopes          []string `yaml:"scopes"`
	CAFile          string   `yaml:"ca_file"`
}

// UnmarshalYAML reads a text or a block; the schema has seen to it that it is one of the two.
func (o *Origin) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		return n.Decode(&o.Local)
	}
	type block Origin
	return n.Decode((*block)(o))
}

// String says where the credential comes from; never what it is.
func (o Origin) String() string {
	switch {
	case o.Vault != nil && o.Vault.KV2 != nil:
		return "vault " + o.Vault.Address + " " + o.Vault.KV2.Path + "#" + o.Vault.KV2.Field
	case o.Vault != nil && o.Vault.Lease != nil:
		return "vault " + o.Vault.Address + " " + o.Vault.Lease.Path + "#" + o.Vault.Lease.Field
	case o.OAuth != nil:
		return "oauth " + o.OAuth.TokenURL
	case o.Entra != nil:
		return "entra " + o.Entra.TenantID
	case o.Google != nil:
		return "google " + o.Google.CredentialsFile
	}
	return o.Local
}

// Leases says whether each credential can be given back at the source.
func (o Origin) Leases() bool {
	return (o.Vault != nil && o.Vault.Lease != nil) || (o.OAuth != nil && o.OAuth.RevocationURL != "")
}

// SecretFiles are the files that hold what nobody but the gateway shall read. Those of authorities are not among them.
func (o Origin) SecretFiles() []string {
	var out []string
	for _, p := range o.secretPaths() {
		out = append(out, *p)
	}
	if p, ok := strings.CutPrefix(o.Local, "file:"); ok {
		out = append(out, p)
	}
	return slices.DeleteFunc(out, func(p string) bool { return p == "" })
}

// paths are the fields that name files, set or not.
func (o Origin) paths() []*string {
	out := o.secretPaths()
	if o.Vault != nil {
		out = append(out, &o.Vault.CAFile)
	}
	if o.OAuth != nil {
		out = append(out, &o.OAuth.CAFile)
	}
	if o.Entra != nil {
		out = append(out, &o.Entra.CAFile)
	}
	if o.Google != nil {
		out = append(out, &o.Google.CAFile)
	}
	return out
}

func (o Origin) secretPaths() []*string {
	var out []*string
	if v := o.Vault; v != nil {
		out = append(out, &v.Auth.TokenFile)
		if v.Auth.AppRole != nil {
			out = append(out, &v.Auth.AppRole.SecretIDFile)
		}
		if v.Auth.Kubernetes != nil {
			out = append(out, &v.Auth.Kubernetes.JWTFile)
		}
	}
	if a := o.OAuth; a != nil {
		out = append(out, &a.Auth.SecretFile, &a.Auth.KeyFile, &a.Auth.AssertionFile)
		if a.Exchange != nil {
			out = append(out, &a.Exchange.SubjectTokenFile)
		}
	}
	if e := o.Entra; e != nil {
		out = append(out, &e.SecretFile, &e.CertificateFile, &e.AssertionFile)
	}
	if g := o.Google; g != nil {
		out = append(out, &g.CredentialsFile)
	}
	return out
}

// applyDefaults makes the paths absolute.
func (o *Origin) applyDefaults(base string) {
	if v := o.Vault; v != nil && v.Auth.Kubernetes != nil {
		str(&v.Auth.Kubernetes.JWTFile, DefaultJWTFile)
	}
	for _, p := range o.paths() {
		abs(p, base)
	}
	if p, ok := strings.CutPrefix(o.Local, "file:"); ok {
		abs(&p, base)
		o.Local = "file:" + p
	}
}

func (v *validator) origin(at string, o Origin) {
	if s := o.Vault; s != nil {
		v.serverURL(at+".vault.address", s.Address, "https://bao.example.com:8200")
		v.oneOf(at+".vault", map[string]bool{"kv2": s.KV2 != nil, "lease": s.Lease != nil})
	}
	if s := o.OAuth; s != nil {
		v.serverURL(at+".oauth.token_url", s.TokenURL, "https://login.example.com/oauth2/token")
		if s.RevocationURL != "" {
			v.serverURL(at+".oauth.revocation_url", s.RevocationURL, "https://login.example.com/oauth2/revoke")
		}
		v.oneOf(at+".oauth.auth", map[string]bool{"secret_file": s.Auth.SecretFile != "", "key_file": s.Auth.KeyFile != "", "assertion_file": s.Auth.AssertionFile != ""})
	}
	if s := o.Entra; s != nil && s.AuthorityHost != "" {
		v.serverURL(at+".entra.authority_host", s.AuthorityHost, "https://login.microsoftonline.com")
	}
}

// oneOf wants exactly one of the fields of a block.
func (v *validator) oneOf(at string, set map[string]bool) {
	var names, all []string
	for name, is := range set {
		all = append(all, name)
		if is {
			names = append(names, name)
		}
	}
	slices.Sort(all)
	slices.Sort(names)
	remedy := "choose one of " + strings.Join(all, ", ")
	switch {
	case len(names) == 0:
		v.bad(at, remedy, "has none of %s", strings.Join(all, ", "))
	case len(names) > 1:
		v.bad(at, remedy, "has %s at once", strings.Join(names, " and "))
	}
}
