package contract

import "net/netip"

// Prefixes are the rule's CIDRs. Parse has seen to it that they can be read.
func (e EgressRule) Prefixes() []netip.Prefix { return prefixes(e.CIDRs) }

// Prefixes are the binding's CIDRs.
func (b Binding) Prefixes() []netip.Prefix { return prefixes(b.CIDRs) }

func prefixes(cidrs []string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(cidrs))
	for _, text := range cidrs {
		if p, err := parsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}
