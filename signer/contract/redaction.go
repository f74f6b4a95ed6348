package contract

import (
	"errors"
	"fmt"
	"slices"

	"sallyport/signer/privacy"
)

// compileRedaction keeps the rules; what is wrong with one is said with its path below at.
func (c *Contract) compileRedaction(rules []privacy.Rule, at string, wrong *problems) {
	compiled, err := privacy.Compile(rules)
	if err != nil {
		for _, e := range each(err) {
			var r *privacy.RuleError
			if errors.As(e, &r) {
				wrong.add(fmt.Sprintf("%s[%d]", at, r.Index), "%s", r.Reason)
			}
		}
		return
	}
	c.redaction, c.redacted = compiled, rules
}

// each takes joined errors apart.
func each(err error) []error {
	var list interface{ Unwrap() []error }
	if errors.As(err, &list) {
		return list.Unwrap()
	}
	return []error{err}
}

// diffRedaction lists rules that come and go. One that goes lets more of a request pass, so it widens; so does one whose
// action is another now, since none of the actions is stronger than another for every reader.
func diffRedaction(old, new *Contract) []Change {
	var out []Change
	for _, r := range old.redacted {
		if !slices.Contains(new.redacted, r) {
			out = append(out, Change{true, old.redactionPath(), fmt.Sprintf("no longer: %s %s", r.Action, r.Path)})
		}
	}
	for _, r := range new.redacted {
		if !slices.Contains(old.redacted, r) {
			out = append(out, Change{false, new.redactionPath(), fmt.Sprintf("also: %s %s", r.Action, r.Path)})
		}
	}
	return out
}

func (c *Contract) redactionPath() string {
	if c.Kind == ClawV1 {
		return "$.redaction_rules"
	}
	return "$.redaction.rules"
}
