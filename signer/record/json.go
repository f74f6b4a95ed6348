package record

import (
	"strconv"
	"unicode/utf8"
)

// AppendJSON appends the intent's JSON as encoding/json writes it, byte for byte: that is what stands in the log.
func (i *Intent) AppendJSON(dst []byte) []byte {
	dst = appendText(dst, `{"id":`, i.ID)
	dst = appendInteger(dst, `,"time_ms":`, i.TimeMS)
	dst = appendText(dst, `,"run_id":`, i.RunID)
	dst = appendOptional(dst, `,"event_hash_b64u":`, i.EventHash)
	dst = appendOptional(dst, `,"nonce":`, i.Nonce)
	dst = appendOptional(dst, `,"mission_id":`, i.MissionID)
	dst = appendText(dst, `,"sub":`, i.Subject)
	dst = appendText(dst, `,"token_hash":`, i.TokenHash)
	dst = appendText(dst, `,"token_scope_hash_b64u":`, i.TokenScopeHash)
	dst = appendText(dst, `,"policy_hash_b64u":`, i.PolicyHash)
	dst = appendText(dst, `,"provider":`, i.Provider)
	dst = appendOptional(dst, `,"model":`, i.Model)
	dst = appendText(dst, `,"action":`, i.Action)
	dst = appendText(dst, `,"resource":`, i.Resource)
	dst = appendText(dst, `,"method":`, i.Method)
	dst = appendText(dst, `,"host":`, i.Host)
	dst = appendText(dst, `,"path":`, i.Path)
	dst = appendOptional(dst, `,"secret_class":`, i.SecretClass)
	dst = appendText(dst, `,"request_hash_b64u":`, i.RequestHash)
	dst = appendInteger(dst, `,"request_bytes":`, i.RequestBytes)
	if i.Stream {
		dst = append(dst, `,"stream":true`...)
	}
	dst = strconv.AppendUint(append(dst, `,"trust_version":`...), i.TrustVersion, 10)
	dst = appendOptional(dst, `,"peer":`, i.Peer)
	dst = appendOptional(dst, `,"privacy_mode":`, i.PrivacyMode)
	dst = appendOptional(dst, `,"sealed_to":`, i.SealedTo)
	return append(dst, '}')
}

func appendInteger(dst []byte, name string, n int64) []byte {
	return strconv.AppendInt(append(dst, name...), n, 10)
}

func appendOptional(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	return appendText(dst, name, value)
}

func appendText(dst []byte, name, value string) []byte {
	dst = append(append(dst, name...), '"')
	from := 0
	for i := 0; i < len(value); {
		c := value[i]
		if plain[c] {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(value[i:])
		if c >= utf8.RuneSelf && (r != utf8.RuneError || n != 1) && r != '\u2028' && r != '\u2029' {
			i += n
			continue
		}
		dst = appendEscape(append(dst, value[from:i]...), r)
		i += n
		from = i
	}
	return append(append(dst, value[from:]...), '"')
}

// plain are the ASCII characters that encoding/json writes as they are: it escapes <, > and & too, so that its text may
// stand in a page.
var plain = func() (t [256]bool) {
	for c := byte(' '); c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return t
}()

func appendEscape(dst []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	switch r {
	case '"', '\\':
		return append(dst, '\\', byte(r))
	case '\b':
		return append(dst, `\b`...)
	case '\f':
		return append(dst, `\f`...)
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	}
	return append(dst, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}
