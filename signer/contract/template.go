package contract

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// A path template is a path pattern in which whole segments may be variables: /v1.0/users/{user}/messages. A variable is one
// segment that is not empty.

// variable is a part of a path that argument rules can name.
type variable struct {
	name    string
	segment int // of the path, from 0 behind the first slash
}

// readTemplate compiles a path template. Before a variable there is no **, so that each stands in the same segment of every
// path, and has one value only.
func readTemplate(path string) (glob, []variable, error) {
	var vars []variable
	open := false // a ** came before
	for i, segment := range strings.Split(strings.TrimPrefix(path, "/"), "/") {
		name, isVariable := variableOf(segment)
		switch {
		case !isVariable && strings.ContainsAny(segment, "{}"):
			return glob{}, nil, fmt.Errorf("%q is no variable; one is a whole segment of the form {name}", segment)
		case !isVariable:
			open = open || strings.Contains(segment, "**")
			continue
		case open:
			return glob{}, nil, fmt.Errorf("{%s} stands behind **, so that no one segment is meant", name)
		case slices.ContainsFunc(vars, func(v variable) bool { return v.name == name }):
			return glob{}, nil, fmt.Errorf("{%s} stands there twice", name)
		}
		vars = append(vars, variable{name, i})
	}
	if vars == nil {
		return v2Glob(path), nil, nil
	}
	var units []unit
	for rest := path; rest != ""; {
		before, inside, found := strings.Cut(rest, "{")
		units = append(units, v2Glob(before).units...)
		if found {
			units = append(units, unit{kind: oneName}, unit{kind: nameRun})
			_, rest, _ = strings.Cut(inside, "}")
			continue
		}
		rest = ""
	}
	return newGlob(path, false, units), vars, nil
}

func variableOf(segment string) (name string, ok bool) {
	inside, begins := strings.CutPrefix(segment, "{")
	name, ends := strings.CutSuffix(inside, "}")
	return name, begins && ends && plainName.MatchString(name)
}

// names are those of the template's variables.
func names(vars []variable) []string {
	out := make([]string, len(vars))
	for i, v := range vars {
		out[i] = v.name
	}
	return out
}

// values are what the variables stand for in a path that the template matches, with escapes undone: plain paths have no
// escape that could make two segments of one.
func values(vars []variable, path string) map[string]string {
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	out := make(map[string]string, len(vars))
	for _, v := range vars {
		if value, err := url.PathUnescape(segments[v.segment]); err == nil {
			out[v.name] = value
		}
	}
	return out
}
