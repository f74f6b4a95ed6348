package dialect

import "bytes"

// sse finds the data lines of an event stream (WHATWG HTML, server-sent events) as it passes and gives their bytes to a
// tap, one document for each event. Lines may end in LF, CR or CRLF, and be cut anywhere.
type sse struct {
	tap    *tap
	state  lineState
	prefix int  // bytes of "data:" that have matched
	data   bool // the event has a data line already
	empty  bool // nothing of this line was seen
	cr     bool // the last byte was a CR, so that an LF belongs to it
	one    [1]byte
}

type lineState uint8

const (
	lineName  lineState = iota // matching "data:"
	lineSpace                  // one space behind the colon is no data
	lineData
	lineSkip
)

var dataPrefix = []byte("data:")

func newSSE(t *tap) *sse { return &sse{tap: t, empty: true} }

func (s *sse) write(p []byte) {
	for len(p) > 0 {
		if s.state == lineData || s.state == lineSkip {
			n := bytes.IndexAny(p, "\r\n")
			if n < 0 {
				n = len(p)
			}
			if n > 0 {
				if s.state == lineData {
					s.tap.write(p[:n])
				}
				s.cr = false
				p = p[n:]
				continue
			}
		}
		s.byte(p[0])
		p = p[1:]
	}
}

func (s *sse) byte(c byte) {
	if c == '\n' && s.cr {
		s.cr = false
		return
	}
	s.cr = c == '\r'
	if c == '\n' || c == '\r' {
		s.endLine()
		return
	}
	s.empty = false
	switch s.state {
	case lineName:
		s.match(c)
	case lineSpace:
		s.state = lineData
		if c != ' ' {
			s.one[0] = c
			s.tap.write(s.one[:])
		}
	case lineData, lineSkip:
		// write takes these in runs
	}
}

func (s *sse) match(c byte) {
	switch {
	case c != dataPrefix[s.prefix]:
		s.state = lineSkip
	case s.prefix == len(dataPrefix)-1:
		s.state = lineSpace
		if s.data {
			s.one[0] = '\n' // an event's data lines are one text
			s.tap.write(s.one[:])
		}
		s.data = true
	default:
		s.prefix++
	}
}

func (s *sse) endLine() {
	if s.empty {
		s.tap.reset() // a blank line ends the event
		s.data = false
	}
	s.state, s.prefix, s.empty = lineName, 0, true
}
