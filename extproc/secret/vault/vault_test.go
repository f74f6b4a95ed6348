package vault_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openbao/openbao/api/v2"

	"sallyport/extproc/secret"
	"sallyport/extproc/secret/vault"
	"sallyport/signer/code"
	"sallyport/tests/harness"
)

const planted = "not-a-real-key-7f3a"

var target = secret.Target{Host: "api.example.com", Method: "POST", Path: "/v1/x"}

// clock is a time that tests move on.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time       { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) pass(d time.Duration) { c.offset.Add(int64(d)) }

func source(t *testing.T, cfg vault.Config) *vault.Source {
	t.Helper()
	s, err := vault.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// broker has the one class model; its log goes to the buffer that it returns.
func broker(t *testing.T, s secret.Source, opts ...secret.Option) (*secret.Broker, *harness.Buffer) {
	t.Helper()
	l := &harness.Buffer{}
	opts = append(opts, secret.WithLog(slog.New(slog.NewTextHandler(l, nil))))
	b, err := secret.New([]secret.Class{{Name: "model", Source: s, Hosts: []string{"api.example.com"}, TTL: 10 * time.Minute}}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(t.Context()) })
	return b, l
}

func mustGive(t *testing.T, b *secret.Broker, want string) {
	t.Helper()
	if c, _, d := b.Get(t.Context(), "model", target, 0); d != nil || (want != "" && c.Value.Reveal() != want) {
		t.Fatalf("%q and %v, want %q", c.Value.Reveal(), d, want)
	}
}

func mustRefuse(t *testing.T, b *secret.Broker, why string) {
	t.Helper()
	if c, _, d := b.Get(t.Context(), "model", target, 0); d == nil || d.Code != code.SecretUnavailable || !c.Value.Empty() {
		t.Fatalf("%s: got %q and %v, want %s", why, c.Value.Reveal(), d, code.SecretUnavailable)
	}
}

// A value is read with a token from a file, changes are noticed within twice the refresh, and a deleted one is gone.
func TestKVFollowsTheServer(t *testing.T) {
	srv, clk := harness.NewOpenBao(t), &clock{}
	srv.KV("first")
	s := source(t, vault.Config{
		Address: "http://" + srv.Address, Auth: vault.Auth{TokenFile: harness.SecretFile(t, srv.Token())}, Now: clk.now,
		KV2: &vault.KV2{Path: "models/openai", Field: "key"},
	})
	b, _ := broker(t, s, secret.WithClock(clk.now))
	mustGive(t, b, "first")
	srv.KV("second")
	mustGive(t, b, "first") // within the refresh
	clk.pass(2 * vault.DefaultRefresh)
	mustGive(t, b, "second")
	srv.KV(12345)
	clk.pass(2*vault.DefaultRefresh - 6*time.Second) // late in its life, yet before calls wait
	mustGive(t, b, "second")
	harness.Eventually(t, "a call gets the value that was fetched in the background", func() bool {
		c, _, _ := b.Get(t.Context(), "model", target, 0)
		return c.Value.Reveal() == "12345"
	})
	if _, err := srv.Logical().Delete("secret/data/models/openai"); err != nil {
		t.Fatal(err)
	}
	clk.pass(2 * vault.DefaultRefresh)
	mustRefuse(t, b, "deleted")
	srv.KV(map[string]any{"deep": planted})
	mustRefuse(t, b, "no text")
	srv.KV("third")
	mustGive(t, b, "third")
}

// While the server is sealed or stopped, calls go on with what is at hand until its end, and are refused afterwards;
// as soon as it is back, they go on.
func TestServerAway(t *testing.T) {
	srv := harness.NewOpenBao(t)
	srv.KV(planted)
	cfg := vault.Config{
		Address: "http://" + srv.Address, Auth: vault.Auth{TokenFile: harness.SecretFile(t, srv.Token())},
		KV2: &vault.KV2{Path: "models/openai", Field: "key"},
	}
	for _, away := range []struct {
		name       string
		leave, end func()
		says       string
	}{
		{"sealed", func() {
			if err := srv.Sys().Seal(); err != nil {
				t.Fatal(err)
			}
		}, srv.Unseal, "sealed"},
		{"stopped", srv.Stop, func() { srv.Start(); srv.Unseal() }, "cannot be reached"},
	} {
		t.Run(away.name, func(t *testing.T) {
			clk := &clock{}
			cfg.Now = clk.now
			b, logged := broker(t, source(t, cfg), secret.WithClock(clk.now))
			mustGive(t, b, planted)
			away.leave()
			for range 9 {
				clk.pass(time.Minute)
				mustGive(t, b, planted)
			}
			clk.pass(time.Minute)
			mustRefuse(t, b, "its ten minutes are over")
			if !strings.Contains(logged.String(), away.says) || strings.Contains(logged.String(), planted) || strings.Contains(logged.String(), srv.Token()) {
				t.Errorf("the log must say %q and no credential:\n%s", away.says, logged)
			}
			away.end()
			mustGive(t, b, planted)
		})
	}
}

// The login is made once, made anew when the server knows it no more, and given back at the end.
func TestAppRoleLogin(t *testing.T) {
	srv, clk := harness.NewOpenBao(t), &clock{}
	srv.KV(planted)
	role, secretID := srv.AppRole("1h")
	before := srv.Accessors()
	logins := func() (out []string) {
		for a := range srv.Accessors() {
			if !before[a] {
				out = append(out, a)
			}
		}
		return out
	}
	s := source(t, vault.Config{
		Address: "http://" + srv.Address, Auth: vault.Auth{AppRole: &vault.AppRole{RoleID: role, SecretIDFile: secretID}}, Now: clk.now,
		KV2: &vault.KV2{Path: "models/openai", Field: "key"},
	})
	fetch := func() {
		t.Helper()
		if c, err := s.Fetch(t.Context()); err != nil || c.Value.Reveal() != planted {
			t.Fatalf("%q, %v", c.Value.Reveal(), err)
		}
	}
	fetch()
	fetch()
	first := logins()
	if len(first) != 1 {
		t.Fatalf("%d logins, want one", len(first))
	}
	if err := srv.Auth().Token().RevokeAccessor(first[0]); err != nil {
		t.Fatal(err)
	}
	fetch()
	second := logins()
	if len(second) != 1 || second[0] == first[0] {
		t.Fatalf("logins %v after %v was revoked", second, first)
	}
	clk.pass(50 * time.Minute) // of 60
	fetch()
	if n := len(logins()); n != 2 {
		t.Errorf("%d logins, want another one near the end of the last", n)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := logins(); len(now) != 1 || now[0] != second[0] {
		t.Errorf("logins %v after the end; %v ends by itself", now, second)
	}
	if err := os.WriteFile(secretID, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "login at auth/approle/login") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("with a wrong secret id: %v", err)
	}
}

// The request that Kubernetes' method takes is also the JWT method's, which needs no cluster.
func TestJWTLogin(t *testing.T) {
	srv := harness.NewOpenBao(t)
	srv.KV(planted)
	srv.Policy()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Sys().EnableAuthWithOptions("cluster", &api.EnableAuthOptions{Type: "jwt"}); err != nil {
		t.Fatal(err)
	}
	srv.Put("auth/cluster/config", map[string]any{"jwt_validation_pubkeys": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))})
	srv.Put("auth/cluster/role/gateway", map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_audiences": "bao", "token_policies": "gateway"})
	jwt := harness.SecretFile(t, es256(t, key, fmt.Sprintf(`{"sub":"gateway","aud":"bao","iat":%d,"exp":%d}`, time.Now().Unix(), time.Now().Add(time.Hour).Unix())))
	cfg := vault.Config{
		Address: "http://" + srv.Address, Auth: vault.Auth{JWT: &vault.JWT{Role: "gateway", File: jwt, Mount: "cluster"}},
		KV2: &vault.KV2{Path: "models/openai", Field: "key"},
	}
	if c, err := source(t, cfg).Fetch(t.Context()); err != nil || c.Value.Reveal() != planted {
		t.Fatalf("%q, %v", c.Value.Reveal(), err)
	}
	cfg.Auth.JWT.Role = "other"
	if _, err := source(t, cfg).Fetch(t.Context()); err == nil {
		t.Error("a role that is not there was logged in")
	}
}

func es256(t *testing.T, key *ecdsa.PrivateKey, claims string) string {
	t.Helper()
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// A value of one namespace is not another's.
func TestNamespace(t *testing.T) {
	srv := harness.NewOpenBao(t)
	srv.KV("of the root")
	srv.Put("sys/namespaces/team", nil)
	root := srv.Client
	srv.Client = root.WithNamespace("team")
	srv.KV("of the team")
	srv.Client = root
	for ns, want := range map[string]string{"": "of the root", "team": "of the team"} {
		s := source(t, vault.Config{
			Address: "http://" + srv.Address, Namespace: ns, Auth: vault.Auth{TokenFile: harness.SecretFile(t, srv.Token())},
			KV2: &vault.KV2{Path: "models/openai", Field: "key"},
		})
		if c, err := s.Fetch(t.Context()); err != nil || c.Value.Reveal() != want {
			t.Errorf("namespace %q: %q, %v", ns, c.Value.Reveal(), err)
		}
	}
}

// The server makes a user of a real Redis for the gateway: kept while it lives, prolonged, replaced when the server gives
// it no more life, and gone from Redis when the broker closes.
func TestDatabaseLease(t *testing.T) {
	srv, clk := harness.NewOpenBao(t), &clock{}
	r := srv.RedisUsers("4m", "6m")
	role, secretID := srv.AppRole("1h")
	cfg := vault.Config{
		Address: "http://" + srv.Address, Auth: vault.Auth{AppRole: &vault.AppRole{RoleID: role, SecretIDFile: secretID}}, Now: clk.now,
		Lease: &vault.Lease{Path: "database/creds/agent", Field: "username"},
	}
	b, logged := broker(t, source(t, cfg), secret.WithClock(clk.now))
	c, _, d := b.Get(t.Context(), "model", target, 0)
	if d != nil {
		t.Fatalf("%v\n%s", d, logged)
	}
	name := c.Value.Reveal()
	if got := r.Users(); len(got) != 1 || got[0] != name {
		t.Fatalf("Redis has the users %v, not %s", got, name)
	}
	if left := c.Expires.Sub(clk.now()); left > 4*time.Minute || left < 3*time.Minute {
		t.Errorf("it may be used for %s of 4 minutes", left)
	}
	mustGive(t, b, name)
	clk.pass(3*time.Minute + 50*time.Second) // of 4: calls get one until its last 5 seconds, and it is prolonged meanwhile
	mustGive(t, b, name)
	harness.Eventually(t, "the lease is prolonged", func() bool {
		c, _, d := b.Get(t.Context(), "model", target, 0)
		return d == nil && c.Value.Reveal() == name && c.Expires.Sub(clk.now()) > 3*time.Minute
	})
	if n := len(r.Users()); n != 1 {
		t.Errorf("%d users at Redis, want one", n)
	}
	// A contract that wants a younger one gets one, and the old one goes on for the calls that have it.
	c, _, d = b.Get(t.Context(), "model", target, time.Minute)
	if d != nil || c.Value.Reveal() == name || len(r.Users()) != 2 {
		t.Errorf("%v, %d users", d, len(r.Users()))
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "no user is left at Redis", func() bool { return len(r.Users()) == 0 })
	mustRefuse(t, b, "after the end")
}

// Each job has a user of its own, which goes when the job is over; where the server is away at that time, as soon as it is
// back. What is left goes with the broker.
func TestLeasePerJob(t *testing.T) {
	srv, clk := harness.NewOpenBao(t), &clock{}
	r := srv.RedisUsers("1h", "2h")
	l := &harness.Buffer{}
	b, err := secret.New([]secret.Class{{Name: "db", Hosts: []string{"api.example.com"}, TTL: time.Hour, PerJob: true, Source: source(t, vault.Config{
		Address: "http://" + srv.Address, Auth: vault.Auth{TokenFile: harness.SecretFile(t, srv.Token())}, Now: clk.now,
		Lease: &vault.Lease{Path: "database/creds/agent", Field: "username"},
	})}}, secret.WithClock(clk.now), secret.WithLog(slog.New(slog.NewTextHandler(l, nil))))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close(t.Context()) }()
	if err := b.Ready(t.Context()); err != nil || len(r.Users()) != 0 {
		t.Fatalf("%v; being ready takes no lease, but there are %v", err, r.Users())
	}
	var over [3]atomic.Bool
	get := func(job int) string {
		t.Helper()
		c, _, d := b.GetFor(t.Context(), func() secret.Job {
			return secret.Job{ID: fmt.Sprint(job), Over: func(time.Time) bool { return over[job].Load() }}
		}, "db", target, 0)
		if d != nil {
			t.Fatalf("%v\n%s", d, l)
		}
		return c.Value.Reveal()
	}
	has := func(want ...string) func() bool {
		return func() bool {
			slices.Sort(want)
			got := r.Users()
			slices.Sort(got)
			return slices.Equal(got, want)
		}
	}
	first, second, third := get(0), get(1), get(2)
	if get(0) != first || get(1) != second || !has(first, second, third)() {
		t.Fatalf("jobs have %s, %s and %s of %v", first, second, third, r.Users())
	}
	if _, _, d := b.Get(t.Context(), "db", target, 0); d == nil || d.Code != code.SecretUnavailable {
		t.Errorf("a call of no job: %v", d)
	}
	over[1].Store(true)
	harness.Eventually(t, "the user of a job that is over goes", has(first, third))
	if err := srv.Sys().Seal(); err != nil {
		t.Fatal(err)
	}
	over[0].Store(true)
	harness.Eventually(t, "the log says that it could not be revoked", func() bool { return strings.Contains(l.String(), "could not be revoked") })
	srv.Unseal()
	clk.pass(time.Minute)
	harness.Eventually(t, "the user of a job that was over while the server was away goes", has(third))
	if get(2) != third {
		t.Error("the job that goes on has lost its user")
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "no user is left at Redis after the end", has())
}

// A password that a lease gives opens what it is for, and no longer does once the lease is revoked.
func TestRevokedLeaseOpensNothing(t *testing.T) {
	srv := harness.NewOpenBao(t)
	r := srv.RedisUsers("1h", "2h")
	s := source(t, vault.Config{
		Address: "http://" + srv.Address, Auth: vault.Auth{TokenFile: harness.SecretFile(t, srv.Token())},
		Lease: &vault.Lease{Path: "database/creds/agent", Field: "password"},
	})
	c, err := s.Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	users := r.Users()
	if len(users) != 1 {
		t.Fatalf("users %v, want one", users)
	}
	opens := func() error { return r.Open(users[0], c.Value.Reveal()) }
	if err := opens(); err != nil {
		t.Fatalf("the password opens nothing: %v", err)
	}
	if err := s.Revoke(t.Context(), c.Lease); err != nil {
		t.Fatal(err)
	}
	if opens() == nil {
		t.Error("the password still opens Redis")
	}
	if _, err := s.Renew(t.Context(), c.Lease); err == nil {
		t.Error("a revoked lease was renewed")
	}
}

// A lease ends with the login that took it: the server sees to that, so the gateway must too.
func TestLeaseEndsWithItsLogin(t *testing.T) {
	srv := harness.NewOpenBao(t)
	srv.RedisUsers("1h", "2h")
	role, secretID := srv.AppRole("5m")
	s := source(t, vault.Config{
		Address: "http://" + srv.Address, Auth: vault.Auth{AppRole: &vault.AppRole{RoleID: role, SecretIDFile: secretID}},
		Lease: &vault.Lease{Path: "database/creds/agent", Field: "password"},
	})
	c, err := s.Fetch(t.Context())
	if err != nil || time.Until(c.Expires) > 5*time.Minute {
		t.Errorf("it may be used for %s, but the login ends in 5 minutes (%v)", time.Until(c.Expires), err)
	}
}

// The PKI engine's answers are written for, and their leases are not renewable.
func TestPKILease(t *testing.T) {
	srv := harness.NewOpenBao(t)
	if err := srv.Sys().Mount("pki", &api.MountInput{Type: "pki"}); err != nil {
		t.Fatal(err)
	}
	srv.Put("pki/root/generate/internal", map[string]any{"common_name": "example.com", "ttl": "24h"})
	srv.Put("pki/roles/agent", map[string]any{"allowed_domains": "example.com", "allow_subdomains": true, "generate_lease": true, "max_ttl": "1h"})
	s := source(t, vault.Config{
		Address: "http://" + srv.Address, Auth: vault.Auth{TokenFile: harness.SecretFile(t, srv.Token())},
		Lease: &vault.Lease{Path: "pki/issue/agent", Field: "serial_number", Parameters: map[string]string{"common_name": "a.example.com", "ttl": "10m"}},
	})
	c, err := s.Fetch(t.Context())
	if err != nil || c.Value.Empty() || c.Lease == "" || c.Renewable || time.Until(c.Expires) > 11*time.Minute {
		t.Errorf("%+v, %v", c, err)
	}
	if err := s.Revoke(t.Context(), c.Lease); err != nil {
		t.Error(err)
	}
}

// A server that is slow keeps calls waiting for one bounded fetch in all, and none that has a live credential.
func TestSlowServer(t *testing.T) {
	srv, clk := harness.NewOpenBao(t), &clock{}
	srv.KV(planted)
	to, err := url.Parse("http://" + srv.Address)
	if err != nil {
		t.Fatal(err)
	}
	var stuck atomic.Bool
	var asked atomic.Int32
	through := httputil.NewSingleHostReverseProxy(to)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if stuck.Load() {
			<-r.Context().Done()
			return
		}
		through.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	s := source(t, vault.Config{
		Address: proxy.URL, Auth: vault.Auth{TokenFile: harness.SecretFile(t, srv.Token())}, Now: clk.now, KV2: &vault.KV2{Path: "models/openai", Field: "key"},
	})
	b, logged := broker(t, s, secret.WithClock(clk.now), secret.WithFetchTimeout(300*time.Millisecond))
	mustGive(t, b, planted)
	stuck.Store(true)
	clk.pass(9 * time.Minute)
	mustGive(t, b, planted)
	clk.pass(time.Minute)
	asked.Store(0)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, _, d := b.Get(t.Context(), "model", target, 0); d == nil || d.Code != code.SecretUnavailable {
				t.Errorf("%v", d)
			}
		})
	}
	wg.Wait()
	if n := asked.Load(); n > 5 {
		t.Errorf("20 calls asked the server %d times", n)
	}
	if !strings.Contains(logged.String(), "in time") {
		t.Errorf("the log does not say why: %s", logged)
	}
	stuck.Store(false)
	mustGive(t, b, planted)
}

// Answers that are rubbish are errors, of which no word shows what the answer held.
func TestRubbish(t *testing.T) {
	for name, answer := range map[string]struct {
		status int
		body   string
	}{
		"nothing":              {200, ""},
		"a page":               {200, "<html>" + planted + "</html>"},
		"a text":               {200, `"` + planted + `"`},
		"another object":       {200, `{"password":"` + planted + `"}`},
		"a list":               {200, `["` + planted + `"]`},
		"a lease that is text": {200, `{"lease_id":"x","lease_duration":"` + planted + `","data":{"key":"` + planted + `"}}`},
		"no lease":             {200, `{"data":{"key":"` + planted + `"}}`},
		"no time left":         {200, `{"lease_id":"x","lease_duration":0,"data":{"key":"` + planted + `"}}`},
		"negative time":        {200, `{"lease_id":"x","lease_duration":-5,"data":{"key":"` + planted + `"}}`},
		"no field":             {200, `{"lease_id":"x","lease_duration":9,"data":{"other":"` + planted + `"}}`},
		"no text":              {200, `{"lease_id":"x","lease_duration":9,"data":{"key":{"a":"` + planted + `"}}}`},
		"data in place":        {200, `{"lease_id":"x","lease_duration":9,"data":"` + planted + `"}`},
		"cut":                  {200, `{"lease_id":"x","lease_duration":9,"data":{"key":"` + planted},
		"far too long":         {200, `{"lease_id":"x","lease_duration":9,"data":{"key":"` + planted + strings.Repeat("a", 10<<20) + `"}}`},
		"a redirect":           {302, planted},
		"an error":             {400, `{"errors":["` + planted + `"]}`},
		"an error page":        {500, "<html>" + planted},
		"refused":              {403, planted},
		"gone":                 {404, planted},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("X-Vault-Token") != "token" {
					t.Errorf("%s went without its token", r.URL)
				}
				w.Header().Set("Location", "/v1/other")
				w.WriteHeader(answer.status)
				_, _ = w.Write([]byte(answer.body))
			}))
			defer srv.Close()
			for _, cfg := range []vault.Config{
				{KV2: &vault.KV2{Path: "p", Field: "key"}},
				{Lease: &vault.Lease{Path: "p", Field: "key"}},
				{Lease: &vault.Lease{Path: "p", Field: "key", Parameters: map[string]string{"a": "b"}}},
			} {
				cfg.Address, cfg.Auth.TokenFile = srv.URL, harness.SecretFile(t, "token")
				b, logged := broker(t, source(t, cfg))
				mustRefuse(t, b, name)
				if ready := b.Ready(t.Context()); ready == nil || strings.Contains(ready.Error()+logged.String(), planted) || !strings.Contains(ready.Error(), `"model"`) {
					t.Errorf("the error must name the class and not the value: %v\n%s", ready, logged)
				}
			}
		})
	}
}

// An absurd lease must not overflow into one that has ended, or that never ends.
func TestAbsurdLease(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"lease_id":"x","lease_duration":9223372036854775807,"data":{"key":"a"}}`))
	}))
	defer srv.Close()
	b, _ := broker(t, source(t, vault.Config{Address: srv.URL, Auth: vault.Auth{TokenFile: harness.SecretFile(t, "token")}, Lease: &vault.Lease{Path: "p", Field: "key"}}))
	if c, _, d := b.Get(t.Context(), "model", target, 0); d != nil || time.Until(c.Expires) > 10*time.Minute {
		t.Errorf("%v, for %s", d, time.Until(c.Expires))
	}
}

func TestBadConfiguration(t *testing.T) {
	good := func() vault.Config {
		return vault.Config{Address: "https://bao.internal:8200", Auth: vault.Auth{TokenFile: "t"}, KV2: &vault.KV2{Path: "p", Field: "f"}}
	}
	if _, err := vault.New(good()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*vault.Config){
		"no address":        func(c *vault.Config) { c.Address = "" },
		"another scheme":    func(c *vault.Config) { c.Address = "ftp://bao.internal" },
		"in the clear":      func(c *vault.Config) { c.Address = "http://bao.internal:8200" },
		"a password":        func(c *vault.Config) { c.Address = "https://a:" + planted + "@bao.internal" },
		"no auth":           func(c *vault.Config) { c.Auth = vault.Auth{} },
		"two ways":          func(c *vault.Config) { c.Auth.AppRole = &vault.AppRole{} },
		"neither":           func(c *vault.Config) { c.KV2 = nil },
		"both":              func(c *vault.Config) { c.Lease = &vault.Lease{Path: "p", Field: "f"} },
		"no field":          func(c *vault.Config) { c.KV2.Field = "" },
		"no authority file": func(c *vault.Config) { c.CAFile = "/does/not/exist" },
	} {
		c := good()
		change(&c)
		if _, err := vault.New(c); err == nil || strings.Contains(err.Error(), planted) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
