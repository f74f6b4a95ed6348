// Package secret holds the credentials that calls are given on their way, and the bounds of where each may go.
// Classes are the operator's, never a contract's or an agent's; the rules come from the design ("Secret classes").
package secret

import (
	"fmt"
	"log/slog"
	"time"
)

// redacted is what every way of printing a Value gives.
const redacted = "[redacted]"

// Value is a credential that cannot be printed by accident. What it holds sits behind a function, because fmt prints
// unexported struct fields without asking their methods, and so do debuggers' dumps.
type Value struct{ reveal func() string }

// NewValue wraps s.
func NewValue(s string) Value { return Value{func() string { return s }} }

// Reveal returns the credential itself. Only the code that puts it on the wire may call it.
func (v Value) Reveal() string {
	if v.reveal == nil {
		return ""
	}
	return v.reveal()
}

// Empty says whether there is anything to reveal.
func (v Value) Empty() bool { return v.Reveal() == "" }

func (v Value) String() string { return redacted }

// GoString covers %#v.
func (v Value) GoString() string { return redacted }

// Format covers every verb of package fmt.
func (v Value) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue covers slog.
func (v Value) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON covers encoding/json.
func (v Value) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText covers YAML, XML and map keys.
func (v Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Credential is a value and how long it may be used.
type Credential struct {
	Value Value
	// Expires is when the credential must no longer be used: the least of the source's lease, the class's TTL and the
	// contract's. Zero means that none of them sets an end.
	Expires time.Time
	// Refresh is after how long the source is asked again, for a credential that may change at any time; it is used for
	// at most twice as long, except that a source which is down leaves it in use until Expires. 0 means once per life.
	Refresh time.Duration
	// Lease is the source's name for it, by which a Lessor renews and revokes it. It opens nothing by itself.
	Lease string
	// Renewable says whether the source would prolong it.
	Renewable bool
}
