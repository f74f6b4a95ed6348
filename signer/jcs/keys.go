package jcs

import "hash/maphash"

// linear is up to how many keys an object is searched one by one; above it, a table is made.
const linear = 16

// inArena marks a span whose bytes are decoded and lie in the arena, not in the document.
const inArena = 1 << 31

// span is where a key's decoded bytes lie.
type span struct{ off, size uint32 }

func (p span) len() int { return int(p.size &^ inArena) }

// keys holds the keys of all objects that are open, the innermost last. It allocates as it grows and reuses what
// it has, so that a document of small objects costs a few allocations in all.
type keys struct {
	spans []span
	arena []byte // decoded keys that were written with escapes
	spare [][]uint32
	seed  maphash.Seed // keyed: the documents are chosen by strangers
}

// frame is one open object.
type frame struct {
	spans, arena int      // where its keys begin
	table        []uint32 // open addressing: index of a span in this frame plus one, 0 is free; nil while the object is small
}

func (k *keys) open() frame { return frame{spans: len(k.spans), arena: len(k.arena)} }

func (k *keys) close(f *frame) {
	k.spans, k.arena = k.spans[:f.spans], k.arena[:f.arena]
	if f.table != nil {
		k.spare = append(k.spare, f.table)
	}
}

func (k *keys) bytes(data []byte, p span) []byte {
	if p.size&inArena != 0 {
		return k.arena[p.off : int(p.off)+p.len()]
	}
	return data[p.off : int(p.off)+p.len()]
}

// add notes a key of the object f and returns its decoded bytes and whether it is new there.
func (k *keys) add(data []byte, f *frame, t token) ([]byte, bool) {
	p := span{off: uint32(t.from), size: uint32(t.to - t.from)}
	if t.escaped {
		off := len(k.arena)
		k.arena = unescape(k.arena, data[t.from:t.to])
		p = span{off: uint32(off), size: uint32(len(k.arena)-off) | inArena}
	}
	key := k.bytes(data, p)
	if f.table != nil {
		if !k.insert(data, f, key, len(k.spans)-f.spans) {
			return key, false
		}
	} else {
		for _, o := range k.spans[f.spans:] {
			if o.len() == len(key) && string(k.bytes(data, o)) == string(key) {
				return key, false
			}
		}
	}
	k.spans = append(k.spans, p)
	if n := len(k.spans) - f.spans; n > linear && 2*n > len(f.table) {
		k.grow(data, f, 4*n)
	}
	return key, true
}

// insert puts the key with this index into the table unless an equal one is there.
func (k *keys) insert(data []byte, f *frame, key []byte, index int) bool {
	mask := uint64(len(f.table) - 1)
	for h := maphash.Bytes(k.seed, key); ; h++ {
		slot := &f.table[h&mask]
		if *slot == 0 {
			*slot = uint32(index) + 1
			return true
		}
		if o := k.spans[f.spans+int(*slot)-1]; o.len() == len(key) && string(k.bytes(data, o)) == string(key) {
			return false
		}
	}
}

// grow makes a table of at least size slots and puts the object's keys into it.
func (k *keys) grow(data []byte, f *frame, size int) {
	if k.seed == (maphash.Seed{}) {
		k.seed = maphash.MakeSeed()
	}
	n := 4 * linear
	for n < size {
		n *= 2
	}
	if last := len(k.spare) - 1; last >= 0 && cap(k.spare[last]) >= n {
		// Cut to the size that is needed, so that clearing it stays in proportion to this object.
		f.table = k.spare[last][:n]
		k.spare = k.spare[:last]
		clear(f.table)
	} else {
		f.table = make([]uint32, n)
	}
	for i, p := range k.spans[f.spans:] {
		k.insert(data, f, k.bytes(data, p), i)
	}
}
