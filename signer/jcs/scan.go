package jcs

import (
	"errors"
	"strconv"
	"strings"
)

// scanner checks a document in one pass. All readers of the package go through it, so that they accept
// and refuse the same documents.
type scanner struct {
	data  []byte
	pos   int
	depth int
	keys  keys
}

func (s *scanner) fail(reason string) error { return s.failAt(s.pos, reason) }

func (s *scanner) failAt(pos int, reason string) error {
	return &Error{Path: "$", Offset: pos, Reason: reason}
}

// within puts the way to a member or element in front of an error's path. It costs nothing where there is no error.
func within(err error, step string) error {
	var e *Error
	if errors.As(err, &e) {
		return &Error{Path: "$" + step + strings.TrimPrefix(e.Path, "$"), Offset: e.Offset, Reason: e.Reason}
	}
	return err
}

// maxStep bounds how much of a key is shown in a path, in bytes.
const maxStep = 64

// keyStep writes a member's name as a step of a path.
func keyStep(key string) string {
	plain := len(key) > 0 && len(key) <= maxStep
	for i := 0; plain && i < len(key); i++ {
		c := key[i]
		plain = c == '_' || c == '-' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
	}
	if plain {
		return "." + key
	}
	if len(key) > maxStep {
		key = strings.ToValidUTF8(key[:maxStep], "") + "…"
	}
	return "[" + strconv.Quote(key) + "]"
}

func indexStep(i int) string { return "[" + strconv.Itoa(i) + "]" }

// document checks the whole of data as one value.
func (s *scanner) document() error {
	if len(s.data) > MaxBytes {
		return s.fail("document too large")
	}
	s.space()
	if err := s.value(); err != nil {
		return err
	}
	return s.end()
}

// end refuses anything but white space after the document.
func (s *scanner) end() error {
	s.space()
	if s.pos != len(s.data) {
		return s.fail("trailing data")
	}
	return nil
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\n', '\r', '\t':
			s.pos++
		default:
			return
		}
	}
}

// value checks one value; s.pos is at its first byte, and behind its last afterwards.
func (s *scanner) value() error {
	if s.pos >= len(s.data) {
		return s.fail("unexpected end")
	}
	switch c := s.data[s.pos]; c {
	case '"':
		_, err := s.str()
		return err
	case '{':
		return s.object(nil)
	case '[':
		return s.array()
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		if c == '-' || c >= '0' && c <= '9' {
			return s.number()
		}
		return s.fail("unexpected character")
	}
}

func (s *scanner) word(w string) error {
	if len(s.data)-s.pos < len(w) || string(s.data[s.pos:s.pos+len(w)]) != w {
		return s.fail("unexpected character")
	}
	s.pos += len(w)
	return nil
}

func (s *scanner) enter() error {
	if s.depth >= MaxDepth {
		return s.fail("nested too deep")
	}
	s.depth++
	s.pos++
	s.space()
	return nil
}

// more is called behind a member or element. It says whether another one follows.
func (s *scanner) more(closing byte) (bool, error) {
	s.space()
	if s.pos >= len(s.data) {
		return false, s.fail("unexpected end")
	}
	switch s.data[s.pos] {
	case ',':
		s.pos++
		s.space()
		return true, nil
	case closing:
		s.pos++
		s.depth--
		return false, nil
	}
	return false, s.fail("want ',' or '" + string(rune(closing)) + "'")
}

// empty says whether the container that was just entered ends at once, and leaves it then.
func (s *scanner) empty(closing byte) bool {
	if s.pos < len(s.data) && s.data[s.pos] == closing {
		s.pos++
		s.depth--
		return true
	}
	return false
}

func (s *scanner) array() error {
	if err := s.enter(); err != nil {
		return err
	}
	if s.empty(']') {
		return nil
	}
	for i := 0; ; i++ {
		if err := s.value(); err != nil {
			return within(err, indexStep(i))
		}
		if more, err := s.more(']'); !more {
			return err
		}
	}
}

// object checks an object and its keys for duplicates; visit may be nil.
func (s *scanner) object(visit func(key, value []byte) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	if s.empty('}') {
		return nil
	}
	f := s.keys.open()
	for {
		key, err := s.key(&f)
		if err != nil {
			return err
		}
		from := s.pos
		if err := s.value(); err != nil {
			return within(err, keyStep(string(key)))
		}
		if visit != nil {
			if err := visit(key, s.data[from:s.pos]); err != nil {
				return err
			}
		}
		if more, err := s.more('}'); !more {
			s.keys.close(&f)
			return err
		}
	}
}

// key checks a member's name and the colon behind it. The bytes stay valid while the object is open.
func (s *scanner) key(f *frame) ([]byte, error) {
	if s.pos >= len(s.data) {
		return nil, s.fail("unexpected end")
	}
	if s.data[s.pos] != '"' {
		return nil, s.fail("want a member name")
	}
	from := s.pos
	tok, err := s.str()
	if err != nil {
		return nil, err
	}
	key, fresh := s.keys.add(s.data, f, tok)
	if !fresh {
		return nil, within(s.failAt(from, "duplicate key"), keyStep(string(key)))
	}
	s.space()
	if s.pos >= len(s.data) || s.data[s.pos] != ':' {
		return nil, within(s.fail("want ':'"), keyStep(string(key)))
	}
	s.pos++
	s.space()
	return key, nil
}
