package e2e

import (
	"bytes"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/tests/harness"
)

// TestSignerStopped: without the signer nothing new passes, an answer in flight is withheld before its end, and the log
// says so afterwards.
func TestSignerStopped(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{})
	token := s.Issue(nil)
	if a := s.Do(harness.Call{Token: token}); a.Status != http.StatusOK {
		t.Fatalf("before: %d %s", a.Status, a.Body)
	}
	// Stopped, not killed: the supervisor must not be able to bring it back.
	s.Upstream.Gap = 300 * time.Millisecond
	inFlight := make(chan harness.Answer, 1)
	go func() { inFlight <- s.Do(harness.Call{Token: token, Body: harness.ChatBody("gpt-4o-mini", true)}) }()
	harness.Eventually(t, "the streamed call is upstream", func() bool { return s.Upstream.Count() == 2 })
	s.Signal("signer", syscall.SIGSTOP)
	before := s.Upstream.Count()
	for range 2 {
		a := s.Do(harness.Call{Token: token})
		if a.Status != http.StatusServiceUnavailable || (a.Code != "EVIDENCE_UNAVAILABLE" && a.Code != "TRUST_STATE_STALE") {
			t.Errorf("without the signer: %d %s %v", a.Status, a.Body, a.Err)
		}
	}
	if a := <-inFlight; a.Err == nil && strings.Contains(string(a.Body), "[DONE]") {
		t.Error("an answer was released to its end without a receipt")
	}
	if n := s.Upstream.Count() - before; n != 0 {
		t.Errorf("%d calls passed without the signer", n)
	}
	s.Signal("signer", syscall.SIGCONT)
	harness.Eventually(t, "calls pass again", func() bool { return s.Do(harness.Call{Token: token}).Status == http.StatusOK })
	checkEvidence(t, s, map[string]bool{})
}

// TestProcessorKilled: with the ext_proc process gone Envoy refuses with our code, whatever the phase.
func TestProcessorKilled(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{})
	token := s.Issue(nil)
	s.Upstream.Gap = 200 * time.Millisecond
	inFlight := make(chan harness.Answer, 1)
	go func() { inFlight <- s.Do(harness.Call{Token: token, Body: harness.ChatBody("gpt-4o-mini", true)}) }()
	harness.Eventually(t, "the streamed call is upstream", func() bool { return s.Upstream.Count() == 1 })
	s.Signal("extproc", syscall.SIGKILL)
	a := s.Do(harness.Call{Token: token})
	if a.Status != http.StatusOK && (a.Status != http.StatusServiceUnavailable || a.Code != "GATE_UNAVAILABLE") {
		t.Errorf("right after the kill: %d %s %v", a.Status, a.Body, a.Err)
	}
	if a := <-inFlight; a.Err == nil && strings.Contains(string(a.Body), "[DONE]") {
		t.Error("an answer went to its end after its processor was killed")
	}
	harness.Eventually(t, "calls pass again", func() bool { return s.Do(harness.Call{Token: token}).Status == http.StatusOK })
	checkEvidence(t, s, map[string]bool{})
	cut := 0
	for _, r := range s.Evidence().Receipts {
		if r.Outcome() == "cut" {
			cut++
		}
	}
	if cut == 0 {
		t.Error("the call whose processor was killed is not marked as cut")
	}
}

// TestDiskFull: a log that can take no more refuses calls, keeps what it has, and serves again when there is room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	dir := harness.SmallDisk(t, 64<<20)
	s := harness.Start(t, harness.Options{Extra: "", EvidenceDir: dir})
	token := s.Issue(nil)
	if a := s.Do(harness.Call{Token: token}); a.Status != http.StatusOK {
		t.Fatalf("before: %d %s", a.Status, a.Body)
	}
	free := harness.FillDisk(t, dir)
	var seen int
	harness.Eventually(t, "the full disk is noticed", func() bool {
		seen = s.Upstream.Count()
		a := s.Do(harness.Call{Token: token})
		return a.Status == http.StatusServiceUnavailable && a.Code == "EVIDENCE_UNAVAILABLE"
	})
	for range 3 {
		if a := s.Do(harness.Call{Token: token}); a.Code != "EVIDENCE_UNAVAILABLE" {
			t.Errorf("with the disk full: %d %s", a.Status, a.Body)
		}
	}
	if n := s.Upstream.Count() - seen; n != 0 {
		t.Errorf("%d calls passed with the disk full", n)
	}
	free()
	harness.Eventually(t, "calls pass again", func() bool { return s.Do(harness.Call{Token: token}).Status == http.StatusOK })
	checkEvidence(t, s, map[string]bool{})
	// The transparency log had no room either, and has caught up.
	r := logReader(t, s)
	harness.Eventually(t, "every receipt is under a checkpoint", func() bool {
		c, _, err := r.Checkpoint()
		return err == nil && c.Size >= uint64(len(s.Evidence().Receipts))
	})
	auditLog(t, s)
}

// TestRevocationCutsStream: an answer that is streaming when its token is withdrawn does not go to its end, and its
// receipt says that it was cut.
func TestRevocationCutsStream(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{})
	s.Upstream.Gap, s.Upstream.Chunks = 100*time.Millisecond, 60
	token := s.Issue(nil)
	done := make(chan harness.Answer, 1)
	go func() { done <- s.Do(harness.Call{Token: token, Body: harness.ChatBody("gpt-4o-mini", true)}) }()
	harness.Eventually(t, "the streamed call is upstream", func() bool { return s.Upstream.Count() == 1 })
	if a := s.Control("POST", "/v1/tokens/revoke", map[string]any{"token": token}); a.Status != http.StatusOK {
		t.Fatalf("revoke: %d %s", a.Status, a.Body)
	}
	if a := <-done; bytes.Contains(a.Body, []byte("[DONE]")) {
		t.Error("the answer went to its end after its token was withdrawn")
	}
	harness.Eventually(t, "the call is recorded as cut", func() bool {
		for _, r := range s.Evidence().Receipts {
			if r.Outcome() == "cut" {
				return true
			}
		}
		return false
	})
}

// TestUpstreamGone: an allowed call whose upstream is not there is answered with our code and recorded.
func TestUpstreamGone(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{})
	token := s.Issue(nil)
	s.Upstream.Close()
	if a := s.Do(harness.Call{Token: token}); a.Status != http.StatusBadGateway || a.Code != "UPSTREAM_UNREACHABLE" {
		t.Errorf("got %d %s", a.Status, a.Body)
	}
	checkEvidence(t, s, map[string]bool{})
}
