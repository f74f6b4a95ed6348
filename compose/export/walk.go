package export

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// object is a section of settings.
type object = map[string]any

// at goes down a path of sections; what is not there or no section gives an empty one, which settings' readers take alike.
func at(o object, path ...string) object {
	for _, step := range path {
		next, ok := o[step].(object)
		if !ok {
			return object{}
		}
		o = next
	}
	return o
}

func texts(v any) []string {
	list, _ := v.([]any)
	var out []string
	for _, x := range list {
		if s, ok := x.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

func keys(o object) []string { return slices.Sorted(maps.Keys(o)) }

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(v)
	return b.Bytes(), err
}

var (
	secretName  = regexp.MustCompile(`(?i)(api[-_]?key|token|secret|passw(or)?d|authorization|credential)s?$`)
	placeholder = regexp.MustCompile(`\$\{[A-Z][A-Z0-9_]*\}|sallyport-placeholder`)
	knownKey    = regexp.MustCompile(`\b(sk-[A-Za-z0-9_-]{16,}|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+\.|AIza[A-Za-z0-9_-]{30,}|gh[pousr]_[A-Za-z0-9]{30,})`)
)

// plainSecrets finds credentials that stand in the settings themselves. Their values are not repeated.
func plainSecrets(v any, path string) []Finding {
	var out []Finding
	switch v := v.(type) {
	case object:
		for _, k := range keys(v) {
			below := k
			if path != "" {
				below = path + "." + k
			}
			if s, ok := v[k].(string); ok && s != "" && secretName.MatchString(k) && !placeholder.MatchString(s) {
				out = append(out, plainSecret(below))
				continue
			}
			out = append(out, plainSecrets(v[k], below)...)
		}
	case []any:
		for i, x := range v {
			out = append(out, plainSecrets(x, fmt.Sprintf("%s[%d]", path, i))...)
		}
	case string:
		if knownKey.MatchString(v) {
			out = append(out, plainSecret(path))
		}
	}
	return out
}

func plainSecret(path string) Finding {
	return Finding{path, "a credential stands in the file for every tool that reads files", "credentials stay with the gateway",
		"the name of an environment variable, whose value is the job's token or a placeholder"}
}

// wild matches a name against a pattern whose * is any run, without case.
func wild(pattern, name string) bool {
	parts := strings.Split(strings.ToLower(pattern), "*")
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	return regexp.MustCompile("^(?s:" + strings.Join(parts, ".*") + ")$").MatchString(strings.ToLower(name))
}

// wider makes one finding for each capability of the tools that the contract does not allow.
func (r *rights) wider(tools []string, table map[string]capability, where func(tool string) (path, instead string), how string) []Finding {
	type group struct{ path, instead string }
	var out []Finding
	for _, k := range append(slices.Clone(capabilities), kind{unknown, "use a tool that is not known here"}) {
		groups, order := map[group][]string{}, []group{}
		for _, t := range tools {
			c, ok := table[t]
			if !ok {
				c = unknown
			}
			if c != k.capability || (c != unknown && r.may(c)) {
				continue
			}
			p, i := where(t)
			g := group{p, i}
			if groups[g] == nil {
				order = append(order, g)
			}
			groups[g] = append(groups[g], t)
		}
		for _, g := range order {
			says := r.says(k.capability)
			if k.capability == unknown {
				says = "no capability of the contract means it"
			}
			out = append(out, Finding{g.path, fmt.Sprintf("%s (%s)%s", k.means, strings.Join(groups[g], ", "), how), says, g.instead})
		}
	}
	return out
}

// unknown is the capability of a tool that is in no table.
const unknown capability = ""
