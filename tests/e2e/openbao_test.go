package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/tests/harness"
)

// baoConfig has an upstream whose credential comes from the server: looked at every second, used for 15 at most. It is
// also reached as short, where it is used for one second.
func baoConfig(bao *harness.OpenBao, upstream *harness.Upstream, roleID, secretIDFile string) string {
	return fmt.Sprintf(`
loopback_model: {enabled: false}
upstreams:
  - {name: openai, dialect: openai, url: %[1]q, secret_class: openai_key}
  - {name: short, provider: openai, dialect: openai, url: %[1]q, secret_class: anthropic_key}
secret_classes:
  - name: anthropic_key
    hosts: [%[2]q]
    ttl: 1s
    from: {vault: {address: "http://%[3]s", auth: {approle: {role_id: %[4]q, secret_id_file: %[5]q}}, kv2: {path: models/openai, field: key}}}
  - name: openai_key
    hosts: [%[2]q]
    ttl: 15s
    from:
      vault:
        address: "http://%[3]s"
        auth: {approle: {role_id: %[4]q, secret_id_file: %[5]q}}
        kv2: {path: models/openai, field: key, refresh: 1s}
`, upstream.URL("openai"), upstream.Hosts()[0], bao.Address, roleID, secretIDFile)
}

// TestOpenBao: what a real server keeps reaches the upstream and nobody else. With the server sealed calls go on with
// what is at hand until its end and are refused afterwards, with a code and unsent; with it back they go on; with it dead
// and the processor started anew there is nothing at hand. The end gives the login back.
func TestOpenBao(t *testing.T) {
	t.Parallel()
	bao := harness.NewOpenBao(t)
	bao.KV(harness.Credential("openai_key"))
	before := len(bao.Accessors())
	roleID, secretIDFile := bao.AppRole("1h")
	upstream := harness.NewUpstream(t)
	s := harness.Start(t, harness.Options{Bare: true, Extra: baoConfig(bao, upstream, roleID, secretIDFile)})
	contract := s.Publish(forwardContract("443"))
	token := s.Issue(harness.Claims{"policy_hash_b64u": contract})
	gets := func() string { // what the upstream got, or the code of the refusal
		n := upstream.Count()
		a := s.Do(harness.Call{Token: token})
		if a.Status == http.StatusOK && upstream.Count() == n+1 {
			return strings.TrimPrefix(upstream.Requests()[n].Header.Get("Authorization"), "Bearer ")
		}
		if upstream.Count() != n {
			t.Fatalf("a refused call (%s) reached the upstream", a.Code)
		}
		if a.Status != http.StatusServiceUnavailable || a.Code != "SECRET_UNAVAILABLE" {
			t.Fatalf("%d %s %v", a.Status, a.Body, a.Err)
		}
		return a.Code
	}
	if got := gets(); got != harness.Credential("openai_key") {
		t.Fatalf("the upstream got %q", got)
	}

	bao.KV(harness.Credential("anthropic_key")) // another planted value
	harness.Eventually(t, "the changed value is in use", func() bool { return gets() == harness.Credential("anthropic_key") })
	if err := bao.Sys().Seal(); err != nil {
		t.Fatal(err)
	}
	if got := gets(); got != harness.Credential("anthropic_key") {
		t.Errorf("with the server sealed and a live credential: %q", got)
	}
	harness.Eventually(t, "calls are refused at its end", func() bool {
		got := gets()
		if got != harness.Credential("anthropic_key") && got != "SECRET_UNAVAILABLE" {
			t.Fatalf("%q", got)
		}
		return got == "SECRET_UNAVAILABLE"
	})
	bao.Unseal()
	harness.Eventually(t, "calls go on", func() bool { return gets() == harness.Credential("anthropic_key") })

	// An answer that streams for longer than its credential lives goes to its end; the next call has none.
	upstream.Gap, upstream.Chunks = 300*time.Millisecond, 6
	streaming := upstream.Count()
	done := make(chan harness.Answer, 1)
	go func() {
		done <- s.Do(harness.Call{Token: token, Path: "/short/v1/chat/completions", Body: harness.ChatBody("gpt-4o-mini", true)})
	}()
	harness.Eventually(t, "the streamed call is upstream", func() bool { return upstream.Count() == streaming+1 })
	if err := bao.Sys().Seal(); err != nil {
		t.Fatal(err)
	}
	if a := <-done; a.Err != nil || !bytes.Contains(a.Body, []byte("[DONE]")) {
		t.Errorf("a stream was cut at the end of its credential: %v %s", a.Err, a.Body)
	}
	if a := s.Do(harness.Call{Token: token, Path: "/short/v1/chat/completions"}); a.Code != "SECRET_UNAVAILABLE" {
		t.Errorf("after the stream: %d %s", a.Status, a.Body)
	}

	bao.Stop()
	s.Signal("extproc", syscall.SIGKILL)
	harness.Eventually(t, "a new processor refuses", func() bool {
		a := s.Do(harness.Call{Token: token})
		if a.Status == http.StatusOK {
			t.Fatal("a call passed without a credential at hand")
		}
		return a.Code == "SECRET_UNAVAILABLE"
	})
	bao.Start()
	bao.Unseal()
	harness.Eventually(t, "calls go on", func() bool { return gets() == harness.Credential("anthropic_key") })

	for _, class := range []string{"openai_key", "anthropic_key"} {
		if s.EnvoyConfigHas(harness.Credential(class)) {
			t.Error("the credential stands in Envoy's configuration")
		}
	}
	logins := len(bao.Accessors())
	s.Stop()
	if now := len(bao.Accessors()); now >= logins || now < before {
		t.Errorf("%d logins before the end, %d after it; the last one must be gone", logins, now)
	}
	checkEvidence(t, s, map[string]bool{})
	secretID, err := os.ReadFile(secretIDFile)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(s.Log.String(), strings.TrimSpace(string(secretID))) || !strings.Contains(s.Log.String(), "sealed") {
		t.Error("the log must say that the server was sealed, and hold no secret id")
	}
	searchFiles(t, s, token)
}

// TestOpenBaoLease: the users that the server makes in a real Redis are credentials of calls, one for each job; a job's is
// gone from Redis when its token is withdrawn, and what is left when the gateway ends.
func TestOpenBaoLease(t *testing.T) {
	t.Parallel()
	bao := harness.NewOpenBao(t)
	redis := bao.RedisUsers("1h", "2h")
	roleID, secretIDFile := bao.AppRole("1h")
	upstream := harness.NewUpstream(t)
	extra := baoConfig(bao, upstream, roleID, secretIDFile)
	extra = strings.Replace(extra, "kv2: {path: models/openai, field: key, refresh: 1s}", "lease: {path: database/creds/agent, field: password}", 1)
	extra = strings.Replace(extra, "ttl: 15s", "ttl: 30m\n    per_job: true", 1)
	s := harness.Start(t, harness.Options{Bare: true, Extra: extra})
	contract := s.Publish(forwardContract("443"))
	var tokens, passwords, users []string
	for i, job := range []string{"one", "two"} {
		tokens = append(tokens, s.Issue(harness.Claims{"policy_hash_b64u": contract, "mission_id": job}))
		for range 2 {
			if a := s.Do(harness.Call{Token: tokens[i]}); a.Status != http.StatusOK {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
		}
		got := upstream.Requests()
		password := strings.TrimPrefix(got[2*i].Header.Get("Authorization"), "Bearer ")
		if again := strings.TrimPrefix(got[2*i+1].Header.Get("Authorization"), "Bearer "); again != password {
			t.Error("two calls of a job got different credentials")
		}
		for _, u := range redis.Users() {
			if redis.Open(u, password) == nil {
				users, passwords = append(users, u), append(passwords, password)
			}
		}
	}
	if len(users) != 2 || users[0] == users[1] {
		t.Fatalf("the passwords of two jobs open %v", users)
	}
	if a := s.Control("POST", "/v1/tokens/revoke", map[string]any{"token": tokens[0]}); a.Status != http.StatusOK {
		t.Fatalf("revoke: %d %s", a.Status, a.Body)
	}
	harness.Eventually(t, "the user of the withdrawn token is gone from Redis", func() bool { return slices.Equal(redis.Users(), users[1:]) })
	if redis.Open(users[0], passwords[0]) == nil {
		t.Error("the password of the withdrawn token still opens Redis")
	}
	if a := s.Do(harness.Call{Token: tokens[1]}); a.Status != http.StatusOK || redis.Open(users[1], passwords[1]) != nil {
		t.Errorf("the other job: %d %s", a.Status, a.Body)
	}
	s.Stop()
	harness.Eventually(t, "no user is left in Redis", func() bool { return len(redis.Users()) == 0 })
	err := filepath.Walk(filepath.Join(s.Dir, "data"), func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		for _, p := range passwords {
			if strings.Contains(string(raw), p) || strings.Contains(s.Log.String(), p) {
				t.Errorf("%s or the log holds a password", path)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
