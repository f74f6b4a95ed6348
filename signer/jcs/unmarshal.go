package jcs

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// Unmarshal reads a strict JSON document into v, a pointer to a Go value with json tags. Beyond what Parse refuses,
// it refuses a member that the type does not have, by its exact name (encoding/json would also take a name in
// another case), and null where the type has no such value. The error is an *Error with the path.
func Unmarshal(data []byte, v any) error {
	n, err := parse(data)
	if err != nil {
		return err
	}
	t := reflect.TypeOf(v)
	if t == nil || t.Kind() != reflect.Pointer {
		return &Error{Path: "$", Reason: "want a pointer to decode into"}
	}
	// The pointer itself must not let null through: it would leave v as it was.
	if err := fits(n, t.Elem()); err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return decodeError(err)
	}
	return nil
}

// decodeError turns what encoding/json says into an *Error.
func decodeError(err error) error {
	var t *json.UnmarshalTypeError
	if errors.As(err, &t) {
		path := "$"
		if t.Field != "" {
			path += "." + t.Field
		}
		return &Error{Path: path, Offset: int(t.Offset), Reason: fmt.Sprintf("want %s, not %s", t.Type, t.Value)}
	}
	return &Error{Path: "$", Reason: err.Error()}
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// fits checks the members of a document against the fields of a type, as far as the type says anything.
func fits(n *node, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		if n.kind == kindNull || t.Implements(jsonUnmarshaler) {
			return nil
		}
		t = t.Elem()
	}
	if p := reflect.PointerTo(t); p.Implements(jsonUnmarshaler) || p.Implements(textUnmarshaler) {
		return nil
	}
	if n.kind == kindNull && t.Kind() != reflect.Interface && t.Kind() != reflect.Map && t.Kind() != reflect.Slice {
		return &Error{Path: "$", Offset: n.offset, Reason: "null is not allowed here"}
	}
	switch t.Kind() { //nolint:exhaustive // the other kinds have no members
	case reflect.Struct:
		return fitsStruct(n, t)
	case reflect.Map:
		for i := range n.members {
			if err := fits(&n.members[i].val, t.Elem()); err != nil {
				return within(err, keyStep(n.members[i].key))
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range n.items {
			if err := fits(&n.items[i], t.Elem()); err != nil {
				return within(err, indexStep(i))
			}
		}
	}
	return nil
}

func fitsStruct(n *node, t reflect.Type) error {
	known := map[string]reflect.Type{}
	collect(t, known)
	for i := range n.members {
		m := &n.members[i]
		field, ok := known[m.key]
		if !ok {
			return within(&Error{Path: "$", Offset: m.val.offset, Reason: "unknown member"}, keyStep(m.key))
		}
		if err := fits(&m.val, field); err != nil {
			return within(err, keyStep(m.key))
		}
	}
	return nil
}

// collect lists the JSON names of a struct's fields, those of embedded structs included.
func collect(t reflect.Type, known map[string]reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		name, _, _ := strings.Cut(tag, ",")
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		switch {
		case tag == "-":
		case f.Anonymous && name == "" && inner.Kind() == reflect.Struct:
			collect(inner, known)
		case !f.IsExported():
		case name == "":
			known[f.Name] = f.Type
		default:
			known[name] = f.Type
		}
	}
}
