package run

import (
	"slices"
	"strings"
	"testing"
)

func TestEnvironmentKeepsSecretsOut(t *testing.T) {
	for entry, stripped := range map[string]bool{
		"OPENAI_API_KEY=real": true, "GITHUB_TOKEN=x": true, "AWS_REGION=x": true, "MY_SECRET_THING=x": true, "DB_PASSWORD=x": true,
		"SSH_AUTH_SOCK=/tmp/x": true, "DBUS_SESSION_BUS_ADDRESS=x": true, "DISPLAY=:0": true, "TMUX=/tmp/x,1,0": true,
		"GOOGLE_APPLICATION_CREDENTIALS=/x": true, "stripe_key=x": true, "KUBECONFIG=/x": true, "NPM_TOKEN=x": true,
		"X=sk-abcdefghijklmnopqrstuvwx": true, "X=ghp_abcdefghijklmnopqrstuvwx": true, "X=AKIAABCDEFGHIJKLMNOP": true,
		"X=postgres://me:pass@db/x": true, "X=-----BEGIN PRIVATE KEY-----": true, "X=eyJhbGciOiJFZDI1.eyJzdWIiOiJhYmM.sig": true,
		"PATH=/usr/bin": false, "HOME=/home/me": false, "LANG=C": false, "TERM=xterm": false, "TOKENIZERS_PARALLELISM=true": false,
		"KEYBOARD=us": false, "X=https://example.com/a": false, "MONKEY=1": false, "EDITOR=vi": false, "PWD=/work": false,
	} {
		t.Run(entry, func(t *testing.T) {
			env, names := environment(&Config{Environ: []string{entry}}, "127.0.0.1:1", "n", "/b")
			if got := !slices.Contains(env, entry); got != stripped {
				t.Errorf("kept out: %t, wanted %t", got, stripped)
			}
			name, _, _ := strings.Cut(entry, "=")
			if slices.Contains(names, name) != stripped {
				t.Errorf("said of %q", names)
			}
			env, names = environment(&Config{Environ: []string{entry}, Keep: []string{name}}, "127.0.0.1:1", "n", "/b")
			if !slices.Contains(env, entry) || len(names) != 0 {
				t.Errorf("--keep had no effect: %q", names)
			}
		})
	}
}

func TestEnvironmentLeadsToTheGate(t *testing.T) {
	c := &Config{
		Environ: []string{"HTTPS_PROXY=http://elsewhere:1", "SSL_CERT_DIR=/x", "no_proxy=*", "OPENAI_BASE_URL=http://elsewhere/v1"},
		Doors:   []Door{{"mine", "openai"}, {"second", "openai"}, {"anthropic", "anthropic"}, {"gemini", "gemini"}},
	}
	env, stripped := environment(c, "127.0.0.1:15080", "nonce", "/bundle")
	for _, want := range []string{
		"HTTPS_PROXY=http://127.0.0.1:15080", "http_proxy=http://127.0.0.1:15080", "NODE_USE_ENV_PROXY=1", "NODE_EXTRA_CA_CERTS=/bundle",
		"OPENAI_BASE_URL=http://127.0.0.1:15080/mine/v1", "ANTHROPIC_BASE_URL=http://127.0.0.1:15080/anthropic",
		"GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:15080/gemini", "OPENAI_API_KEY=sk-sallyport-placeholder-nonce", "no_proxy=localhost,127.0.0.1,::1",
	} {
		if !slices.Contains(env, want) {
			t.Errorf("%s is not in %q", want, env)
		}
	}
	names := map[string]bool{}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if names[name] || strings.Contains(value, "elsewhere") || name == "SSL_CERT_DIR" {
			t.Errorf("twice, or not ours: %s", e)
		}
		names[name] = true
	}
	if len(stripped) != 0 {
		t.Errorf("said of %q", stripped)
	}
}
