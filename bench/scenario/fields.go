package scenario

import (
	"reflect"
	"strings"
)

// fields lists the YAML names of a type's fields, for messages.
func fields(typeName string) string {
	t := reflect.TypeFor[Scenario]()
	if typeName == "Part" {
		t = reflect.TypeFor[Part]()
	}
	var out []string
	for f := range t.Fields() {
		out = append(out, f.Tag.Get("yaml"))
	}
	return strings.Join(out, ", ")
}
