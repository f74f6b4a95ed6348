package export

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of a settings file, in bytes and in levels.
const (
	maxConfigBytes = 4 << 20
	maxConfigDepth = 100
)

var errSyntax = errors.New("not valid JSON5")

// parseJSON5 reads JSON5 (json5.org, the format of openclaw.json and of JSON with comments) into the values that
// encoding/json makes. A key that stands twice is an error: readers differ in which one counts.
func parseJSON5(raw []byte) (any, error) {
	switch {
	case len(raw) > maxConfigBytes:
		return nil, fmt.Errorf("%w: longer than %d bytes", errSyntax, maxConfigBytes)
	case !utf8.Valid(raw):
		return nil, fmt.Errorf("%w: not UTF-8", errSyntax)
	}
	p := &json5{text: strings.TrimPrefix(string(raw), "\ufeff")}
	v, err := p.document()
	if err != nil {
		return nil, fmt.Errorf("%w: line %d: %w", errSyntax, 1+strings.Count(p.text[:min(p.at, len(p.text))], "\n"), err)
	}
	return v, nil
}

type json5 struct {
	text  string
	at    int
	depth int
}

func (p *json5) document() (any, error) {
	v, err := p.value()
	if err != nil {
		return nil, err
	}
	if err := p.space(); err != nil {
		return nil, err
	}
	if p.at < len(p.text) {
		return nil, fmt.Errorf("something follows the document: %.20q", p.text[p.at:])
	}
	return v, nil
}

// space skips white space and comments.
func (p *json5) space() error {
	for p.at < len(p.text) {
		rest := p.text[p.at:]
		switch r, n := utf8.DecodeRuneInString(rest); {
		case unicode.IsSpace(r) || r == '\ufeff' || unicode.Is(unicode.Zs, r) || r == '\u2028' || r == '\u2029':
			p.at += n
		case strings.HasPrefix(rest, "//"):
			end := strings.IndexAny(rest, "\n\r\u2028\u2029")
			if end < 0 {
				end = len(rest)
			}
			p.at += end
		case strings.HasPrefix(rest, "/*"):
			end := strings.Index(rest[2:], "*/")
			if end < 0 {
				return errors.New("a comment has no end")
			}
			p.at += 2 + end + 2
		default:
			return nil
		}
	}
	return nil
}

func (p *json5) value() (any, error) {
	if err := p.space(); err != nil {
		return nil, err
	}
	if p.at >= len(p.text) {
		return nil, errors.New("a value is missing at the end")
	}
	switch p.text[p.at] {
	case '{':
		return nested(p, p.object)
	case '[':
		return nested(p, p.array)
	case '"', '\'':
		return p.quoted()
	}
	return p.bare()
}

func nested[T any](p *json5, read func() (T, error)) (any, error) {
	if p.depth++; p.depth > maxConfigDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", maxConfigDepth)
	}
	defer func() { p.depth-- }()
	p.at++
	return read()
}

// closes says whether the list or object ends here, and steps over its end.
func (p *json5) closes(end byte) (bool, error) {
	if err := p.space(); err != nil {
		return false, err
	}
	if p.at >= len(p.text) {
		return false, fmt.Errorf("%q is missing", end)
	}
	if p.text[p.at] != end {
		return false, nil
	}
	p.at++
	return true, nil
}

// next steps over the comma behind an item, or over the end.
func (p *json5) next(end byte) (done bool, err error) {
	if done, err = p.closes(end); done || err != nil {
		return done, err
	}
	if p.text[p.at] != ',' {
		return false, fmt.Errorf("\",\" or %q is missing before %.10q", end, p.text[p.at:])
	}
	p.at++
	return p.closes(end)
}

func (p *json5) array() ([]any, error) {
	out := []any{}
	done, err := p.closes(']')
	for !done && err == nil {
		var v any
		if v, err = p.value(); err == nil {
			out = append(out, v)
			done, err = p.next(']')
		}
	}
	return out, err
}

func (p *json5) object() (map[string]any, error) {
	out := map[string]any{}
	done, err := p.closes('}')
	for !done && err == nil {
		if err = p.member(out); err == nil {
			done, err = p.next('}')
		}
	}
	return out, err
}

func (p *json5) member(into map[string]any) error {
	key, err := p.key()
	if err != nil {
		return err
	}
	if _, twice := into[key]; twice {
		return fmt.Errorf("the key %.40q stands twice", key)
	}
	if err := p.space(); err != nil {
		return err
	}
	if p.at >= len(p.text) || p.text[p.at] != ':' {
		return fmt.Errorf("\":\" is missing after the key %.40q", key)
	}
	p.at++
	into[key], err = p.value()
	return err
}

func (p *json5) key() (string, error) {
	if c := p.text[p.at]; c == '"' || c == '\'' {
		return p.quoted()
	}
	word := p.word()
	for i, r := range word {
		if r != '$' && r != '_' && !unicode.IsLetter(r) && (i == 0 || !unicode.IsDigit(r)) {
			return "", fmt.Errorf("%.40q is no key; put it in quotes", word)
		}
	}
	if word == "" {
		return "", fmt.Errorf("a key is missing before %.10q", p.text[p.at:])
	}
	return word, nil
}

// word takes what stands up to the next sign of the grammar.
func (p *json5) word() string {
	from := p.at
	for p.at < len(p.text) {
		r, n := utf8.DecodeRuneInString(p.text[p.at:])
		if unicode.IsSpace(r) || strings.ContainsRune(`,:{}[]"'/`+"\ufeff\u2028\u2029", r) {
			break
		}
		p.at += n
	}
	return p.text[from:p.at]
}

func (p *json5) bare() (any, error) {
	word := p.word()
	switch word {
	case "null":
		return nil, nil
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return number(word)
}

// number reads JSON5's numbers but Infinity and NaN, which no setting has and JSON cannot say.
func number(word string) (any, error) {
	digits, negative := strings.TrimPrefix(word, "+"), false
	if digits == word {
		digits, negative = strings.CutPrefix(word, "-")
	}
	var f float64
	var err error
	switch {
	case digits == "" || !strings.ContainsRune("0123456789.", rune(digits[0])) || strings.Contains(digits, "_"):
		err = errors.New("no number")
	case strings.HasPrefix(digits, "0x") || strings.HasPrefix(digits, "0X"):
		var n uint64
		n, err = strconv.ParseUint(digits[2:], 16, 53)
		f = float64(n)
	case len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9':
		err = errors.New("a leading zero")
	default:
		f, err = strconv.ParseFloat(digits, 64)
	}
	if err != nil || math.IsInf(f, 0) {
		return nil, fmt.Errorf("%.20q is no value", word)
	}
	if negative {
		f = -f
	}
	return f, nil
}

func (p *json5) quoted() (string, error) {
	quote := p.text[p.at]
	p.at++
	var b strings.Builder
	for p.at < len(p.text) {
		c := p.text[p.at]
		switch c {
		case quote:
			p.at++
			return b.String(), nil
		case '\n', '\r':
			return "", errors.New("a string has no end on its line")
		case '\\':
			if err := p.escape(&b); err != nil {
				return "", err
			}
		default:
			b.WriteByte(c)
			p.at++
		}
	}
	return "", errors.New("a string has no end")
}

var escapes = map[rune]string{'b': "\b", 'f': "\f", 'n': "\n", 'r': "\r", 't': "\t", 'v': "\v", '0': "\x00",
	'\n': "", '\r': "", '\u2028': "", '\u2029': ""}

func (p *json5) escape(b *strings.Builder) error {
	p.at++
	r, n := utf8.DecodeRuneInString(p.text[p.at:])
	p.at += n
	switch {
	case n == 0:
		return errors.New("a string has no end")
	case r == 'x':
		return p.code(b, 2)
	case r == 'u':
		return p.code(b, 4)
	case r >= '1' && r <= '9':
		return fmt.Errorf("\\%c is no escape", r)
	}
	if r == '\r' && strings.HasPrefix(p.text[p.at:], "\n") {
		p.at++
	}
	if s, ok := escapes[r]; ok {
		b.WriteString(s)
	} else {
		b.WriteRune(r)
	}
	return nil
}

// code reads an escape of so many hexadecimal digits, and the second half of a surrogate pair where it is a first.
func (p *json5) code(b *strings.Builder, digits int) error {
	unit, err := p.hex(digits)
	if err != nil {
		return err
	}
	if unit >= 0xd800 && unit < 0xdc00 && strings.HasPrefix(p.text[p.at:], `\u`) {
		p.at += 2
		low, err := p.hex(4)
		if err != nil {
			return err
		}
		unit = (unit-0xd800)<<10 + (low - 0xdc00) + 0x10000
		if low < 0xdc00 || low > 0xdfff {
			return errors.New("half of a surrogate pair stands alone")
		}
	}
	if unit >= 0xd800 && unit < 0xe000 {
		return errors.New("half of a surrogate pair stands alone")
	}
	b.WriteRune(unit)
	return nil
}

func (p *json5) hex(digits int) (rune, error) {
	if len(p.text)-p.at < digits {
		return 0, errors.New("an escape is cut off")
	}
	n, err := strconv.ParseUint(p.text[p.at:p.at+digits], 16, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is no escape", p.text[p.at:p.at+digits])
	}
	p.at += digits
	return rune(n), nil
}
