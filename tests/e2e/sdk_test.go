package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/signer/receipt"
	"sallyport/tests/harness"
)

// sdkCase is one line that the script prints.
type sdkCase struct {
	Client, Case string
	OK           bool // the script's own judgement
	Status       int
	SDKStatus    int `json:"sdk_status"` // as the SDK's exception has it
	Text         string
	Usage        *sdkUsage
	ErrorType    string `json:"error_type"`
	ErrorText    string `json:"error_text"`
	ErrorCode    string `json:"error_code"`
	Requests     int    `json:"requests_made"`
	Receipt      string
}

func (c sdkCase) name() string { return c.Client + "/" + c.Case }

func (c sdkCase) String() string {
	if c.Usage == nil {
		return fmt.Sprintf("%-37s status %d, %d request(s), %s %s", c.name(), c.Status, c.Requests, c.ErrorType, c.ErrorCode)
	}
	return fmt.Sprintf("%-37s status %d, %d request(s), %d bytes of text, %d+%d tokens", c.name(), c.Status, c.Requests, len(c.Text), c.Usage.input(), c.Usage.output())
}

// sdkUsage is what an SDK made of the answer's usage: each API has names of its own, and no answer has two of them.
type sdkUsage struct {
	Prompt       int64 `json:"prompt_tokens"`
	Completion   int64 `json:"completion_tokens"`
	Input        int64 `json:"input_tokens"`
	Output       int64 `json:"output_tokens"`
	GeminiPrompt int64 `json:"prompt_token_count"`
	GeminiOutput int64 `json:"candidates_token_count"`
}

func (u sdkUsage) input() int64  { return u.Prompt + u.Input + u.GeminiPrompt }
func (u sdkUsage) output() int64 { return u.Completion + u.Output + u.GeminiOutput }

// sdkAllowed are the calls that the example contract allows, and what each is answered with.
var sdkAllowed = map[string]struct{ stream, noOutput, noUsage bool }{
	"openai/chat":                  {},
	"openai/chat-stream":           {stream: true},
	"openai/responses":             {},
	"openai/responses-stream":      {stream: true},
	"openai/embeddings":            {noOutput: true},
	"anthropic/messages":           {},
	"anthropic/messages-stream":    {stream: true},
	"anthropic/count-tokens":       {noUsage: true}, // what is counted there is not used
	"google-genai/generate":        {},
	"google-genai/generate-stream": {stream: true},
}

// sdkRefused are the calls with a model that the contract does not name.
var sdkRefused = map[string]bool{
	"openai/chat-refused":                  true,
	"openai/chat-stream-refused":           true,
	"openai/responses-refused":             true,
	"openai/responses-stream-refused":      true,
	"anthropic/messages-refused":           true,
	"anthropic/messages-stream-refused":    true,
	"google-genai/generate-refused":        true,
	"google-genai/generate-stream-refused": true,
}

// TestPythonSDKs: the stock OpenAI, Anthropic and Gemini packages, unmodified, streaming and not, through real Envoy
// against the built-in model. Allowed calls are answered, and their receipts have the tokens that the SDK was told of;
// refused ones show 451 and our code after exactly one request. Nothing else leaves a receipt.
func TestPythonSDKs(t *testing.T) {
	t.Parallel()
	python := harness.PythonPackages(t, "sdk/requirements.txt").Bin("python3")
	s := harness.Start(t, harness.Options{BuiltIn: true})
	before := s.Evidence() // starting checks itself with calls of its own
	cases := runSDKs(t, python, s)
	harness.Eventually(t, "every call is settled", func() bool { return len(s.Evidence().Open()) == 0 })
	ev := s.Evidence()

	seen, allowed, refused := map[string]bool{}, 0, 0
	for _, c := range cases {
		t.Log(c)
		if seen[c.name()] {
			t.Errorf("%s ran twice", c.name())
		}
		seen[c.name()] = true
		if !c.OK {
			t.Errorf("%s: the script says that it went wrong: %s", c.name(), c.ErrorText)
		}
		if sdkRefused[c.name()] {
			refused++
			checkSDKRefused(t, c)
			continue
		}
		allowed++
		checkSDKAllowed(t, c, ev)
	}
	if allowed != len(sdkAllowed) || refused != len(sdkRefused) {
		t.Errorf("%d of %d allowed and %d of %d refused cases ran", allowed, len(sdkAllowed), refused, len(sdkRefused))
	}

	completed := 0
	for id, r := range ev.Receipts {
		if err := r.Verify(s.GatewaySignerDID); err != nil {
			t.Errorf("receipt %s does not verify offline: %v", id, err)
		}
		if _, old := before.Receipts[id]; old {
			continue
		}
		if r.Outcome() != "completed" {
			t.Errorf("receipt %s: outcome %q", id, r.Outcome())
			continue
		}
		completed++
	}
	if completed != len(sdkAllowed) {
		t.Errorf("%d completed receipts for %d allowed calls", completed, len(sdkAllowed))
	}
	if n := len(ev.Refusals) - len(before.Refusals); n != len(sdkRefused) {
		t.Errorf("%d refusals in the log for %d refused calls", n, len(sdkRefused))
	}
}

func checkSDKAllowed(t *testing.T, c sdkCase, ev *harness.Evidence) {
	t.Helper()
	want, known := sdkAllowed[c.name()]
	if !known {
		t.Errorf("%s: not a case that this test knows", c.name())
		return
	}
	if c.Status != 200 || c.Requests != 1 || c.Text == "" || c.Usage == nil {
		t.Errorf("%s: status %d after %d requests, text %q, usage %+v", c.name(), c.Status, c.Requests, c.Text, c.Usage)
		return
	}
	stored, found := ev.Receipts[c.Receipt]
	if !found {
		t.Errorf("%s: no receipt %q in the log", c.name(), c.Receipt)
		return
	}
	if c.Usage.input() == 0 || (c.Usage.output() == 0) != (want.noOutput || want.noUsage) {
		t.Errorf("%s: the SDK was told of %+v", c.name(), *c.Usage)
	}
	checkSDKReceipt(t, c, stored.Payload(), want.stream, want.noUsage)
}

// checkSDKReceipt holds the receipt to what the SDK saw.
func checkSDKReceipt(t *testing.T, c sdkCase, p receipt.Payload, stream, noUsage bool) {
	t.Helper()
	d, input, output := p.Metadata.Sallyport, c.Usage.input(), c.Usage.output()
	if noUsage {
		input, output = 0, 0
	}
	if p.TokensInput != input || p.TokensOutput != output || d.UsageReported == noUsage {
		t.Errorf("%s: the receipt has %d and %d tokens, reported %v; the SDK was told of %d and %d", c.name(), p.TokensInput, p.TokensOutput, d.UsageReported, input, output)
	}
	if d.Outcome != "completed" || d.Status != 200 || d.Stream != stream || d.MissionID != sdkMission {
		t.Errorf("%s: the receipt has outcome %q, status %d, stream %v, mission %q", c.name(), d.Outcome, d.Status, d.Stream, d.MissionID)
	}
}

func checkSDKRefused(t *testing.T, c sdkCase) {
	t.Helper()
	const code = "POLICY_MODEL_NOT_ALLOWED"
	if c.Status != 451 || c.SDKStatus != 451 || c.Requests != 1 {
		t.Errorf("%s: status %d, %d for the SDK, after %d requests", c.name(), c.Status, c.SDKStatus, c.Requests)
	}
	if c.ErrorCode != code || !strings.Contains(c.ErrorText, code) {
		t.Errorf("%s: code %q, and a person sees: %s", c.name(), c.ErrorCode, c.ErrorText)
	}
	if c.Receipt != "" || c.Text != "" {
		t.Errorf("%s: refused, yet receipt %q and text %q", c.name(), c.Receipt, c.Text)
	}
}

const sdkMission = "sdk"

// runSDKs runs the script and returns its cases. The environment is bare, so that no proxy, model name or credential of
// whoever runs the test reaches the SDKs.
func runSDKs(t *testing.T, python string, s *harness.System) []sdkCase {
	t.Helper()
	cmd := exec.Command(python, filepath.Join(harness.Root(), "tests", "sdk", "sdk_test_client.py"))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.Dir, "GATEWAY_URL=" + s.GatewayURL, "TOKEN=" + s.Issue(harness.Claims{"mission_id": sdkMission})}
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		t.Errorf("the script: %v\n%s\n%s", err, out.String(), complaints.String())
	}
	var cases []sdkCase
	for dec := json.NewDecoder(&out); ; {
		var c sdkCase
		err := dec.Decode(&c)
		if errors.Is(err, io.EOF) {
			return cases
		}
		if err != nil {
			t.Fatalf("the script's line %d: %v", len(cases)+1, err)
		}
		cases = append(cases, c)
	}
}
