package evidenceapi

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/signer/bundle"
	"sallyport/signer/chain"
	"sallyport/signer/envelope"
	"sallyport/signer/evlog"
	"sallyport/signer/record"
	"sallyport/signer/runs"
	"sallyport/signer/trustpulse"
)

// did is a signer that is only asked for its name.
type did struct{ envelope.Signer }

func (did) DID() string { return "did:key:zJob" }

// api serves three open runs, two of which have one id.
func api(t *testing.T) http.Handler {
	t.Helper()
	dir := t.TempDir()
	l, _, err := evlog.Open(dir, evlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	for i, name := range []string{"job-a/one", "job-b/one", "job-a/two"} {
		job, run, _ := strings.Cut(name, "/")
		in := record.Logged{
			Intent: record.Intent{ID: fmt.Sprintf("rcpt_%d", i), TimeMS: 1767225600000, RunID: run, MissionID: job, TokenHash: "t", Subject: "did:key:zAgent"},
			Chain:  &chain.Link{Part: 1, Span: "s", Event: chain.Event{Hash: "h"}},
		}
		if err := l.AppendWait(evlog.KindIntent, in.AppendJSON(nil, nil), evlog.Written); err != nil {
			t.Fatal(err)
		}
	}
	x, err := runs.Open(filepath.Join(dir, "index", "runs.db"), dir, l, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	has := func(keys ...string) func(*http.Request) (string, bool) {
		return func(r *http.Request) (string, bool) {
			for _, k := range keys {
				if r.Header.Get("Authorization") == "Bearer "+k {
					return k, true
				}
			}
			return "", false
		}
	}
	return Handler(Config{
		Index: x, Maker: &bundle.Maker{Gateway: did{}, Job: func(string) envelope.Signer { return did{} }}, Reader: has("viewer", "admin"), Admin: has("admin"),
		Log: slog.New(slog.DiscardHandler), Pulses: trustpulse.Store{Dir: filepath.Join(dir, "trust-pulse")},
	})
}

func ask(t *testing.T, h http.Handler, method, path, key, body string) (int, http.Header, string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Header(), w.Body.String()
}

func TestAnswers(t *testing.T) {
	h := api(t)
	for _, c := range []struct {
		what, method, path, key string
		status                  int
		says                    string
	}{
		{"without a key", "GET", "/v1/runs", "", 401, "UNAUTHORIZED"},
		{"with another key", "GET", "/v1/runs", "other", 401, "UNAUTHORIZED"},
		{"the viewer reads", "GET", "/v1/runs", "viewer", 200, `"run_id":"two"`},
		{"a search", "GET", "/v1/runs?q=job-b", "viewer", 200, `"job":"job-b"`},
		{"a hostile search", "GET", "/v1/runs?q=" + url.QueryEscape("'; \x00<b>%"), "viewer", 200, `"runs":[]`},
		{"no limit", "GET", "/v1/runs?limit=0", "viewer", 400, "limit must be"},
		{"no number", "GET", "/v1/runs?limit=x", "viewer", 400, "limit must be"},
		{"no time", "GET", "/v1/runs?before=yesterday", "viewer", 400, "before must be"},
		{"no run", "GET", "/v1/runs/none", "viewer", 404, "RUN_NOT_FOUND"},
		{"no path of the disk", "GET", "/v1/runs/..%2f..%2fetc%2fpasswd/archive", "viewer", 404, "RUN_NOT_FOUND"},
		{"two runs of one id", "GET", "/v1/runs/one", "viewer", 409, `"jobs":["job-a","job-b"]`},
		{"one of them", "GET", "/v1/runs/one/summary?job=job-b", "viewer", 200, `"agent_did":"did:key:zJob"`},
		{"its calls", "GET", "/v1/runs/two", "viewer", 200, "rcpt_2"},
		{"an open run", "GET", "/v1/runs/two/archive", "viewer", 409, "RUN_OPEN"},
		{"an open run, after a while", "GET", "/v1/runs/two/archive?wait=60ms", "viewer", 409, "RUN_OPEN"},
		{"a while that is none", "GET", "/v1/runs/two/archive?wait=soon", "viewer", 400, "wait must be"},
		{"part none", "GET", "/v1/runs/two/bundle?part=0", "viewer", 400, "part must be"},
		{"nothing reported", "GET", "/v1/runs/two/trust-pulse", "viewer", 404, "TRUST_PULSE_NOT_FOUND"},
		{"the viewer adds nothing", "POST", "/v1/runs/two/trust-pulse", "viewer", 401, "UNAUTHORIZED"},
		{"nothing that is no document", "POST", "/v1/runs/two/trust-pulse", "admin", 400, "TRUST_PULSE_INVALID"},
		{"another path", "GET", "/v1/runsx", "admin", 404, "NOT_FOUND"},
		{"another method", "DELETE", "/v1/runs/two", "admin", 404, "NOT_FOUND"},
	} {
		status, header, body := ask(t, h, c.method, c.path, c.key, "")
		if status != c.status || !strings.Contains(body, c.says) || !strings.HasPrefix(header.Get("Content-Type"), "application/json") {
			t.Errorf("%s: %d %s", c.what, status, body)
		}
		if known := status != 401 && !strings.Contains(body, `"NOT_FOUND"`); known && header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: Cache-Control %q", c.what, header.Get("Cache-Control"))
		}
	}
}

// TestPages: next leads to each run once, also where they began in the same millisecond.
func TestPages(t *testing.T) {
	h := api(t)
	seen, next := map[string]bool{}, ""
	for range 5 {
		_, _, body := ask(t, h, "GET", "/v1/runs?limit=1&before="+url.QueryEscape(next), "viewer", "")
		var page struct {
			Runs []struct{ ID string }
			Next string
		}
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			t.Fatal(err)
		}
		if len(page.Runs) == 0 {
			break
		}
		if seen[page.Runs[0].ID] {
			t.Errorf("%s came twice", page.Runs[0].ID)
		}
		seen[page.Runs[0].ID], next = true, page.Next
	}
	if len(seen) != 3 {
		t.Errorf("%d of 3 runs", len(seen))
	}
}

func TestTrustPulseIsOfItsRun(t *testing.T) {
	h := api(t)
	doc := func(run, agent string) string {
		return fmt.Sprintf(`{"trust_pulse_version":"1","run_id":%q,"agent_did":%q,"issued_at":"2026-01-01T00:00:00Z","evidence_class":"self_reported","tier_uplift":false,"tools":[],"files":[]}`, run, agent)
	}
	for _, c := range []struct {
		run, agent string
		status     int
	}{{"two", "did:key:zAgent", 201}, {"two", "did:key:zJob", 201}, {"two", "did:key:zOther", 400}, {"one", "did:key:zAgent", 400}} {
		if status, _, body := ask(t, h, "POST", "/v1/runs/two/trust-pulse", "admin", doc(c.run, c.agent)); status != c.status {
			t.Errorf("%s of %s: %d %s", c.run, c.agent, status, body)
		}
	}
	if status, header, body := ask(t, h, "GET", "/v1/runs/two/trust-pulse", "viewer", ""); status != 200 || !strings.Contains(body, `"status":"unverified"`) || header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %s", status, body)
	}
}
