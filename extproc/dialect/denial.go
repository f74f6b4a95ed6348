package dialect

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"sallyport/signer/code"
)

const (
	// retryAfter is what a client that reached a limit is told: contracts count by the minute.
	retryAfter = time.Minute
	// maxMessage bounds the sentence, in bytes: agents show it in a terminal or a chat.
	maxMessage = 1024
)

// refusal is the one body that every model client was measured to read: OpenAI's shape and Anthropic's at once.
type refusal struct {
	Type      string        `json:"type"`
	Error     refusalDetail `json:"error"`
	RequestID string        `json:"request_id"`
}

type refusalDetail struct {
	Type    string    `json:"type"`
	Code    code.Code `json:"code"`
	Message string    `json:"message"`
	Param   *string   `json:"param"`
}

func (d *dialect) Denial(den *code.Denial, requestID string) Answer {
	info := code.Lookup(den.Code)
	body := refusal{
		Type:      "error",
		Error:     refusalDetail{Type: "policy_denied", Code: den.Code, Message: message(den, info, requestID)},
		RequestID: requestID,
	}
	a := Answer{
		Status: info.Status,
		Headers: [][2]string{
			{"content-type", "application/json"},
			{"x-should-retry", "false"},
		},
		Body: encode(body),
	}
	if requestID != "" {
		a.Headers = append(a.Headers, [2]string{d.requestID, requestID})
	}
	if info.Class == code.ClassLimit {
		a.Headers = append(a.Headers, [2]string{"retry-after", strconv.Itoa(int(retryAfter / time.Second))})
	}
	return a
}

// encode writes JSON for readers, not for HTML.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // strings only: it cannot fail
	return bytes.TrimRight(b.Bytes(), "\n")
}

// Text is the sentence for the person who reads a refusal, where it does not go out in Denial's shape.
func Text(d *code.Denial, decision string) string { return message(d, code.Lookup(d.Code), decision) }

// message is the sentence for the person who reads it. It says who speaks, and ends in the code and the decision, since
// some agents show nothing else of the answer.
func message(den *code.Denial, info code.Info, requestID string) string {
	text := den.Message()
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	// The detail can quote the request. Words by which an agent would put its whole provider into a cooldown stay out;
	// the log and the evidence have the detail in full.
	if classified(text) || !utf8.ValidString(text) {
		text = info.Help
	}
	who := "Blocked by Sallyport: "
	if info.Class == code.ClassUpstream {
		who = "Sallyport: "
	}
	which := string(den.Code)
	if requestID != "" {
		which += ", " + requestID
	}
	return who + text + " [" + which + "]"
}

// traps are the words by which agents take an error's text for a failed login, a bill or a busy service, and then stop
// asking the provider or ask again and again (measured on OpenClaw, whose patterns are the widest).
var traps = regexp.MustCompile(`(?i)` + strings.Join([]string{
	`forbidden`, `access denied`, `unauthori[sz]ed`, `authentication`, `expired`, `permission[ _]error`, `authentication[ _]error`, `\b40[123]\b`,
	`rate[ _-]?limit`, `too many requests`, `quota`, `usage limit`, `spending limit`, `out of budget`, `insufficient .{0,24}(?:balance|credit|fund)`,
	`\bcredits?\b`, `\bbilling\b`, `payment required`, `(?:daily|weekly|monthly) limit`, `revoked`, `not allowed for this organi[sz]ation`,
	`time[ -]?out`, `timed out`, `overloaded`, `service unavailable`, `invalid.{0,8}api.?key`,
}, `|`))

func classified(s string) bool { return traps.MatchString(s) }
