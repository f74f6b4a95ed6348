package e2e

import (
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/tests/harness"
)

// TestCredentialSwap: the upstream gets the class's real credential in its one canonical header and nothing of the
// token, whichever header the client used; the client gets nothing of the credential; and no planted credential and no
// token stands in any file, log or page that the system wrote.
func TestCredentialSwap(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{})
	token := s.Issue(harness.Claims{"mission_id": "swap"})
	anthropic := []byte(`{"model":"claude-3-5-haiku","max_tokens":16,"messages":[{"role":"user","content":"hi"}]}`)
	gemini := []byte(`{"contents":[{"parts":[{"text":"hi"}]}]}`)
	cases := []struct {
		name, path, in, inFormat, out, outValue string
		body                                    []byte
		upstream                                string
	}{
		{"openai bearer", "/openai/v1/chat/completions", "Authorization", "Bearer %", "Authorization", "Bearer " + harness.Credential("openai_key"), nil, "/v1/chat/completions"},
		{"openai without v1", "/openai/chat/completions", "Authorization", "Bearer %", "Authorization", "Bearer " + harness.Credential("openai_key"), nil, "/v1/chat/completions"},
		{"the gateway's own path", "/v1/chat/completions", "X-Cst", "%", "Authorization", "Bearer " + harness.Credential("openai_key"), nil, "/v1/chat/completions"},
		{"azure's header", "/openai/v1/chat/completions", "Api-Key", "%", "Authorization", "Bearer " + harness.Credential("openai_key"), nil, "/v1/chat/completions"},
		{"anthropic bearer", "/anthropic/v1/messages", "Authorization", "Bearer %", "X-Api-Key", harness.Credential("anthropic_key"), anthropic, "/v1/messages"},
		{"anthropic x-api-key", "/v1/messages", "X-Api-Key", "%", "X-Api-Key", harness.Credential("anthropic_key"), anthropic, "/v1/messages"},
		{"proxied", "/v1/proxy/anthropic", "X-Scoped-Token", "%", "X-Api-Key", harness.Credential("anthropic_key"), anthropic, "/v1/messages"},
		{"gemini", "/gemini/v1beta/models/gemini-2.0-flash:generateContent", "X-Goog-Api-Key", "%", "X-Goog-Api-Key", harness.Credential("gemini_key"), gemini, "/v1beta/models/gemini-2.0-flash:generateContent"},
		{"a copy in the query", "/openai/v1/chat/completions?cst=%&api-version=1", "X-Cst", "%", "Authorization", "Bearer " + harness.Credential("openai_key"), nil, "/v1/chat/completions?api-version=1"},
		{"gemini by query", "/gemini/v1beta/models/gemini-2.0-flash:generateContent?key=%", "X-Unused", "1", "X-Goog-Api-Key", harness.Credential("gemini_key"), gemini, "/v1beta/models/gemini-2.0-flash:generateContent"},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			// A copy where nobody looks for a token must not leave either.
			fill := func(f string) string { return strings.ReplaceAll(f, "%", token) }
			a := s.Do(harness.Call{Path: fill(c.path), Header: http.Header{c.in: {fill(c.inFormat)}, "Cookie": {"session=" + token}, "X-Debug": {token}}, Body: c.body})
			if a.Status != http.StatusOK || a.Receipt() == "" {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
			got := s.Upstream.Requests()[i]
			if got.Header.Get(c.out) != c.outValue {
				t.Errorf("upstream got %s %q", c.out, got.Header.Get(c.out))
			}
			if got.Path != c.upstream {
				t.Errorf("upstream path %s, want %s", got.Path, c.upstream)
			}
			for name, v := range got.Header {
				if strings.HasPrefix(strings.ToLower(name), "x-sallyport") || strings.HasPrefix(name, "X-Envoy") || strings.HasPrefix(name, "X-Forwarded") {
					t.Errorf("the upstream learns of the gateway: %s: %v", name, v)
				}
			}
		})
	}
	if leaks := s.Upstream.Leaked(token); leaks != nil {
		t.Errorf("the token reached the upstream: %v", leaks)
	}
	s.Stop()
	searchFiles(t, s, token)
}

// searchFiles looks for planted credentials and the token in everything that the system wrote and printed.
func searchFiles(t *testing.T, s *harness.System, token string) {
	t.Helper()
	signature := token[strings.LastIndexByte(token, '.')+1:]
	secrets := []string{signature}
	for _, c := range []string{"openai_key", "anthropic_key", "gemini_key", "openrouter_key"} {
		secrets = append(secrets, harness.Credential(c))
	}
	check := func(where, text string) {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds a credential or the token", where)
			}
		}
	}
	check("what `up` printed", s.Log.String())
	files := 0
	err := filepath.Walk(filepath.Join(s.Dir, "data"), func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		files++
		check(path, string(raw))
		return err
	})
	if err != nil || files < 5 {
		t.Errorf("searched %d files: %v", files, err)
	}
}

// TestEchoedCredential: a host that gives the credential back, in headers and body, plain and encoded, whole and over chunk
// borders, does not give it to the agent; one that hides it in gzip is not heard. The evidence and the metrics say so.
func TestEchoedCredential(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{})
	token := s.Issue(nil)
	real := harness.Credential("openai_key")
	basic := base64.StdEncoding.EncodeToString([]byte("user:" + real))
	for name, c := range map[string]struct {
		handle http.HandlerFunc
		want   string // of the receipt's reason
	}{
		"plain": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Seen", r.Header.Get("Authorization"))
			_, _ = io.WriteString(w, `{"you sent":"`+r.Header.Get("Authorization")+`"}`)
		}, "echoed the credential 2 times"},
		"base64 and URL": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, basic+"\n"+url.QueryEscape(real))
		}, "echoed the credential 2 times"},
		"in pieces": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for _, part := range []string{"data: ", real[:5], real[5:9], real[9:], "\n\n"} {
				_, _ = io.WriteString(w, part)
				w.(http.Flusher).Flush()
				time.Sleep(30 * time.Millisecond) // so that Envoy passes the pieces on one by one
			}
		}, "echoed the credential 1 times"},
		"gzip": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = io.WriteString(z, real)
			_ = z.Close()
		}, "encoded as gzip"},
	} {
		s.Upstream.Handle = c.handle
		a := s.Do(harness.Call{Token: token})
		seen := fmt.Sprint(a.Header) + string(a.Body)
		for _, form := range []string{real, basic[8:], url.QueryEscape(real), real[5:]} {
			if strings.Contains(seen, form) {
				t.Errorf("%s: the agent got the credential: %s", name, seen)
			}
		}
		found := 0
		harness.Eventually(t, name+" is settled", func() bool { return len(s.Evidence().Open()) == 0 })
		for _, r := range s.Evidence().Receipts {
			if strings.Contains(r.Payload().Metadata.Sallyport.Reason, c.want) {
				found++
			}
		}
		if found == 0 {
			t.Errorf("%s: no receipt says %q", name, c.want)
		}
		if (name == "gzip") != (a.Status != http.StatusOK || a.Err != nil) {
			t.Errorf("%s: %d %v", name, a.Status, a.Err)
		}
	}
	s.Stop()
	searchFiles(t, s, token)
}
