package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/tests/harness"
)

// way is how a program that knows nothing of Sallyport is led to it.
type way string

const (
	direct   way = "direct"   // not at all
	reverse  way = "reverse"  // base URL and API key
	proxied  way = "proxy"    // HTTPS_PROXY
	isolated way = "isolated" // sallyport run
)

// program is one that is not ours. Its command is the same by every way.
type program struct {
	name      string
	reverse   bool // it has a base URL to set
	allowed   []string
	forbidden []string
}

// table collects what the test found, to be printed as one.
type row struct{ program, way, allowed, forbidden string }

const curlChat = `curl -sS --fail-with-body -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' -d '{"model":"%s","messages":[{"role":"user","content":"Say hello."}]}' "$OPENAI_BASE_URL/chat/completions"`

func programs(py, node harness.Programs, o *outside, dir string) []program {
	python, call := py.Bin("python3"), filepath.Join(harness.Root(), "tests", "programs", "call.py")
	js := []string{py.Bin("node"), filepath.Join(node.Dir, "call.mjs")}
	public, secret := o.url(dataHost, "/public"), o.url(dataHost, "/secret")
	pip := func(base, to string) []string {
		return []string{python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--retries", "0", "-d", filepath.Join(dir, to), "--index-url", base + "/simple", "tiny"}
	}
	git := func(base, to string) []string {
		return []string{"git", "clone", "-q", base + "/repo.git", filepath.Join(dir, to)}
	}
	npm := func(base string) []string {
		return []string{py.Bin("npm"), "pack", "--silent", "--fetch-retries=0", "--pack-destination", dir, "--cache", filepath.Join(dir, "npm-cache"), "--registry", base + "/npm/", "tiny@1.0.0"}
	}
	one := func(prefix ...string) func(args ...string) []string {
		return func(args ...string) []string { return append(append([]string{}, prefix...), args...) }
	}
	pyCall, jsCall := one(python, call), one(js...)
	return []program{
		{"curl", true, []string{"sh", "-c", fmt.Sprintf(curlChat, "gpt-4o-mini")}, []string{"sh", "-c", fmt.Sprintf(curlChat, "gpt-5")}},
		{"curl (data)", false, []string{"curl", "-sS", "--fail", public + "/a"}, []string{"curl", "-sS", "--fail", secret + "/a"}},
		{"Python openai", true, pyCall("openai", "-", "gpt-4o-mini"), pyCall("openai", "-", "gpt-5")},
		{"Python anthropic", true, pyCall("anthropic", "-", "claude-3-5-haiku"), pyCall("anthropic", "-", "claude-opus-9")},
		{"Python httpx", false, pyCall("httpx", public+"/a", "-"), pyCall("httpx", secret+"/a", "-")},
		{"Python requests", false, pyCall("requests", public+"/a", "-"), pyCall("requests", secret+"/a", "-")},
		{"Python mcp", false, pyCall("mcp", public+"/mcp", "echo"), pyCall("mcp", secret+"/mcp", "echo")},
		{"Node openai", true, jsCall("openai", "-", "gpt-4o-mini"), jsCall("openai", "-", "gpt-5")},
		{"Node @anthropic-ai/sdk", true, jsCall("anthropic", "-", "claude-3-5-haiku"), jsCall("anthropic", "-", "claude-opus-9")},
		{"Node fetch", false, jsCall("fetch", public+"/a", "-"), jsCall("fetch", secret+"/a", "-")},
		{"pip", false, pip(public, "pip"), pip(secret, "pip")},
		{"git", false, git(public, "git-%WAY%"), git(secret, "git-%WAY%-refused")},
		{"npm", false, npm(public), npm(secret)},
	}
}

// TestPrograms: program × way in × result. What the contract allows is answered, with the credential swapped and a
// receipt under the program's own job; what it forbids is refused, under that job too, and does not reach the site.
func TestPrograms(t *testing.T) {
	t.Parallel()
	py := harness.PythonPackages(t, "programs/requirements.txt")
	node := py.NodePackages(t, "programs")
	o := startOutside(t)
	dir := t.TempDir()
	var rows []row
	for _, p := range programs(py, node, o, dir) {
		for _, w := range []way{reverse, proxied, isolated} {
			if w == reverse && !p.reverse {
				rows = append(rows, row{p.name, string(w), "–", "–"})
				continue
			}
			r := row{program: p.name, way: string(w)}
			t.Run(p.name+"/"+string(w), func(t *testing.T) { r.allowed, r.forbidden = o.judge(t, py, p, w, dir) })
			rows = append(rows, r)
		}
	}
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "%-24s %-9s %-42s %s\n", r.program, r.way, r.allowed, r.forbidden)
	}
	t.Logf("program, way in, what is allowed, what is forbidden\n%s", b.String())
}

// judge runs a program twice, and says in words what came of it.
func (o *outside) judge(t *testing.T, py harness.Programs, p program, w way, dir string) (allowed, forbidden string) {
	t.Helper()
	job := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, p.name+"-"+string(w))
	before := o.site.Count()
	out, err := o.runProgram(t, py, p.allowed, w, job+"-allowed", dir)
	if err != nil {
		t.Errorf("what is allowed: %v\n%s", err, out)
	}
	reached := o.site.Requests()[before:]
	if len(reached) == 0 {
		t.Error("what is allowed did not reach the site")
	}
	harness.Eventually(t, "every call is settled", func() bool { return len(o.Evidence().Open()) == 0 })
	receipts := 0
	for id, i := range o.Evidence().Intents {
		if i.MissionID != job+"-allowed" {
			continue
		}
		receipts++
		if r := o.Evidence().Receipts[id]; r.Outcome() != "completed" || r.Verify(o.GatewaySignerDID) != nil {
			t.Errorf("receipt %s: outcome %q, verified: %v", id, r.Outcome(), r.Verify(o.GatewaySignerDID))
		}
	}
	if receipts != len(reached) {
		t.Errorf("%d requests reached the site, and %d receipts are there", len(reached), receipts)
	}
	allowed = fmt.Sprintf("%d answered, %d receipts%s", len(reached), receipts, swapped(t, reached))

	before = o.site.Count()
	out, err = o.runProgram(t, py, p.forbidden, w, job+"-forbidden", dir)
	if err == nil {
		t.Errorf("what is forbidden succeeded:\n%s", out)
	}
	if n := o.site.Count() - before; n != 0 {
		t.Errorf("%d forbidden requests reached the site", n)
	}
	codes := map[string]bool{}
	harness.Eventually(t, "the refusal is in the evidence", func() bool {
		for _, r := range o.Evidence().Refusals {
			if r.MissionID == job+"-forbidden" {
				codes[r.Code] = true
			}
		}
		return len(codes) > 0
	})
	for c := range codes {
		forbidden += "refused " + c + " "
	}
	return allowed, forbidden
}

// swapped checks what reached the site for credentials: calls to a model carry the real one and nothing else.
func swapped(t *testing.T, reached []harness.Seen) string {
	t.Helper()
	for _, r := range reached {
		got := r.Header.Get("Authorization") + r.Header.Get("X-Api-Key")
		want := ""
		switch {
		case strings.HasSuffix(r.Path, "/chat/completions"):
			want = "Bearer " + harness.Credential("openai_key")
		case strings.HasSuffix(r.Path, "/messages"):
			want = harness.Credential("anthropic_key")
		}
		if got != want {
			t.Errorf("%s %s arrived with the credential %q", r.Method, r.Path, got)
		}
		if want != "" {
			return ", credential swapped"
		}
	}
	return ""
}

// runProgram runs a command by one way, with nothing else of the environment.
func (o *outside) runProgram(t *testing.T, py harness.Programs, command []string, w way, job, dir string) (string, error) {
	t.Helper()
	args := make([]string, len(command))
	for i, a := range command {
		args[i] = strings.ReplaceAll(a, "%WAY%", string(w))
	}
	env := []string{"PATH=" + filepath.Dir(py.Bin("node")) + ":" + os.Getenv("PATH"), "HOME=" + dir, "GIT_TERMINAL_PROMPT=0", "npm_config_update_notifier=false"}
	switch w {
	case direct:
	case reverse:
		token := o.issue(harness.Claims{"mission_id": job})
		env = append(env, "OPENAI_BASE_URL="+o.GatewayURL+"/openai/v1", "OPENAI_API_KEY="+token, "ANTHROPIC_BASE_URL="+o.GatewayURL+"/anthropic", "ANTHROPIC_API_KEY="+token)
	case proxied:
		token := o.issue(harness.Claims{"mission_id": job})
		env = append(env, o.proxyVariables(t, token)...)
	case isolated:
		args = append([]string{harness.Binary(t, false), "run", "-c", filepath.Join(o.Dir, "sallyport.yaml"), "--contract", o.contract, "--mission", job, "--"}, args...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env, cmd.Dir = env, dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// proxyVariables are what a person sets who knows only a proxy and a certificate authority.
func (o *outside) proxyVariables(t *testing.T, token string) []string {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, o.Authority(o.contract), 0o600); err != nil {
		t.Fatal(err)
	}
	proxy := strings.Replace(o.ForwardURL, "http://", "http://job:"+token+"@", 1)
	models := o.url(modelHost, "")
	return []string{
		"HTTPS_PROXY=" + proxy, "https_proxy=" + proxy, "http_proxy=" + proxy, "NODE_USE_ENV_PROXY=1",
		"SSL_CERT_FILE=" + ca, "REQUESTS_CA_BUNDLE=" + ca, "CURL_CA_BUNDLE=" + ca, "NODE_EXTRA_CA_CERTS=" + ca, "GIT_SSL_CAINFO=" + ca, "PIP_CERT=" + ca,
		"OPENAI_BASE_URL=" + models + "/v1", "OPENAI_API_KEY=sk-sallyport-placeholder-0000",
		"ANTHROPIC_BASE_URL=" + o.url(claudeHost, ""), "ANTHROPIC_API_KEY=sk-ant-sallyport-placeholder-0000",
	}
}
