package privacy

import (
	"errors"
	"fmt"

	"sallyport/signer/jcs"
)

// MaskText stands for a masked value, as in the ecosystem.
const MaskText = "[REDACTED]"

// Errors of Redact.
var (
	// ErrNotObject: the body is not one strict JSON object, so the rules say nothing of it and it must not pass.
	ErrNotObject = errors.New("the body is not a JSON object in strict form")
	// ErrTooLarge: what the rules make of the body is larger than allowed.
	ErrTooLarge = errors.New("the redacted body is too large")
	// ErrNoKey: a rule hashes and there is no key.
	ErrNoKey = errors.New("there is no key to hash with")
)

// Redact carries the rules out on a JSON object and returns what may leave, at most limit bytes. Whatever no rule names
// keeps its bytes: spaces, the order of members, the text of numbers. Where no rule finds anything, body itself is
// returned. key may be nil where no rule hashes.
func (r *Rules) Redact(body []byte, key *Key, limit int) ([]byte, error) {
	if r.hashes && key == nil {
		return nil, ErrNoKey
	}
	// Strict first: below, the body is known to be well formed, without a key twice and no deeper than jcs allows.
	if err := jcs.Scan(body, func(_, _ []byte) error { return nil }); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotObject, err)
	}
	w := walker{in: body, key: key, limit: limit}
	w.space()
	if err := w.value(&r.root); err != nil {
		return nil, err
	}
	if w.copied == 0 {
		return body, nil
	}
	return w.keep(len(body))
}

// walker goes through a well-formed document once. What lies between copied and pos is unchanged and not yet in out.
type walker struct {
	in     []byte
	pos    int
	out    []byte
	copied int
	key    *Key
	limit  int
	name   []byte // scratch
}

// keep copies what is unchanged up to a place in the document.
func (w *walker) keep(to int) ([]byte, error) {
	w.out = append(w.out, w.in[w.copied:to]...)
	w.copied = to
	if len(w.out) > w.limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, w.limit)
	}
	return w.out, nil
}

// value passes over one value, of which n is the place. pos is at its first byte, and behind its last afterwards.
func (w *walker) value(n *node) error {
	switch {
	case n != nil && n.action != "":
		return w.replace(n.action)
	case n != nil && w.in[w.pos] == '{' && n.members != nil:
		return w.container('}', func() (*node, error) { return w.member(n) })
	case n != nil && w.in[w.pos] == '[' && n.each != nil:
		return w.container(']', func() (*node, error) { return n.each, nil })
	}
	w.skip()
	return nil
}

// member reads a member's name and returns the place of its value.
func (w *walker) member(n *node) (*node, error) {
	from := w.pos
	w.skip()
	name, err := jcs.String(w.in[from:w.pos])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotObject, err)
	}
	w.space()
	w.pos++ // the colon
	w.space()
	w.name = fold(w.name[:0], name)
	return n.members[string(w.name)], nil
}

// container goes through an object or a list. place reads what stands before a value and returns the value's place.
func (w *walker) container(closing byte, place func() (*node, error)) error {
	w.pos++
	w.space()
	kept := false // an item before this one is still there
	for w.in[w.pos] != closing {
		from := w.pos
		n, err := place()
		if err != nil {
			return err
		}
		if n != nil && n.action == Remove {
			w.skip()
			if err := w.drop(from, kept, closing); err != nil {
				return err
			}
			continue
		}
		if err := w.value(n); err != nil {
			return err
		}
		kept = true
		w.space()
		if w.in[w.pos] == ',' {
			w.pos++
			w.space()
		}
	}
	w.pos++
	return nil
}

// drop leaves out the item from from to pos, and the one comma that goes with it: the one behind it, or where it is the
// last the one before it.
func (w *walker) drop(from int, kept bool, closing byte) error {
	w.space()
	if w.in[w.pos] == ',' {
		w.pos++
		w.space()
	}
	if _, err := w.keep(max(from, w.copied)); err != nil {
		return err
	}
	w.copied = w.pos
	if w.in[w.pos] == closing && kept {
		w.uncomma()
	}
	return nil
}

// uncomma takes back the comma at the end of out, with the space around it.
func (w *walker) uncomma() {
	end := len(w.out)
	for end > 0 && w.out[end-1] != ',' {
		end--
	}
	w.out = w.out[:end-1]
}

// replace puts another value in place of this one.
func (w *walker) replace(a Action) error {
	from := w.pos
	w.skip()
	text := MaskText
	if a == Hash {
		canonical, err := jcs.Canonical(w.in[from:w.pos])
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotObject, err)
		}
		text = w.key.text(canonical)
	}
	if _, err := w.keep(from); err != nil {
		return err
	}
	w.out = append(append(append(w.out, '"'), text...), '"')
	w.copied = w.pos
	return nil
}

func (w *walker) space() {
	for w.pos < len(w.in) {
		switch w.in[w.pos] {
		case ' ', '\n', '\r', '\t':
			w.pos++
		default:
			return
		}
	}
}

// skip passes over one value of a well-formed document.
func (w *walker) skip() {
	depth := 0
	for {
		switch c := w.in[w.pos]; c {
		case '"':
			w.pos++
			for w.in[w.pos] != '"' {
				if w.in[w.pos] == '\\' {
					w.pos++
				}
				w.pos++
			}
			w.pos++
		case '{', '[':
			depth++
			w.pos++
		case '}', ']':
			depth--
			w.pos++
		case ',', ':', ' ', '\n', '\r', '\t':
			w.pos++
		default:
			for w.pos < len(w.in) && !ends(w.in[w.pos]) {
				w.pos++
			}
		}
		if depth == 0 {
			return
		}
	}
}

// ends tells what stands behind a number or a word.
func ends(c byte) bool {
	switch c {
	case ',', '}', ']', ' ', '\n', '\r', '\t':
		return true
	}
	return false
}
