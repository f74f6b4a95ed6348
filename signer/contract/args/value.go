package args

import (
	"errors"
	"mime"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"sallyport/signer/code"
	"sallyport/signer/jcs"
)

const (
	// MaxBodyBytes bounds a body that a rule names.
	MaxBodyBytes = 1 << 20
	// MaxDepth bounds the nesting of such a body.
	MaxDepth = 64
)

// variables reads from the call what the rules may name.
func (s *Set) variables(c *Call) (map[string]any, *code.Denial) {
	vars := map[string]any{varMethod: c.Method, varHost: c.Host, varPath: c.Path}
	var d *code.Denial
	if s.query {
		if vars[varQuery], d = readQuery(c.Query); d != nil {
			return nil, d
		}
	}
	if s.body {
		if vars[varBody], d = readBody(c); d != nil {
			return nil, d
		}
	}
	return vars, nil
}

// readQuery refuses parameters whose names differ only in case: some servers take them for one.
func readQuery(raw string) (any, *code.Denial) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, code.Deny(code.ToolQueryInvalid, "an escape is broken, or a semicolon stands between parameters")
	}
	out := make(map[string]any, len(values))
	for name, list := range values {
		out[name] = list
	}
	if a, b, alike := lookAlike(out); alike {
		return nil, code.Deny(code.ToolQueryInvalid, "the parameters %.64q and %.64q differ only in case", a, b)
	}
	return out, nil
}

// readBody reads the body as strictly as a contract: who reads it next must not find anything else in it.
func readBody(c *Call) (any, *code.Denial) {
	bad := func(format string, args ...any) (any, *code.Denial) {
		return nil, code.Deny(code.ToolBodyInvalid, format, args...)
	}
	if len(c.Body) == 0 {
		return bad("it is empty")
	}
	kind, parameters, err := mime.ParseMediaType(c.ContentType)
	if err != nil || kind != "application/json" && (!strings.HasPrefix(kind, "application/") || !strings.HasSuffix(kind, "+json")) {
		return bad("Content-Type is %.64q; send application/json", c.ContentType)
	}
	if charset := parameters["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return bad("its charset is %.64q; send UTF-8", charset)
	}
	if c.ContentEncoding != "" && !strings.EqualFold(c.ContentEncoding, "identity") {
		return bad("it is encoded as %.64q; send it without Content-Encoding", c.ContentEncoding)
	}
	if len(c.Body) > MaxBodyBytes {
		return bad("%d bytes; a body that a rule names has at most %d", len(c.Body), MaxBodyBytes)
	}
	v, err := jcs.Parse(c.Body)
	var where *jcs.Error
	switch {
	case errors.As(err, &where):
		return bad("%s at byte %d, %s", where.Reason, where.Offset, shown(where.Path))
	case err != nil:
		return bad("%s", shown(err.Error()))
	}
	return v, inspect(v, 0)
}

// inspect holds the bound on nesting and refuses members whose names differ only in case.
func inspect(v any, depth int) *code.Denial {
	var below []any
	switch v := v.(type) {
	case []any:
		below = v
	case map[string]any:
		if a, b, alike := lookAlike(v); alike {
			return code.Deny(code.ToolBodyInvalid, "the members %.64q and %.64q differ only in case", a, b)
		}
		for _, e := range v {
			below = append(below, e)
		}
	default:
		return nil
	}
	if depth == MaxDepth {
		return code.Deny(code.ToolBodyInvalid, "it is nested more than %d deep", MaxDepth)
	}
	for _, e := range below {
		if d := inspect(e, depth+1); d != nil {
			return d
		}
	}
	return nil
}

// lookAlike finds two names that some readers take for one, such as amount and Amount (encoding/json, ASP.NET).
func lookAlike(m map[string]any) (a, b string, found bool) {
	if len(m) < 2 {
		return "", "", false
	}
	seen := make(map[string]string, len(m))
	for name := range m {
		f := strings.Map(fold, name)
		if other, twice := seen[f]; twice {
			return min(name, other), max(name, other), true
		}
		seen[f] = name
	}
	return "", "", false
}

// fold maps all forms of a letter to one of them.
func fold(r rune) rune {
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	return least
}

// adapter gives rules the values of a request as they are, except that maps are walked in the order of their keys: the order
// of a Go map changes from one walk to the next, and with it what a rule costs until it is decided.
type adapter struct{}

func (a adapter) NativeToValue(v any) ref.Val {
	switch v := v.(type) {
	case map[string]any:
		return ordered{types.NewStringInterfaceMap(a, v), v}
	case []any:
		return types.NewDynamicList(a, v)
	}
	return types.DefaultTypeAdapter.NativeToValue(v)
}

type ordered struct {
	traits.Mapper
	of map[string]any
}

func (o ordered) Iterator() traits.Iterator {
	keys := make([]string, 0, len(o.of))
	for k := range o.of {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return types.NewStringList(adapter{}, keys).Iterator()
}
