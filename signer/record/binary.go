package record

import (
	"encoding/binary"
	"errors"
)

// ErrBinary is returned for bytes that are no record in the form that AppendBinary writes.
var ErrBinary = errors.New("not a record in binary form")

// The binary form is how records travel between two processes of the same build: the fields in the order below, a
// string with its length before it, numbers as varints. It is exact: one record has one form, and it is never stored.

// AppendBinary appends the intent's binary form.
func (i *Intent) AppendBinary(dst []byte) []byte {
	dst = appendString(dst, i.ID)
	dst = binary.AppendVarint(dst, i.TimeMS)
	for _, s := range [...]string{
		i.RunID, i.EventHash, i.Nonce, i.MissionID, i.Subject, i.TokenHash, i.TokenScopeHash, i.PolicyHash, i.Provider, i.Model,
		i.Action, i.Resource, i.Method, i.Host, i.Path, i.SecretClass, i.RequestHash, i.Peer,
		i.PrivacyMode, i.SealedTo,
	} {
		dst = appendString(dst, s)
	}
	dst = binary.AppendVarint(dst, i.RequestBytes)
	dst = appendBool(dst, i.Stream)
	return binary.AppendUvarint(dst, i.TrustVersion)
}

func (d *decoder) intent(i *Intent) {
	i.ID = d.string()
	i.TimeMS = d.varint()
	for _, s := range [...]*string{
		&i.RunID, &i.EventHash, &i.Nonce, &i.MissionID, &i.Subject, &i.TokenHash, &i.TokenScopeHash, &i.PolicyHash, &i.Provider, &i.Model,
		&i.Action, &i.Resource, &i.Method, &i.Host, &i.Path, &i.SecretClass, &i.RequestHash, &i.Peer,
		&i.PrivacyMode, &i.SealedTo,
	} {
		*s = d.string()
	}
	i.RequestBytes = d.varint()
	i.Stream = d.bool()
	i.TrustVersion = d.uvarint()
}

// AppendBinary appends the completion's binary form.
func (c *Completion) AppendBinary(dst []byte) []byte {
	dst = appendString(dst, c.ID)
	dst = appendString(dst, string(c.Outcome))
	dst = appendString(dst, c.Reason)
	dst = appendString(dst, c.ResponseHash)
	for _, n := range [...]int64{c.TimeMS, int64(c.Status), c.ResponseBytes, c.TokensInput, c.TokensOutput, c.LatencyMS, c.TTFBMS} {
		dst = binary.AppendVarint(dst, n)
	}
	return appendBool(dst, c.UsageReported)
}

func (d *decoder) completion(c *Completion) {
	c.ID = d.string()
	c.Outcome = Outcome(d.string())
	c.Reason = d.string()
	c.ResponseHash = d.string()
	var status int64
	for _, n := range [...]*int64{&c.TimeMS, &status, &c.ResponseBytes, &c.TokensInput, &c.TokensOutput, &c.LatencyMS, &c.TTFBMS} {
		*n = d.varint()
	}
	c.Status = int(status)
	c.UsageReported = d.bool()
}

// AppendBinary appends the settlement's binary form; neither part may be nil.
func (s *Settlement) AppendBinary(dst []byte) []byte {
	return s.Completion.AppendBinary(s.Intent.AppendBinary(dst))
}

// DecodeIntent reads what Intent.AppendBinary wrote. Its strings share one copy of b.
func DecodeIntent(b []byte) (*Intent, error) {
	i := new(Intent)
	d := decoder{rest: string(b)}
	d.intent(i)
	return i, d.end()
}

// DecodeCompletion reads what Completion.AppendBinary wrote. Its strings share one copy of b.
func DecodeCompletion(b []byte) (*Completion, error) {
	c := new(Completion)
	d := decoder{rest: string(b)}
	d.completion(c)
	return c, d.end()
}

// DecodeSettlement reads what Settlement.AppendBinary wrote.
func DecodeSettlement(b []byte) (*Settlement, error) {
	s := &Settlement{Intent: new(Intent), Completion: new(Completion)}
	d := decoder{rest: string(b)}
	d.intent(s.Intent)
	d.completion(s.Completion)
	return s, d.end()
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendBool(dst []byte, b bool) []byte {
	if b {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// decoder takes fields from the front of rest. After the first that is not there or not in its one form, it gives zeros.
type decoder struct {
	rest string
	bad  bool
}

func (d *decoder) end() error {
	if d.bad || d.rest != "" {
		return ErrBinary
	}
	return nil
}

func (d *decoder) fail() {
	d.rest, d.bad = "", true
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.fail()
		return ""
	}
	s := d.rest[:n]
	d.rest = d.rest[n:]
	return s
}

func (d *decoder) bool() bool {
	n := d.uvarint()
	if n > 1 {
		d.fail()
	}
	return n == 1
}

func (d *decoder) varint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1) //nolint:gosec // zigzag, as binary.AppendVarint
}

func (d *decoder) uvarint() uint64 {
	if len(d.rest) > 0 && d.rest[0] < 0x80 { // most lengths
		u := uint64(d.rest[0])
		d.rest = d.rest[1:]
		return u
	}
	var u uint64
	for i := range min(len(d.rest), binary.MaxVarintLen64) {
		c := d.rest[i]
		if i == binary.MaxVarintLen64-1 && c > 1 || i > 0 && c == 0 {
			break // overflow, or longer than it need be
		}
		u |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.rest = d.rest[i+1:]
			return u
		}
	}
	d.fail()
	return 0
}
