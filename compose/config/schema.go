package config

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

//go:embed schema.json
var schemaJSON []byte

const schemaURL = "https://sallyport.dev/schema/config.json"

// Schema is the JSON Schema of the file, for editors.
func Schema() []byte { return bytes.Clone(schemaJSON) }

type compiled struct {
	schema *jsonschema.Schema
	raw    any
}

var theSchema = sync.OnceValues(func() (compiled, error) {
	raw, err := jsonschema.UnmarshalJSON(bytes.NewReader(schemaJSON))
	if err != nil {
		return compiled{}, fmt.Errorf("config: schema: %w", err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(schemaURL, raw); err != nil {
		return compiled{}, fmt.Errorf("config: schema: %w", err)
	}
	s, err := c.Compile(schemaURL)
	if err != nil {
		return compiled{}, fmt.Errorf("config: schema: %w", err)
	}
	return compiled{s, raw}, nil
})

// schemaProblems holds a value against the schema and puts each finding at its line.
func (p *positions) schemaProblems(value any) Problems {
	s, err := theSchema()
	if err != nil {
		return Problems{{File: p.file, Message: err.Error()}}
	}
	var bad *jsonschema.ValidationError
	if err := s.schema.Validate(value); err == nil {
		return nil
	} else if !errors.As(err, &bad) {
		return Problems{{File: p.file, Message: err.Error()}}
	}
	var out Problems
	for _, leaf := range leaves(bad) {
		out = append(out, p.finding(s.raw, leaf)...)
	}
	return out
}

func leaves(e *jsonschema.ValidationError) []*jsonschema.ValidationError {
	if len(e.Causes) == 0 {
		return []*jsonschema.ValidationError{e}
	}
	var out []*jsonschema.ValidationError
	for _, c := range e.Causes {
		out = append(out, leaves(c)...)
	}
	return out
}

// finding says one schema error in the reader's words: what stands there, what may stand there.
func (p *positions) finding(root any, e *jsonschema.ValidationError) Problems {
	path := pathOf(e.InstanceLocation)
	about := describe(root, e.InstanceLocation)
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		known := fields(root, e.InstanceLocation)
		slices.Sort(k.Properties)
		var out Problems
		for _, name := range k.Properties {
			remedy := "the fields here are " + strings.Join(known, ", ")
			if near := nearest(name, known); near != "" {
				remedy = "did you mean " + near + "?"
			}
			out = append(out, p.problem(join(path, name), "unknown field", remedy))
		}
		return out
	case *kind.Required:
		return Problems{p.problem(path, "missing "+strings.Join(k.Missing, ", "), about)}
	case *kind.Pattern:
		got := fmt.Sprintf("%q", k.Got)
		if mayHoldSecret(path) {
			got = "the value"
		}
		return Problems{p.problem(path, got+" does not have the right form", about)}
	case *kind.Minimum:
		return Problems{p.problem(path, fmt.Sprintf("is %s, must be at least %s", k.Got.RatString(), k.Want.RatString()), about)}
	case *kind.Maximum:
		return Problems{p.problem(path, fmt.Sprintf("is %s, must be at most %s", k.Got.RatString(), k.Want.RatString()), about)}
	case *kind.MinProperties, *kind.MaxProperties:
		return Problems{p.problem(path, "choose one field here", "the fields are "+strings.Join(fields(root, e.InstanceLocation), ", "))}
	case *kind.Type:
		return Problems{p.problem(path, fmt.Sprintf("is %s, must be %s", article(k.Got), articles(k.Want)), about)}
	case *kind.Enum:
		return Problems{p.problem(path, fmt.Sprintf("%v is none of %s", k.Got, list(k.Want)), about)}
	default:
		return Problems{p.problem(path, e.ErrorKind.LocalizedString(message.NewPrinter(language.English)), about)}
	}
}

// mayHoldSecret holds for fields into which people paste a credential by mistake; messages must not repeat it.
func mayHoldSecret(path string) bool {
	return path == "redis_url" || strings.Contains(path, "].from") || strings.HasSuffix(path, "inject.format")
}

// describe is the remedy that the schema holds for a place: its description and an example.
func describe(root any, loc []string) string {
	var desc, example string
	for _, s := range schemasAt(root, loc) {
		if d, ok := s["description"].(string); ok && desc == "" {
			desc = d
		}
		if ex, ok := s["examples"].([]any); ok && len(ex) > 0 && example == "" {
			example = ". Example: " + flow(ex[0])
		}
	}
	return strings.TrimSuffix(desc, ".") + example
}

// fields are the field names that a place knows.
func fields(root any, loc []string) []string {
	var out []string
	for _, s := range schemasAt(root, loc) {
		if props, ok := s["properties"].(map[string]any); ok {
			for name := range props {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return out
}

// schemasAt follows an instance path through properties, items and $ref; the schema that is nearest to the place in
// the text comes first, then what it refers to.
func schemasAt(root any, loc []string) []map[string]any {
	at := resolve(root, root)
	for _, seg := range loc {
		var next any
		for _, s := range at {
			if props, ok := s["properties"].(map[string]any); ok && props[seg] != nil {
				next = props[seg]
			} else if _, err := strconv.Atoi(seg); err == nil && s["items"] != nil {
				next = s["items"]
			}
		}
		if next == nil {
			return nil
		}
		at = resolve(root, next)
	}
	return at
}

func resolve(root, schema any) []map[string]any {
	s, ok := schema.(map[string]any)
	if !ok {
		return nil
	}
	out := []map[string]any{s}
	if then, ok := s["then"]; ok {
		out = append(out, resolve(root, then)...)
	}
	if ref, ok := s["$ref"].(string); ok {
		var target = root
		for seg := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			m, _ := target.(map[string]any)
			target = m[seg]
		}
		out = append(out, resolve(root, target)...)
	}
	return out
}

func pathOf(loc []string) string {
	var b strings.Builder
	for _, seg := range loc {
		if _, err := strconv.Atoi(seg); err == nil {
			b.WriteString("[" + seg + "]")
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(seg)
	}
	return b.String()
}

// flow writes an example as one line of YAML.
func flow(v any) string {
	switch v := v.(type) {
	case []any:
		parts := make([]string, len(v))
		for i, x := range v {
			parts[i] = flow(x)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for i, k := range keys {
			keys[i] = k + ": " + flow(v[k])
		}
		return "{" + strings.Join(keys, ", ") + "}"
	default:
		return fmt.Sprint(v)
	}
}

func list(vs []any) string {
	parts := make([]string, len(vs))
	for i, v := range vs {
		parts[i] = fmt.Sprint(v)
	}
	return strings.Join(parts, ", ")
}

func article(jsonType string) string {
	switch jsonType {
	case "integer", "array", "object":
		return "an " + yamlName(jsonType)
	case "string":
		return yamlName(jsonType)
	}
	return "a " + yamlName(jsonType)
}

// yamlName calls JSON's types what people who write YAML call them.
func yamlName(jsonType string) string {
	switch jsonType {
	case "array":
		return "ordered list"
	case "object":
		return "indented block of fields"
	case "string":
		return "text"
	case "boolean":
		return "true or false value"
	}
	return jsonType
}

func articles(types []string) string {
	out := make([]string, len(types))
	for i, t := range types {
		out[i] = article(t)
	}
	return strings.Join(out, " or ")
}

// nearest is the known name that differs from name by at most a third of its letters, or "".
func nearest(name string, known []string) string {
	best, at := "", len(name)/3+1
	for _, k := range known {
		if d := distance(name, k); d < at || (d == at && best == "") {
			best, at = k, d
		}
	}
	return best
}

// distance is the number of letters to insert, drop or change (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
