package clawlog

import (
	"crypto/sha256"
	"math/bits"
)

// hash is a node of the tree.
type hash = [sha256.Size]byte

// emptyRoot is the root of a tree without leaves: SHA-256 of nothing.
var emptyRoot = sha256.Sum256(nil)

// parent joins two nodes. There is no domain separation between leaves and nodes: that is the ecosystem's rule.
func parent(left, right hash) hash {
	var b [2 * sha256.Size]byte
	copy(b[:], left[:])
	copy(b[sha256.Size:], right[:])
	return sha256.Sum256(b[:])
}

// nodes gives the complete nodes of a tree: the index-th of a level, level 0 being the leaves, over 2^level leaves each.
type nodes interface {
	node(level int, index uint64) (hash, error)
}

// width is how many nodes a level has in a tree of n leaves.
func width(n uint64, level int) uint64 { return (n-1)>>level + 1 }

// height is the length of an audit path: how often n leaves are halved until one node is left.
func height(n uint64) int { return bits.Len64(n - 1) }

// edge computes the last node of each level in a tree of n leaves, up to the root. A node without a sibling is paired with
// itself. All others are complete, so this takes one look at the store for each level.
func edge(t nodes, n uint64) ([]hash, error) {
	last, err := t.node(0, n-1)
	if err != nil {
		return nil, err
	}
	out := []hash{last}
	for level := range height(n) {
		left := last
		if w := width(n, level); w%2 == 0 {
			if left, err = t.node(level, w-2); err != nil {
				return nil, err
			}
		}
		last = parent(left, last)
		out = append(out, last)
	}
	return out, nil
}

// path is the audit path of a leaf in a tree of n leaves, bottom up; last is edge's.
func path(t nodes, last []hash, index, n uint64) ([]hash, error) {
	out := make([]hash, 0, height(n))
	for level := range height(n) {
		w := width(n, level)
		sibling := min(index^1, w-1) // of a last one without a sibling: itself
		h := last[level]
		if sibling != w-1 {
			var err error
			if h, err = t.node(level, sibling); err != nil {
				return nil, err
			}
		}
		out = append(out, h)
		index /= 2
	}
	return out, nil
}

// climb is the root that a path leads to.
func climb(leaf hash, index uint64, path []hash) hash {
	h := leaf
	for _, sibling := range path {
		if index%2 == 0 {
			h = parent(h, sibling)
		} else {
			h = parent(sibling, h)
		}
		index /= 2
	}
	return h
}
