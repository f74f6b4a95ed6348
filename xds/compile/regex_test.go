package compile

import (
	"strings"
	"testing"
)

func TestRegexBound(t *testing.T) {
	t.Parallel()
	fits := `/v1(?:beta)?/models/[A-Za-z0-9][A-Za-z0-9._-]*:generateContent`
	if err := (Endpoint{Method: "POST", Regex: fits}).validate(); err != nil {
		t.Errorf("%s: %v", fits, err)
	}
	for regex, want := range map[string]string{
		`/v1/models/[a-z]{0,127}:x`: "counted repetitions",
		`/v1/(`:                     "missing closing",
	} {
		if err := (Endpoint{Method: "POST", Regex: regex}).validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", regex, err, want)
		}
	}
}
