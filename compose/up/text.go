package up

import (
	"fmt"
	"path/filepath"
	"strings"
	"text/template"

	"sallyport/compose/config"
	"sallyport/compose/role"
)

var readyText = template.Must(template.New("ready").Parse(`
Sallyport is ready. Without a token it refuses; it has just refused itself.

  gateway    {{.GatewayURL}}    doors: {{.Doors}}
{{if .ForwardURL}}  forward    {{.ForwardURL}}    an HTTPS proxy, for programs under ` + "`sallyport run`" + `
{{end}}  control    {{.ControlURL}}    administrator's key: {{.AdminTokenFile}}
  upstreams  {{.Upstreams}}
  evidence   {{.EvidenceDir}} ({{.Mode}})    signed by {{.GatewaySignerDID}}
  envoy      {{.EnvoyVersion}}    access log: {{.AccessLog}}
{{if .ContractHash}}  contract   {{.ContractHash}} (example)

Paste these into another terminal. The token is the agent's "API key"; it is good for an hour.

# 1. allowed by the contract
{{.Allowed}}

# 2. refused by the contract, with the reason
{{.Refused}}

# 3. the receipt of the last call that passed, verified
{{.Verify}}
{{if .ForwardURL}}
# 4. a program that knows nothing of this: everything it opens goes through the gate, or nowhere
{{.AnyProgram}}
{{end}}{{else}}
No example was published, because {{.NoExample}}.
{{end}}
Ctrl-C ends everything.
`))

// text is what the person reads when everything runs.
func (s *system) text(r *Ready) (string, error) {
	c := s.Config.Config
	var doors, ups []string
	for _, u := range c.Upstreams {
		doors = append(doors, doorOf(u))
		ups = append(ups, u.Name+" → "+u.URL)
	}
	if c.LoopbackModel.On() {
		ups = []string{"the built-in model at http://" + c.LoopbackModel.Listen + " (no key needed)"}
	}
	var b strings.Builder
	err := readyText.Execute(&b, struct {
		*Ready
		Doors, Upstreams, Mode, AccessLog string
		Allowed, Refused, Verify          string
		AnyProgram, NoExample             string
	}{
		r, strings.Join(doors, " "), strings.Join(ups, ", "), c.Evidence.Mode, role.AccessLog(c),
		s.exampleCall(r, true), s.exampleCall(r, false),
		fmt.Sprintf("%s receipts verify last --show %s", quote(s.Binary), s.where()),
		fmt.Sprintf("%s run %s --contract %s -- sh -c 'echo \"key: $OPENAI_API_KEY\"; curl -sS https://example.org/ || true'", quote(s.Binary), s.where(), r.ContractHash),
		s.noExample(),
	})
	return b.String(), err
}

// exampleCall is a curl command for the first upstream: with a model that the example contract allows, or one that it
// does not.
func (s *system) exampleCall(r *Ready, allowed bool) string {
	u, _ := s.model()
	model, path := exampleModel(u, allowed), examplePath(u.Dialect)
	body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"Say hello."}]}`, model)
	switch u.Dialect {
	case "anthropic":
		body = fmt.Sprintf(`{"model":%q,"max_tokens":64,"messages":[{"role":"user","content":"Say hello."}]}`, model)
	case "gemini":
		path = "/v1beta/models/" + model + ":generateContent"
		body = `{"contents":[{"parts":[{"text":"Say hello."}]}]}`
	}
	return fmt.Sprintf("curl -sS -i %s/%s%s -H 'content-type: application/json' \\\n  -H \"authorization: Bearer $(cat %s)\" \\\n  -d '%s'",
		r.GatewayURL, u.Name, path, quote(exampleTokenFile(s.Config.Config)), body)
}

func exampleModel(u config.Upstream, allowed bool) string {
	models := map[string][2]string{
		"openai": {"gpt-4o-mini", "gpt-5"}, "anthropic": {"claude-sonnet-4-5", "claude-opus-9"}, "gemini": {"gemini-2.5-flash", "gemini-9-ultra"},
	}[u.Dialect]
	if allowed {
		return models[0]
	}
	return models[1]
}

// where names the data for the other commands, from any directory.
func (s *system) where() string {
	if f := s.Config.Config.File; f != "" {
		return "-c " + quote(f)
	}
	return "--data-dir " + quote(s.Config.Config.DataDir)
}

// quote keeps a path whole in a shell. A path below the working directory is shown as it is typed there.
func quote(path string) string {
	if !strings.ContainsFunc(path, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-+:@,=", r)
	}) {
		return filepath.Clean(path)
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
