package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"sallyport/tests/harness"
)

// binary runs the command without a system.
func binary(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), harness.Binary(t, false), args...).CombinedOutput()
	return string(out), err
}

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// TestRedaction: through the real Envoy, what reaches an upstream is what the contract's rules leave of the body, at each
// provider and by both doors, over HTTP/1.1 and HTTP/2; receipts are of what left; and what the rules cannot be carried
// out on does not leave.
func TestRedaction(t *testing.T) {
	t.Parallel()
	o := startOutside(t)
	contract := forwardContract(o.site.Port())
	contract["redaction"] = map[string]any{"rules": []any{
		map[string]any{"path": "$.messages[*].content", "action": "mask"},
		map[string]any{"path": "$.system", "action": "remove"},
		map[string]any{"path": "$.user", "action": "hash"},
		map[string]any{"path": "$.params[*].secret", "action": "mask"},
	}}
	o.contract = o.Publish(contract)
	token := o.issue(harness.Claims{"mission_id": "redacted"})
	client := o.Proxied(t, token, o.contract, nil)
	long := strings.Repeat("a long prompt ", 20000) // some 280 KB, so that Envoy buffers many pieces
	for _, c := range []struct {
		name, url, body, want string
		reverse, chunked      bool
		code                  string
	}{
		{name: "openai", reverse: true, url: "/openai/v1/chat/completions", body: `{"model":"gpt-4o-mini", "messages":[{"role":"user","content":"hi"}],"seed":9007199254740991}`,
			want: `{"model":"gpt-4o-mini", "messages":[{"role":"user","content":"[REDACTED]"}],"seed":9007199254740991}`},
		{name: "shorter", reverse: true, url: "/openai/v1/chat/completions", body: `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"` + long + `"}]}`,
			want: `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"[REDACTED]"}]}`},
		{name: "longer", reverse: true, url: "/openai/v1/chat/completions", body: `{"model":"gpt-4o-mini","messages":[{"content":1},{"content":2}],"top_p":1.0}`,
			want: `{"model":"gpt-4o-mini","messages":[{"content":"[REDACTED]"},{"content":"[REDACTED]"}],"top_p":1.0}`},
		{name: "without a length", reverse: true, chunked: true, url: "/openai/v1/chat/completions", body: `{"model":"gpt-4o-mini","messages":[{"content":"a long one"}]}`,
			want: `{"model":"gpt-4o-mini","messages":[{"content":"[REDACTED]"}]}`},
		{name: "anthropic", reverse: true, url: "/anthropic/v1/messages", body: `{"model":"claude-3-5-haiku","system":"be kind","max_tokens":16,"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}]}`,
			want: `{"model":"claude-3-5-haiku","max_tokens":16,"messages":[{"role":"user","content":"[REDACTED]"}]}`},
		{name: "nothing to redact", reverse: true, url: "/openai/v1/chat/completions", body: `{"model":"gpt-4o-mini" , "messages":[]}`, want: `{"model":"gpt-4o-mini" , "messages":[]}`},
		{name: "a model through the forward door", url: o.url(modelHost, "/v1/chat/completions"), body: `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}`,
			want: `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"[REDACTED]"}]}`},
		{name: "a tool through the forward door", url: o.url(dataHost, "/public/mcp"), body: `{"params":[{"secret":{"a":1},"x":1}],"n":1e3}`,
			want: `{"params":[{"secret":"[REDACTED]","x":1}],"n":1e3}`},
		{name: "a form", url: o.url(dataHost, "/public/mcp"), body: "secret=1", code: "REDACTION_NOT_POSSIBLE"},
		{name: "a list", url: o.url(dataHost, "/public/mcp"), body: `[{"params":[]}]`, code: "REDACTION_NOT_POSSIBLE"},
		{name: "not JSON to a model", reverse: true, url: "/openai/v1/chat/completions", body: `{"model":"gpt-4o-mini","messages":[{"content":"a","content":"b"}]}`, code: "REDACTION_NOT_POSSIBLE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := o.site.Count()
			var a harness.Answer
			if c.reverse {
				req := o.Request(harness.Call{Path: c.url, Token: token, Body: []byte(c.body)})
				if c.chunked {
					req.ContentLength, req.Body = -1, io.NopCloser(strings.NewReader(c.body))
				}
				a = harness.Send(http.DefaultClient, req)
			} else {
				req, err := http.NewRequest(http.MethodPost, c.url, strings.NewReader(c.body))
				if err != nil {
					t.Fatal(err)
				}
				a = harness.Send(client, req)
			}
			if c.code != "" {
				if a.Status != 451 || a.Code != c.code || o.site.Count() != before {
					t.Errorf("%d %s, %d requests reached the site; want 451 %s and none: %.300s", a.Status, a.Code, o.site.Count()-before, c.code, a.Body)
				}
				return
			}
			if a.Err != nil || a.Status/100 != 2 || o.site.Count() != before+1 {
				t.Fatalf("%d %s %v: %.300s\n%s", a.Status, a.Code, a.Err, a.Body, o.lastCut())
			}
			got := o.site.Requests()[before]
			if got.BodyHash != hashOf(c.want) {
				t.Errorf("the site got another body than %.300s", c.want)
			}
			if n := got.Header.Get("Content-Length"); n != "" && n != strconv.Itoa(len(c.want)) {
				t.Errorf("content-length %s of %d bytes", n, len(c.want))
			}
			harness.Eventually(t, "the receipt is there", func() bool { _, ok := o.Evidence().Receipts[a.Receipt()]; return ok })
			p := o.Evidence().Receipts[a.Receipt()].Payload()
			if p.RequestHash != hashOf(c.want) || p.Metadata.Sallyport.RequestBytes != int64(len(c.want)) {
				t.Errorf("the receipt is of another body: %d bytes", p.Metadata.Sallyport.RequestBytes)
			}
		})
	}
	t.Run("a hashed value can be confirmed", func(t *testing.T) {
		before := o.site.Count()
		a := o.Do(harness.Call{Path: "/openai/v1/chat/completions", Token: token, Body: []byte(`{"model":"gpt-4o-mini","messages":[],"user":"jo"}`)})
		text, err := o.Run("evidence", "redaction-hash", "--job", "redacted", `"jo"`, "-c", o.Dir+"/sallyport.yaml")
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		want := `{"model":"gpt-4o-mini","messages":[],"user":"` + strings.TrimSpace(text) + `"}`
		if a.Status != 200 || o.site.Requests()[before].BodyHash != hashOf(want) {
			t.Errorf("%d %s; the command says %s", a.Status, a.Code, text)
		}
	})
}

// TestEncryptedReceipts: a contract that says encrypted leaves each call's bodies in the log, for the auditor's key alone:
// plain, streamed and large ones. The receipt says so, the plain text stands in no file, and what was changed is told.
func TestEncryptedReceipts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, other := filepath.Join(dir, "auditor.json"), filepath.Join(dir, "other.json")
	for _, k := range []string{key, other} {
		if out, err := binary(t, "evidence", "auditor-key", "new", "--out", k); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the private key's file: %v, %v", info.Mode(), err)
	}
	s := harness.Start(t, harness.Options{AuditorKeys: []string{filepath.Join(dir, "auditor.pub.json")}})
	contract := map[string]any{
		"policy_version": "1", "policy_id": "sealed", "issuer_did": "did:web:example.com", "allowed_providers": []string{"openai"},
		"allowed_models": []string{"gpt-4o-mini"}, "receipt_privacy_mode": "encrypted",
	}
	token := s.Issue(harness.Claims{"policy_hash_b64u": s.Publish(contract), "mission_id": "sealed"})
	const planted = "planted-words-of-a-prompt"
	conf := s.Dir + "/sallyport.yaml"
	open := func(id, with string) (string, error) {
		return s.Run("evidence", "open", "--key", with, "--receipt", id, "-c", conf)
	}
	var ids []string
	for name, body := range map[string]string{
		"plain":    `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"` + planted + `"}]}`,
		"streamed": `{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"` + planted + `"}]}`,
		"large":    `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"` + strings.Repeat(planted+" ", 40000) + `"}]}`,
	} {
		a := s.Do(harness.Call{Path: "/openai/v1/chat/completions", Token: token, Body: []byte(body), Header: http.Header{"X-Run-Id": {"run-sealed"}}})
		if a.Status != 200 {
			t.Fatalf("%s: %d %s", name, a.Status, a.Body)
		}
		harness.Eventually(t, "the receipt is there", func() bool { _, ok := s.Evidence().Receipts[a.Receipt()]; return ok })
		d := s.Evidence().Receipts[a.Receipt()].Payload().Metadata.Sallyport
		if d.PrivacyMode != "encrypted" || len(d.SealedTo) != 16 {
			t.Errorf("%s: the receipt says %q to %q", name, d.PrivacyMode, d.SealedTo)
		}
		out, err := open(a.Receipt(), key)
		if err != nil || !strings.Contains(out, body) || !strings.Contains(out, string(a.Body)) {
			t.Errorf("%s: %v: %.2000s", name, err, out)
		}
		ids = append(ids, a.Receipt())
	}
	if out, err := open(ids[0], other); err == nil || !strings.Contains(out, "not sealed to this key") || strings.Contains(out, planted) {
		t.Errorf("another key opens: %v: %.300s", err, out)
	}
	if out, err := open("rcpt_none", key); err == nil || !strings.Contains(out, "no receipt") {
		t.Errorf("no such receipt: %v: %.300s", err, out)
	}
	sealedInArchive(t, s, key, ids[0], planted)
	// The example contract says nothing of it, and the client asks for nothing: hashes only.
	a := s.Do(harness.Call{Token: s.Issue(nil)})
	harness.Eventually(t, "the receipt is there", func() bool { _, ok := s.Evidence().Receipts[a.Receipt()]; return ok })
	if out, err := open(a.Receipt(), key); err == nil || !strings.Contains(out, "not sealed") {
		t.Errorf("a call that keeps hashes opens: %v: %.300s", err, out)
	}
	s.Stop()
	err := filepath.WalkDir(filepath.Join(s.Dir, "data"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		if strings.Contains(string(raw), planted) {
			t.Errorf("%s holds the prompt", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if strings.Contains(s.Log.String(), planted) {
		t.Error("the log of the processes holds the prompt")
	}
}

// sealedInArchive: the auditor needs the archive and the key, and nothing of the gateway.
func sealedInArchive(t *testing.T, s *harness.System, key, id, planted string) {
	t.Helper()
	trust := filepath.Join(s.Dir, "data", "trust.json")
	verify := func(archive string) string {
		out, _ := s.Run("evidence", "verify", "--trust-file", trust, archive)
		return out
	}
	open := func(archive string) (string, error) {
		return binary(t, "evidence", "open", "--key", key, "--receipt", id, "--archive", archive, "--trust", s.GatewaySignerDID)
	}
	whole := archiveOf(t, s, "run-sealed")
	if out := verify(whole); !strings.HasPrefix(out, "PASS") || !strings.Contains(out, "ok           sealed bodies") {
		t.Errorf("%s", out)
	}
	if out, err := open(whole); err != nil || !strings.Contains(out, planted) || strings.Count(out, "that the receipt has the hash of") != 2 {
		t.Errorf("%v: %.2000s", err, out)
	}
	without := filepath.Join(t.TempDir(), "without.zip")
	if out, err := s.Run("evidence", "bundle", "-c", s.Dir+"/sallyport.yaml", "--run", "run-sealed", "--without-sealed", "--out", without); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out := verify(without); !strings.HasPrefix(out, "PASS") || !strings.Contains(out, "the bodies of 3 calls were sealed, and are not in this archive") {
		t.Errorf("%s", out)
	}
	if out, err := open(without); err == nil || strings.Contains(out, planted) {
		t.Errorf("opened from nothing: %s", out)
	}
	raw, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	at := 0 // the entry, not its name in the manifest
	for name := []byte("sealed/" + id + ".request"); !bytes.HasPrefix(raw[max(0, at-30):], []byte("PK\x03\x04")); {
		at += 1 + bytes.Index(raw[at+1:], name)
	}
	at += 400
	raw[at] ^= 1
	altered := filepath.Join(t.TempDir(), "altered.zip")
	if err := os.WriteFile(altered, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := open(altered); err == nil || strings.Contains(out, "this is the request") {
		t.Errorf("an altered body is opened: %s", out)
	}
	if out := verify(altered); strings.HasPrefix(out, "PASS") {
		t.Errorf("an altered body passes:\n%s", out)
	}
}

// TestNobodyToSealTo: without an auditor's key a call whose bodies are to be sealed does not leave.
func TestNobodyToSealTo(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{})
	a := s.Do(harness.Call{Token: s.Issue(nil), Header: http.Header{"X-Receipt-Privacy-Mode": {"encrypted"}}})
	if a.Status != 503 || a.Code != "AUDITOR_KEY_MISSING" || s.Upstream.Count() != 0 {
		t.Errorf("%d %s, %d requests left", a.Status, a.Code, s.Upstream.Count())
	}
}

// TestSealedThroughKillNine: when the processor dies within an answer, its call is cut, and the auditor is told that the sealed
// answer has no end, after having read the request whole and the answer as far as it was sealed.
func TestSealedThroughKillNine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key := filepath.Join(dir, "auditor.json")
	if out, err := binary(t, "evidence", "auditor-key", "new", "--out", key); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := harness.Start(t, harness.Options{AuditorKeys: []string{filepath.Join(dir, "auditor.pub.json")}})
	const planted = "planted-words-of-an-answer "
	s.Upstream.Handle = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, strings.Repeat(planted, 10000)) // some chunks
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	req := s.Request(harness.Call{Token: s.Issue(nil), Header: http.Header{"X-Receipt-Privacy-Mode": {"encrypted"}}, Body: harness.ChatBody("gpt-4o-mini", true)})
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	id := resp.Header.Get("X-Sallyport-Receipt")
	if _, err := io.CopyN(io.Discard, resp.Body, 200_000); err != nil || id == "" {
		t.Fatalf("receipt %q: %v", id, err)
	}
	s.Signal("extproc", syscall.SIGKILL)
	harness.Eventually(t, "the call is cut", func() bool { r, ok := s.Evidence().Receipts[id]; return ok && r.Outcome() == "cut" })
	out, err := s.Run("evidence", "open", "--key", key, "--receipt", id, "-c", s.Dir+"/sallyport.yaml")
	if err == nil || !strings.Contains(out, "the body has no end") || !strings.Contains(out, "this is the request") || !strings.Contains(out, planted) {
		t.Errorf("%v: %.400s … %s", err, out, out[max(0, len(out)-300):])
	}
}
