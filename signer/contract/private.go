package contract

import "net/netip"

// Prefixes are the rule's CIDRs. Parse has seen to it that they can be read.
func (e EgressRule) Prefixes() []netip.Prefix {
	out := make([]netip.Prefix, 0, len(e.CIDRs))
	for _, text := range e.CIDRs {
		if p, err := parsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}
