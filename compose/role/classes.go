package role

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"

	"sallyport/compose/config"
	"sallyport/extproc/secret"
	"sallyport/signer/code"
	"sallyport/signer/contract"
)

// LintClasses finds tools of a contract whose secret class this configuration does not declare, or does not let go to where the
// tool is: their calls would all be refused. No source is asked for a credential.
func LintClasses(c *config.Config, w *contract.Contract) ([]contract.Finding, error) {
	broker, err := newBroker(c, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	var out []contract.Finding
	bindings := w.Bindings()
	for _, name := range slices.Sorted(maps.Keys(bindings)) {
		b := bindings[name]
		d := refusedEverywhere(broker, name, &b)
		if d == nil {
			continue
		}
		f := contract.Finding{
			Severity: contract.SeverityError, Rule: "class-not-for-tool", Path: fmt.Sprintf("$.tools.bindings[%q].secret_class", name), Message: d.Detail,
			Remedy: "let secret_classes in the configuration name the tool's host, method and path for " + b.SecretClass + ", or use another class",
		}
		if d.Code == code.SecretUnavailable {
			f.Rule, f.Remedy = "class-not-declared", "declare "+b.SecretClass+" under secret_classes in the configuration, or use another class"
		}
		out = append(out, f)
	}
	return out, nil
}

// wild is what a path template leaves open.
var wild = regexp.MustCompile(`\{[^}]*\}|\*+`)

// refusedEverywhere says why a tool's class may go to none of the tool's places, nil where it may go to some. Of a server of
// tools, the upstream has the place.
func refusedEverywhere(broker *secret.Broker, name string, b *contract.Binding) *code.Denial {
	if b.SecretClass == "" || b.Host == "" && slices.Contains(broker.Classes(), b.SecretClass) {
		return nil
	}
	methods, ports := b.Methods, b.Ports
	if len(methods) == 0 {
		methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
	}
	if len(ports) == 0 {
		ports = []int{443}
	}
	var first *code.Denial
	for _, port := range ports {
		host := b.Host
		if port != 443 {
			host = fmt.Sprintf("%s:%d", host, port)
		}
		for _, method := range methods {
			d := broker.Allowed(b.SecretClass, secret.Target{Host: host, Method: method, Path: wild.ReplaceAllString(cmp.Or(b.Path, "/"), "x"), Tool: name})
			if d == nil {
				return nil
			}
			if first == nil {
				first = d
			}
		}
	}
	return first
}
