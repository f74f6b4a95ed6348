package receipt

import (
	"sync"

	"sallyport/signer/jcs"
)

// Bounds of the remembered identities: a gateway sees few models, but their names are chosen by callers.
const (
	maxIdentities   = 256
	maxIdentityName = 256 // bytes of model and provider together; longer ones are hashed each time
)

// identities remembers the hashes of the models that were seen last.
var identities = struct {
	sync.RWMutex
	hash map[ModelIdentity]string
}{hash: map[ModelIdentity]string{}}

// hash is the model identity's hash, base64url SHA-256 of its canonical form.
func (m *ModelIdentity) hash() string {
	identities.RLock()
	h, known := identities.hash[*m]
	identities.RUnlock()
	if known {
		return h
	}
	var w writer
	w.identity(m)
	h = jcs.Hash(w.buf)
	if len(m.Model.Name)+len(m.Model.Provider)+len(m.Tier)+len(m.Version) > maxIdentityName {
		return h
	}
	identities.Lock()
	defer identities.Unlock()
	if len(identities.hash) >= maxIdentities {
		clear(identities.hash)
	}
	identities.hash[*m] = h
	return h
}
