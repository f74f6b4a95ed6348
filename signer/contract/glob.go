package contract

import (
	"strings"
	"unicode/utf8"
)

// maxPattern bounds a pattern, in UTF-16 units, so that matching needs no allocation.
const maxPattern = 1024

// unit kinds of a compiled pattern.
const (
	literal  uint8 = iota
	anyOne         // ?: one unit that is not a slash
	starRun        // *: any run without a slash
	anyRun         // **: any run without a line terminator; v1's *: any run at all
	everyRun       // v1's *
)

type unit struct {
	kind uint8
	r    uint16
}

// glob is a compiled pattern. Matching follows all possibilities at once, so its cost is at most pattern × text.
type glob struct {
	source string
	fold   bool // v1: letters match without case
	all    bool // the whole pattern is * or **
	units  []unit
}

// v2Glob compiles the pattern language of WIRE 5.5: ** crosses slashes and swallows one slash behind it, * does not cross
// them, ? is one UTF-16 unit that is no slash, everything else is literal and case counts. A * alone matches everything.
func v2Glob(p string) glob {
	g := glob{source: p, all: p == "*" || p == "**"}
	for rest := p; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "**"):
			g.units = append(g.units, unit{kind: anyRun})
			rest = strings.TrimPrefix(rest[2:], "/")
		case rest[0] == '*':
			g.units = append(g.units, unit{kind: starRun})
			rest = rest[1:]
		case rest[0] == '?':
			g.units = append(g.units, unit{kind: anyOne})
			rest = rest[1:]
		default:
			rest = g.literal(rest)
		}
	}
	return g
}

// v1Glob compiles the pattern language of WIRE 5.3: anchored, without case, only * is special and crosses slashes.
func v1Glob(p string) glob {
	g := glob{source: p, fold: true, all: p == "*"}
	for rest := strings.ToLower(p); rest != ""; {
		if rest[0] == '*' {
			g.units = append(g.units, unit{kind: everyRun})
			rest = rest[1:]
			continue
		}
		rest = g.literal(rest)
	}
	return g
}

func (g *glob) literal(rest string) string {
	r, size := utf8.DecodeRuneInString(rest)
	hi, lo, two := utf16Units(r)
	g.units = append(g.units, unit{literal, hi})
	if two {
		g.units = append(g.units, unit{literal, lo})
	}
	return rest[size:]
}

// utf16Units splits a rune as JavaScript strings do.
func utf16Units(r rune) (hi, lo uint16, two bool) {
	if r < 0x10000 {
		return uint16(r), 0, false //nolint:gosec // in range
	}
	r -= 0x10000
	return uint16(0xD800 + r>>10), uint16(0xDC00 + r&0x3FF), true //nolint:gosec // in range
}

// states is the set of places in a pattern that a text has led to so far.
type states [maxPattern/64 + 1]uint64

func (s *states) add(i int)      { s[i>>6] |= 1 << (i & 63) }
func (s *states) has(i int) bool { return s[i>>6]&(1<<(i&63)) != 0 }

// enter adds place i and every place that an empty run leads to from there.
func (g *glob) enter(s *states, i int) {
	for ; i <= len(g.units); i++ {
		s.add(i)
		if i == len(g.units) || g.units[i].kind < starRun {
			return
		}
	}
}

func (g *glob) match(text string) bool {
	if g.all {
		return true
	}
	if g.fold {
		text = strings.ToLower(text)
	}
	var now states
	g.enter(&now, 0)
	for _, r := range text {
		hi, lo, two := utf16Units(r)
		now = g.step(&now, hi)
		if two {
			now = g.step(&now, lo)
		}
	}
	return now.has(len(g.units))
}

func (g *glob) step(now *states, c uint16) (next states) {
	for i, u := range g.units {
		if !now.has(i) {
			continue
		}
		switch u.kind {
		case literal:
			if u.r == c {
				g.enter(&next, i+1)
			}
		case anyOne:
			if c != '/' {
				g.enter(&next, i+1)
			}
		case starRun:
			if c != '/' {
				g.enter(&next, i)
			}
		case anyRun:
			if !lineEnd(c) {
				g.enter(&next, i)
			}
		case everyRun:
			g.enter(&next, i)
		}
	}
	return next
}

func lineEnd(c uint16) bool { return c == '\n' || c == '\r' || c == 0x2028 || c == 0x2029 }

// covers says, on the safe side, whether g matches everything that h matches.
func (g *glob) covers(h *glob) bool {
	return g.all || (g.source == h.source && g.fold == h.fold) || (g.fold == h.fold && isLiteral(h) && g.match(h.source))
}

func isLiteral(g *glob) bool {
	for _, u := range g.units {
		if u.kind != literal {
			return false
		}
	}
	return true
}
