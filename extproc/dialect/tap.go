package dialect

import "bytes"

// tap reads JSON byte by byte as it passes and hands out the few members that a meter wants, without keeping the rest:
// whatever the document's size and wherever the chunks are cut, it holds at most maxCapture bytes. It does not check
// the document, since it only reports what an upstream said; a broken one yields nothing or less.
type tap struct {
	emit func(key string, value []byte)

	depth   int            // open containers
	object  [tracked]bool  // by depth: is it an object
	keys    [tracked]known // by depth: the member whose value is being read, where it matters
	base    int            // 1 where the document is a list of objects, as Gemini's streams without SSE are
	key     bool           // the next string is a member's name
	str     bool           // within a string
	esc     bool           // behind a backslash
	name    []byte         // the member's name so far, at most maxName
	naming  bool           // the string being read is a member's name at a depth that matters
	value   []byte         // what is captured
	taking  int            // depth at which the captured value began, -1 for none
	text    bool           // the captured value is a string
	started bool
}

// known is a member's name that matters.
type known uint8

const (
	other known = iota
	usageKey
	modelKey
	wrapperKey // response (OpenAI Responses' events) or message (Anthropic's message_start)
)

var knownNames = map[string]known{
	"usage": usageKey, "usageMetadata": usageKey,
	"model": modelKey, "modelVersion": modelKey,
	"response": wrapperKey, "message": wrapperKey,
}

const (
	tracked    = 5        // depths that are told apart; what matters is never deeper
	maxName    = 16       // longer names than any that matters are cut, and so match none
	maxCapture = 16 << 10 // bytes; a usage object has a few hundred
)

// reset makes the tap ready for another document.
func (t *tap) reset() {
	*t = tap{emit: t.emit, name: t.name[:0], value: t.value[:0], taking: -1}
}

func (t *tap) write(p []byte) {
	quote, slash := finder{c: '"'}, finder{c: '\\'}
	for i := 0; i < len(p); i++ {
		if t.str && !t.esc && !t.naming && t.taking < 0 {
			// Nearly all of an answer is text that nobody asks for.
			if i = min(quote.from(p, i), slash.from(p, i)); i == len(p) {
				return
			}
		}
		c := p[i]
		if t.taking >= 0 {
			t.capture(c)
		}
		switch {
		case t.str:
			t.inString(c)
		case c == '"':
			t.open()
		case c == '{' || c == '[':
			t.enter(c == '{')
		case c == '}' || c == ']':
			t.leave()
		case c == ',':
			t.next()
		}
	}
}

// finder finds a byte again and again, and looks at each place once.
type finder struct {
	c    byte
	at   int // where it is next, from wherever it was asked last
	seen bool
}

// from returns where the byte is in p at i or later, len(p) if nowhere. i must not get smaller.
func (f *finder) from(p []byte, i int) int {
	if f.seen && f.at >= i {
		return f.at
	}
	f.seen, f.at = true, len(p)
	if n := bytes.IndexByte(p[i:], f.c); n >= 0 {
		f.at = i + n
	}
	return f.at
}

func (t *tap) capture(c byte) {
	if len(t.value) >= maxCapture {
		t.taking, t.value = -1, t.value[:0]
		return
	}
	t.value = append(t.value, c)
}

func (t *tap) inString(c byte) {
	switch {
	case t.esc:
		t.esc = false
	case c == '\\':
		t.esc = true
	case c == '"':
		t.str = false
		t.close()
		return
	}
	if t.naming && len(t.name) < maxName {
		t.name = append(t.name, c)
	}
}

// open begins a string: a member's name, or a value.
func (t *tap) open() {
	t.str, t.esc, t.naming = true, false, false
	switch d := t.depth - 1; {
	case d < 0 || d >= tracked || !t.object[d]:
	case t.key:
		t.naming, t.name = true, t.name[:0]
	default:
		if t.wanted(d) == modelKey {
			t.take(true, '"')
		}
	}
}

// close ends a string.
func (t *tap) close() {
	if t.naming {
		t.keys[t.depth-1] = knownNames[string(t.name)]
		t.naming, t.key = false, false
		return
	}
	if t.text && t.taking == t.depth {
		t.done("model")
	}
}

func (t *tap) enter(object bool) {
	if d := t.depth - 1; object && d >= 0 && d < tracked && t.object[d] && t.wanted(d) == usageKey {
		t.take(false, '{')
	}
	if !t.started {
		t.started = true
		if !object {
			t.base = 1
		}
	}
	if t.depth < tracked {
		t.object[t.depth], t.keys[t.depth] = object, other
	}
	t.depth++
	t.key = object
}

func (t *tap) leave() {
	if t.depth == 0 {
		return // broken; nothing is open
	}
	t.depth--
	t.key = false
	if !t.text && t.taking == t.depth {
		t.done("usage")
	}
}

func (t *tap) next() {
	d := t.depth - 1
	t.key = d >= 0 && d < tracked && t.object[d]
}

// wanted tells what the value that begins in the container at depth d is: usage or model of the document itself, or of
// the response or message that it wraps.
func (t *tap) wanted(d int) known {
	switch d - t.base {
	case 0:
		return t.keys[d]
	case 1:
		if t.keys[d-1] == wrapperKey && t.object[d-1] {
			return t.keys[d]
		}
	}
	return other
}

// take begins to capture a value whose first byte is c.
func (t *tap) take(text bool, c byte) {
	if t.taking < 0 {
		t.taking, t.text, t.value = t.depth, text, append(t.value[:0], c)
	}
}

func (t *tap) done(key string) {
	value := t.value
	t.taking, t.text, t.value = -1, false, t.value[:0]
	t.emit(key, value)
}
