package e2e

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sallyport/signer/clawlog"
	"sallyport/signer/tlog"
	"sallyport/tests/harness"
)

// logReader reads a system's transparency log with the keys of its trust file.
func logReader(t *testing.T, s *harness.System) *tlog.Reader {
	t.Helper()
	var trust struct {
		Keys []string `json:"log_verifier_keys"`
	}
	raw, err := os.ReadFile(filepath.Join(s.Dir, "data", "trust.json"))
	if err == nil {
		err = json.Unmarshal(raw, &trust)
	}
	if err != nil {
		t.Fatal(err)
	}
	v, err := tlog.ParseVerifiers(trust.Keys...)
	if err != nil {
		t.Fatal(err)
	}
	r, err := tlog.OpenReader(filepath.Join(s.EvidenceDir, "tlog"), v)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func payloadHash(t *testing.T, receipt harness.StoredReceipt) string {
	t.Helper()
	var head struct {
		Hash string `json:"payload_hash_b64u"`
	}
	if err := json.Unmarshal(receipt, &head); err != nil {
		t.Fatal(err)
	}
	return head.Hash
}

// auditLog runs the audit as an auditor would.
func auditLog(t *testing.T, s *harness.System, args ...string) string {
	t.Helper()
	out, err := s.Run(append([]string{"evidence", "log", "audit", "-c", filepath.Join(s.Dir, "sallyport.yaml")}, args...)...)
	if err != nil {
		t.Errorf("the audit found fault: %v\n%s", err, out)
	}
	return out
}

// TestTransparencyLogUnderKills: the signer is killed under load, and afterwards every receipt is in both logs with a proof
// that verifies offline, and the audit finds log and evidence in agreement.
func TestTransparencyLogUnderKills(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{})
	token := s.Issue(harness.Claims{"mission_id": "log", "ttl_sec": 3600})
	r := logReader(t, s)

	var took []time.Duration
	for range 20 {
		a := s.Do(harness.Call{Token: token, Body: harness.UniqueBody("gpt-4o-mini", false)})
		begun := time.Now()
		hash := ""
		harness.Eventually(t, "the receipt is in the evidence", func() bool {
			raw, ok := s.Evidence().Receipts[a.Receipt()]
			if ok {
				hash = payloadHash(t, raw)
			}
			return ok
		})
		harness.Eventually(t, "the receipt has a proof", func() bool { _, err := logReader(t, s).Proof(hash); return err == nil })
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	t.Logf("from the answer to the proof, one call at a time: median %v, longest %v", took[len(took)/2], took[len(took)-1])

	old := filepath.Join(s.Dir, "old-checkpoint")
	_, signed, err := r.Checkpoint()
	if err == nil {
		err = os.WriteFile(old, signed, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if a := s.Do(harness.Call{Token: token, Body: harness.UniqueBody("gpt-4o-mini", false)}); a.Status != http.StatusOK {
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	for i := range 10 {
		atLeast := s.Upstream.Count() + 30
		harness.Eventually(t, "calls pass before a kill", func() bool { return s.Upstream.Count() >= atLeast && len(s.PID("signer")) > 0 })
		time.Sleep(time.Duration(17*i%60) * time.Millisecond)
		s.Signal("signer", syscall.SIGKILL)
	}
	harness.Eventually(t, "calls pass after the last kill", func() bool { return s.Do(harness.Call{Token: token}).Status == http.StatusOK })
	close(stop)
	wg.Wait()
	var ev *harness.Evidence
	harness.Eventually(t, "every intent is settled", func() bool { ev = s.Evidence(); return len(ev.Open()) == 0 })
	harness.Eventually(t, "every receipt is under a checkpoint", func() bool {
		c, _, err := r.Checkpoint()
		return err == nil && c.Size >= uint64(len(ev.Receipts))
	})
	r = logReader(t, s)
	for id, raw := range ev.Receipts {
		hash := payloadHash(t, raw)
		if _, err := r.Proof(hash); err != nil {
			t.Errorf("receipt %s: %v", id, err)
		}
		p, err := clawlog.FindProof(filepath.Join(s.EvidenceDir, "clawlog"), hash)
		if err == nil {
			err = clawlog.Verify(p)
		}
		if err != nil || p.RootSignature.SignerDID != s.GatewaySignerDID {
			t.Errorf("receipt %s in the receipt log: %v", id, err)
		}
	}
	t.Logf("%d receipts\n%s", len(ev.Receipts), auditLog(t, s, "--since", old))

	// The same log over the signer's socket.
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(s.Dir, "data", "run", "issuer.sock"))
	}}}
	for path, want := range map[string]string{"/log/checkpoint": "\n— ", "/v1/rt/root": `"ok":true`, "/v1/jwks": `"keys"`} {
		resp, err := client.Get("http://signer" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d %s %v", path, resp.StatusCode, body, err)
		}
	}
	for _, path := range []string{"/log/LOCK", "/log/position", "/log/.state/treeState", "/log/tile/", "/log/tile/../LOCK", "/log/index/00000000"} {
		resp, err := client.Get("http://signer" + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	// One receipt, proven by its id from the command line.
	for id, raw := range ev.Receipts {
		out, err := s.Run("evidence", "log", "proof", id, "-c", filepath.Join(s.Dir, "sallyport.yaml"))
		if err != nil || !strings.Contains(out, payloadHash(t, raw)) || !strings.Contains(out, "root_published_at") {
			t.Errorf("proof of %s: %v\n%s", id, err, out)
		}
		break
	}
}

// TestDamagedTransparencyLog: a bit was flipped while nothing ran. The log is left as it is, and the status says so; calls and
// their evidence go on, and the audit names the place.
func TestDamagedTransparencyLog(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{})
	token := s.Issue(nil)
	for range 5 {
		if a := s.Do(harness.Call{Token: token, Body: harness.UniqueBody("gpt-4o-mini", false)}); a.Status != http.StatusOK {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	}
	r := logReader(t, s)
	harness.Eventually(t, "all are under a checkpoint", func() bool {
		c, _, err := r.Checkpoint()
		return err == nil && c.Size == 5
	})
	s.Stop()
	tile := filepath.Join(s.EvidenceDir, "tlog", "tile", "0", "000.p", "5")
	data, err := os.ReadFile(tile)
	if err == nil {
		data[70] ^= 1
		err = os.WriteFile(tile, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	again := harness.Start(t, harness.Options{Dir: s.Dir})
	if a := again.Do(harness.Call{Token: again.Issue(nil)}); a.Status != http.StatusOK {
		t.Errorf("with a damaged log: %d %s", a.Status, a.Body)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(s.Dir, "data", "run", "signer.status.sock"))
	}}}
	resp, err := client.Get("http://signer/ready")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || !strings.Contains(string(body), "transparency log damaged") {
		t.Errorf("the status does not tell: %s %v", body, err)
	}
	out, err := again.Run("evidence", "log", "audit", "-c", filepath.Join(s.Dir, "sallyport.yaml"))
	if err == nil || !strings.Contains(out, "entry 2 in tile/entries/000.p/5 does not have the hash in tile/0/000.p/5") {
		t.Errorf("the audit: %v\n%s", err, out)
	}
}
