package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"sallyport/tests/harness"
)

// TestOAuth: a token of a real OpenID provider is the credential of calls, each job has its own, and the provider has it
// revoked when the job's token is withdrawn. With the provider gone a job goes on with the token at hand, and another gets
// none and is refused.
func TestOAuth(t *testing.T) {
	t.Parallel()
	clientSecret := harness.Credential("gemini_key") // one of those that are searched for
	oidc := harness.NewOIDC(t, []map[string]any{{
		"client_id": "gateway", "client_secret": clientSecret, "grant_types": []string{"client_credentials"}, "redirect_uris": []string{}, "response_types": []string{},
	}}, nil)
	upstream := harness.NewUpstream(t)
	s := harness.Start(t, harness.Options{Bare: true, Extra: fmt.Sprintf(`
loopback_model: {enabled: false}
upstreams:
  - {name: openai, dialect: openai, url: %[1]q, secret_class: openai_key}
secret_classes:
  - name: openai_key
    hosts: [%[2]q]
    per_job: true
    from:
      oauth:
        token_url: %[3]s
        revocation_url: %[4]s
        client_id: gateway
        auth: {secret_file: %[5]q}
        scopes: [models.use]
`, upstream.URL("openai"), upstream.Hosts()[0], oidc.TokenURL, oidc.RevocationURL, harness.SecretFile(t, clientSecret))})
	contract := s.Publish(forwardContract("443"))
	got := func(token string) string {
		t.Helper()
		n := upstream.Count()
		if a := s.Do(harness.Call{Token: token}); a.Status != http.StatusOK || upstream.Count() != n+1 {
			t.Fatalf("%d %s %v", a.Status, a.Body, a.Err)
		}
		return strings.TrimPrefix(upstream.Requests()[n].Header.Get("Authorization"), "Bearer ")
	}
	job := func(name string) string {
		return s.Issue(harness.Claims{"policy_hash_b64u": contract, "mission_id": name})
	}
	one, two := job("one"), job("two")
	first, second := got(one), got(two)
	if first == second || got(one) != first {
		t.Error("a job must have one token, and of its own")
	}
	for _, token := range []string{first, second} {
		if active, claims := oidc.Active(token); !active || claims["scope"] != "models.use" {
			t.Errorf("the provider knows %v of what the upstream got", claims)
		}
	}
	if a := s.Control("POST", "/v1/tokens/revoke", map[string]any{"token": one}); a.Status != http.StatusOK {
		t.Fatalf("revoke: %d %s", a.Status, a.Body)
	}
	harness.Eventually(t, "the token of the withdrawn job is revoked at the provider", func() bool {
		active, _ := oidc.Active(first)
		return !active
	})
	if active, _ := oidc.Active(second); !active {
		t.Error("another job's token was revoked too")
	}

	oidc.Stop()
	if got(two) != second {
		t.Error("with the provider gone a job has lost its token")
	}
	n := upstream.Count()
	if a := s.Do(harness.Call{Token: job("three")}); a.Status != http.StatusServiceUnavailable || a.Code != "SECRET_UNAVAILABLE" || upstream.Count() != n {
		t.Errorf("a job without a token: %d %s", a.Status, a.Body)
	}
	s.Stop()
	checkEvidence(t, s, map[string]bool{})
	searchFiles(t, s, second)
	searchFiles(t, s, first)
}
