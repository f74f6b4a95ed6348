//go:build weaken

// Package weaken lets a test take one defence away, to show that the others still refuse. Only a binary built with
// the tag "weaken" can do so; in every other build Off is constantly false and the compiler drops what it guards.
package weaken

import (
	"os"
	"strings"
)

// Built says whether this binary was built with the tag "weaken".
const Built = true

// Off says whether a defence is named in the comma list SALLYPORT_WEAKEN. The names are signature, decision, guard
// and routes.
func Off(what string) bool {
	for name := range strings.SplitSeq(os.Getenv("SALLYPORT_WEAKEN"), ",") {
		if name == what && what != "" {
			return true
		}
	}
	return false
}
