// Package reach is the index of the hosts that contracts in force name: which names may get a certificate, and which of
// their addresses may be private. It is asked for every name that is looked up and every certificate that is wanted, so
// it answers without going through the contracts.
package reach

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// Place is a host of one contract, with names below it where the contract says so.
type Place struct {
	Host      string // lower case
	Below     bool   // also every name below Host
	OnlyBelow bool   // the names below Host without Host itself
	Open      bool   // TLS is ended there, so that a certificate is needed
	CIDRs     []netip.Prefix
}

// Index holds the places of all contracts in force. It is safe for concurrent use.
type Index struct {
	mu     sync.RWMutex
	owners map[string][]Place         // by contract hash
	exact  map[string]map[string]*use // host → contract hash
	below  map[string]map[string]*use // host whose names below are meant → contract hash
}

// use is what one contract says of one name.
type use struct {
	open  bool
	cidrs []netip.Prefix
}

// New makes an index without contracts.
func New() *Index {
	return &Index{owners: map[string][]Place{}, exact: map[string]map[string]*use{}, below: map[string]map[string]*use{}}
}

// Put sets the places of a contract, instead of those that it had.
func (x *Index) Put(owner string, places []Place) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.remove(owner)
	x.owners[owner] = slices.Clone(places)
	for _, p := range places {
		if !p.OnlyBelow {
			add(x.exact, owner, p)
		}
		if p.Below || p.OnlyBelow {
			add(x.below, owner, p)
		}
	}
}

// Remove takes a contract's places out.
func (x *Index) Remove(owner string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.remove(owner)
}

func (x *Index) remove(owner string) {
	for _, p := range x.owners[owner] {
		for _, m := range []map[string]map[string]*use{x.exact, x.below} {
			if delete(m[p.Host], owner); len(m[p.Host]) == 0 {
				delete(m, p.Host)
			}
		}
	}
	delete(x.owners, owner)
}

func add(m map[string]map[string]*use, owner string, p Place) {
	if m[p.Host] == nil {
		m[p.Host] = map[string]*use{}
	}
	u := m[p.Host][owner]
	if u == nil {
		u = &use{}
		m[p.Host][owner] = u
	}
	u.open = u.open || p.Open
	u.cidrs = append(u.cidrs, p.CIDRs...)
}

// Open says whether some contract in force has TLS ended for the host.
func (x *Index) Open(host string) bool {
	found := false
	x.each(host, func(u *use) bool {
		found = u.open
		return !found
	})
	return found
}

// Named says whether some contract in force names the host.
func (x *Index) Named(host string) bool {
	found := false
	x.each(host, func(*use) bool {
		found = true
		return false
	})
	return found
}

// Private are the CIDRs of private addresses that contracts in force name for the host, sorted, each once.
func (x *Index) Private(host string) []netip.Prefix {
	var out []netip.Prefix
	x.each(host, func(u *use) bool {
		out = append(out, u.cidrs...)
		return true
	})
	slices.SortFunc(out, func(a, b netip.Prefix) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(out)
}

// each goes through what the contracts say of a host until it is told to stop.
func (x *Index) each(host string, more func(*use) bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for u := range maps.Values(x.exact[host]) {
		if !more(u) {
			return
		}
	}
	for _, parent, ok := strings.Cut(host, "."); ok; _, parent, ok = strings.Cut(parent, ".") {
		for u := range maps.Values(x.below[parent]) {
			if !more(u) {
				return
			}
		}
	}
}
