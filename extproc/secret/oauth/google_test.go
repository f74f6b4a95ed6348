package oauth_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"sallyport/extproc/secret/oauth"
	"sallyport/tests/harness"
)

// What Google's documentation wants of a request for a service account's token; and files that are none of a service
// account, or lead elsewhere, are refused without a word of them.
func TestGoogle(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = r.ParseForm()
		parsed, err := jwt.ParseSigned(r.PostForm.Get("assertion"), []jose.SignatureAlgorithm{jose.RS256})
		var claims struct {
			jwt.Claims
			Scope string `json:"scope"`
		}
		if err != nil || parsed.Claims(key.Public(), &claims) != nil || parsed.Headers[0].KeyID != "key-1" || claims.Issuer != "agent@example.com" ||
			claims.Scope != "a b" || !claims.Audience.Contains("http://"+r.Host+"/token") || claims.Expiry.Time().Before(time.Now()) ||
			r.PostForm.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
			t.Errorf("%v, %+v", err, claims)
		}
		_, _ = w.Write([]byte(`{"access_token":"given","token_type":"Bearer","expires_in":3599}`))
	}))
	defer srv.Close()
	fetch := func(change map[string]any) (string, error) {
		account := map[string]any{
			"type": "service_account", "client_email": "agent@example.com", "private_key_id": "key-1", "private_key": pemFile(t, key), "token_uri": srv.URL + "/token",
		}
		for k, v := range change {
			account[k] = v
		}
		raw, err := json.Marshal(account)
		if err != nil {
			t.Fatal(err)
		}
		s, err := oauth.NewGoogle(oauth.Google{CredentialsFile: harness.SecretFile(t, string(raw)), Scopes: []string{"a", "b"}})
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Fetch(t.Context())
		return c.Value.Reveal(), err
	}
	if got, err := fetch(nil); err != nil || got != "given" {
		t.Fatalf("%q, %v", got, err)
	}
	for name, change := range map[string]map[string]any{
		"another kind":              {"type": "external_account"},
		"another place":             {"token_uri": "http://login.example.com/" + planted},
		"no key":                    {"private_key": planted},
		"a key of no RSA":           {"private_key": pemFile(t, p256(t))},
		"no name":                   {"client_email": ""},
		"something that is no text": {"client_email": map[string]any{"a": planted}},
	} {
		if got, err := fetch(change); err == nil || got != "" || strings.Contains(err.Error(), planted) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := oauth.NewGoogle(oauth.Google{}); err == nil {
		t.Error("nothing configured was accepted")
	}
}
