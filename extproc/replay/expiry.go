package replay

import (
	"container/heap"
	"time"
)

// deadline is one line in the order of expiry. It may be out of date: the entry itself says when it really expires.
type deadline struct {
	at  time.Time
	key string
}

type expiryHeap []deadline

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h expiryHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *expiryHeap) Push(x any) { *h = append(*h, x.(deadline)) }

// Pop implements heap.Interface.
func (h *expiryHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = deadline{} // let go of the key
	*h = old[:len(old)-1]
	return last
}

// put stores an entry and when to look at it again.
func (p *place) put(key string, e *entry) {
	p.entries[key] = e
	heap.Push(&p.expiry, deadline{e.expires, key})
}

// sweep clears up to limit lines that are due and returns how many entries went. An entry that was prolonged or
// replaced in the meantime goes back to where it belongs.
func (p *place) sweep(now time.Time, limit int) int {
	gone := 0
	for i := 0; i < limit && len(p.expiry) > 0 && !now.Before(p.expiry[0].at); i++ {
		d, _ := heap.Pop(&p.expiry).(deadline)
		e := p.entries[d.key]
		switch {
		case e == nil:
		case now.Before(e.expires):
			heap.Push(&p.expiry, deadline{e.expires, d.key})
		default:
			delete(p.entries, d.key)
			gone++
		}
	}
	return gone
}
