// Package scrub masks credentials that an upstream echoes: in what it answers, as they are or in the usual encodings, also where
// an echo is spread over chunks. What is masked keeps its length, so that lengths that were announced stay true.
package scrub

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
)

const (
	// MinSecret is the length from which on a credential is looked for, in bytes: what is shorter stands in texts by chance.
	MinSecret = 8
	// short is how many bytes pass although an echo may begin with them. Holding them back would delay texts that only happen to
	// end as a credential begins; an echo that is cut there loses all but these.
	short = 3
	mask  = '*'
)

// Scrubber masks a call's credentials in its answer. It is for one answer, and not for concurrent use.
type Scrubber struct {
	needles [][]byte
	kept    []byte // the end of what came, which an echo may begin with
	gone    int    // so many of the first bytes of kept were passed on
	hits    int
}

// New is nil where no secret is long enough to be looked for.
func New(secrets ...string) *Scrubber {
	s := &Scrubber{}
	for _, secret := range secrets {
		if len(secret) >= MinSecret {
			s.add(secret)
		}
	}
	if len(s.needles) == 0 {
		return nil
	}
	return s
}

// add takes up a secret in each of the forms that it is looked for in.
func (s *Scrubber) add(secret string) {
	s.needle(secret)
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			// Of the characters only those count that no neighbour of the secret has a bit in.
			text := e.EncodeToString(append(make([]byte, before), secret...))
			s.needle(text[(before*8+5)/6 : (before+len(secret))*8/6])
		}
	}
	for _, escape := range []func(string) string{url.QueryEscape, url.PathEscape} {
		text := escape(secret)
		s.needle(text)
		s.needle(lowerEscapes(text))
	}
	for _, html := range []bool{false, true} {
		text := jsonText(secret, html)
		s.needle(text)
		s.needle(strings.ReplaceAll(text, "/", `\/`))
	}
}

func (s *Scrubber) needle(text string) {
	if !slices.ContainsFunc(s.needles, func(n []byte) bool { return string(n) == text }) {
		s.needles = append(s.needles, []byte(text))
	}
}

// jsonText is the inside of a JSON string, with what HTML gives a meaning escaped or not.
func jsonText(text string, html bool) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(html)
	_ = e.Encode(text) // a string always can be
	return strings.TrimSuffix(b.String()[1:], "\"\n")
}

// lowerEscapes writes the hexadecimal digits of escapes small, the other usual way.
func lowerEscapes(text string) string {
	b := []byte(text)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:i+3], bytes.ToLower(b[i+1:i+3]))
		}
	}
	return string(b)
}

// Hits is how many echoes were masked.
func (s *Scrubber) Hits() int {
	if s == nil {
		return 0
	}
	return s.hits
}

// Text masks what is known whole, such as a header's value, and says whether there was anything.
func (s *Scrubber) Text(text string) (string, bool) {
	if s == nil {
		return text, false
	}
	ranges := s.find([]byte(text))
	if len(ranges) == 0 {
		return text, false
	}
	b := []byte(text)
	cover(b, ranges, 0)
	s.hits += len(ranges)
	return string(b), true
}

// Chunk takes the next bytes of a body and returns those that may pass on, which are b itself where nothing is to be changed.
// At the end nothing is kept back.
func (s *Scrubber) Chunk(b []byte, end bool) []byte {
	if s == nil {
		return b
	}
	buf := b
	if len(s.kept) > 0 {
		buf = slices.Concat(s.kept, b)
	}
	gone := s.gone
	if ranges := s.find(buf); len(ranges) > 0 {
		if len(s.kept) == 0 {
			buf = bytes.Clone(buf)
		}
		cover(buf, ranges, gone)
		s.hits += len(ranges)
	}
	keep := 0
	if !end {
		keep = s.begins(buf)
	}
	rest := len(buf) - keep
	s.kept = bytes.Clone(buf[rest:])
	switch {
	case keep <= short:
		s.gone = keep
		return buf[gone:]
	case gone > rest:
		s.gone = gone - rest
		return nil
	}
	s.gone = 0
	return buf[gone:rest]
}

// Held says whether bytes are kept back.
func (s *Scrubber) Held() bool { return s != nil && len(s.kept) > s.gone }

// find returns where needles are, as pairs of begin and end, the ones of one needle in order.
func (s *Scrubber) find(b []byte) (ranges [][2]int) {
	for _, n := range s.needles {
		for at := 0; ; at++ {
			i := bytes.Index(b[at:], n)
			if i < 0 {
				break
			}
			at += i
			ranges = append(ranges, [2]int{at, at + len(n)})
		}
	}
	return ranges
}

// cover masks the ranges, but for the first bytes, which are gone.
func cover(b []byte, ranges [][2]int, gone int) {
	for _, r := range ranges {
		for i := max(gone, r[0]); i < r[1]; i++ {
			b[i] = mask
		}
	}
}

// begins is the length of the longest end of b that a needle begins with.
func (s *Scrubber) begins(b []byte) int {
	longest := 0
	for _, n := range s.needles {
		for l := min(len(n)-1, len(b)); l > longest; l-- {
			if tail := b[len(b)-l:]; tail[0] == n[0] && bytes.HasPrefix(n, tail) {
				longest = l
			}
		}
	}
	return longest
}
