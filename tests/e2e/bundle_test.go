package e2e

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/extproc/replay/replaytest"
	"sallyport/signer/jcs"
	"sallyport/tests/harness"
)

// TestBundleOfManyCalls: 1,000 concurrent calls of one run over two ext_proc processes, bundled and verified: no gap, every
// receipt counts.
func TestBundleOfManyCalls(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{RedisURL: replaytest.Start(t).URL, Replicas: 2})
	const calls, refusals, workers = 1000, 20, 32
	token := s.Issue(harness.Claims{"mission_id": "job-many", "ttl_sec": 900})
	header := http.Header{"X-Run-Id": {"run-many"}}
	var all sync.WaitGroup
	next := make(chan int)
	for range workers {
		all.Go(func() {
			for n := range next {
				model, want := "gpt-4o-mini", http.StatusOK
				if n >= calls {
					model, want = "gpt-5", http.StatusUnavailableForLegalReasons
				}
				if a := s.Do(harness.Call{Token: token, Header: header, Body: harness.UniqueBody(model, n%5 == 0)}); a.Status != want || a.Err != nil {
					t.Errorf("call %d: %d %s %v", n, a.Status, a.Code, a.Err)
				}
			}
		})
	}
	for n := range calls + refusals {
		next <- n
	}
	close(next)
	all.Wait()
	harness.Eventually(t, "the refusals are recorded", func() bool { return len(s.Evidence().Refusals) >= refusals })

	began := time.Now()
	archive := archiveOf(t, s, "run-many")
	made := time.Since(began)
	trust := filepath.Join(s.Dir, "data", "trust.json")
	began = time.Now()
	out, err := s.Run("evidence", "verify", "--trust-file", trust, archive)
	took := time.Since(began)
	if err != nil || !strings.HasPrefix(out, "PASS") {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(archive)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("made in %v, %d KiB, verified in %v:\n%s", made, info.Size()>>10, took, out)
	if strings.Contains(out, "NOT CHECKED") && strings.Contains(out, "FAILED") {
		t.Error("something was not right")
	}
	files := unzip(t, archive)
	checkEmitted(t, s, files["bundle.json"], calls)

	// The same evidence gives the same bytes.
	first, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	if again := unzip(t, archiveOf(t, s, "run-many")); !sameButProofs(files, again) {
		t.Error("made twice, the archive differs")
	}
	// And a byte of it that is changed is noticed.
	first[len(first)/2] ^= 1
	bad := filepath.Join(t.TempDir(), "bad.zip")
	if err := os.WriteFile(bad, first, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := s.Run("evidence", "verify", "--trust-file", trust, bad); err == nil {
		t.Errorf("an altered archive passes:\n%s", out)
	}
	if out, err := s.Run("evidence", "verify", archive); err == nil {
		t.Errorf("without anybody to trust it passes:\n%s", out)
	}
}

// archiveOf has a run's archive written.
func archiveOf(t *testing.T, s *harness.System, run string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), run+".zip")
	out, err := s.Run("evidence", "bundle", "-c", filepath.Join(s.Dir, "sallyport.yaml"), "--run", run, "--out", path)
	if err != nil {
		t.Fatalf("bundle: %v\n%s", err, out)
	}
	return path
}

func unzip(t *testing.T, path string) map[string][]byte {
	t.Helper()
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if files[f.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return files
}

// sameButProofs compares two archives without what the logs prove: they have grown in between.
func sameButProofs(a, b map[string][]byte) bool {
	for name := range a {
		if name != "proofs.jsonl" && name != "checkpoint" && name != "manifest.json" && !bytes.Equal(a[name], b[name]) {
			return false
		}
	}
	return len(a) == len(b)
}

// checkEmitted holds a bundle against the list of what an emitter has to keep to so that the ecosystem's three verifiers take it
// (WIRE 15), by code of its own.
func checkEmitted(t *testing.T, s *harness.System, raw []byte, calls int) {
	t.Helper()
	var env struct {
		Payload     json.RawMessage
		PayloadHash string `json:"payload_hash_b64u"`
		Signer      string `json:"signer_did"`
	}
	if err := json.Unmarshal(raw, &env); err != nil {
		t.Fatal(err)
	}
	var p struct {
		Agent    string `json:"agent_did"`
		Version  string `json:"bundle_version"`
		Metadata json.RawMessage
		Events   []struct {
			Hash string  `json:"event_hash_b64u"`
			Prev *string `json:"prev_hash_b64u"`
			Run  string  `json:"run_id"`
		} `json:"event_chain"`
		Receipts []struct {
			Signer   string `json:"signer_did"`
			IssuedAt string `json:"issued_at"`
			Payload  struct {
				Timestamp string
				Binding   map[string]string
			}
		}
	}
	if err := json.Unmarshal(env.Payload, &p); err != nil {
		t.Fatal(err)
	}
	if jcs.Hash(env.Payload) != env.PayloadHash || p.Agent != env.Signer || p.Version != "1" || len(p.Metadata) > 16<<10 || !strings.HasPrefix(p.Agent, "did:key:") || p.Agent == s.GatewaySignerDID {
		t.Errorf("the envelope: signer %s, agent %s, version %q, %d bytes of metadata", env.Signer, p.Agent, p.Version, len(p.Metadata))
	}
	if len(p.Events) != calls || len(p.Receipts) != calls {
		t.Fatalf("%d events, %d receipts", len(p.Events), len(p.Receipts))
	}
	known := map[string]bool{}
	for i, e := range p.Events {
		if (i == 0) != (e.Prev == nil) || i > 0 && *e.Prev != p.Events[i-1].Hash || e.Run != "run-many" {
			t.Fatalf("event %d does not follow the one before", i)
		}
		known[e.Hash] = true
	}
	spans, root := map[string]bool{}, p.Receipts[0].Payload.Binding["span_id"]
	for i, r := range p.Receipts {
		b := r.Payload.Binding
		if r.Signer != s.GatewaySignerDID || !known[b["event_hash_b64u"]] || b["run_id"] != "run-many" || r.IssuedAt < r.Payload.Timestamp || spans[b["span_id"]] || b["span_id"] == "" {
			t.Fatalf("receipt %d does not count: %+v", i, r)
		}
		if i > 0 && (b["parent_span_id"] != root || r.Payload.Timestamp < p.Receipts[0].Payload.Timestamp) {
			t.Fatalf("receipt %d hangs under %q", i, b["parent_span_id"])
		}
		delete(known, b["event_hash_b64u"])
		spans[b["span_id"]] = true
	}
}

// TestLongRunIsSeveralBundles: above the ecosystem's limit a run is bundled in parts that name each other.
func TestLongRunIsSeveralBundles(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{})
	token := s.Issue(harness.Claims{"mission_id": "job-long", "ttl_sec": 900})
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for n := range 1250 / 8 {
				if a := s.Do(harness.Call{Token: token, Header: http.Header{"X-Run-Id": {"run-long"}}}); a.Status != http.StatusOK {
					t.Errorf("call %d/%d: %d %s", w, n, a.Status, a.Code)
				}
			}
		})
		if w == 3 { // in the middle the signer is gone for a moment; the chain goes on where it was
			all.Wait()
			s.Signal("signer", 9)
			harness.Eventually(t, "the gate passes calls again", func() bool {
				return s.Do(harness.Call{Token: token, Header: http.Header{"X-Run-Id": {"run-long"}}}).Status == http.StatusOK
			})
		}
	}
	all.Wait()
	path := archiveOf(t, s, "run-long")
	out, err := s.Run("evidence", "verify", "--trust-file", filepath.Join(s.Dir, "data", "trust.json"), path)
	if err != nil || !strings.HasPrefix(out, "PASS") || !strings.Contains(out, "in 2 bundles") {
		t.Errorf("%v\n%s", err, out)
	}
	files := unzip(t, path)
	for _, name := range []string{"bundle.json", "bundle-2.json"} {
		if err := os.WriteFile(filepath.Join(s.Dir, name), files[name], 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := s.Run("evidence", "verify", "--trust", s.GatewaySignerDID, filepath.Join(s.Dir, name))
		if err != nil {
			t.Errorf("%s alone: %v\n%s", name, err, out)
		}
	}
	list, err := s.Run("evidence", "runs", "-c", filepath.Join(s.Dir, "sallyport.yaml"), "--json")
	if err != nil || !strings.Contains(list, `"run-long"`) {
		t.Errorf("%v\n%s", err, list)
	}
}

// TestReceiptIsFoundByNonce: a client that lost the answer asks for its receipt, as the ecosystem's plugin does.
func TestReceiptIsFoundByNonce(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{})
	token := s.Issue(harness.Claims{"mission_id": "job-nonce"})
	c, run, event, nonce := plugin(token, false)
	if a := s.Do(c); a.Status != http.StatusOK {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	ask := func(token, path string) harness.Answer {
		return s.Do(harness.Call{Method: "GET", Path: "/v1/receipt/" + path, Token: token})
	}
	a := ask(token, nonce+"?run_id="+run+"&event_hash_b64u="+event)
	var found struct {
		OK       bool
		Status   int
		Envelope json.RawMessage `json:"receipt_envelope"`
	}
	if err := json.Unmarshal(a.Body, &found); err != nil || a.Status != http.StatusOK || !found.OK || found.Status != http.StatusOK {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	check(t, s, found.Envelope, run, event, nonce)
	other := s.Issue(harness.Claims{"mission_id": "job-other"})
	for name, x := range map[string]struct {
		a      harness.Answer
		status int
		code   string
	}{
		"another job's token": {ask(other, nonce), 404, "RECEIPT_NOT_FOUND"},
		"an unknown nonce":    {ask(token, "nonce_none"), 404, "RECEIPT_NOT_FOUND"},
		"another run":         {ask(token, nonce+"?run_id=x"), 409, "RECEIPT_BINDING_MISMATCH"},
		"no nonce":            {ask(token, "a%20b"), 400, ""},
		"no token":            {ask("", nonce), 401, "TOKEN_REQUIRED"},
	} {
		if x.a.Status != x.status || x.code != "" && x.a.Code != x.code {
			t.Errorf("%s: %d %s", name, x.a.Status, x.a.Body)
		}
	}
}
