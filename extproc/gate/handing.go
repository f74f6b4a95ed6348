package gate

import (
	"bytes"
	"strings"

	"sallyport/extproc/message"
	"sallyport/signer/jcs"
	"sallyport/signer/receipt"
)

// handing puts a call's receipt into its answer in the ecosystem's ways (WIRE 6.3): two members of a JSON object, or two
// comments at the end of an event stream. What is hashed and recorded is the answer as the upstream gave it.
type handing struct {
	stream  bool
	held    []byte // the end of a JSON answer from its last brace on, which may be where the members go
	before  byte   // the last byte that was passed on and is no white space
	receipt *receipt.Delivery
}

// newHanding is nil where the answer takes no receipt: the client did not come by the ecosystem's own path and does not record
// for itself, or the answer is of another kind.
func (x *exchange) newHanding(m *message.Request) *handing {
	if x.from.door != doorReverse || !strings.HasPrefix(x.req.path, "/v1/") || !strings.HasPrefix(x.req.path, "/v1/proxy/") && x.req.eventHash == "" {
		return nil
	}
	if e := m.Header("content-encoding"); e != "" && !strings.EqualFold(e, "identity") || m.EndOfStream {
		return nil
	}
	kind, _, _ := strings.Cut(strings.ToLower(m.Header("content-type")), ";")
	switch strings.TrimSpace(kind) {
	case "application/json":
		return &handing{}
	case "text/event-stream":
		return &handing{stream: true}
	}
	return nil
}

const whiteSpace = " \t\r\n"

// pass is what of the answer may go on now, given its next bytes.
func (h *handing) pass(chunk []byte) []byte {
	if h.stream {
		h.note(chunk)
		return chunk
	}
	rest := chunk
	if len(h.held) > 0 {
		if len(bytes.Trim(chunk, whiteSpace)) == 0 {
			h.held = append(h.held, chunk...)
			return nil
		}
		rest = append(h.held, chunk...) //nolint:gocritic // held is given up here
		h.held = nil
	}
	if at := bytes.LastIndexByte(rest, '}'); at >= 0 && len(bytes.Trim(rest[at+1:], whiteSpace)) == 0 {
		h.held, rest = bytes.Clone(rest[at:]), rest[:at]
	}
	h.note(rest)
	return rest
}

func (h *handing) note(b []byte) {
	if !h.stream {
		b = bytes.TrimRight(b, whiteSpace)
	}
	if len(b) > 0 {
		h.before = b[len(b)-1]
	}
}

// end is what goes on at last, with the receipt if there is one.
func (h *handing) end(chunk []byte) []byte {
	out := bytes.Clone(h.pass(chunk))
	r := h.receipt
	switch {
	case r == nil:
	case h.stream:
		if h.before != '\n' && h.before != 0 {
			out = append(out, "\n\n"...) // the comments must begin a line
		}
		out = append(append(append(out, ":clawproxy_receipt_envelope_b64u="...), jcs.EncodeB64u(r.Envelope)...), '\n')
		out = append(append(append(out, ":clawproxy_receipt_b64u="...), jcs.EncodeB64u(r.Legacy)...), "\n\n"...)
	case len(h.held) > 0:
		if h.before != '{' {
			out = append(out, ',')
		}
		out = append(append(append(out, `"_receipt":`...), r.Legacy...), `,"_receipt_envelope":`...)
		out = append(out, r.Envelope...)
	}
	return append(out, h.held...)
}
