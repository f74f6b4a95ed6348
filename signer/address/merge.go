package address

import (
	"cmp"
	"net/netip"
	"slices"
)

// merge leaves out what another prefix contains and joins halves of the same whole, until nothing is left to do.
func merge(all []netip.Prefix) []netip.Prefix {
	sorted := slices.Clone(all)
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var out []netip.Prefix
	for _, p := range sorted {
		if n := len(out); n > 0 && out[n-1].Overlaps(p) {
			continue // sorted: the one before is the wider
		}
		out = append(out, p)
		for n := len(out); n > 1 && halves(out[n-2], out[n-1]); n = len(out) {
			whole := netip.PrefixFrom(out[n-2].Addr(), out[n-2].Bits()-1)
			out = append(out[:n-2], whole)
		}
	}
	return out
}

// halves tells whether a and b, a before b, are the two halves of one prefix.
func halves(a, b netip.Prefix) bool {
	if a.Bits() != b.Bits() || a.Bits() == 0 || a.Addr().Is4() != b.Addr().Is4() {
		return false
	}
	whole := netip.PrefixFrom(a.Addr(), a.Bits()-1)
	return whole.Masked() == whole && whole.Contains(b.Addr())
}
