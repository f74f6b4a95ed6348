package contract

import (
	"math/bits"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxPattern bounds a pattern, in UTF-16 units, so that matching needs no allocation.
const maxPattern = 1024

// Kinds of a pattern's units.
const (
	literal uint8 = iota
	oneName       // one unit that is not a slash
	oneAny        // one unit
	nameRun       // any run without a slash
	anyRun        // any run
)

type unit struct {
	kind uint8
	c    uint16
}

// glob is a compiled pattern. The literal head is compared at once; the rest follows all possibilities at the same time,
// so that the cost of a match is at most pattern × text, whatever the pattern.
//
// Texts with line terminators never get here (see readable), so "any" has no exceptions.
type glob struct {
	source string // as it is shown
	fold   bool   // ASCII letters match without case
	head   string // literal beginning
	tail   []unit // what follows it
	units  []unit // both
}

// v2Glob compiles v2's pattern language: ** crosses slashes and swallows one slash behind it, * does not cross
// them, ? is one UTF-16 unit that is no slash, everything else is literal and case counts. A * alone matches everything.
func v2Glob(p string) glob {
	if p == "*" {
		return newGlob(p, false, []unit{{kind: anyRun}})
	}
	var units []unit
	for rest := p; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "**"):
			units = append(units, unit{kind: anyRun})
			rest = strings.TrimPrefix(rest[2:], "/")
		case rest[0] == '*':
			units, rest = append(units, unit{kind: nameRun}), rest[1:]
		case rest[0] == '?':
			units, rest = append(units, unit{kind: oneName}), rest[1:]
		default:
			units, rest = appendLiteral(units, rest)
		}
	}
	return newGlob(p, false, units)
}

// anyModel is the pattern for every model, and for calls that name none.
const anyModel = ""

// modelGlob compiles v1's pattern language for a model's name, on "provider/model": anchored, without case, only * is
// special and crosses slashes. The provider is literal, or * for one of any name. A list of patterns, even of *
// alone, asks for a model to be named.
func modelGlob(provider, model string) glob {
	units := []unit{{kind: nameRun}}
	if provider != "*" {
		units = literals(strings.ToLower(provider))
	}
	units = append(units, unit{kind: literal, c: '/'})
	if model == anyModel {
		return newGlob(provider+" (any model, or none)", true, append(units, unit{kind: anyRun}))
	}
	if strings.Trim(model, "*") == "" {
		units = append(units, unit{kind: oneAny})
	}
	for rest := model; rest != ""; {
		if rest[0] == '*' {
			units, rest = append(units, unit{kind: anyRun}), rest[1:]
			continue
		}
		units, rest = appendLiteral(units, rest)
	}
	for i := range units {
		units[i].c = lower(units[i].c)
	}
	return newGlob(provider+"/"+model, true, units)
}

// literalGlob matches one text.
func literalGlob(s string) glob { return newGlob(s, false, literals(s)) }

func newGlob(source string, fold bool, units []unit) glob {
	g := glob{source: source, fold: fold, units: units}
	n := 0
	for n < len(units) && units[n].kind == literal && units[n].c < utf8.RuneSelf {
		n++
	}
	head := make([]byte, n)
	for i := range head {
		head[i] = byte(units[i].c)
	}
	g.head, g.tail = string(head), units[n:]
	return g
}

func literals(s string) []unit {
	var units []unit
	for s != "" {
		units, s = appendLiteral(units, s)
	}
	return units
}

func appendLiteral(units []unit, s string) (_ []unit, rest string) {
	r, size := utf8.DecodeRuneInString(s)
	hi, lo := utf16Units(r)
	units = append(units, unit{kind: literal, c: hi})
	if lo != 0 {
		units = append(units, unit{kind: literal, c: lo})
	}
	return units, s[size:]
}

// utf16Units splits a rune as JavaScript's strings do; lo is 0 where one unit is enough.
func utf16Units(r rune) (hi, lo uint16) {
	if r < 0x10000 {
		return uint16(r), 0
	}
	r -= 0x10000
	return uint16(0xD800 + r>>10), uint16(0xDC00 + r&0x3FF)
}

// lower folds ASCII letters only: beyond them, folding would let a name pass for another (K for the Kelvin sign).
func lower(c uint16) uint16 {
	if c >= 'A' && c <= 'Z' {
		return c | 0x20
	}
	return c
}

func (g *glob) match(text string) bool {
	if !g.matchHead(text) {
		return false
	}
	rest := text[len(g.head):]
	switch {
	case len(g.tail) == 0:
		return rest == ""
	case len(g.tail) == 1 && g.tail[0].kind == anyRun:
		return true
	}
	m := matcher{units: g.tail, fold: g.fold}
	m.now.enter(g.tail, 0)
	for _, r := range rest {
		hi, lo := utf16Units(r)
		m.step(hi)
		if lo != 0 {
			m.step(lo)
		}
		if m.dead() {
			return false
		}
	}
	return m.now.has(len(g.tail))
}

func (g *glob) matchHead(text string) bool {
	if len(text) < len(g.head) {
		return false
	}
	if !g.fold {
		return text[:len(g.head)] == g.head
	}
	for i := range len(g.head) {
		if lower(uint16(text[i])) != uint16(g.head[i]) {
			return false
		}
	}
	return true
}

// states is the set of places in a pattern that a text has led to so far.
type states [maxPattern/64 + 1]uint64

func (s *states) add(i int)      { s[i>>6] |= 1 << (i & 63) }
func (s *states) has(i int) bool { return s[i>>6]&(1<<(i&63)) != 0 }

// enter adds place i and every place that an empty run leads to from there.
func (s *states) enter(units []unit, i int) {
	for s.add(i); i < len(units) && units[i].kind >= nameRun; {
		i++
		s.add(i)
	}
}

type matcher struct {
	units []unit
	fold  bool
	now   states
}

func (m *matcher) words() int { return len(m.units)>>6 + 1 }

func (m *matcher) dead() bool {
	for _, w := range m.now[:m.words()] {
		if w != 0 {
			return false
		}
	}
	return true
}

// step takes one UTF-16 unit of the text.
func (m *matcher) step(c uint16) {
	if m.fold {
		c = lower(c)
	}
	m.advance(func(u unit) (next, stay bool) {
		switch u.kind {
		case literal:
			return u.c == c, false
		case oneName:
			return c != '/', false
		case oneAny:
			return true, false
		case nameRun:
			return false, c != '/'
		}
		return false, true
	})
}

// advance moves every place on: to the next where the unit there is used up, or to itself where it may go on.
func (m *matcher) advance(by func(unit) (next, stay bool)) {
	var next states
	for w, word := range m.now[:m.words()] {
		for ; word != 0; word &= word - 1 {
			i := w<<6 + bits.TrailingZeros64(word)
			if i == len(m.units) {
				continue
			}
			switch forth, stay := by(m.units[i]); {
			case forth:
				next.enter(m.units, i+1)
			case stay:
				next.enter(m.units, i)
			}
		}
	}
	copy(m.now[:m.words()], next[:m.words()])
}

// covers says whether g surely matches everything that h matches. It reads h's units as g's text: a run of h can only be
// taken by places of g that stay whatever the run holds. false may mean that it cannot be told.
func (g *glob) covers(h *glob) bool {
	if h.fold && !g.fold {
		return len(g.units) == 1 && g.units[0].kind == anyRun
	}
	m := matcher{units: g.units, fold: g.fold}
	m.now.enter(g.units, 0)
	for _, u := range h.units {
		if u.kind == literal {
			m.step(u.c)
			continue
		}
		run := u.kind >= nameRun
		noSlash := u.kind == oneName || u.kind == nameRun
		m.advance(func(mine unit) (next, stay bool) {
			if run || mine.kind >= nameRun {
				return false, mine.kind == anyRun || (mine.kind == nameRun && noSlash)
			}
			return mine.kind == oneAny || (mine.kind == oneName && noSlash), false
		})
	}
	return m.now.has(len(g.units))
}

// readable says whether a text can stand in a decision: UTF-8 without control characters and line terminators. Names,
// hosts and paths have none, and v2's patterns are not defined on them.
func readable(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == 0x7F {
			return false
		} else if c >= utf8.RuneSelf {
			return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
				return unicode.IsControl(r) || r == '\u2028' || r == '\u2029'
			})
		}
	}
	return true
}
