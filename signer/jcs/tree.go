package jcs

import (
	"cmp"
	"slices"
	"strconv"
)

type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindNumber
	kindString
	kindArray
	kindObject
)

// node is one value of a document, with an object's members in document order.
type node struct {
	kind    kind
	flag    bool
	num     float64
	str     string
	items   []node
	members []member
	offset  int
}

type member struct {
	key string
	val node
}

// parse checks the document first and builds its tree then, so that no reader can accept more than Scan does.
func parse(data []byte) (*node, error) {
	s := scanner{data: data}
	if err := s.document(); err != nil {
		return nil, err
	}
	b := scanner{data: data}
	b.space()
	n := b.build()
	return &n, nil
}

// build reads the value at s.pos of a document that is known to be good.
func (s *scanner) build() node {
	n := node{offset: s.pos}
	switch s.data[s.pos] {
	case '"':
		n.kind, n.str = kindString, s.text()
	case '{':
		n.kind, n.members = kindObject, s.buildMembers()
	case '[':
		n.kind, n.items = kindArray, s.buildItems()
	case 't':
		n.kind, n.flag = kindBool, true
		s.pos += len("true")
	case 'f':
		n.kind = kindBool
		s.pos += len("false")
	case 'n':
		s.pos += len("null")
	default:
		n.kind = kindNumber
		from := s.pos
		_ = s.number()                                                // known to be good
		n.num, _ = strconv.ParseFloat(string(s.data[from:s.pos]), 64) // and in range
	}
	return n
}

func (s *scanner) text() string {
	t, _ := s.str() // known to be good
	return t.text(s.data)
}

func (s *scanner) buildItems() []node {
	_ = s.enter()
	if s.empty(']') {
		return nil
	}
	var items []node
	for more := true; more; more, _ = s.more(']') {
		items = append(items, s.build())
	}
	return items
}

func (s *scanner) buildMembers() []member {
	_ = s.enter()
	if s.empty('}') {
		return nil
	}
	var members []member
	for more := true; more; more, _ = s.more('}') {
		m := member{key: s.text()}
		s.space()
		s.pos++ // the colon
		s.space()
		m.val = s.build()
		members = append(members, m)
	}
	return members
}

// value is the tree as plain Go values.
func (n *node) value() any {
	switch n.kind {
	case kindBool:
		return n.flag
	case kindNumber:
		return n.num
	case kindString:
		return n.str
	case kindArray:
		items := make([]any, len(n.items))
		for i := range n.items {
			items[i] = n.items[i].value()
		}
		return items
	case kindObject:
		object := make(map[string]any, len(n.members))
		for i := range n.members {
			object[n.members[i].key] = n.members[i].val.value()
		}
		return object
	case kindNull:
	}
	return nil
}

// sortMembers orders the members of all objects in the tree.
func (n *node) sortMembers(compare func(a, b string) int) {
	for i := range n.items {
		n.items[i].sortMembers(compare)
	}
	for i := range n.members {
		n.members[i].val.sortMembers(compare)
	}
	slices.SortStableFunc(n.members, func(a, b member) int { return compare(a.key, b.key) })
}

// append writes the tree without white space.
func (n *node) append(dst []byte) []byte {
	switch n.kind {
	case kindNull:
		return append(dst, "null"...)
	case kindBool:
		return strconv.AppendBool(dst, n.flag)
	case kindNumber:
		return appendNumber(dst, n.num)
	case kindString:
		return appendString(dst, n.str)
	case kindArray:
		dst = append(dst, '[')
		for i := range n.items {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = n.items[i].append(dst)
		}
		return append(dst, ']')
	case kindObject:
		dst = append(dst, '{')
		for i := range n.members {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendString(dst, n.members[i].key), ':')
			dst = n.members[i].val.append(dst)
		}
		return append(dst, '}')
	}
	return dst
}

// compareUTF16 orders strings by their UTF-16 code units, as RFC 8785 section 3.2.3 asks. That is the order of
// their UTF-8 bytes, except that U+E000 to U+FFFF (first byte 0xEE, 0xEF) come behind what needs a surrogate pair.
func compareUTF16(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		x, y := a[i], b[i]
		if x == y {
			continue
		}
		if (x == 0xEE || x == 0xEF) && y >= 0xF0 || (y == 0xEE || y == 0xEF) && x >= 0xF0 {
			return cmp.Compare(y, x)
		}
		return cmp.Compare(x, y)
	}
	return cmp.Compare(len(a), len(b))
}

// compareJS orders keys as JavaScript lists an object's properties: array indexes ascending, then all others as
// they came. It is for a stable sort.
func compareJS(a, b string) int {
	x, xIndex := arrayIndex(a)
	y, yIndex := arrayIndex(b)
	switch {
	case xIndex && yIndex:
		return cmp.Compare(x, y)
	case xIndex:
		return -1
	case yIndex:
		return 1
	}
	return 0
}

// arrayIndex says whether ECMAScript takes a property name for an array index: 0 to 2^32-2 in plain decimal.
func arrayIndex(key string) (uint64, bool) {
	if len(key) == 0 || len(key) > 10 || len(key) > 1 && key[0] == '0' {
		return 0, false
	}
	for i := 0; i < len(key); i++ {
		if key[i] < '0' || key[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(key, 10, 64)
	return n, err == nil && n < 1<<32-1
}
