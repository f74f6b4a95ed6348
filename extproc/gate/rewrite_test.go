package gate

import "testing"

func TestWithoutParameter(t *testing.T) {
	for query, want := range map[string]string{
		"":                      "",
		"a=1&b=2":               "a=1&b=2",
		"key=mine":              "",
		"a=1&key=mine&b=2&key":  "a=1&b=2",
		"a=1&%6bey=mine&KEY=x":  "a=1",
		"keys=1&a=key&%zz=1":    "keys=1&a=key",
		"monkey=1&key%20=2&b=%": "monkey=1&key%20=2&b=%",
	} {
		if got := withoutParameter(query, "key"); got != want {
			t.Errorf("%q without key is %q, want %q", query, got, want)
		}
	}
}
