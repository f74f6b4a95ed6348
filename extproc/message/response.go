package message

import (
	"google.golang.org/protobuf/encoding/protowire"
)

// Response is the answer to one message. Exactly one of Answer and Immediate is set.
type Response struct {
	Answer    Kind       // the kind that is answered; it goes on
	Immediate *Immediate // the request is answered here instead, and goes no further

	Mutation *Mutation // of header and body answers
	Body     *Body     // of body answers; nil leaves the body as it is
	// Metadata is the dynamic metadata that the other filters see, under Namespace.
	Namespace string
	Metadata  []Header
	// SkipResponseBody: the rest of this answer need not be shown. Envoy applies it in the answer to headers only.
	SkipResponseBody bool
	// Unwatched: nothing that follows on this stream is shown. For CONNECT, whose body is a tunnel.
	Unwatched bool
	// HalfWatched: only the answer is shown, its body as it passes. For a CONNECT that nobody else looks into.
	HalfWatched bool
	// Unshown: of the answer's body nothing is shown, and the stream stays open as long as the answer does. For a 101, whose
	// body is a tunnel. What keeps the stream open is the wait for trailers, which never come.
	Unshown bool
}

// Mutation changes the headers before they go on.
type Mutation struct {
	Set        []Header // replaced, or added
	Remove     []string
	ClearRoute bool // the route is chosen again
}

// Body is what goes on instead of a body, or of a chunk of it.
type Body struct{ Bytes []byte }

// Immediate is an answer that is not the upstream's.
type Immediate struct {
	Status  int // HTTP; codes that Envoy's enum lacks, such as 451, pass (1.40.0, measured)
	Headers []Header
	Body    []byte
	Details string // for the access log
}

// Fields of the protocol.
const (
	responseImmediate protowire.Number = 7 // ProcessingResponse
	responseMetadata  protowire.Number = 8
	responseMode      protowire.Number = 9

	answerCommon  protowire.Number = 1 // HeadersResponse, BodyResponse
	commonHeaders protowire.Number = 2 // CommonResponse
	commonBody    protowire.Number = 3
	commonClear   protowire.Number = 5

	mutationSet    protowire.Number = 1 // HeaderMutation
	mutationRemove protowire.Number = 2
	replaceBytes   protowire.Number = 1 // BodyMutation
	replaceClear   protowire.Number = 2
	optionHeader   protowire.Number = 1 // HeaderValueOption
	optionAction   protowire.Number = 3

	immediateStatus  protowire.Number = 1 // ImmediateResponse
	immediateHeaders protowire.Number = 2
	immediateBody    protowire.Number = 3
	immediateDetails protowire.Number = 5
	statusCode       protowire.Number = 1 // HttpStatus

	valueStruct protowire.Number = 5 // Value

	modeResponseHeaders  protowire.Number = 2 // ProcessingMode
	modeResponseBody     protowire.Number = 4
	modeRequestTrailers  protowire.Number = 5
	modeResponseTrailers protowire.Number = 6

	overwriteOrAdd = 2 // HeaderValueOption.HeaderAppendAction
	modeSend       = 1 // ProcessingMode.HeaderSendMode
	modeSkip       = 2
	modeStreamed   = 1 // ProcessingMode.BodySendMode
)

// answers maps a message's kind to its field in ProcessingResponse.
var answers = [...]protowire.Number{RequestHeaders: 1, ResponseHeaders: 2, RequestBody: 3, ResponseBody: 4, RequestTrailers: 5, ResponseTrailers: 6}

// Append writes the response behind dst as a ProcessingResponse.
func (r *Response) Append(dst []byte) []byte {
	switch {
	case r.Immediate != nil:
		dst = nested(dst, responseImmediate, r.Immediate.append)
	case r.Mutation == nil && r.Body == nil:
		dst = protowire.AppendTag(dst, answers[r.Answer], protowire.BytesType)
		dst = append(dst, 0)
	default:
		dst = nested(dst, answers[r.Answer], func(dst []byte) []byte { return nested(dst, answerCommon, r.common) })
	}
	if len(r.Metadata) > 0 {
		dst = nested(dst, responseMetadata, r.metadata)
	}
	if r.SkipResponseBody {
		dst = nested(dst, responseMode, func(dst []byte) []byte {
			dst = number(dst, modeResponseHeaders, modeSend)
			return number(dst, modeResponseTrailers, modeSkip) // the body's mode is 0, NONE
		})
	}
	if r.Unwatched {
		dst = nested(dst, responseMode, func(dst []byte) []byte {
			dst = number(dst, modeResponseHeaders, modeSkip)
			dst = number(dst, modeRequestTrailers, modeSkip)
			return number(dst, modeResponseTrailers, modeSkip) // the bodies' modes are 0, NONE
		})
	}
	if r.Unshown {
		dst = nested(dst, responseMode, func(dst []byte) []byte {
			dst = number(dst, modeResponseHeaders, modeSend)
			return number(dst, modeResponseTrailers, modeSend) // the body's mode is 0, NONE
		})
	}
	if r.HalfWatched {
		dst = nested(dst, responseMode, func(dst []byte) []byte {
			dst = number(dst, modeResponseHeaders, modeSend)
			dst = number(dst, modeResponseBody, modeStreamed)
			dst = number(dst, modeRequestTrailers, modeSkip)
			return number(dst, modeResponseTrailers, modeSkip) // the request body's mode is 0, NONE
		})
	}
	return dst
}

func (r *Response) common(dst []byte) []byte {
	if r.Mutation != nil {
		dst = r.Mutation.append(dst)
	}
	if r.Body != nil {
		dst = r.Body.append(dst)
	}
	return dst
}

func (m *Mutation) append(dst []byte) []byte {
	dst = nested(dst, commonHeaders, func(dst []byte) []byte { return headerMutation(dst, m.Set, m.Remove) })
	if m.ClearRoute {
		dst = number(dst, commonClear, 1)
	}
	return dst
}

func (b *Body) append(dst []byte) []byte {
	if len(b.Bytes) == 0 {
		return nested(dst, commonBody, func(dst []byte) []byte { return number(dst, replaceClear, 1) })
	}
	// By hand: nested would move the whole body once more.
	inner := protowire.SizeTag(replaceBytes) + protowire.SizeBytes(len(b.Bytes))
	dst = protowire.AppendVarint(protowire.AppendTag(dst, commonBody, protowire.BytesType), uint64(inner)) //nolint:gosec // a length
	return protowire.AppendBytes(protowire.AppendTag(dst, replaceBytes, protowire.BytesType), b.Bytes)
}

func headerMutation(dst []byte, set []Header, remove []string) []byte {
	for _, h := range set {
		dst = nested(dst, mutationSet, func(dst []byte) []byte {
			dst = nested(dst, optionHeader, func(dst []byte) []byte {
				dst = text(dst, headerKey, h.Name)
				return text(dst, headerRaw, h.Value)
			})
			return number(dst, optionAction, overwriteOrAdd)
		})
	}
	for _, name := range remove {
		dst = text(dst, mutationRemove, name)
	}
	return dst
}

func (i *Immediate) append(dst []byte) []byte {
	dst = nested(dst, immediateStatus, func(dst []byte) []byte { return number(dst, statusCode, uint64(i.Status)) }) //nolint:gosec // an HTTP status
	dst = nested(dst, immediateHeaders, func(dst []byte) []byte { return headerMutation(dst, i.Headers, nil) })
	dst = protowire.AppendTag(dst, immediateBody, protowire.BytesType)
	dst = protowire.AppendBytes(dst, i.Body)
	return text(dst, immediateDetails, i.Details)
}

// metadata writes a Struct with one member, the namespace, whose members are all strings.
func (r *Response) metadata(dst []byte) []byte {
	return mapEntry(dst, r.Namespace, func(dst []byte) []byte {
		return nested(dst, valueStruct, func(dst []byte) []byte {
			for _, m := range r.Metadata {
				dst = mapEntry(dst, m.Name, func(dst []byte) []byte { return text(dst, valueText, m.Value) })
			}
			return dst
		})
	})
}

func mapEntry(dst []byte, key string, value func([]byte) []byte) []byte {
	return nested(dst, structField, func(dst []byte) []byte {
		dst = text(dst, entryKey, key)
		return nested(dst, entryValue, value)
	})
}

func number(dst []byte, f protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, f, protowire.VarintType), v)
}

func text(dst []byte, f protowire.Number, v string) []byte {
	return protowire.AppendString(protowire.AppendTag(dst, f, protowire.BytesType), v)
}

// nested writes a message whose length is known only when it is written: one byte is kept for the length, and where more
// are needed the message moves up.
func nested(dst []byte, f protowire.Number, content func([]byte) []byte) []byte {
	dst = append(protowire.AppendTag(dst, f, protowire.BytesType), 0)
	begin := len(dst)
	dst = content(dst)
	n := len(dst) - begin
	if extra := protowire.SizeVarint(uint64(n)) - 1; extra > 0 { //nolint:gosec // a length
		dst = append(dst, make([]byte, extra)...)
		copy(dst[begin+extra:], dst[begin:begin+n])
	}
	protowire.AppendVarint(dst[:begin-1], uint64(n)) //nolint:gosec // a length; it fits the bytes that were kept
	return dst
}
