package server

import (
	"encoding/binary"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
)

// Frames that we write (RFC 9113, 6). They are appended to the connection's buffer, where http2.Framer would write each
// by itself.
const (
	frameData         = byte(http2.FrameData)
	frameHeaders      = byte(http2.FrameHeaders)
	frameReset        = byte(http2.FrameRSTStream)
	frameSettings     = byte(http2.FrameSettings)
	framePing         = byte(http2.FramePing)
	frameGoAway       = byte(http2.FrameGoAway)
	frameWindowUpdate = byte(http2.FrameWindowUpdate)

	flagAck        = byte(http2.FlagSettingsAck)
	flagEndStream  = byte(http2.FlagDataEndStream)
	flagEndHeaders = byte(http2.FlagHeadersEndHeaders)
)

// responseHeaders is ":status: 200" and "content-type: application/grpc" in HPACK, with no entry for the dynamic table.
var responseHeaders = append([]byte{
	0x88,       // indexed, static table 8
	0x0f, 0x10, // literal without indexing, name in static table 31
}, literal("application/grpc")...)

// literal is a string of HPACK, not Huffman coded. All of ours but error texts are short; the length has a prefix of 7 bits.
func literal(s string) []byte {
	n := len(s)
	if n < 127 {
		return append([]byte{byte(n)}, s...)
	}
	b := []byte{127}
	for n -= 127; n >= 128; n >>= 7 {
		b = append(b, byte(n&127|128))
	}
	return append(append(b, byte(n)), s...)
}

func appendFrameHead(dst []byte, typ, flags byte, id uint32, n int) []byte {
	dst = append(dst, byte(n>>16), byte(n>>8), byte(n), typ, flags)
	return binary.BigEndian.AppendUint32(dst, id)
}

func appendFrame(dst []byte, typ, flags byte, id uint32, payload []byte) []byte {
	return append(appendFrameHead(dst, typ, flags, id, len(payload)), payload...)
}

func appendSettings(dst []byte, settings ...http2.Setting) []byte {
	dst = appendFrameHead(dst, frameSettings, 0, 0, 6*len(settings))
	for _, s := range settings {
		dst = binary.BigEndian.AppendUint16(dst, uint16(s.ID))
		dst = binary.BigEndian.AppendUint32(dst, s.Val)
	}
	return dst
}

func appendSettingsAck(dst []byte) []byte { return appendFrame(dst, frameSettings, flagAck, 0, nil) }

func appendPingAck(dst []byte, data [8]byte) []byte {
	return appendFrame(dst, framePing, flagAck, 0, data[:])
}

func appendWindowUpdate(dst []byte, id, n uint32) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHead(dst, frameWindowUpdate, 0, id, 4), n)
}

func appendReset(dst []byte, id uint32, code http2.ErrCode) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHead(dst, frameReset, 0, id, 4), uint32(code))
}

func appendGoAway(dst []byte, last uint32, code http2.ErrCode) []byte {
	dst = binary.BigEndian.AppendUint32(appendFrameHead(dst, frameGoAway, 0, 0, 8), last)
	return binary.BigEndian.AppendUint32(dst, uint32(code))
}

// statusOK are the trailers of a stream that ended well.
var statusOK = trailers(codes.OK, "")

// appendTrailers ends a stream. alone: nothing was sent on it yet, so that headers and trailers are one.
func appendTrailers(dst []byte, id uint32, alone bool, code codes.Code, text string) []byte {
	block := statusOK
	if code != codes.OK {
		block = trailers(code, text)
	}
	if alone {
		block = append(append([]byte{}, responseHeaders...), block...)
	}
	return appendFrame(dst, frameHeaders, flagEndHeaders|flagEndStream, id, block)
}

const maxText = 1 << 10 // bytes of an error's text, so that the block fits any frame

func trailers(code codes.Code, text string) []byte {
	field := func(dst []byte, name, value string) []byte {
		dst = append(append(dst, 0), literal(name)...) // literal without indexing, new name
		return append(dst, literal(value)...)
	}
	b := field(nil, "grpc-status", strconv.Itoa(int(code)))
	if text != "" {
		b = field(b, "grpc-message", percent(text[:min(len(text), maxText)]))
	}
	return b
}

// percent is the encoding of grpc-message: what is not printable ASCII, and the percent sign, as %XX.
func percent(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
