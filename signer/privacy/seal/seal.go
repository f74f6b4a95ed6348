package seal

import (
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/binary"
	"errors"
	"fmt"
)

var curve = ecdh.X25519()

// ChunkBytes is how much of a body is sealed at once: what an exchange keeps in memory for it, in bytes.
const ChunkBytes = 64 << 10

// Body names a body. RequestHash is the receipt's request_hash_b64u, in both directions: a body cannot be shown under
// another receipt.
type Body struct {
	Receipt     string
	Direction   Direction
	RequestHash string
}

func (b Body) info() []byte {
	return []byte("sallyport/v1 sealed\n" + b.Receipt + "\n" + b.Direction.String() + "\n" + b.RequestHash)
}

// aad binds a chunk's place, and whether it is the last: HPKE itself binds the order.
func aad(number uint32, last bool) []byte {
	out := binary.BigEndian.AppendUint32(nil, number)
	if last {
		return append(out, 1)
	}
	return append(out, 0)
}

// Sealer seals one body to some auditors. It is for one goroutine.
type Sealer struct {
	body  Body
	to    []recipient
	next  uint32
	held  []byte
	ended bool
	err   error // that stopped it: a chunk sealed again would be another one under the same number
}

type recipient struct {
	id   string
	enc  []byte
	send *hpke.Sender
}

// ErrEnded is returned for what is written behind the end.
var ErrEnded = errors.New("the body has ended")

// New begins a body; there must be a key at least.
func New(b Body, keys []*PublicKey) (*Sealer, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: there is none to seal to", ErrKey)
	}
	s := &Sealer{body: b}
	for _, k := range keys {
		enc, send, err := hpke.NewSender(k.key, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), b.info())
		if err != nil {
			return nil, fmt.Errorf("seal to %s: %w", k.id, err)
		}
		s.to = append(s.to, recipient{k.id, enc, send})
	}
	return s, nil
}

// Write takes a part of the body and calls emit for each chunk that is full. The chunk is emit's to keep.
func (s *Sealer) Write(p []byte, emit func(*Chunk) error) error {
	if s.ended {
		return ErrEnded
	}
	for len(p) > 0 {
		if len(s.held) == ChunkBytes {
			if err := s.flush(false, emit); err != nil {
				return err
			}
		}
		n := min(len(p), ChunkBytes-len(s.held))
		s.held = append(s.held, p[:n]...)
		p = p[n:]
	}
	return nil
}

// Close ends the body: its last chunk is marked, also where the body is empty. Closing again does nothing, and says again
// what went wrong.
func (s *Sealer) Close(emit func(*Chunk) error) error {
	if s.ended {
		return s.err
	}
	s.ended = true
	return s.flush(true, emit)
}

func (s *Sealer) flush(last bool, emit func(*Chunk) error) error {
	for i := range s.to {
		r := &s.to[i]
		sealed, err := r.send.Seal(aad(s.next, last), s.held)
		if err != nil {
			return fmt.Errorf("seal to %s: %w", r.id, err)
		}
		c := &Chunk{Receipt: s.body.Receipt, Direction: s.body.Direction, KeyID: r.id, Number: s.next, Last: last, Sealed: sealed}
		if s.next == 0 {
			c.Enc = r.enc
		}
		if err := emit(c); err != nil {
			s.ended, s.err = true, err
			return err
		}
	}
	s.next++
	s.held = s.held[:0]
	return nil
}

// Errors of Opener.
var (
	ErrWrongKey  = errors.New("the body is not sealed to this key")
	ErrAltered   = errors.New("a chunk was altered, or is of another body")
	ErrMissing   = errors.New("a chunk is missing")
	ErrTruncated = errors.New("the body has no end: its last chunk is missing")
)

// Opener opens the chunks of one body, in their order.
type Opener struct {
	body  Body
	key   *PrivateKey
	id    string
	open  *hpke.Recipient
	next  uint32
	ended bool
	other bool // chunks to other keys were seen
}

// NewOpener begins a body.
func NewOpener(b Body, key *PrivateKey) *Opener {
	return &Opener{body: b, key: key, id: key.Public().ID()}
}

// Open opens a chunk, and passes over those of other keys, bodies and receipts: it returns nothing for them.
func (o *Opener) Open(c *Chunk) ([]byte, error) {
	if c.Receipt != o.body.Receipt || c.Direction != o.body.Direction {
		return nil, nil
	}
	if c.KeyID != o.id {
		o.other = true
		return nil, nil
	}
	switch {
	case o.ended:
		return nil, fmt.Errorf("%w: chunk %d stands behind the last one", ErrAltered, c.Number)
	case c.Number > o.next:
		return nil, fmt.Errorf("%w: %s chunk %d", ErrMissing, o.body.Direction, o.next)
	case c.Number < o.next:
		return nil, fmt.Errorf("%w: %s chunk %d came again", ErrAltered, o.body.Direction, c.Number)
	}
	if o.open == nil {
		open, err := hpke.NewRecipient(c.Enc, o.key.key, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), o.body.info())
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrAltered, err)
		}
		o.open = open
	}
	text, err := o.open.Open(aad(c.Number, c.Last), c.Sealed)
	if err != nil {
		return nil, fmt.Errorf("%w: %s chunk %d", ErrAltered, o.body.Direction, c.Number)
	}
	o.next++
	o.ended = c.Last
	return text, nil
}

// End says whether the body is whole.
func (o *Opener) End() error {
	switch {
	case o.ended:
		return nil
	case o.next == 0 && o.other:
		return fmt.Errorf("%w, %s", ErrWrongKey, o.id)
	case o.next == 0:
		return fmt.Errorf("%w: the %s was not sealed, or none of it is here", ErrMissing, o.body.Direction)
	}
	return fmt.Errorf("%w (%s, after %d)", ErrTruncated, o.body.Direction, o.next)
}
