package replay

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
)

// tags is how many places a claim may live in. All keys of one claim share a place: one lock in memory, one hash slot in
// a Redis Cluster. Every use of a nonce, and every use of a mission, comes to the same place.
const tags = 256

// names are the keys of one claim. They are hashes, so that a dump of the store shows neither tokens nor who holds them.
type names struct {
	tag                  uint8
	binding, nonce, idem string
	binder, fingerprint  string // stored values
}

// A nonce is scoped to its mission and not to the token's hash: two encodings of one signed token are one token.
func (c *Claim) names() names {
	n := names{tag: c.tag()}
	if c.Binder != "" {
		n.binding = "b:" + digest("binding", c.Mission)
		n.binder = digest("binder", c.Binder)
	}
	if c.Nonce != "" {
		n.nonce = "n:" + digest("nonce", c.Mission, c.Nonce)
	}
	if c.IdemKey != "" {
		n.idem = "i:" + digest("idempotency", c.TokenHash, c.IdemKey)
		n.fingerprint = digest("fingerprint", c.IdemFingerprint)
	}
	return n
}

func (c *Claim) tag() uint8 {
	switch {
	case c.Mission != "":
		return hash("mission", c.Mission)[0]
	case c.Nonce != "":
		return hash("nonce", c.Nonce)[0]
	}
	return hash("token", c.TokenHash)[0]
}

func digest(parts ...string) string {
	h := hash(parts...)
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// hash is SHA-256 over the parts, each preceded by its length, so that no two lists of parts run together.
func hash(parts ...string) [sha256.Size]byte {
	buf := make([]byte, 0, 256)
	for _, p := range parts {
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(p)))
		buf = append(buf, p...)
	}
	return sha256.Sum256(buf)
}

// hashTag is the part of a Redis key that chooses its slot.
func hashTag(tag uint8) string { return fmt.Sprintf("{%02x}", tag) }
