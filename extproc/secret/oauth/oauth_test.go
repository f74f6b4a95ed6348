package oauth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"sallyport/extproc/secret"
	"sallyport/extproc/secret/oauth"
	"sallyport/signer/code"
	"sallyport/tests/harness"
)

const planted = "not-a-real-key-51c8 of:the%client"

var target = secret.Target{Host: "api.example.com", Method: "POST", Path: "/v1/x"}

type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time       { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) pass(d time.Duration) { c.offset.Add(int64(d)) }

func source(t *testing.T, cfg oauth.Config) *oauth.Source {
	t.Helper()
	s, err := oauth.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func broker(t *testing.T, s secret.Source, opts ...secret.Option) (*secret.Broker, *harness.Buffer) {
	t.Helper()
	l := &harness.Buffer{}
	opts = append(opts, secret.WithLog(slog.New(slog.NewTextHandler(l, nil))))
	b, err := secret.New([]secret.Class{{Name: "model", Source: s, Hosts: []string{"api.example.com"}, TTL: time.Hour}}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(t.Context()) })
	return b, l
}

func get(t *testing.T, b *secret.Broker) (string, *code.Denial) {
	t.Helper()
	c, _, d := b.Get(t.Context(), "model", target, 0)
	return c.Value.Reveal(), d
}

// pemFile is a private key with its certificate, as Entra ID's documentation has it.
func pemFile(t *testing.T, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func jwks(keys ...crypto.Signer) jose.JSONWebKeySet {
	var set jose.JSONWebKeySet
	for i, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Public(), KeyID: fmt.Sprint("key-", i), Use: "sig"})
	}
	return set
}

func signed(t *testing.T, key crypto.Signer, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func p256(t *testing.T) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const exchange = "urn:ietf:params:oauth:grant-type:token-exchange"

// client is a registration at the provider.
func client(id, method string, more map[string]any) map[string]any {
	c := map[string]any{
		"client_id": id, "token_endpoint_auth_method": method, "grant_types": []string{"client_credentials", exchange},
		"redirect_uris": []string{}, "response_types": []string{},
	}
	for k, v := range more {
		c[k] = v
	}
	return c
}

// Every way of showing who asks gets a token of a real provider, and with something wrong gets none.
func TestClientCredentials(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, otherKey := p256(t), p256(t)
	keyed := func(id, alg string, keys ...crypto.Signer) map[string]any {
		return client(id, "private_key_jwt", map[string]any{"jwks": jwks(keys...), "token_endpoint_auth_signing_alg": alg})
	}
	o := harness.NewOIDC(t, []map[string]any{
		client("basic", "client_secret_basic", map[string]any{"client_secret": planted}),
		client("post", "client_secret_post", map[string]any{"client_secret": planted}),
		keyed("rsa", "PS256", rsaKey), keyed("ec", "ES256", ecKey), keyed("ed", "EdDSA", edKey), keyed("federated", "ES256", ecKey),
	}, nil)
	federated := func(change map[string]any) string {
		claims := map[string]any{"iss": "federated", "sub": "federated", "aud": o.Issuer, "jti": rand.Text(), "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix()}
		for k, v := range change {
			claims[k] = v
		}
		return harness.SecretFile(t, signed(t, ecKey, claims))
	}
	secretFile := secret.File(harness.SecretFile(t, planted+"\n"))
	for name, tc := range map[string]struct {
		id    string
		auth  oauth.Auth
		wrong string // in the error; "" where a token is given
	}{
		"basic":             {"basic", oauth.Auth{Secret: secretFile, Basic: true}, ""},
		"in the body":       {"post", oauth.Auth{Secret: secretFile}, ""},
		"an RSA key":        {"rsa", oauth.Auth{KeyFile: harness.SecretFile(t, pemFile(t, rsaKey)), KeyID: "key-0"}, ""},
		"an ECDSA key":      {"ec", oauth.Auth{KeyFile: harness.SecretFile(t, pemFile(t, ecKey))}, ""},
		"an Ed25519 key":    {"ed", oauth.Auth{KeyFile: harness.SecretFile(t, pemFile(t, edKey))}, ""},
		"a federated token": {"federated", oauth.Auth{AssertionFile: federated(nil)}, ""},
		"a wrong secret":    {"basic", oauth.Auth{Secret: secret.Static("wrong"), Basic: true}, "invalid_client"},
		"another's key":     {"ec", oauth.Auth{KeyFile: harness.SecretFile(t, pemFile(t, otherKey))}, "invalid_client"},
		"an unknown client": {"nobody", oauth.Auth{Secret: secretFile, Basic: true}, "invalid_client"},
		"an expired one":    {"federated", oauth.Auth{AssertionFile: federated(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})}, "invalid_client"},
		"an empty secret":   {"basic", oauth.Auth{Secret: secret.Static("")}, "empty"},
		"no key in it":      {"ec", oauth.Auth{KeyFile: harness.SecretFile(t, planted)}, "no private key"},
		"no file":           {"ec", oauth.Auth{AssertionFile: "/does/not/exist"}, "assertion_file"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.auth.Audience = o.Issuer
			s := source(t, oauth.Config{TokenURL: o.TokenURL, ClientID: tc.id, Auth: tc.auth, Scopes: []string{"models.use"}})
			c, err := s.Fetch(t.Context())
			if tc.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wrong) || strings.Contains(err.Error(), planted) {
					t.Errorf("got %v, want an error with %q", err, tc.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if active, claims := o.Active(c.Value.Reveal()); !active || claims["client_id"] != tc.id || claims["scope"] != "models.use" {
				t.Errorf("the provider knows of it %v", claims)
			}
			if left := time.Until(c.Expires); left > 10*time.Minute || left < 9*time.Minute {
				t.Errorf("it may be used for %s of 10 minutes", left)
			}
		})
	}
}

// A token for a resource is a JWT of the provider, and a key that was replaced in its file is the one in use.
func TestResourceAndNewKey(t *testing.T) {
	first, second := p256(t), p256(t)
	o := harness.NewOIDC(t, []map[string]any{
		client("gateway", "private_key_jwt", map[string]any{"jwks": jwks(second), "token_endpoint_auth_signing_alg": "ES256"}),
	}, nil)
	keyFile := harness.SecretFile(t, pemFile(t, first))
	s := source(t, oauth.Config{
		TokenURL: o.TokenURL, ClientID: "gateway", Auth: oauth.Auth{KeyFile: keyFile, Audience: o.Issuer},
		Scopes: []string{"models.use"}, Parameters: map[string]string{"resource": "https://api.example.com"},
	})
	if _, err := s.Fetch(t.Context()); err == nil {
		t.Fatal("a key that the provider does not know was taken")
	}
	if err := os.WriteFile(keyFile, []byte(pemFile(t, second)), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := s.Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jwt.ParseSigned(c.Value.Reveal(), []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatal(err)
	}
	var claims jwt.Claims
	if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil || !claims.Audience.Contains("https://api.example.com") {
		t.Errorf("%+v, %v", claims, err)
	}
}

// A token of somebody is exchanged for one that calls may carry; what its issuer did not sign is not.
func TestExchange(t *testing.T) {
	issuer, stranger := p256(t), p256(t)
	o := harness.NewOIDC(t, []map[string]any{client("gateway", "client_secret_basic", map[string]any{"client_secret": planted})}, jwks(issuer))
	subject := map[string]any{"iss": "https://login.example.com", "sub": "somebody", "aud": o.Issuer, "exp": time.Now().Add(time.Minute).Unix()}
	cfg := oauth.Config{
		TokenURL: o.TokenURL, ClientID: "gateway", Auth: oauth.Auth{Secret: secret.Static(planted), Basic: true}, Scopes: []string{"models.use"},
		Exchange: &oauth.Exchange{SubjectTokenFile: harness.SecretFile(t, signed(t, issuer, subject))},
	}
	c, err := source(t, cfg).Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if active, claims := o.Active(c.Value.Reveal()); !active || claims["client_id"] != "gateway" {
		t.Errorf("the provider knows of it %v", claims)
	}
	cfg.Exchange = &oauth.Exchange{SubjectTokenFile: harness.SecretFile(t, signed(t, stranger, subject))}
	if _, err := source(t, cfg).Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "invalid_grant") {
		t.Errorf("a stranger's token: %v", err)
	}
}

// While the provider is away calls go on with the token at hand until its end, and are refused afterwards; a token that is
// replaced, and the last one, are revoked.
func TestProviderAway(t *testing.T) {
	o := harness.NewOIDC(t, []map[string]any{client("gateway", "client_secret_post", map[string]any{"client_secret": planted})}, nil)
	clk := &clock{}
	b, logged := broker(t, source(t, oauth.Config{
		TokenURL: o.TokenURL, RevocationURL: o.RevocationURL, ClientID: "gateway", Auth: oauth.Auth{Secret: secret.Static(planted)}, Now: clk.now,
	}), secret.WithClock(clk.now))
	first, d := get(t, b)
	if d != nil {
		t.Fatalf("%v\n%s", d, logged)
	}
	o.Stop()
	clk.pass(9 * time.Minute)
	if got, d := get(t, b); d != nil || got != first {
		t.Errorf("with a live token: %v", d)
	}
	clk.pass(time.Minute)
	if _, d := get(t, b); d == nil || d.Code != code.SecretUnavailable {
		t.Errorf("after its end: %v", d)
	}
	o.Start()
	second, d := get(t, b)
	if d != nil || second == first {
		t.Fatalf("%v", d)
	}
	if active, _ := o.Active(second); !active {
		t.Error("the provider does not know the token that it gave")
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if active, _ := o.Active(second); active {
		t.Error("the token still counts after the end")
	}
	for _, s := range []string{planted, first, second} {
		if strings.Contains(logged.String(), s) {
			t.Errorf("the log holds a credential:\n%s", logged)
		}
	}
}

// Answers that are rubbish are errors of which no word shows what was sent or answered; lies about the end of a token never
// make it live longer than it says itself.
func TestRubbishAndLies(t *testing.T) {
	token := func(claims map[string]any) string { return signed(t, p256(t), claims) }
	soon := token(map[string]any{"exp": time.Now().Add(2 * time.Minute).Unix()})
	for name, tc := range map[string]struct {
		status     int
		kind, body string
		within     time.Duration // the token must end by then; 0 where there must be none
	}{
		"nothing":          {200, "application/json", "", 0},
		"a page":           {200, "text/html", "<html>" + planted, 0},
		"a form":           {200, "text/plain", "hello=" + planted, 0},
		"a text":           {200, "application/json", `"` + planted + `"`, 0},
		"no token":         {200, "application/json", `{"token_type":"Bearer","other":"` + planted + `"}`, 0},
		"no text":          {200, "application/json", `{"access_token":{"a":"` + planted + `"},"token_type":"Bearer"}`, 0},
		"a line break":     {200, "application/json", `{"access_token":"a\r\nx: y","token_type":"Bearer"}`, 0},
		"another type":     {200, "application/json", `{"access_token":"` + planted + `","token_type":"DPoP"}`, 0},
		"has expired":      {200, "application/json", `{"access_token":"a","token_type":"Bearer","expires_in":-60}`, 0},
		"says so itself":   {200, "application/json", `{"access_token":"` + token(map[string]any{"exp": 1}) + `","token_type":"Bearer","expires_in":3600}`, 0},
		"an error at 200":  {200, "application/json", `{"error":"` + planted + `","access_token":"a","token_type":"Bearer"}`, 0},
		"an error":         {400, "application/json", `{"error":"invalid_scope","error_description":"` + planted + `"}`, 0},
		"a redirect":       {302, "text/plain", planted, 0},
		"down":             {503, "text/html", planted, 0},
		"cut":              {200, "application/json", `{"access_token":"` + planted, 0},
		"far too long":     {200, "application/json", `{"token_type":"Bearer","access_token":"` + planted + strings.Repeat("a", 10<<20) + `"}`, 0},
		"no end":           {200, "application/json", `{"access_token":"a","token_type":"bearer"}`, time.Hour},
		"an absurd end":    {200, "application/json", `{"access_token":"a","token_type":"Bearer","expires_in":9007199254740991}`, time.Hour},
		"an end in a text": {200, "application/json", `{"access_token":"a","token_type":"Bearer","expires_in":"120"}`, 2 * time.Minute},
		"too late an end":  {200, "application/json", `{"access_token":"` + soon + `","token_type":"Bearer","expires_in":3600}`, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodPost || r.URL.Path != "/token" {
					t.Errorf("a request for %s", r.URL)
				}
				w.Header().Set("Location", "/other")
				w.Header().Set("Content-Type", tc.kind)
				w.WriteHeader(tc.status)
				_, _ = w.Write([]byte(tc.body))
			}))
			defer srv.Close()
			b, logged := broker(t, source(t, oauth.Config{TokenURL: srv.URL + "/token", ClientID: "gateway", Auth: oauth.Auth{Secret: secret.Static(planted)}}))
			c, _, d := b.Get(t.Context(), "model", target, 0)
			if tc.within > 0 {
				if d != nil || c.Expires.IsZero() || time.Until(c.Expires) > tc.within {
					t.Errorf("%v; it may be used for %s", d, time.Until(c.Expires))
				}
				return
			}
			if d == nil || d.Code != code.SecretUnavailable || !c.Value.Empty() {
				t.Fatalf("%q, %v", c.Value.Reveal(), d)
			}
			if ready := b.Ready(t.Context()); ready == nil || strings.Contains(ready.Error()+logged.String(), planted) || !strings.Contains(ready.Error(), `"model"`) {
				t.Errorf("the error must name the class and hold nothing of the answer: %v\n%s", ready, logged)
			}
		})
	}
}

// Entra ID's settings come from the variables that Microsoft's own libraries read, unless they are given.
func TestEntra(t *testing.T) {
	scopes := []string{"https://cognitiveservices.azure.com/.default"}
	env := map[string]string{"AZURE_TENANT_ID": "contoso", "AZURE_CLIENT_ID": "gateway", "AZURE_FEDERATED_TOKEN_FILE": "/var/token"}
	with := func(more ...string) func(string) string {
		return func(name string) string {
			for i := 0; i < len(more); i += 2 {
				if more[i] == name {
					return more[i+1]
				}
			}
			return env[name]
		}
	}
	for name, tc := range map[string]struct {
		given oauth.Entra
		env   func(string) string
		want  oauth.Config // "" as the client id for an error
	}{
		"a workload identity": {oauth.Entra{Scopes: scopes}, with(), oauth.Config{
			TokenURL: "https://login.microsoftonline.com/contoso/oauth2/v2.0/token", ClientID: "gateway", Auth: oauth.Auth{AssertionFile: "/var/token"}}},
		"a certificate": {oauth.Entra{Scopes: scopes}, with("AZURE_CLIENT_CERTIFICATE_PATH", "/c.pem", "AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us/"), oauth.Config{
			TokenURL: "https://login.microsoftonline.us/contoso/oauth2/v2.0/token", ClientID: "gateway", Auth: oauth.Auth{KeyFile: "/c.pem"}}},
		"a secret first": {oauth.Entra{Scopes: scopes}, with("AZURE_CLIENT_SECRET", planted, "AZURE_CLIENT_CERTIFICATE_PATH", "/c.pem"), oauth.Config{
			TokenURL: "https://login.microsoftonline.com/contoso/oauth2/v2.0/token", ClientID: "gateway", Auth: oauth.Auth{Secret: secret.Env("AZURE_CLIENT_SECRET")}}},
		"what is given": {oauth.Entra{Scopes: scopes, TenantID: "other", ClientID: "mine", CertificateFile: "/mine.pem"}, with("AZURE_CLIENT_SECRET", planted), oauth.Config{
			TokenURL: "https://login.microsoftonline.com/other/oauth2/v2.0/token", ClientID: "mine", Auth: oauth.Auth{KeyFile: "/mine.pem"}}},
		"no tenant":       {oauth.Entra{Scopes: scopes}, with("AZURE_TENANT_ID", ""), oauth.Config{}},
		"a tenant's path": {oauth.Entra{Scopes: scopes, TenantID: "../x"}, with(), oauth.Config{}},
		"no way":          {oauth.Entra{Scopes: scopes}, with("AZURE_FEDERATED_TOKEN_FILE", ""), oauth.Config{}},
		"no scope":        {oauth.Entra{}, with(), oauth.Config{}},
	} {
		got, err := tc.given.Config(tc.env)
		if tc.want.ClientID == "" {
			if err == nil {
				t.Errorf("%s: accepted", name)
			}
			continue
		}
		if err != nil || got.TokenURL != tc.want.TokenURL || got.ClientID != tc.want.ClientID || got.Auth != tc.want.Auth {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if _, err := oauth.New(got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What Entra ID wants to see in the request for a certificate's token.
func TestEntraRequest(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	text := pemFile(t, key)
	asked := make(chan url.Values, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		asked <- r.PostForm
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"invalid_client","error_description":"AADSTS700027: The certificate ` + planted + `"}`))
	}))
	defer srv.Close()
	cfg, err := oauth.Entra{AuthorityHost: srv.URL, TenantID: "contoso", ClientID: "gateway", CertificateFile: harness.SecretFile(t, text), Scopes: []string{"a/.default"}}.Config(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	_, err = source(t, cfg).Fetch(t.Context())
	if err == nil || !strings.Contains(err.Error(), "invalid_client AADSTS700027") || strings.Contains(err.Error(), planted) {
		t.Errorf("%v", err)
	}
	form := <-asked
	parsed, err := jwt.ParseSigned(form.Get("client_assertion"), []jose.SignatureAlgorithm{jose.PS256})
	if err != nil {
		t.Fatal(err)
	}
	var claims jwt.Claims
	if err := parsed.Claims(key.Public(), &claims); err != nil || !claims.Audience.Contains(srv.URL+"/contoso/oauth2/v2.0/token") || claims.Subject != "gateway" {
		t.Errorf("%+v, %v", claims, err)
	}
	if form.Get("scope") != "a/.default" || form.Get("client_id") != "gateway" || form.Get("grant_type") != "client_credentials" ||
		parsed.Headers[0].ExtraHeaders["x5t#S256"] == nil {
		t.Errorf("%v, %+v", form, parsed.Headers)
	}
}

func TestBadConfiguration(t *testing.T) {
	good := func() oauth.Config {
		return oauth.Config{TokenURL: "https://login.example.com/token", ClientID: "c", Auth: oauth.Auth{KeyFile: "k"}}
	}
	if _, err := oauth.New(good()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*oauth.Config){
		"no URL":             func(c *oauth.Config) { c.TokenURL = "" },
		"in the clear":       func(c *oauth.Config) { c.TokenURL = "http://login.example.com/token" },
		"revoked so":         func(c *oauth.Config) { c.RevocationURL = "http://login.example.com/revoke" },
		"no client":          func(c *oauth.Config) { c.ClientID = "" },
		"no auth":            func(c *oauth.Config) { c.Auth = oauth.Auth{} },
		"two ways":           func(c *oauth.Config) { c.Auth.AssertionFile = "a" },
		"a grant of its own": func(c *oauth.Config) { c.Parameters = map[string]string{"grant_type": "password"} },
		"nothing exchanged":  func(c *oauth.Config) { c.Exchange = &oauth.Exchange{} },
		"no authority file":  func(c *oauth.Config) { c.CAFile = "/does/not/exist" },
	} {
		c := good()
		change(&c)
		if _, err := oauth.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
