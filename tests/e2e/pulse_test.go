package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sallyport/tests/harness"
)

// hostileModel is printable ASCII, since the gate takes no other name; what else is hostile comes in what agents report of themselves.
const hostileModel = "gpt-<img/src=x/onerror=alert(1)>"

// TestTrustPulse: the page in a real browser. It shows what ran, verifies it, and says what is wrong with what was altered.
func TestTrustPulse(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{})
	s.Upstream.Handle = func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		if bytes.Contains(body, []byte("cut me")) {
			_, _ = io.WriteString(w, `{"id":"x"`)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, `{"id":"x","object":"chat.completion","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}`)
	}
	calls(t, s, "job-small", "run-small", 3, 1)
	small := s.Issue(harness.Claims{"mission_id": "job-small"})
	_ = s.Do(harness.Call{Token: small, Header: http.Header{"X-Run-Id": {"run-small"}}, Body: []byte(`{"model":"gpt-4o-mini","messages":[{"role":"user","content":"cut me"}]}`)})
	hostile, _ := json.Marshal(map[string]any{"model": hostileModel, "messages": []any{}})
	if a := s.Do(harness.Call{Token: small, Header: http.Header{"X-Run-Id": {"run-small"}}, Body: hostile}); a.Status != 451 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	calls(t, s, "job-large", "run-large", 4900, 100)
	viewer := viewerKey(t, s)
	b := harness.StartBrowser(t)
	origin := s.ControlURL
	b.Look(1280, 900, false)

	b.Open(origin + "/pulse/")
	b.Wait(`document.querySelector("#key")`)
	b.Click("#key")
	b.Keys("not-the-key-of-anybody-here\r")
	b.Wait(`document.body.innerText.includes("not the viewer's")`)
	b.Shot("pulse/sign-in-desktop")
	b.Click("#key")
	b.Keys(viewer + "\r")
	b.Wait(`document.querySelectorAll("tbody tr").length === 2`)
	b.Shot("pulse/runs-desktop")
	if page := b.Page(); !strings.Contains(page, "run-small") || !strings.Contains(page, "job-large") {
		t.Errorf("the list is not there:\n%s", page)
	}
	if at := b.Text("location.href"); strings.Contains(at, viewer) {
		t.Error("the key stands in the address")
	}
	b.Look(375, 800, true)
	b.Shot("pulse/runs-phone-dark")

	t.Run("a small run", func(t *testing.T) { b.In(t); smallRun(t, s, b) })
	t.Run("a large run", func(t *testing.T) { b.In(t); largeRun(t, b) })
	t.Run("files", func(t *testing.T) { b.In(t); openedFiles(t, s, b, origin) })
	t.Run("a link that carries the key", func(t *testing.T) {
		b.In(t)
		b.Open("about:blank")
		b.Open(origin + "/pulse/#key=" + viewer)
		b.Wait(`document.querySelectorAll("tbody tr").length === 2 && !location.href.includes("key=")`)
	})
	t.Run("the viewer may only read", func(t *testing.T) { viewerOnlyReads(t, s, viewer) })
	if f := b.Foreign(origin); len(f) > 0 {
		t.Errorf("the page asked elsewhere: %v", f)
	}
	for _, p := range b.Problems() {
		if !strings.Contains(p, "401") && !strings.Contains(p, "404") && !strings.Contains(p, "409") { // the browser reports these answers itself
			t.Errorf("the console says: %s", p)
		}
	}
}

// calls makes calls of one run, some of them refused.
func calls(t *testing.T, s *harness.System, job, run string, allowed, refused int) {
	t.Helper()
	token := s.Issue(harness.Claims{"mission_id": job, "ttl_sec": 900})
	next := make(chan string)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for model := range next {
				if a := s.Do(harness.Call{Token: token, Header: http.Header{"X-Run-Id": {run}}, Body: harness.UniqueBody(model, false)}); a.Err != nil || a.Status != 200 && a.Status != 451 {
					t.Errorf("%d %v", a.Status, a.Err)
				}
			}
		})
	}
	for n := range allowed + refused {
		model := "gpt-4o-mini"
		if n < refused {
			model = "gpt-5"
		}
		next <- model
	}
	close(next)
	all.Wait()
}

func viewerKey(t *testing.T, s *harness.System) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.Dir, "data", "viewer-token"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

const verified = `document.querySelector("#verdict")?.innerText.includes("Verified in this browser")`

func smallRun(t *testing.T, s *harness.System, b *harness.Browser) {
	doc := fmt.Sprintf(`{"trust_pulse_version":"1","run_id":"run-small","agent_did":%q,"issued_at":"2026-01-01T00:00:00Z","evidence_class":"self_reported","tier_uplift":false,
		"tools":[{"name":"<script>alert(1)</script>\u202egpj.exe","calls":3}],"files":[{"path":"src/a.go","touches":1}]}`, "did:key:z6MktwupdmLXVVqTzCw4i46r4uGyosGXRnR3XjN4Zq7oMMsw")
	if a := s.Control("POST", "/v1/runs/run-small/trust-pulse", json.RawMessage(doc)); a.Status != http.StatusCreated {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	for name, bad := range map[string]string{
		"INVALID":          strings.Replace(doc, `"tier_uplift":false`, `"tier_uplift":true`, 1),
		"BINDING_MISMATCH": strings.Replace(doc, `"run-small"`, `"run-large"`, 1),
		"TOO_LARGE":        strings.Replace(doc, "src/a.go", strings.Repeat("a", 64<<10), 1),
	} {
		if a := s.Control("POST", "/v1/runs/run-small/trust-pulse", json.RawMessage(bad)); a.Status != http.StatusBadRequest || !strings.Contains(string(a.Body), "TRUST_PULSE_"+name) {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	b.Look(1280, 900, false)
	b.Click(`a[href^="#/run/"]`) // the newest stands first
	b.Wait(`document.querySelector("#verdict")`)
	b.Open(s.ControlURL + "/pulse/#/?q=run-small")
	b.Wait(`document.querySelectorAll("tbody tr").length === 1 && document.body.innerText.includes("run-small")`)
	b.Click(`a[href^="#/run/"]`)
	b.Wait(verified)
	page := b.Page()
	for _, want := range []string{
		"11 checks passed; 2 were not made", "POLICY_MODEL_NOT_ALLOWED", "✂ cut", "✓ completed", "openai_key", "job-small", hostileModel,
		"Self-reported, not evidence", `<script>alert(1)</script>\u{202e}gpj.exe`, "21 model tokens in",
	} {
		if !strings.Contains(strings.ReplaceAll(page, "\n", " "), want) {
			t.Errorf("the page does not say %q:\n%s", want, page)
		}
	}
	if n := b.Text(`document.querySelectorAll("main img, main script").length`); n != "0" {
		t.Errorf("what an agent chose became markup: %s elements", n)
	}
	b.Shot("pulse/run-5-desktop")
	b.Text(`document.querySelector("#timeline").scrollIntoView({behavior: "instant"})`)
	b.Shot("pulse/timeline-5-desktop")
	b.Look(1280, 900, true)
	b.Shot("pulse/run-5-desktop-dark")
	accessible(t, b)
	b.Look(375, 800, false)
	if wide := b.Text(`document.documentElement.scrollWidth`); wide != "375" {
		t.Errorf("on a phone the page is %s wide", wide)
	}
	b.Text(`scrollTo(0, 0)`)
	b.Shot("pulse/run-5-phone")
	b.Text(`document.querySelector("#timeline").scrollIntoView({behavior: "instant"})`)
	b.Shot("pulse/timeline-5-phone")
	b.Media("print", "light")
	if shown := b.Text(`getComputedStyle(document.querySelector("header nav")).display`); shown != "none" {
		t.Errorf("printed, the buttons are %s", shown)
	}
	b.Media("", "light")
}

// accessible holds the page to what people need who do not see it, or not well, or use no mouse.
func accessible(t *testing.T, b *harness.Browser) {
	t.Helper()
	const audit = `(() => {
  const out = [];
  for (const e of document.querySelectorAll("input, select")) if (!e.labels?.length) out.push("no label: " + e.id);
  for (const e of document.querySelectorAll("button, a")) if (!e.innerText.trim()) out.push("no name: " + e.outerHTML.slice(0, 80));
  for (const e of document.querySelectorAll("table")) if (!e.caption || [...e.querySelectorAll("th")].some((h) => !h.scope)) out.push("a table without caption or scopes");
  for (const e of document.querySelectorAll("svg")) if (e.getAttribute("role") !== "img" || !e.getAttribute("aria-label")) out.push("a picture without words");
  const levels = [...document.querySelectorAll("h1, h2, h3")].map((h) => Number(h.tagName[1]));
  levels.forEach((l, i) => { if (i === 0 ? l !== 1 : l > levels[i - 1] + 1) out.push("headings " + levels); });
  if (!document.documentElement.lang || !document.querySelector("main") || !document.querySelector("[role=status]")) out.push("landmarks");
  const rgb = (s) => s.match(/[\d.]+/g).slice(0, 3).map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
  const light = (s) => { const [r, g, b] = rgb(s); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\)$|transparent/.test(c)) return c; } return "rgb(255, 255, 255)"; };
  for (const e of document.querySelectorAll("p, a, th, td, dt, dd, .verdict, button, caption, summary, h2, h3")) {
    const [a, c] = [light(getComputedStyle(e).color), light(ground(e))];
    const ratio = (Math.max(a, c) + 0.05) / (Math.min(a, c) + 0.05);
    if (ratio < 4.5 && !e.disabled) out.push(e.tagName + "." + e.className + " has a contrast of " + ratio.toFixed(2));
  }
  return [...new Set(out)].join("\n");
})()`
	if faults := b.Text(audit); faults != "" {
		t.Error(faults)
	}
	if at := b.Text("document.activeElement.id"); at != "main" {
		t.Errorf("after a change of view the focus is at %q", at)
	}
	b.Text(`document.querySelector("h1 a").focus()`)
	b.Keys("\t")
	if next := b.Text("document.activeElement.id"); next != "to-runs" {
		t.Errorf("after the name of the page the next stop is %q", next)
	}
	if first := b.Text(`document.querySelector("a, button, input, select, [tabindex]").className`); first != "skip" {
		t.Errorf("the first stop is %q, and not the way to the content", first)
	}
}

func largeRun(t *testing.T, b *harness.Browser) {
	b.Look(1280, 900, false)
	b.Text(`location.hash = "#/?q=run-large"`)
	b.Wait(`document.querySelectorAll("tbody tr").length === 1 && document.body.innerText.includes("run-large")`)
	b.Click(`a[href^="#/run/"]`)
	b.Wait(verified)
	if page := b.Page(); !strings.Contains(page, "1 to 100 of 5,000 calls") || !strings.Contains(page, "page 1 of 50") {
		t.Errorf("%.3000s", page)
	}
	b.Shot("pulse/run-5000-desktop")
	b.Text(`(document.querySelector("#kind").value = "refused", document.querySelector("#kind").dispatchEvent(new Event("change")))`)
	b.Wait(`document.body.innerText.includes("1 to 100 of 100 calls")`)
	if rows := b.Text(`document.querySelector("#timeline").parentElement.querySelectorAll("tbody tr").length`); rows != "100" {
		t.Errorf("%s rows", rows)
	}
	b.Look(375, 800, true)
	b.Text(`document.querySelector("#timeline").scrollIntoView({behavior: "instant"})`)
	b.Shot("pulse/timeline-5000-phone-dark")
}

// openedFiles: what somebody was given is verified without a key, and what was altered is found.
func openedFiles(t *testing.T, s *harness.System, b *harness.Browser, origin string) {
	b.Look(1280, 900, false)
	archive := archiveOf(t, s, "run-small")
	b.Text(`sessionStorage.clear()`)
	b.Open("about:blank")
	b.Open(origin + "/pulse/")
	b.Wait(`document.querySelector("#key")`)
	b.Choose("#file", archive)
	b.Wait(`document.querySelector("#verdict")?.innerText.includes("Not verified") && document.body.innerText.includes("No key is trusted yet")`)
	b.Choose("#file", filepath.Join(s.Dir, "data", "trust.json"))
	b.Wait(verified)

	raw, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"a count of tokens":    {`"tokens_output":5`, `"tokens_output":4`, "is not the file that was signed"},
		"a refusal's code":     {`POLICY_MODEL_NOT_ALLOWED","decision"`, `POLICY_MODEL_NOT_ALLOWEE","decision"`, "its hash is not that of its content"},
		"an intent":            {`"request_bytes":`, `"request_bytez":`, "is not the one that was recorded"},
		"the end is cut off":   {"", "", "it is cut short"},
		"something else whole": {"x", "x", "neither an archive nor a proof bundle"},
	} {
		bad := bytes.Replace(raw, []byte(c.old), []byte(c.new), 1)
		switch {
		case name == "an intent": // in the file of intents, not in a receipt
			at := bytes.LastIndex(raw, []byte(c.old))
			for _, line := range []string{"events.jsonl"} {
				at = bytes.Index(raw, []byte(line)) + bytes.Index(raw[bytes.Index(raw, []byte(line)):], []byte(c.old))
			}
			bad = append(append(bytes.Clone(raw[:at]), c.new...), raw[at+len(c.old):]...)
		case c.old == "":
			bad = raw[:len(raw)-30]
		case c.old == "x":
			bad = []byte(`{"a":1}`)
		}
		path := filepath.Join(t.TempDir(), "altered.zip")
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		b.Choose("#file", path)
		b.Wait(fmt.Sprintf(`document.body.innerText.includes(%q)`, c.want))
		if strings.Contains(b.Page(), "Verified in this browser") {
			t.Errorf("%s: the page calls it verified", name)
		}
		if name == "a count of tokens" {
			b.Shot("pulse/altered-desktop")
		}
	}
}

func viewerOnlyReads(t *testing.T, s *harness.System, viewer string) {
	for path, want := range map[string]int{
		"GET /v1/runs": 200, "GET /v1/trust": 200, "POST /v1/tokens/issue": 401, "POST /v1/tokens/revoke": 401, "POST /v1/wpc": 401,
		"POST /v1/runs/run-small/trust-pulse": 401, "GET /v1/nothing": 404,
	} {
		method, at, _ := strings.Cut(path, " ")
		for key, want := range map[string]int{viewer: want, "": map[bool]int{true: 404, false: 401}[want == 404]} {
			req, err := http.NewRequestWithContext(t.Context(), method, s.ControlURL+at, strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			if key != "" {
				req.Header.Set("Authorization", "Bearer "+key)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if resp.Body.Close() != nil || resp.StatusCode != want {
				t.Errorf("%s with a key: %v: %d, want %d", path, key != "", resp.StatusCode, want)
			}
		}
	}
}
