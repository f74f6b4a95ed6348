package dialect

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"sallyport/signer/code"
	"sallyport/signer/jcs"
)

// maxModel is the longest name of a model that is read, in bytes.
const maxModel = 256

// where tells in which place of a member further models can be named.
type where int

const (
	inList         where = iota + 1 // ["name", …]
	inObjects                       // {"model": "name"} or a list of these
	inTools                         // the same at any depth, but for what is a schema or an example
	inToolsOfItems                  // [{"tools": …}, …], where tools is as above
)

// opaque are members of a tool that are the application's own data, in which "model" means something else.
var opaque = map[string]bool{
	"parameters": true, "input_schema": true, "inputSchema": true, "schema": true, "parametersJsonSchema": true,
	"input_examples": true, "properties": true,
}

// reader collects what a body asks for.
type reader struct {
	dialect *dialect
	body    Body
	named   bool     // the body names a model
	seconds []second // models in other places, checked when the first is known
}

type second struct{ member, model string }

func (d *dialect) Inspect(c Call, body []byte) (Body, *code.Denial) {
	if !c.NeedsBody {
		if len(body) > 0 {
			return Body{}, code.Deny(code.InvalidRequest, "%s %s takes no body", c.Endpoint.Method, c.UpstreamPath)
		}
		return Body{Model: c.ModelInPath}, nil
	}
	if len(bytes.Trim(body, " \t\r\n")) == 0 {
		return Body{}, code.Deny(code.PayloadEmpty, "")
	}
	r := &reader{dialect: d}
	if err := jcs.Scan(body, r.member); err != nil {
		var denial *code.Denial
		if errors.As(err, &denial) {
			return Body{}, denial
		}
		return Body{}, code.Deny(code.InvalidRequest, "%v", err)
	}
	return r.result(c)
}

// result checks the models against each other. The decision is on one model, so a call names one.
func (r *reader) result(c Call) (Body, *code.Denial) {
	b := r.body
	b.Stream = b.Stream || c.StreamByPath
	switch {
	case c.ModelInPath != "":
		if r.named && strings.TrimPrefix(b.Model, r.dialect.prefixOfModel) != c.ModelInPath {
			return Body{}, code.Deny(code.PolicyModelNotAllowed, "the path asks for %s, the body for %s", c.ModelInPath, b.Model)
		}
		b.Model = c.ModelInPath
	case !r.named:
		return Body{}, code.Deny(code.PolicyModelRequired, "the body has no model")
	}
	for _, s := range r.seconds {
		if strings.TrimPrefix(s.model, r.dialect.prefixOfModel) != b.Model {
			return Body{}, code.Deny(code.PolicyModelNotAllowed, "%s names %s beside %s; one call names one model", s.member, s.model, b.Model)
		}
	}
	return b, nil
}

// member takes one top-level member. Its errors are denials.
func (r *reader) member(key, value []byte) error {
	if k, ok := r.known(key); !ok {
		return nil
	} else if k != string(key) {
		// Some servers match names without regard to case, and would take this one for the other.
		return code.Deny(code.InvalidRequest, "member %q; write %q", key, k)
	}
	switch k := string(key); k {
	case "model":
		m, err := modelName(k, value)
		if err != nil {
			return err
		}
		r.body.Model, r.named = m, true
	case "stream":
		switch string(value) {
		case "true":
			r.body.Stream = true
		case "false", "null":
		default:
			return code.Deny(code.InvalidRequest, "stream must be true or false")
		}
	default:
		return r.further(k, r.dialect.secondModels[k], value)
	}
	return nil
}

// known returns the name of the member that key means to the least strict reader.
func (r *reader) known(key []byte) (string, bool) {
	for _, k := range [...]string{"model", "stream"} {
		if equalFold(key, k) {
			return k, true
		}
	}
	if _, ok := r.dialect.secondModels[string(key)]; ok {
		return string(key), true
	}
	for k := range r.dialect.secondModels {
		if equalFold(key, k) {
			return k, true
		}
	}
	return "", false
}

// equalFold is bytes.EqualFold, told at once by the length where it can be: a letter outside ASCII that folds to one
// inside is longer.
func equalFold(key []byte, name string) bool {
	return len(key) >= len(name) && len(key) <= 3*len(name) && bytes.EqualFold(key, []byte(name))
}

func modelName(member string, raw []byte) (string, error) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", code.Deny(code.InvalidRequest, "%s must be a string", member)
	}
	m, err := jcs.String(raw)
	if err != nil {
		return "", code.Deny(code.InvalidRequest, "%s: %v", member, err)
	}
	return m, checkModel(member, m)
}

// checkModel refuses names that an upstream could read as another one after trimming or normalising.
func checkModel(member, m string) error {
	if m == "" || len(m) > maxModel {
		return code.Deny(code.InvalidRequest, "%s must have 1 to %d characters", member, maxModel)
	}
	for i := 0; i < len(m); i++ {
		if m[i] <= ' ' || m[i] >= 0x7f {
			return code.Deny(code.InvalidRequest, "%s must be printable ASCII without spaces", member)
		}
	}
	return nil
}

// further collects models named in other places. The value is known to be strict JSON.
func (r *reader) further(member string, w where, value []byte) error {
	if w == inToolsOfItems && !bytes.Contains(value, []byte(`"tools"`)) && !bytes.Contains(value, []byte(`\u00`)) {
		return nil
	}
	if w != inList && value[0] != '"' && !mentionsModel(value) {
		return nil // the usual case: no need to take the tools or the prompt apart
	}
	switch w {
	case inList:
		return r.list(member, value)
	case inObjects, inTools:
		return r.objects(member, value, w == inTools)
	case inToolsOfItems:
		return r.toolsOfItems(member, value)
	}
	return nil
}

func (r *reader) list(member string, value []byte) error {
	var list []string
	if err := json.Unmarshal(value, &list); err != nil {
		return code.Deny(code.InvalidRequest, "%s must be a list of names", member)
	}
	for _, m := range list {
		r.seconds = append(r.seconds, second{member, m})
	}
	return nil
}

// toolsOfItems looks at tools that stand in the conversation, as a tool search's output does.
func (r *reader) toolsOfItems(member string, value []byte) error {
	for _, item := range items(value) {
		for _, tools := range membersOf(item, "tools") {
			if err := r.objects(member+".tools", tools, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// objects takes the models that an object or a list of objects names.
func (r *reader) objects(member string, value []byte, deep bool) error {
	switch value[0] {
	case '"':
		if member == "fallbacks" {
			return code.Deny(code.PolicyModelNotAllowed, "%s %.64s lets the provider choose another model", member, value)
		}
	case '[':
		for _, item := range items(value) {
			if err := r.objects(member, item, deep); err != nil {
				return err
			}
		}
	case '{':
		for _, raw := range membersOf(value, "model") {
			if raw[0] != '"' {
				continue // no model's name
			}
			m, err := modelName(member+".model", raw)
			if err != nil {
				return err
			}
			r.seconds = append(r.seconds, second{member, m})
		}
		if !deep {
			return nil
		}
		for _, inner := range insides(value) {
			if err := r.objects(member, inner, deep); err != nil {
				return err
			}
		}
	}
	return nil
}

// items are the elements of a list; none for what is no list.
func items(value []byte) []json.RawMessage {
	var list []json.RawMessage
	if len(value) == 0 || value[0] != '[' || json.Unmarshal(value, &list) != nil {
		return nil
	}
	return list
}

// insides are the objects and lists directly in an object, in a fixed order, but for the opaque ones.
func insides(value []byte) []json.RawMessage {
	var members map[string]json.RawMessage
	if json.Unmarshal(value, &members) != nil {
		return nil
	}
	var out []json.RawMessage
	for _, k := range slices.Sorted(maps.Keys(members)) {
		if v := members[k]; !opaque[k] && (v[0] == '{' || v[0] == '[') {
			out = append(out, v)
		}
	}
	return out
}

// membersOf returns the members of an object whose name is the given one in any spelling of its case. It returns none
// for what is no object.
func membersOf(value []byte, name string) []json.RawMessage {
	var members map[string]json.RawMessage
	if len(value) == 0 || value[0] != '{' || json.Unmarshal(value, &members) != nil {
		return nil
	}
	var out []json.RawMessage
	for k, v := range members {
		if strings.EqualFold(k, name) {
			out = append(out, v)
		}
	}
	// A fixed order, so that the same request is refused with the same words.
	slices.SortFunc(out, func(a, b json.RawMessage) int { return bytes.Compare(a, b) })
	return out
}

// mentionsModel tells whether the string "model" stands in a value, in any case. A text that speaks of "model" has its
// quotes escaped and is not meant.
func mentionsModel(value []byte) bool {
	if bytes.Contains(value, []byte(`\u00`)) {
		return true // could spell it
	}
	const quoted = `"model"`
	for i := bytes.IndexByte(value, '"'); i >= 0 && i+len(quoted) <= len(value); {
		if value[i+len(quoted)-1] == '"' && bytes.EqualFold(value[i:i+len(quoted)], []byte(quoted)) {
			return true
		}
		next := bytes.IndexByte(value[i+1:], '"')
		if next < 0 {
			return false
		}
		i += 1 + next
	}
	return false
}
