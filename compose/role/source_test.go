package role

import (
	"testing"

	"sallyport/compose/config"
)

// Every shape of a source in the file becomes that source, which says where its credential comes from; nothing is asked.
func TestSources(t *testing.T) {
	t.Setenv("AZURE_TENANT_ID", "contoso")
	t.Setenv("AZURE_CLIENT_ID", "gateway")
	t.Setenv("AZURE_CLIENT_SECRET", "not-a-real-key")
	for from, want := range map[string]string{
		`"env:A"`:  "env:A",
		`"file:a"`: "file:/base/a",
		`{vault: {address: "https://bao.example.com:8200", auth: {token_file: t}, kv2: {mount: kv, path: a/b, field: c}}}`:                                             "vault:https://bao.example.com:8200/kv/data/a/b#c",
		`{vault: {address: "https://bao.example.com", namespace: n, auth: {approle: {role_id: r, secret_id_file: s}}, lease: {path: database/creds/a, field: c}}}`:     "vault:https://bao.example.com/database/creds/a#c",
		`{vault: {address: "https://bao.example.com", auth: {kubernetes: {role: r}}, lease: {path: pki/issue/a, field: c, parameters: {a: b}, renew: false}}}`:         "vault:https://bao.example.com/pki/issue/a#c",
		`{oauth: {token_url: "https://login.example.com/token", client_id: c, auth: {secret_file: s, method: post}, scopes: [a]}}`:                                     "oauth:https://login.example.com/token#c",
		`{oauth: {token_url: "https://login.example.com/token", client_id: c, auth: {key_file: k, key_id: i}, exchange: {subject_token_file: t}, parameters: {a: b}}}`: "oauth:https://login.example.com/token#c",
		`{entra: {scopes: ["https://cognitiveservices.azure.com/.default"]}}`:                                                                                          "oauth:https://login.microsoftonline.com/contoso/oauth2/v2.0/token#gateway",
		`{google: {credentials_file: g.json, scopes: ["https://www.googleapis.com/auth/cloud-platform"]}}`:                                                             "google:/base/g.json",
	} {
		c, err := config.Parse("x.yaml", []byte(`
upstreams: [{name: a, dialect: openai, url: "https://api.example.com", secret_class: k}]
secret_classes: [{name: k, hosts: [api.example.com], from: `+from+`}]
`), "/base")
		if err != nil {
			t.Errorf("%s: %v", from, err)
			continue
		}
		s, err := Source(c.SecretClasses[0].From)
		if err != nil || s.String() != want {
			t.Errorf("%s: %v, %v, want %s", from, s, err, want)
		}
	}
}
