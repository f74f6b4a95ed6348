package config

import (
	"slices"
	"testing"
)

// The files of a source are found beside the configuration; those that a program under `run` must not see are the
// credentials, not the authorities, which programs have too.
func TestFilesOfSources(t *testing.T) {
	c, err := Parse("x.yaml", []byte(`
upstreams: [{name: a, dialect: openai, url: "https://api.example.com"}]
secret_classes:
  - {name: a, hosts: [h.example], from: "file:plain"}
  - {name: b, hosts: [h.example], from: {vault: {address: "https://bao.example.com", ca_file: ca, auth: {token_file: token}, kv2: {path: a, field: b}}}}
  - {name: c, hosts: [h.example], from: {vault: {address: "https://bao.example.com", auth: {approle: {role_id: r, secret_id_file: id}}, kv2: {path: a, field: b}}}}
  - {name: d, hosts: [h.example], from: {vault: {address: "https://bao.example.com", auth: {kubernetes: {role: r}}, kv2: {path: a, field: b}}}}
  - {name: e, hosts: [h.example], from: {oauth: {token_url: "https://l.example.com", client_id: c, ca_file: ca, auth: {key_file: key}, exchange: {subject_token_file: /abs/subject}}}}
  - {name: f, hosts: [h.example], from: {entra: {scopes: [s], certificate_file: cert, ca_file: ca}}}
  - {name: g, hosts: [h.example], from: {google: {scopes: [s], credentials_file: account, ca_file: ca}}}
  - {name: h, hosts: [h.example], from: "env:A"}
`), "/base")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range c.SecretClasses {
		got = append(got, s.From.SecretFiles()...)
	}
	want := []string{"/base/plain", "/base/token", "/base/id", DefaultJWTFile, "/base/key", "/abs/subject", "/base/cert", "/base/account"}
	if !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	for _, ca := range []string{c.SecretClasses[1].From.Vault.CAFile, c.SecretClasses[4].From.OAuth.CAFile, c.SecretClasses[5].From.Entra.CAFile, c.SecretClasses[6].From.Google.CAFile} {
		if ca != "/base/ca" {
			t.Errorf("the authorities are at %s", ca)
		}
	}
}
