// Package message reads and writes the messages of Envoy's external processing protocol
// (envoy.service.ext_proc.v3, as of Envoy 1.40), as far as the gate uses them. Each call is four of each, so they are
// read in place and written by appending, without the generated types; the tests hold both against those.
package message

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Kind tells Envoy's messages apart, and their answers.
type Kind uint8

// The kinds. The value is the field's number in ProcessingRequest.
const (
	RequestHeaders   Kind = 2
	ResponseHeaders  Kind = 3
	RequestBody      Kind = 4
	ResponseBody     Kind = 5
	RequestTrailers  Kind = 6
	ResponseTrailers Kind = 7
)

func (k Kind) String() string {
	switch k {
	case RequestHeaders:
		return "request headers"
	case ResponseHeaders:
		return "response headers"
	case RequestBody:
		return "request body"
	case ResponseBody:
		return "response body"
	case RequestTrailers:
		return "request trailers"
	case ResponseTrailers:
		return "response trailers"
	}
	return fmt.Sprintf("message %d", uint8(k))
}

// Request is one message of Envoy's.
type Request struct {
	Kind        Kind
	EndOfStream bool     // nothing follows in this direction; of headers and bodies
	Headers     []Header // of RequestHeaders, ResponseHeaders and ResponseTrailers, in the order in which they came
	Body        []byte   // of RequestBody and ResponseBody; shares the memory that Parse was given
	attributes  []Header
}

// Header is one entry of a header list; a name that came twice is two entries.
type Header struct{ Name, Value string }

// Header returns the first value of a name, "" where there is none.
func (r *Request) Header(name string) string { return find(r.Headers, name) }

// Attribute returns an attribute that Envoy was configured to send, "" where it sent none.
func (r *Request) Attribute(name string) string { return find(r.attributes, name) }

func find(list []Header, name string) string {
	for i := range list {
		if list[i].Name == name {
			return list[i].Value
		}
	}
	return ""
}

// ErrMalformed is wrapped by every error of Parse.
var ErrMalformed = errors.New("malformed message")

// Fields of the protocol.
const (
	fieldAttributes protowire.Number = 9 // ProcessingRequest, map<string, Struct>

	headersList protowire.Number = 1 // HttpHeaders, HeaderMap
	headersEnd  protowire.Number = 3
	mapHeader   protowire.Number = 1 // HeaderMap, HeaderValue
	headerKey   protowire.Number = 1
	headerText  protowire.Number = 2
	headerRaw   protowire.Number = 3

	bodyBytes   protowire.Number = 1 // HttpBody
	bodyEnd     protowire.Number = 2
	bodyEndBare protowire.Number = 3 // end_of_stream_without_message, of gRPC modes that are not used
	bodyPacked  protowire.Number = 4 // grpc_message_compressed

	entryKey    protowire.Number = 1 // any map
	entryValue  protowire.Number = 2
	structField protowire.Number = 1 // Struct, map<string, Value>
	valueText   protowire.Number = 3 // Value
)

// Parse reads one ProcessingRequest. It is strict where the meaning depends on it (exactly one message, no bad wire
// types) and passes over fields that it does not know. The bytes must not be changed while the request is in use.
func Parse(b []byte) (*Request, error) {
	r := new(Request)
	err := fields(b, func(f field) error {
		switch {
		case f.num >= protowire.Number(RequestHeaders) && f.num <= protowire.Number(ResponseTrailers):
			if r.Kind != 0 {
				return fmt.Errorf("%w: %v and another message in one", ErrMalformed, r.Kind)
			}
			r.Kind = Kind(f.num) //nolint:gosec // 2 to 7
			return r.content(f)
		case f.num == fieldAttributes:
			return r.attribute(f)
		}
		return nil
	})
	if err == nil && r.Kind == 0 {
		err = fmt.Errorf("%w: there is no message in it", ErrMalformed)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Request) content(f field) error {
	if f.typ != protowire.BytesType {
		return fmt.Errorf("%w: %v of wire type %d", ErrMalformed, r.Kind, f.typ)
	}
	switch r.Kind {
	case RequestHeaders, ResponseHeaders, ResponseTrailers:
		return fields(f.bytes, r.headersField)
	case RequestBody, ResponseBody:
		return fields(f.bytes, r.bodyField)
	case RequestTrailers: // nobody decides on what is in them
	}
	return nil
}

func (r *Request) headersField(f field) error {
	switch {
	case f.num == headersList && f.typ == protowire.BytesType:
		// One copy holds all names and values: they outlive the message, and a call has a score of them.
		text := string(f.bytes)
		if r.Headers == nil {
			r.Headers = make([]Header, 0, 24)
		}
		var err error
		r.Headers, err = appendHeaders(r.Headers, f.bytes, text)
		return err
	case f.num == headersEnd && f.typ == protowire.VarintType:
		r.EndOfStream = f.varint != 0
	case f.num == headersList || f.num == headersEnd:
		return fmt.Errorf("%w: field %d of %v has wire type %d", ErrMalformed, f.num, r.Kind, f.typ)
	}
	return nil
}

// appendHeaders reads a HeaderMap; text is the same bytes as a string.
func appendHeaders(dst []Header, b []byte, text string) ([]Header, error) {
	err := fields(b, func(f field) error {
		if f.num != mapHeader || f.typ != protowire.BytesType {
			return nil
		}
		var h Header
		inner := text[f.at : f.at+len(f.bytes)]
		if err := fields(f.bytes, func(f field) error {
			if f.typ != protowire.BytesType {
				return nil
			}
			part := inner[f.at : f.at+len(f.bytes)]
			switch {
			case f.num == headerKey:
				h.Name = part
			case (f.num == headerText || f.num == headerRaw) && part != "": // Envoy fills one of the two
				h.Value = part
			}
			return nil
		}); err != nil {
			return err
		}
		dst = append(dst, h)
		return nil
	})
	return dst, err
}

func (r *Request) bodyField(f field) error {
	switch {
	case f.num == bodyBytes && f.typ == protowire.BytesType:
		r.Body = f.bytes
	case f.num == bodyEnd && f.typ == protowire.VarintType:
		r.EndOfStream = f.varint != 0
	case f.num == bodyEndBare || f.num == bodyPacked:
		return fmt.Errorf("%w: a body of a mode that is not used, field %d", ErrMalformed, f.num)
	case f.num == bodyBytes || f.num == bodyEnd:
		return fmt.Errorf("%w: field %d of %v has wire type %d", ErrMalformed, f.num, r.Kind, f.typ)
	}
	return nil
}

// attribute reads an entry of map<string, Struct>. Envoy has one, under its filter's name, and its values are strings.
func (r *Request) attribute(f field) error {
	_, list, err := entry(f)
	if err != nil {
		return err
	}
	return fields(list, func(f field) error {
		if f.num != structField {
			return nil
		}
		name, value, err := entry(f)
		if err != nil {
			return err
		}
		return fields(value, func(f field) error {
			if f.num == valueText && f.typ == protowire.BytesType {
				r.attributes = append(r.attributes, Header{string(name), string(f.bytes)})
			}
			return nil
		})
	})
}

func entry(f field) (key, value []byte, err error) {
	if f.typ != protowire.BytesType {
		return nil, nil, fmt.Errorf("%w: a map entry of wire type %d", ErrMalformed, f.typ)
	}
	err = fields(f.bytes, func(f field) error {
		switch {
		case f.num == entryKey && f.typ == protowire.BytesType:
			key = f.bytes
		case f.num == entryValue && f.typ == protowire.BytesType:
			value = f.bytes
		}
		return nil
	})
	return key, value, err
}

// field is one field of a message; at is where its bytes begin in the message.
type field struct {
	num    protowire.Number
	typ    protowire.Type
	varint uint64
	bytes  []byte
	at     int
}

func fields(b []byte, each func(field) error) error {
	for at := 0; at < len(b); {
		num, typ, n := protowire.ConsumeTag(b[at:])
		if n < 0 {
			return fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(n))
		}
		at += n
		f := field{num: num, typ: typ}
		switch typ {
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b[at:])
			f.at = at + n - len(f.bytes)
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(b[at:])
		default:
			n = protowire.ConsumeFieldValue(num, typ, b[at:])
		}
		if n < 0 {
			return fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(n))
		}
		at += n
		if err := each(f); err != nil {
			return err
		}
	}
	return nil
}
