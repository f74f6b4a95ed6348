package contract

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

//go:embed schema/*.json
var schemaFiles embed.FS

// Schema is the JSON Schema of a dialect, for editors.
func Schema(k Kind) ([]byte, error) { return schemaFiles.ReadFile("schema/" + string(k) + ".json") }

var compiled sync.Map // Kind → func() (*jsonschema.Schema, error)

func schemaOf(k Kind) (*jsonschema.Schema, error) {
	f, _ := compiled.LoadOrStore(k, sync.OnceValues(func() (*jsonschema.Schema, error) {
		raw, err := Schema(k)
		if err != nil {
			return nil, err
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		c := jsonschema.NewCompiler()
		url := string(k) + ".json"
		if err := c.AddResource(url, doc); err != nil {
			return nil, err
		}
		return c.Compile(url)
	}))
	return f.(func() (*jsonschema.Schema, error))()
}

// validate holds the payload against its dialect's schema and joins every finding, sorted by path.
func validate(k Kind, canonical []byte) error {
	s, err := schemaOf(k)
	if err != nil {
		return fmt.Errorf("contract schema %s: %w", k, err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(canonical))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	var bad *jsonschema.ValidationError
	if err := s.Validate(value); err == nil {
		return nil
	} else if !errors.As(err, &bad) {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	printer := message.NewPrinter(language.English)
	var lines []string
	eachLeaf(bad, func(e *jsonschema.ValidationError) { lines = append(lines, findings(e, printer)...) })
	slices.Sort(lines)
	var errs []error
	for _, line := range slices.Compact(lines) {
		errs = append(errs, fmt.Errorf("%w: %s", ErrInvalid, line))
	}
	return errors.Join(errs...)
}

func eachLeaf(e *jsonschema.ValidationError, visit func(*jsonschema.ValidationError)) {
	if len(e.Causes) == 0 {
		visit(e)
	}
	for _, c := range e.Causes {
		eachLeaf(c, visit)
	}
}

// findings puts what the library found in words, each with the path of the member that is at fault rather than of the
// object around it.
func findings(e *jsonschema.ValidationError, p *message.Printer) []string {
	at := pathOf(e.InstanceLocation)
	var out []string
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			out = append(out, at+step(name)+": unknown member")
		}
	case *kind.Required:
		for _, name := range k.Missing {
			out = append(out, at+step(name)+": missing")
		}
	case *kind.FalseSchema:
		out = append(out, at+": must not stand here beside the other members")
	default:
		out = append(out, at+": "+e.ErrorKind.LocalizedString(p))
	}
	return out
}

// pathOf writes a place as $.a.b[2].
func pathOf(location []string) string {
	var b strings.Builder
	b.WriteByte('$')
	for _, s := range location {
		if _, err := strconv.Atoi(s); err == nil {
			b.WriteString("[" + s + "]")
			continue
		}
		b.WriteString(step(s))
	}
	return b.String()
}

var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// step writes a member's name as a step of a path.
func step(name string) string {
	if plainName.MatchString(name) {
		return "." + name
	}
	return fmt.Sprintf("[%.80q]", name)
}
