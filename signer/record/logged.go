package record

import "sallyport/signer/chain"

// Logged is an intent as it stands in the evidence log.
type Logged struct {
	Intent
	Chain *chain.Link `json:"chain,omitempty"` // nil where the client records for itself
}

// AppendJSON appends the record's JSON: the intent's, and then its place in the chain. Given the intent's JSON already, it
// takes that.
func (l *Logged) AppendJSON(dst, intent []byte) []byte {
	if intent == nil {
		dst = l.Intent.AppendJSON(dst)
	} else {
		dst = append(dst, intent...)
	}
	if l.Chain == nil {
		return dst
	}
	dst = append(dst[:len(dst)-1], `,"chain":`...)
	return append(l.Chain.AppendJSON(dst), '}')
}
