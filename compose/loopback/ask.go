package loopback

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// ask is what a request asks for, read leniently: this is a stand-in for a provider, not a check.
type ask struct {
	model        string
	stream       bool
	includeUsage bool
	directives   string // metadata.loopback or labels.loopback
	texts        []string
	body         map[string]any
	broken       bool
}

func parseAsk(body []byte, path string) ask {
	a := ask{}
	a.broken = json.Unmarshal(body, &a.body) != nil
	a.model, _ = a.body["model"].(string)
	a.stream, _ = a.body["stream"].(bool)
	if o, ok := a.body["stream_options"].(map[string]any); ok {
		a.includeUsage, _ = o["include_usage"].(bool)
	}
	for _, k := range []string{"metadata", "labels"} {
		if o, ok := a.body[k].(map[string]any); ok && a.directives == "" {
			a.directives, _ = o["loopback"].(string)
		}
	}
	if rest, ok := strings.CutPrefix(path, "/models/"); ok {
		a.model, _, _ = strings.Cut(rest, ":")
		a.stream = strings.HasSuffix(path, ":streamGenerateContent")
	}
	for _, k := range []string{"system", "instructions", "systemInstruction", "messages", "input", "contents", "content", "requests"} {
		a.texts = appendTexts(a.texts, a.body[k])
	}
	return a
}

// appendTexts collects what a person or a program wrote, in the order of the conversation.
func appendTexts(to []string, v any) []string {
	switch v := v.(type) {
	case string:
		return append(to, v)
	case []any:
		for _, e := range v {
			to = appendTexts(to, e)
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			switch k {
			case "content", "text", "parts", "input", "output":
				to = appendTexts(to, v[k])
			}
		}
	}
	return to
}

// tokens is a count that looks like a tokeniser's: about four characters each.
func tokens(texts ...string) int {
	n := 0
	for _, t := range texts {
		n += (utf8.RuneCountInString(t) + 3) / 4
	}
	return max(n, 1)
}

// summary is the model's answer: the same for the same request.
func (a ask) summary() string {
	const shown = 60
	last, n := "", 0
	for _, t := range a.texts {
		n += utf8.RuneCountInString(t)
		last = t
	}
	if r := []rune(last); len(r) > shown {
		last = string(r[:shown]) + "…"
	}
	return fmt.Sprintf("This is the built-in model, asked as %s. I read %d characters in %d texts. The last one: %q", a.model, n, len(a.texts), last)
}
