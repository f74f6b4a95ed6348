// Package privacy keeps out of requests what a contract's redaction rules name (WIRE 5.3). A rule's place is a path of
// names; its action removes the value, masks it, or puts a keyed hash in its place that only the operator can confirm.
package privacy

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Action is what is done to a value that a rule names.
type Action string

// The actions.
const (
	Remove Action = "remove" // the member or element is gone
	Mask   Action = "mask"   // the value becomes MaskText
	Hash   Action = "hash"   // the value becomes its keyed hash; see Key.Text
)

// Rule is one rule as contracts write it.
type Rule struct {
	Path   string `json:"path"`
	Action Action `json:"action"`
}

// ErrRule is wrapped by every error of Compile.
var ErrRule = errors.New("redaction rule")

// RuleError is a rule that cannot be read; Index counts from 0.
type RuleError struct {
	Index  int
	Reason string
}

func (e *RuleError) Error() string { return fmt.Sprintf("%v %d: %s", ErrRule, e.Index, e.Reason) }

// Unwrap makes it an ErrRule.
func (e *RuleError) Unwrap() error { return ErrRule }

// Rules are compiled rules, immutable and safe for concurrent use.
type Rules struct {
	root   node
	hashes bool
}

// node is one place in a document.
type node struct {
	action  Action           // "" where no rule ends here
	members map[string]*node // by folded name
	each    *node            // the elements, where the value is a list
}

// Compile reads rules. A path is names with dots between, with or without "$." in front; name[*] is every element of a
// list. A name means every spelling of its case, because some servers do not look at case either. Where one rule's place
// lies within another's, the outer one is carried out. The error joins a RuleError for each rule that is wrong.
func Compile(rules []Rule) (*Rules, error) {
	if len(rules) == 0 {
		return nil, nil
	}
	out := new(Rules)
	var errs []error
	for i, r := range rules {
		if reason := out.add(r); reason != "" {
			errs = append(errs, &RuleError{i, reason})
		}
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

// add says what is wrong with the rule, or nothing.
func (r *Rules) add(rule Rule) string {
	switch rule.Action {
	case Remove, Mask:
	case Hash:
		r.hashes = true
	default:
		return fmt.Sprintf("%q is no action; use remove, mask or hash", rule.Action)
	}
	at := &r.root
	for name := range strings.SplitSeq(strings.TrimPrefix(rule.Path, "$."), ".") {
		name, each := strings.CutSuffix(name, "[*]")
		if name == "" || name == "$" || strings.ContainsAny(name, "[]*") || !utf8.ValidString(name) {
			return fmt.Sprintf("%q is no path; write names with dots between, and name[*] for every element of a list", rule.Path)
		}
		key := string(fold(nil, name))
		if at.members == nil {
			at.members = map[string]*node{}
		}
		if at.members[key] == nil {
			at.members[key] = new(node)
		}
		at = at.members[key]
		if each {
			if at.each == nil {
				at.each = new(node)
			}
			at = at.each
		}
	}
	if at.action != "" && at.action != rule.Action {
		return fmt.Sprintf("%q is to be %s here and %s by an earlier rule; keep one", rule.Path, passive[rule.Action], passive[at.action])
	}
	at.action = rule.Action
	return ""
}

var passive = map[Action]string{Remove: "removed", Mask: "masked", Hash: "hashed"}

// NeedKey tells whether some rule hashes.
func (r *Rules) NeedKey() bool { return r.hashes }

// fold appends a spelling that is the same for all names which are equal without regard to case.
func fold[T string | []byte](dst []byte, name T) []byte {
	for _, c := range string(name) {
		least := c
		for next := unicode.SimpleFold(c); next != c; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		dst = utf8.AppendRune(dst, least)
	}
	return dst
}
