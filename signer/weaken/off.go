//go:build !weaken

// Package weaken lets a test take one defence away, to show that the others still refuse. Only a binary built with
// the tag "weaken" can do so; in every other build Off is constantly false and the compiler drops what it guards.
package weaken

// Built says whether this binary was built with the tag "weaken".
const Built = false

// Off says whether a defence is switched off. The names are signature, decision, guard and routes.
func Off(string) bool { return false }
