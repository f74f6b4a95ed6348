package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/bench/load"
	"sallyport/bench/report"
	"sallyport/bench/scenario"
	"sallyport/bench/workload"
)

// fakePeer reads tokens if it is an identifier too, see reader.
type fakePeer struct {
	name    string
	targets int
	cannot  string // a workload that it does not carry
}

func (p *fakePeer) Name() string                { return p.name }
func (p *fakePeer) Check(context.Context) error { return nil }
func (p *fakePeer) Target(_ context.Context, n int) (target, error) {
	p.targets++
	t := target{Address: "127.0.0.1:1", Prefix: "/door"}
	for i := range n {
		t.Headers = append(t.Headers, bearer(fmt.Sprintf("token-%d-%d", p.targets, i)))
	}
	return t, nil
}
func (p *fakePeer) Groups() map[string][]int            { return nil }
func (p *fakePeer) Verify(context.Context, int64) error { return nil }
func (p *fakePeer) Stop()                               {}
func (p *fakePeer) Carries(name string) error {
	if name == p.cannot {
		return errors.New("no " + name)
	}
	return nil
}

type fakeReader struct{ fakePeer }

func (p *fakeReader) Identities(_ context.Context, name string, n, count int) ([][]http.Header, error) {
	out := make([][]http.Header, n)
	for i := range out {
		for k := range count {
			out[i] = append(out[i], bearer(fmt.Sprintf("%s-%d-%d", name, i, k)))
		}
	}
	return out, nil
}

func settingOf(name string, connections int) setting {
	return setting{
		Setting: report.Setting{Workload: name, Connections: connections},
		part:    scenario.Part{Workload: name, Tokens: 6, Contracts: 20, Skew: 1.5, Weights: map[string]int{"chat": 3, "embeddings": 1}, Seconds: 1},
	}
}

func callsOf(t *testing.T, p peer, s setting) []load.Sequence {
	t.Helper()
	to, err := p.Target(t.Context(), s.Connections)
	if err != nil {
		t.Fatal(err)
	}
	calls, err := sequences(t.Context(), &environment{}, p, to, s)
	if err != nil || len(calls) != s.Connections {
		t.Fatalf("%d sequences, %v", len(calls), err)
	}
	return calls
}

func TestEachConnectionHasItsIdentity(t *testing.T) {
	calls := callsOf(t, &fakePeer{}, settingOf(workload.Chat, 2))
	for i, c := range calls {
		head := string(c().Head)
		if !strings.HasPrefix(head, "POST /door/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:1\r\n") || !strings.Contains(head, fmt.Sprintf("Bearer token-1-%d\r\n", i)) {
			t.Errorf("%d: %s", i, head)
		}
	}
}

func TestSingleUseTokensAreUsedOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, next := range callsOf(t, &fakeReader{}, settingOf(workload.SingleUse, 2)) {
		for c := next(); c != nil; c = next() {
			if seen[string(c.Head)] {
				t.Errorf("twice: %s", c.Head)
			}
			seen[string(c.Head)] = true
		}
	}
	if len(seen) != 6 {
		t.Errorf("%d calls with 6 tokens", len(seen))
	}
}

func TestFewTenantsCallOften(t *testing.T) {
	next, seen := callsOf(t, &fakeReader{}, settingOf(workload.Tenants, 1))[0], map[*load.Call]int{}
	most := 0
	for range 2000 {
		c := next()
		seen[c]++
		most = max(most, seen[c])
	}
	if most < 600 || len(seen) < 15 {
		t.Errorf("%d tenants of 20 called, the most frequent %d times of 2000", len(seen), most)
	}
}

func TestMixFollowsItsWeights(t *testing.T) {
	next, chats := callsOf(t, &fakePeer{}, settingOf(workload.Mix, 1))[0], 0
	for range 4000 {
		if next().Name == workload.Chat {
			chats++
		}
	}
	if chats < 2800 || chats > 3200 {
		t.Errorf("%d of 4000 calls are chat, of which 3 in 4 should be", chats)
	}
}

func TestRefusedCallsMustBeRefused(t *testing.T) {
	c := callsOf(t, &fakeReader{}, settingOf(workload.RefusedExpired, 1))[0]()
	if c.Want.Status != http.StatusUnauthorized || c.Want.Text != "TOKEN_EXPIRED" || c.Want.Header != "" {
		t.Errorf("%+v", c.Want)
	}
}

func TestPlanTakesTurnsAndSaysWhoDoesNotCarry(t *testing.T) {
	a, b, r := &fakePeer{name: "a", cannot: "stream-5"}, &fakePeer{name: "b"}, &fakeReader{fakePeer{name: "r"}}
	s := &scenario.Scenario{Parts: []scenario.Part{{Workload: workload.Chat}, {Workload: "stream-5", Rounds: 1}, {Workload: workload.Refusals, Rounds: 1}}, Rounds: 2}
	s.ApplyDefaults([]string{"a", "b", "r"})
	out := &report.Report{}
	var order []string
	for _, j := range plan(settings(s), []peer{a, b, r}, 2, out) {
		order = append(order, fmt.Sprintf("%d %s %s", j.round, j.Workload, j.peer.Name()))
	}
	const want = "1 chat a,1 chat b,1 chat r,1 stream-5 b,1 stream-5 r,1 chat r,1 refused-garbage r,1 refused-signature r,1 refused-expired r,2 chat b,2 chat r,2 chat a"
	if got := strings.Join(order, ","); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if len(out.Skipped) != 1 || out.Skipped[0].Reason != "no stream-5" || out.Skipped[0].Peer != "a" {
		t.Errorf("%+v", out.Skipped)
	}
}

// TestLongSoakGetsNewTokens, for tokens live an hour.
func TestLongSoakGetsNewTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s, e := &fakePeer{}, settingOf(workload.Chat, 1), &environment{log: slog.New(slog.DiscardHandler)}
		calls, stop := renewing(t.Context(), e, p, s, callsOf(t, p, s))
		for want := range 4 {
			synctest.Wait()
			if head := string(calls[0]().Head); !strings.Contains(head, fmt.Sprintf("token-%d-0", want+1)) {
				t.Errorf("after %d times: %s", want, head)
			}
			time.Sleep(renewAfter)
		}
		stop()
	})
}

// What the client counts, the upstream must have seen, and with the credential where the peer puts it in.
func TestAccount(t *testing.T) {
	t.Parallel()
	l := &load.Result{Answered: map[string]int64{workload.Chat: 10, workload.Refused[0]: 5}, Errors: 2}
	for name, c := range map[string]struct {
		reached, credentialed int64
		swaps, ok             bool
	}{
		"all, swapped":             {10, 10, true, true},
		"all, not swapped":         {10, 0, false, true},
		"one that failed, swapped": {11, 11, true, true},
		"one is missing":           {9, 9, true, false},
		"refused ones arrived":     {15, 15, true, false},
		"one kept its token":       {10, 9, true, false},
		"a credential from where":  {10, 1, false, false},
	} {
		if err := account(l, c.reached, c.credentialed, c.swaps); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
