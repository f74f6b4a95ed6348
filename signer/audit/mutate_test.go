package audit_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"sallyport/signer/internal/testarchive"
)

// mutation is one change of one place of a JSON text; every other byte stays.
type mutation struct {
	path, how string
	text      []byte
}

// value is one value of a JSON text.
type value struct {
	path       string
	from, to   int // of the value
	member     int // where its member or element begins: the key's, or the value's in an array
	kids       []*value
	obj, array bool
}

// scan reads the value at a place of a compact JSON text that is known to be good.
func scan(s []byte, at int, path string) *value {
	v := &value{path: path, from: at, member: at}
	switch s[at] {
	case '{', '[':
		v.obj, v.array = s[at] == '{', s[at] == '['
		at++
		for i := 0; s[at] != '}' && s[at] != ']'; i++ {
			if s[at] == ',' {
				at++
			}
			member, p := at, fmt.Sprintf("%s[%d]", path, i)
			if v.obj {
				end := stringEnd(s, at)
				var key string
				if err := json.Unmarshal(s[at:end], &key); err != nil {
					panic(err)
				}
				p, at = strings.TrimPrefix(path+"."+key, "."), end+1
			}
			kid := scan(s, at, p)
			kid.member = member
			v.kids = append(v.kids, kid)
			at = kid.to
		}
		v.to = at + 1
	case '"':
		v.to = stringEnd(s, at)
	default:
		for at < len(s) && !strings.ContainsRune(",]}", rune(s[at])) {
			at++
		}
		v.to = at
	}
	return v
}

func stringEnd(s []byte, at int) int {
	for at++; s[at] != '"'; at++ {
		if s[at] == '\\' {
			at++
		}
	}
	return at + 1
}

// mutations are all changes that are tried: each leaf to another value of its type, each member and element gone, and of each
// array an element doubled and two swapped.
func mutations(s []byte) []mutation {
	var out []mutation
	add := func(v *value, how string, from, to int, with string) {
		out = append(out, mutation{v.path, how, []byte(string(s[:from]) + with + string(s[to:]))})
	}
	var walk func(v *value)
	walk = func(v *value) {
		text := string(s[v.from:v.to])
		if !v.obj && !v.array {
			add(v, "changed", v.from, v.to, other(text))
		}
		for i, k := range v.kids {
			from, to := k.member, k.to
			if i+1 < len(v.kids) {
				to++ // the comma behind
			} else if i > 0 {
				from-- // the comma before
			}
			add(k, "deleted", from, to, "")
			walk(k)
		}
		if !v.array || len(v.kids) == 0 {
			return
		}
		first := string(s[v.kids[0].from:v.kids[0].to])
		add(v, "an element doubled", v.kids[0].to, v.kids[0].to, ","+first)
		if len(v.kids) > 1 {
			second := string(s[v.kids[1].from:v.kids[1].to])
			add(v, "two elements swapped", v.kids[0].from, v.kids[1].to, second+","+first)
		}
	}
	walk(scan(s, 0, ""))
	return out
}

// other is another value of the same type, and of the same form where the form is told by the value.
func other(text string) string {
	switch text {
	case "true":
		return "false"
	case "false":
		return "true"
	case "null":
		return `"` + strings.Repeat("A", 43) + `"`
	}
	if text[0] != '"' {
		n, err := strconv.Atoi(text)
		if err != nil {
			panic(err)
		}
		return strconv.Itoa(n + 1)
	}
	s := text[1 : len(text)-1]
	switch {
	case s == "":
		return `"x"`
	case strings.HasPrefix(s, "did:key:"):
		return `"` + testarchive.Key(9).DID() + `"`
	}
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return `"` + at.Add(time.Millisecond).UTC().Format("2006-01-02T15:04:05.000Z") + `"`
	}
	switch s[0] {
	case 'A':
		return `"B` + s[1:] + `"`
	default:
		return `"A` + s[1:] + `"`
	}
}

var indexes = regexp.MustCompile(`\[[0-9]+\]`)

// plain is a path with its indexes left out, so that like places make one row.
func plain(path string) string { return indexes.ReplaceAllString(path, "[]") }
