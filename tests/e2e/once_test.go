package e2e

import (
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"sallyport/extproc/replay/replaytest"
	"sallyport/tests/harness"
)

// TestSingleUse: with Redis and two ext_proc processes, of 1,000 concurrent uses of 100 single-use tokens exactly 100 pass.
func TestSingleUse(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{RedisURL: replaytest.Start(t).URL, Replicas: 2})
	if n := len(s.PID("extproc")); n != 2 {
		t.Fatalf("%d ext_proc processes, want 2", n)
	}
	const tokens, uses = 100, 10
	all := make([]string, tokens)
	for i := range all {
		all[i] = s.Issue(harness.Claims{"nonce": uuid.NewString()})
	}
	var passed [tokens]atomic.Int64
	var replayed, other atomic.Int64
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range tokens * uses {
		wg.Go(func() {
			<-start
			switch a := s.Do(harness.Call{Token: all[i%tokens]}); {
			case a.Status == http.StatusOK:
				passed[i%tokens].Add(1)
			case a.Status == http.StatusUnauthorized && a.Code == "TOKEN_REPLAYED":
				replayed.Add(1)
			default:
				other.Add(1)
				t.Errorf("unexpected answer %d %s %v", a.Status, a.Code, a.Err)
			}
		})
	}
	close(start)
	wg.Wait()
	for i := range passed {
		if n := passed[i].Load(); n != 1 {
			t.Errorf("token %d passed %d times", i, n)
		}
	}
	if replayed.Load() != tokens*(uses-1) || s.Upstream.Count() != tokens {
		t.Errorf("%d replays refused, want %d; %d calls upstream, want %d", replayed.Load(), tokens*(uses-1), s.Upstream.Count(), tokens)
	}
}

// TestJobBinding: a token of job A used as job B is refused, by whichever replica sees it, and A goes on.
func TestJobBinding(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{RedisURL: replaytest.Start(t).URL, Replicas: 2})
	token := s.Issue(harness.Claims{"mission_id": "job-a"})
	as := func(run string) harness.Call {
		return harness.Call{Token: token, Header: http.Header{"X-Run-Id": {run}}}
	}
	for range 4 {
		if a := s.Do(as("run-of-a")); a.Status != http.StatusOK {
			t.Fatalf("job A: %d %s", a.Status, a.Body)
		}
		if a := s.Do(as("run-of-b")); a.Status != http.StatusUnauthorized || a.Code != "JOB_BINDING_MISMATCH" {
			t.Errorf("token of A as B: %d %s", a.Status, a.Body)
		}
	}
	if n := s.Upstream.Count(); n != 4 {
		t.Errorf("%d calls upstream, want 4", n)
	}
}

// TestIdempotencyKey: the same call under the same key is not made twice, another call under it is refused, and the key
// of one token says nothing to another token.
func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{})
	one, two := s.Issue(nil), s.Issue(harness.Claims{"mission_id": "other"})
	call := func(token, model string) harness.Answer {
		return s.Do(harness.Call{Token: token, Model: model, Header: http.Header{"X-Idempotency-Key": {"key-1"}}})
	}
	if a := call(one, "gpt-4o-mini"); a.Status != http.StatusOK {
		t.Fatalf("first: %d %s", a.Status, a.Body)
	}
	if a := call(one, "gpt-4o-mini"); a.Code != "IDEMPOTENCY_REPLAY_UNAVAILABLE" || a.Status != http.StatusConflict {
		t.Errorf("again: %d %s", a.Status, a.Body)
	}
	if a := call(one, "gpt-4.1-mini"); a.Code != "IDEMPOTENCY_FINGERPRINT_MISMATCH" {
		t.Errorf("another call: %d %s", a.Status, a.Body)
	}
	if a := call(two, "gpt-4o-mini"); a.Status != http.StatusOK {
		t.Errorf("another token: %d %s", a.Status, a.Body)
	}
}

// TestRedisStopped: with the store of used tokens gone or hung, nothing that needs it passes; when it is back, calls pass again.
func TestRedisStopped(t *testing.T) {
	t.Parallel()
	redis := replaytest.Start(t)
	s := harness.Start(t, harness.Options{RedisURL: redis.URL})
	token := func() string { return s.Issue(harness.Claims{"nonce": uuid.NewString()}) }
	if a := s.Do(harness.Call{Token: token()}); a.Status != http.StatusOK {
		t.Fatalf("before: %d %s", a.Status, a.Body)
	}
	down := func(how string) {
		before := s.Upstream.Count()
		for range 3 {
			if a := s.Do(harness.Call{Token: token()}); a.Status != http.StatusServiceUnavailable || a.Code != "REPLAY_STORE_UNAVAILABLE" {
				t.Errorf("store %s: %d %s", how, a.Status, a.Body)
			}
		}
		if n := s.Upstream.Count() - before; n != 0 {
			t.Errorf("%d calls passed with the store %s", n, how)
		}
	}
	redis.Hang()
	down("hung")
	redis.Resume()
	harness.Eventually(t, "calls pass again after the store hung", func() bool { return s.Do(harness.Call{Token: token()}).Status == http.StatusOK })
	redis.Kill()
	down("gone")
	redis.Restart()
	harness.Eventually(t, "calls pass again with the store back", func() bool { return s.Do(harness.Call{Token: token()}).Status == http.StatusOK })
}
