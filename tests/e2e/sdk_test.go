package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"sallyport/tests/harness"
)

// sdkCase is one line that the script prints.
type sdkCase struct {
	Client, Case string
	OK           bool
	Status       int
	Text         string
	ErrorText    string `json:"error_text"`
	ErrorCode    string `json:"error_code"`
	Requests     int    `json:"requests_made"`
	Receipt      string
}

// TestPythonSDKs: the stock OpenAI, Anthropic and Gemini packages, unmodified, streaming and not, through real Envoy
// against the built-in model. Allowed calls are answered and leave a completed receipt; refused ones show 451 and our
// code after exactly one request.
func TestPythonSDKs(t *testing.T) {
	t.Parallel()
	python := sdkPython(t)
	s := harness.Start(t, harness.Options{BuiltIn: true})
	cmd := exec.Command(python, filepath.Join(harness.Root(), "tests", "sdk", "sdk_test_client.py"))
	cmd.Env = append(os.Environ(), "GATEWAY_URL="+s.GatewayURL, "TOKEN="+s.Issue(harness.Claims{"mission_id": "sdk"}))
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		t.Errorf("the script: %v\n%s\n%s", err, out.String(), complaints.String())
	}
	allowed, refused := 0, 0
	ev := s.Evidence()
	for lines := bufio.NewScanner(&out); lines.Scan(); {
		var c sdkCase
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		t.Logf("%s %s: ok %v, status %d, %d requests, code %q", c.Client, c.Case, c.OK, c.Status, c.Requests, c.ErrorCode)
		switch {
		case !c.OK:
			t.Errorf("%s %s: %s", c.Client, c.Case, lines.Text())
		case c.Status == 200:
			allowed++
			r, found := ev.Receipts[c.Receipt]
			// Counting tokens uses none, so only that answer reports no usage.
			if !found || r.Outcome() != "completed" || r.Payload().Metadata.Sallyport.UsageReported != (c.Case != "count-tokens") {
				t.Errorf("%s %s: receipt %q: found %v, %+v", c.Client, c.Case, c.Receipt, found, r.Payload())
			}
			if err := r.Verify(s.GatewaySignerDID); err != nil {
				t.Errorf("%s %s: %v", c.Client, c.Case, err)
			}
		default:
			refused++
			if c.Status != 451 || c.Requests != 1 || c.ErrorCode != "POLICY_MODEL_NOT_ALLOWED" {
				t.Errorf("%s %s: %s", c.Client, c.Case, lines.Text())
			}
		}
	}
	if allowed < 10 || refused < 8 {
		t.Errorf("%d allowed and %d refused cases; the script did not run them all", allowed, refused)
	}
}

// sdkPython is a Python that has the SDKs, in an environment of its own below .tools, made once for each version of
// requirements.txt.
func sdkPython(t *testing.T) string {
	t.Helper()
	requirements := filepath.Join(harness.Root(), "tests", "sdk", "requirements.txt")
	raw, err := os.ReadFile(requirements)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	dir := filepath.Join(harness.Root(), ".tools", "sdk-"+hex.EncodeToString(sum[:6]))
	python, done := filepath.Join(dir, "bin", "python3"), filepath.Join(dir, "complete")
	if _, err := os.Stat(done); err == nil {
		return python
	}
	for _, args := range [][]string{
		{"python3", "-m", "venv", "--clear", dir},
		{python, "-m", "pip", "install", "--quiet", "-r", requirements},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
			t.Skipf("the SDKs cannot be installed: %v: %v\n%s", args, err, out)
		}
	}
	if err := os.WriteFile(done, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return python
}
