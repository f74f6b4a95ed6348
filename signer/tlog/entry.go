package tlog

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"

	"sallyport/signer/envelope"
	"sallyport/signer/evlog"
	"sallyport/signer/jcs"
)

// Kind says what an entry of the log commits to.
type Kind = string

// The kinds of entries.
const (
	Receipt   Kind = "receipt"   // a gateway receipt
	Decision  Kind = "decision"  // a signed refusal
	Tombstone Kind = "tombstone" // a signed statement that evidence was removed
)

// Entry is what one leaf stands for.
type Entry struct {
	Kind        Kind
	PayloadHash string // the envelope's payload_hash_b64u
}

// entryPrefix begins every entry: whose log this is and which format.
const entryPrefix = "sallyport/v1 "

// ErrEntry is wrapped by errors about bytes that are no entry of this log.
var ErrEntry = errors.New("not an entry of this log")

// Data is the leaf: exactly these ASCII bytes are hashed, by RFC 6962.
func (e Entry) Data() []byte {
	return []byte(entryPrefix + e.Kind + " " + e.PayloadHash + "\n")
}

func (e Entry) String() string { return e.Kind + " " + e.PayloadHash }

// ParseEntry reads a leaf.
func ParseEntry(data []byte) (Entry, error) {
	rest, ok := strings.CutPrefix(string(data), entryPrefix)
	kind, hash, two := strings.Cut(strings.TrimSuffix(rest, "\n"), " ")
	e := Entry{kind, hash}
	if !ok || !two || string(e.Data()) != string(data) {
		return Entry{}, fmt.Errorf("%w: %.80q", ErrEntry, data)
	}
	if err := e.check(); err != nil {
		return Entry{}, err
	}
	return e, nil
}

func (e Entry) check() error {
	switch e.Kind {
	case Receipt, Decision, Tombstone:
	default:
		return fmt.Errorf("%w: kind %.20q", ErrEntry, e.Kind)
	}
	_, err := e.hash()
	return err
}

// hash is the payload hash as bytes.
func (e Entry) hash() ([]byte, error) {
	raw, err := jcs.DecodeHash(e.PayloadHash)
	if err != nil {
		return nil, fmt.Errorf("%w: %.60q: %w", ErrEntry, e.PayloadHash, err)
	}
	return raw, nil
}

// EntryOf is the entry that a record of the evidence log gets; ok is false for records that have none: intents, control
// records, encrypted bodies, and refusals whose run is not known.
func EntryOf(r evlog.Entry) (e Entry, ok bool, err error) {
	switch r.Kind {
	case evlog.KindReceipt:
		e.Kind = Receipt
	case evlog.KindRefusal:
		e.Kind = Decision
	case evlog.KindTombstone:
		e.Kind = Tombstone
	case evlog.KindIntent, evlog.KindControl, evlog.KindSealed:
		return Entry{}, false, nil
	}
	// Two members of a large object are read once for each call: decoding all of it costs as much as signing it did.
	if !gjson.ValidBytes(r.Payload) {
		return Entry{}, false, fmt.Errorf("record %d (%s): not JSON", r.Seq, r.Kind)
	}
	kind := ""
	gjson.ParseBytes(r.Payload).ForEach(func(k, v gjson.Result) bool {
		switch k.Str {
		case "envelope_type":
			kind = v.Str
		case "payload_hash_b64u":
			e.PayloadHash = v.Str
		}
		return true
	})
	if e.Kind == Decision && kind != envelope.TypeDecision {
		return Entry{}, false, nil // a refusal outside of any run
	}
	if err := e.check(); err != nil {
		return Entry{}, false, fmt.Errorf("record %d (%s): %w", r.Seq, r.Kind, err)
	}
	return e, true, nil
}
