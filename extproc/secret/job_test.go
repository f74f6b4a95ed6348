package secret_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/extproc/secret"
	"sallyport/signer/code"
)

// lessor gives leases of an hour, and notes which stand. It takes its time where slow is set, and fails where down is.
type lessor struct {
	slow, down atomic.Bool

	mu      sync.Mutex
	made    int
	stand   []string
	renewed int
}

func (*lessor) String() string { return "lessor" }

func (l *lessor) Fetch(ctx context.Context) (secret.Credential, error) {
	if l.slow.Load() {
		time.Sleep(2 * time.Second)
	}
	if l.down.Load() {
		return secret.Credential{}, errors.New("down")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.made++
	name := fmt.Sprint("lease-", l.made)
	l.stand = append(l.stand, name)
	return secret.Credential{Value: secret.NewValue("value-of-" + name), Lease: name, Renewable: true, Expires: time.Now().Add(time.Hour)}, nil
}

func (l *lessor) Renew(context.Context, string) (time.Time, error) {
	if l.down.Load() {
		return time.Time{}, errors.New("down")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewed++
	return time.Now().Add(time.Hour), nil
}

func (l *lessor) Revoke(_ context.Context, lease string) error {
	if l.down.Load() {
		return errors.New("down")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stand = slices.DeleteFunc(l.stand, func(s string) bool { return s == lease })
	return nil
}

func (l *lessor) standing() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.stand)
}

// perJob is a broker whose one class gives each job its own.
func perJob(t *testing.T, l *lessor) *secret.Broker {
	t.Helper()
	b, err := secret.New([]secret.Class{{Name: "k", Source: l, Hosts: []string{"api.example"}, PerJob: true}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func getFor(t *testing.T, b *secret.Broker, id string, over *atomic.Bool) (string, *code.Denial) {
	t.Helper()
	c, _, d := b.GetFor(t.Context(), func() secret.Job {
		return secret.Job{ID: id, Over: func(time.Time) bool { return over.Load() }}
	}, "k", secret.Target{Host: "api.example", Method: "GET", Path: "/"}, 0)
	return c.Value.Reveal(), d
}

// What a fetch brings for a job that was over before it ended does not stay at the source.
func TestLeaseThatComesTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, over := &lessor{}, &atomic.Bool{}
		b := perJob(t, l)
		l.slow.Store(true)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = getFor(t, b, "job", over)
		}()
		time.Sleep(time.Second)
		over.Store(true)
		<-done
		synctest.Wait()
		if got := l.standing(); l.made != 1 || len(got) != 0 {
			t.Errorf("%d leases were made, and %v stand", l.made, got)
		}
		if err := b.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// A revocation that fails is tried again until it succeeds, and at the end once more.
func TestRevocationIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lessor{}
		b := perJob(t, l)
		var over [2]atomic.Bool
		for i := range over {
			if _, d := getFor(t, b, fmt.Sprint(i), &over[i]); d != nil {
				t.Fatal(d)
			}
		}
		l.down.Store(true)
		over[0].Store(true)
		time.Sleep(time.Minute)
		if got := l.standing(); len(got) != 2 {
			t.Fatalf("%v stand", got)
		}
		l.down.Store(false)
		time.Sleep(time.Minute)
		if got := l.standing(); len(got) != 1 {
			t.Fatalf("%v stand, want the other job's", got)
		}
		l.down.Store(true)
		over[1].Store(true)
		time.Sleep(time.Second)
		l.down.Store(false)
		if err := b.Close(t.Context()); err != nil || len(l.standing()) != 0 {
			t.Errorf("%v, and %v stand after the end", err, l.standing())
		}
	})
}

// A lease in use is renewed in the background and stays one; a job that is over and comes again gets another.
func TestJobKeepsItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, over := &lessor{}, &atomic.Bool{}
		b := perJob(t, l)
		for range 60 {
			if got, d := getFor(t, b, "job", over); d != nil || got != "value-of-lease-1" {
				t.Fatalf("%q, %v", got, d)
			}
			time.Sleep(5 * time.Minute)
			synctest.Wait()
		}
		if l.made != 1 || l.renewed < 5 {
			t.Errorf("%d leases and %d renewals in five hours", l.made, l.renewed)
		}
		over.Store(true)
		time.Sleep(time.Second)
		over.Store(false)
		if got, d := getFor(t, b, "job", over); d != nil || got != "value-of-lease-2" {
			t.Errorf("%q, %v", got, d)
		}
		if err := b.Close(t.Context()); err != nil || len(l.standing()) != 0 {
			t.Errorf("%v, and %v stand after the end", err, l.standing())
		}
	})
}

// However many jobs there are, a process holds a bounded number of leases, and says so instead of taking another.
func TestTooManyJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, over, never := &lessor{}, &atomic.Bool{}, &atomic.Bool{}
		b := perJob(t, l)
		for i := range secret.MaxJobs {
			if _, d := getFor(t, b, fmt.Sprint(i), over); d != nil {
				t.Fatal(d)
			}
		}
		if _, d := getFor(t, b, "another", never); d == nil || d.Code != code.SecretUnavailable {
			t.Errorf("one more: %v", d)
		}
		over.Store(true)
		time.Sleep(time.Second)
		if _, d := getFor(t, b, "another", never); d != nil {
			t.Errorf("with the others over: %v", d)
		}
		if err := b.Close(t.Context()); err != nil || len(l.standing()) != 0 {
			t.Errorf("%v, and %d stand after the end", err, len(l.standing()))
		}
	})
}

// A class whose source knows no leases cannot give each job its own, and a call of no job gets none.
func TestPerJobNeedsLeases(t *testing.T) {
	if _, err := secret.New([]secret.Class{{Name: "k", Source: secret.Static("a"), Hosts: []string{"api.example"}, PerJob: true}}); err == nil {
		t.Error("a fixed value was accepted")
	}
	b := perJob(t, &lessor{})
	if _, _, d := b.Get(t.Context(), "k", secret.Target{Host: "api.example", Method: "GET", Path: "/"}, 0); d == nil || d.Code != code.SecretUnavailable {
		t.Errorf("a call of no job: %v", d)
	}
	if _, d := getFor(t, b, "", &atomic.Bool{}); d == nil || d.Code != code.SecretUnavailable {
		t.Errorf("a job without a name: %v", d)
	}
}
