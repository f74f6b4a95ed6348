package e2e

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"sallyport/tests/harness"
)

// TestKillNine kills the signer and the ext_proc process with SIGKILL at 50 random points under load. Afterwards: every
// request that reached the upstream is in the log, completed or marked as cut; no receipt is missing that a client saw
// completed; and the system serves.
func TestKillNine(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"sealed", "async", "strict"} {
		t.Run(mode, func(t *testing.T) { killNine(t, mode, map[string]int{"sealed": 50, "async": 10, "strict": 10}[mode]) })
	}
}

func killNine(t *testing.T, mode string, kills int) {
	s := harness.Start(t, harness.Options{Evidence: mode})
	s.Upstream.Gap = 2 * time.Millisecond
	token := s.Issue(harness.Claims{"mission_id": "crash", "ttl_sec": 3600})

	var mu sync.Mutex
	completed := map[string]bool{} // receipts of calls that a client saw completed
	var refused, broken int
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				a := s.Do(harness.Call{Token: token, Body: harness.UniqueBody("gpt-4o-mini", (i+n)%2 == 0)})
				mu.Lock()
				switch {
				case a.Err != nil:
					broken++
				case a.Status == http.StatusOK:
					completed[a.Receipt()] = true
				default:
					refused++
				}
				mu.Unlock()
				if a.Status != http.StatusOK {
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any seed will do; it is printed
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // not a secret
	for i := range kills {
		role := []string{"signer", "extproc"}[i%2]
		// Some calls must pass before each kill, so that every one falls into load, and then at any point of a call.
		atLeast := s.Upstream.Count() + 5 + rng.IntN(20)
		harness.Eventually(t, "calls pass before a kill", func() bool { return s.Upstream.Count() >= atLeast && len(s.PID(role)) > 0 })
		time.Sleep(time.Duration(rng.IntN(20_000)) * time.Microsecond)
		s.Signal(role, syscall.SIGKILL)
	}
	harness.Eventually(t, "calls pass after the last kill", func() bool { return s.Do(harness.Call{Token: token}).Status == http.StatusOK })
	close(stop)
	wg.Wait()
	checkEvidence(t, s, completed)
	t.Logf("%s: %d kills; %d calls completed at the client, %d refused, %d cut; %d requests at the upstream", mode, kills, len(completed), refused, broken, s.Upstream.Count())
	if len(completed) < 3*kills {
		t.Errorf("only %d calls completed under %d kills: the load was too thin to show anything", len(completed), kills)
	}
}

// checkEvidence waits until every intent in the log is settled, and compares the log with what client and upstream saw.
func checkEvidence(t *testing.T, s *harness.System, completed map[string]bool) {
	t.Helper()
	var ev *harness.Evidence
	harness.Eventually(t, "every intent is settled", func() bool {
		ev = s.Evidence()
		return len(ev.Open()) == 0
	})
	if completed[""] {
		t.Error("a completed answer carried no receipt id")
	}
	for id := range completed {
		if r, ok := ev.Receipts[id]; !ok || r.Outcome() != "completed" {
			t.Errorf("receipt %s of a call that completed at the client is not in the log as completed", id)
		}
	}
	for id, r := range ev.Receipts {
		if _, ok := ev.Intents[id]; !ok {
			t.Errorf("receipt %s has no intent", id)
		}
		if err := r.Verify(s.GatewaySignerDID); err != nil {
			t.Errorf("receipt %s does not verify: %v", id, err)
		}
	}
	// Each upstream request needs an intent of its own with the same body hash; the log may hold more intents than that
	// (killed between the intent and the request), never fewer.
	intents := map[string]int{}
	for _, i := range ev.Intents {
		intents[i.RequestHash]++
	}
	seen := map[string]int{}
	for _, r := range s.Upstream.Requests() {
		seen[r.BodyHash]++
	}
	for hash, n := range seen {
		if intents[hash] < n {
			t.Errorf("%d requests with body %s reached the upstream, and only %d intents are in the log", n, hash, intents[hash])
		}
	}
}
