package run

import (
	"cmp"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Placeholder is in every credential that the program gets. The gate strips a credential that contains it.
const Placeholder = "sallyport-placeholder"

// bundleVariables name a file of authorities for the common clients. Java is not among them: see javaVariable.
var bundleVariables = []string{
	"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT",
	"CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE", "CODEX_CA_CERTIFICATE", "DENO_CERT", "npm_config_cafile",
}

// proxyVariables lead clients to the proxy. curl reads http_proxy in lower case only, some others the upper case only.
var proxyVariables = []string{
	"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "OPENCLAW_PROXY_URL",
}

// fixedVariables are the same in each run. The program's own servers and the base URLs are on the loopback interface.
var fixedVariables = map[string]string{
	"NO_PROXY": "localhost,127.0.0.1,::1", "no_proxy": "localhost,127.0.0.1,::1",
	"NODE_USE_ENV_PROXY": "1", // Node's fetch reads the proxy variables only then
}

// keyVariables are credentials in the shape that each SDK accepts; the nonce follows.
var keyVariables = map[string]string{
	"OPENAI_API_KEY": "sk-" + Placeholder + "-", "CODEX_API_KEY": "sk-" + Placeholder + "-",
	"ANTHROPIC_API_KEY": "sk-ant-" + Placeholder + "-", "OPENROUTER_API_KEY": "sk-or-" + Placeholder + "-",
	"GEMINI_API_KEY": "AIza-" + Placeholder + "-", "GOOGLE_API_KEY": "AIza-" + Placeholder + "-",
	"AZURE_OPENAI_API_KEY": Placeholder + "-",
}

// baseVariables are the base URLs by dialect: what follows the door's name.
var baseVariables = map[string]map[string]string{
	"openai":    {"OPENAI_BASE_URL": "/v1", "OPENAI_API_BASE": "/v1"},
	"anthropic": {"ANTHROPIC_BASE_URL": "", "ANTHROPIC_API_BASE": ""},
	"gemini":    {"GOOGLE_GEMINI_BASE_URL": "", "GEMINI_API_BASE": "/v1beta"}, // litellm appends no version
}

// secretNames are names whose value is, or leads to, a credential or a socket of the caller's.
var secretNames = regexp.MustCompile(`(?i)(^|_)(API_?KEYS?|ACCESS_?KEYS?|PRIVATE_?KEY|KEY|TOKENS?|PAT|COOKIE|AUTH)$` +
	`|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|BEARER|WEBHOOK` +
	`|^AWS_|^VAULT_|^BAO_|^KUBECONFIG$|^DATABASE_URL$|^NETRC$|^PGPASSFILE$` +
	`|^(SSH|GIT|SUDO)_ASKPASS$|^SSH_AUTH_SOCK$|^SSH_AGENT_PID$|^GPG_AGENT_INFO$|^GNOME_KEYRING_CONTROL$` +
	`|^DBUS_.*_ADDRESS$|^(DOCKER|CONTAINER|PODMAN)_HOST$|^DISPLAY$|^WAYLAND_(DISPLAY|SOCKET)$|^XAUTHORITY$` +
	`|^TMUX$|^STY$|^VSCODE_|^PULSE_SERVER$|^NOTIFY_SOCKET$|^LISTEN_(FDS|PID|FDNAMES)$`)

// secretValues are the shapes of well-known credentials, and a URL with a password.
var secretValues = regexp.MustCompile(`\b(sk-[A-Za-z0-9_-]{16,}|gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}` +
	`|A(KI|SI)A[A-Z0-9]{16}|AIza[\w-]{30,}|xox[a-z]-[\w-]{10,}|hf_[A-Za-z0-9]{20,}|npm_[A-Za-z0-9]{30,}|hv[sb]\.[\w-]{20,}` +
	`|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+)|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]*:[^/\s@]+@`)

// environment is the caller's without its secrets, with all that leads clients to the gate. The second result names what
// was taken out.
func environment(c *Config, proxyAddress, nonce, bundle string) (env, stripped []string) {
	keep := map[string]bool{}
	for _, name := range c.Keep {
		keep[name] = true
	}
	ours := gateVariables(c, proxyAddress, nonce, bundle)
	for name := range keep {
		delete(ours, name)
	}
	for _, entry := range c.Environ {
		name, value, _ := strings.Cut(entry, "=")
		_, replaced := ours[name]
		switch {
		case keep[name]:
			env = append(env, entry)
		case isSecret(name, value):
			stripped = append(stripped, name)
		case replaced, controlsClients(name):
		default:
			env = append(env, entry)
		}
	}
	for name, value := range ours {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	slices.Sort(stripped)
	return env, slices.Compact(stripped)
}

func isSecret(name, value string) bool {
	return secretNames.MatchString(name) || secretValues.MatchString(value)
}

// controlsClients are variables that would lead a client round the ones that we set.
func controlsClients(name string) bool {
	switch strings.ToLower(name) {
	case "ssl_cert_dir", "npm_config_proxy", "npm_config_https_proxy", "npm_config_noproxy", "ftp_proxy", "git_proxy_command":
		return true
	default:
		return false
	}
}

func gateVariables(c *Config, proxyAddress, nonce, bundle string) map[string]string {
	proxy := url.URL{Scheme: "http", Host: proxyAddress}
	if c.NoIsolation {
		proxy.User = url.UserPassword("job", Placeholder+"-"+nonce)
	}
	out := map[string]string{}
	for _, name := range proxyVariables {
		out[name] = proxy.String()
	}
	for _, name := range bundleVariables {
		out[name] = bundle
	}
	for name, value := range fixedVariables {
		out[name] = value
	}
	out[javaOptions] = javaVariable(c, proxyAddress, nonce, bundle)
	for name, prefix := range keyVariables {
		out[name] = prefix + nonce
	}
	for _, d := range c.Doors {
		for name, suffix := range baseVariables[d.Dialect] {
			out[name] = cmp.Or(out[name], "http://"+proxyAddress+"/"+d.Name+suffix)
		}
	}
	return out
}

func noteStripped(w io.Writer, names []string) {
	if len(names) > 0 {
		fmt.Fprintf(w, "sallyport: kept from the program: %s (--keep NAME lets one through)\n", strings.Join(names, ", "))
	}
}
