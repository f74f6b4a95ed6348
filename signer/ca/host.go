package ca

import (
	"fmt"
	"strings"
)

const (
	maxName  = 253 // characters of a DNS name without its last dot (RFC 1035)
	maxLabel = 63
	maxShown = 80 // of a bad name in an error
)

// checkName lets through DNS names in lower case without a last dot: letters, digits, hyphens and underscores (some
// services have them). It knows no wildcard. A name whose last label is a number is none: some clients would read an IPv4
// address in it.
func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("%w: a name has 1 to %d characters, this one has %d", ErrHost, maxName, len(name))
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if why := badLabel(label); why != "" {
			return fmt.Errorf("%w: %q: %s", ErrHost, clip(name), why)
		}
	}
	if top := labels[len(labels)-1]; top[0] >= '0' && top[0] <= '9' {
		return fmt.Errorf("%w: %q ends in something like a number", ErrHost, clip(name))
	}
	return nil
}

func badLabel(label string) (why string) {
	switch {
	case label == "":
		return "an empty label; write the name without a dot at its ends"
	case len(label) > maxLabel:
		return fmt.Sprintf("a label longer than %d characters", maxLabel)
	case label[0] == '-' || label[len(label)-1] == '-':
		return "a label that begins or ends with a hyphen"
	}
	for _, c := range []byte(label) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		case c >= 'A' && c <= 'Z':
			return "write it in lower case"
		default:
			return "only letters, digits, hyphens and underscores"
		}
	}
	return ""
}

func clip(s string) string {
	if len(s) > maxShown {
		return s[:maxShown] + "…"
	}
	return s
}
