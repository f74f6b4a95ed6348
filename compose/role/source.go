package role

import (
	"strings"
	"time"

	"sallyport/compose/config"
	"sallyport/extproc/secret"
	"sallyport/extproc/secret/vault"
)

// Source is where a class's credential comes from. It asks no server for anything. The static one occurs in the built-in
// defaults only; the schema of the file does not know it.
func Source(from config.Origin) (secret.Source, error) {
	switch value, static := strings.CutPrefix(from.Local, "static:"); {
	case from.Vault != nil:
		return vaultSource(from.Vault)
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
