package dialect

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/signer/code"
)

var update = flag.Bool("update", false, "write the golden files")

// named are codes of the ecosystem whose own name holds a trap. Their status says the same already (401, 504), so that
// the name in the body changes nothing.
var named = map[code.Code]bool{
	code.TokenExpired: true, code.TokenKIDExpired: true, code.TokenRevoked: true, code.UpstreamTimeout: true,
}

func TestHelpAvoidsTraps(t *testing.T) {
	for _, info := range code.All() {
		if m := traps.FindString(info.Help); m != "" {
			t.Errorf("%s: %q holds %q", info.Code, info.Help, m)
		}
	}
}

func TestTrapsCatch(t *testing.T) {
	for _, s := range []string{
		"HTTP 403", "permission_error", "Access denied", "the key has been revoked", "monthly limit", "rate limit",
		"Rate-limit", "insufficient account balance", "request timeout", "service unavailable", "quota exceeded", "token expired",
	} {
		if !classified(s) {
			t.Errorf("%q passes", s)
		}
	}
	for _, s := range []string{"model gpt-4-0403", "The contract does not allow this model.", "used before"} {
		if classified(s) {
			t.Errorf("%q is caught", s)
		}
	}
}

func TestDenialOfEveryCode(t *testing.T) {
	for name, d := range spoken {
		for _, info := range code.All() {
			a := d.Denial(code.Deny(info.Code, "detail %q", "quoted"), "dec_1")
			if a.Status != info.Status {
				t.Errorf("%s %s: status %d", name, info.Code, a.Status)
			}
			var got struct {
				Type  string `json:"type"`
				Error struct {
					Type, Code, Message string
					Param               *string
				} `json:"error"`
				RequestID string `json:"request_id"`
			}
			if err := json.Unmarshal(a.Body, &got); err != nil {
				t.Fatalf("%s %s: %v", name, info.Code, err)
			}
			if got.Type != "error" || got.Error.Type != "policy_denied" || got.Error.Code != string(info.Code) || got.RequestID != "dec_1" {
				t.Errorf("%s %s: %s", name, info.Code, a.Body)
			}
			if !strings.Contains(got.Error.Message, info.Help) || !strings.Contains(got.Error.Message, "quoted") {
				t.Errorf("%s %s: message %q", name, info.Code, got.Error.Message)
			}
			if m := traps.FindString(string(a.Body)); m != "" && !named[info.Code] {
				t.Errorf("%s %s: the body holds %q: %s", name, info.Code, m, a.Body)
			}
			h := header(a)
			if h["x-should-retry"] != "false" || h["content-type"] != "application/json" || (h["retry-after"] != "") != (info.Class == code.ClassLimit) {
				t.Errorf("%s %s: headers %v", name, info.Code, a.Headers)
			}
		}
	}
}

func header(a Answer) map[string]string {
	out := map[string]string{}
	for _, h := range a.Headers {
		out[h[0]] = h[1]
	}
	return out
}

func TestDenialGolden(t *testing.T) {
	for _, c := range []struct {
		name, dialect string
		denial        *code.Denial
	}{
		{"model-openai", "openai", code.Deny(code.PolicyModelNotAllowed, "gpt-5; allowed: gpt-4o-mini")},
		{"model-anthropic", "anthropic", code.Deny(code.PolicyModelNotAllowed, "claude-opus-5")},
		{"limit-gemini", "gemini", code.Deny(code.LimitReached, "60 calls a minute")},
		{"upstream-openai", "openai", code.Deny(code.UpstreamUnreachable, "")},
		{"hostile-detail", "openai", code.Deny(code.InvalidRequest, "<b>\"quoted\" \n %%s </b>")},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, _ := ByName(c.dialect)
			a := d.Denial(c.denial, "dec_00000000-0000-4000-8000-000000000000")
			path := filepath.Join("testdata", "denials", c.name+".json")
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, a.Body, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(want) != string(a.Body) {
				t.Errorf("got  %s\nwant %s", a.Body, want)
			}
		})
	}
}

// A detail can quote what the client sent; it must not decide how an agent classifies the refusal.
func TestDenialKeepsTrapsOfTheRequestOut(t *testing.T) {
	for _, detail := range []string{"model rate-limit-1", "HTTP 403", "\xff\xfe", strings.Repeat("é", 4000)} {
		a := openAI.Denial(code.Deny(code.PolicyModelNotAllowed, "%s", detail), "dec_1")
		if classified(string(a.Body)) || len(a.Body) > 2*maxMessage || strings.Contains(string(a.Body), "\ufffd") {
			t.Errorf("%.20q: %.300s", detail, a.Body)
		}
	}
}

func TestDenialWithoutID(t *testing.T) {
	a := anthropic.Denial(code.Deny(code.GateUnavailable, ""), "")
	if _, ok := header(a)["request-id"]; ok || !strings.Contains(string(a.Body), "[GATE_UNAVAILABLE]") {
		t.Errorf("%v %s", a.Headers, a.Body)
	}
}
