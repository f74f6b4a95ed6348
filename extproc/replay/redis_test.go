package replay_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/extproc/replay"
	"sallyport/extproc/replay/replaytest"
)

func open(t testing.TB, s *replaytest.Server) *replay.Redis {
	t.Helper()
	return openWith(t, replay.RedisConfig{URL: s.URL, OpTimeout: 5 * time.Second}) // patient: the machine may be busy
}

func openWith(t testing.TB, cfg replay.RedisConfig) *replay.Redis {
	t.Helper()
	r, err := replay.NewRedis(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func conforms(t *testing.T, s *replaytest.Server) {
	replaytest.Run(t, func(t *testing.T) replaytest.Subject {
		// An empty Redis, as far as replay is concerned: marks of earlier tests would be older, which changes nothing.
		prefix := fmt.Sprintf("t%d", prefixes.Add(1))
		return replaytest.Subject{
			Open: func(t *testing.T) replay.Store {
				return openWith(t, replay.RedisConfig{URL: s.URL, OpTimeout: 5 * time.Second, Prefix: prefix})
			},
			Pass: time.Sleep,
		}
	})
}

var prefixes atomic.Int64

func TestRedisConforms(t *testing.T)        { conforms(t, replaytest.Start(t)) }
func TestRedisClusterConforms(t *testing.T) { conforms(t, replaytest.StartCluster(t)) }

var ids atomic.Int64

func nonce(n string) replay.Claim {
	return replay.Claim{RequestID: fmt.Sprint("rcpt_", ids.Add(1)), Nonce: n, NonceTTL: time.Hour, IssuedAt: time.Now().Add(time.Minute)}
}

func mustPass(t *testing.T, s replay.Store, c replay.Claim) {
	t.Helper()
	if r, err := s.Claim(t.Context(), c); err != nil || r.Status != replay.OK {
		t.Fatalf("%v and %v, want it to pass", r.Status, err)
	}
}

func mustFail(t *testing.T, s replay.Store, c replay.Claim) {
	t.Helper()
	r, err := s.Claim(t.Context(), c)
	if !errors.Is(err, replay.ErrUnavailable) || r.Status == replay.OK {
		t.Fatalf("%v and %v, want ErrUnavailable", r.Status, err)
	}
}

func TestRedisGoneIsAnError(t *testing.T) {
	s := replaytest.Start(t)
	store := open(t, s)
	mustPass(t, store, nonce("a"))
	s.Kill()
	for i := range 20 {
		mustFail(t, store, nonce(fmt.Sprint("gone", i)))
	}
	if err := store.Ready(t.Context()); !errors.Is(err, replay.ErrUnavailable) {
		t.Errorf("ready: %v", err)
	}
	s.Restart()
	replaytest.Await(t, "the store to be back", store.Ready)
	mustPass(t, store, nonce("b"))
}

func TestRedisNeverThereIsAnError(t *testing.T) {
	store := openWith(t, replay.RedisConfig{URL: "redis://127.0.0.1:1"})
	mustFail(t, store, nonce("a"))
	if err := store.Ready(t.Context()); !errors.Is(err, replay.ErrUnavailable) {
		t.Errorf("ready: %v", err)
	}
}

// A hung Redis is worse than a dead one: connections are accepted and nothing answers. The bound is OpTimeout for each
// caller, however many wait; the callers here have no deadline of their own.
func TestRedisHungIsAnErrorWithinTheBound(t *testing.T) {
	s := replaytest.Start(t)
	store := openWith(t, replay.RedisConfig{URL: s.URL}) // the real defaults
	replaytest.Await(t, "the store to be ready", store.Ready)
	s.Hang()
	defer s.Resume()
	const callers = 200
	errs := make(chan error, callers)
	for i := range callers {
		go func() {
			r, err := store.Claim(context.Background(), nonce(fmt.Sprint("hung", i)))
			if err == nil {
				err = fmt.Errorf("status %v from a hung Redis", r.Status)
			} else if errors.Is(err, replay.ErrUnavailable) {
				err = nil
			}
			errs <- err
		}()
	}
	giveUp := time.After(20 * replay.DefaultOpTimeout)
	for range callers {
		select {
		case err := <-errs:
			if err != nil {
				t.Error(err)
			}
		case <-giveUp:
			t.Fatal("a caller still waits for a hung Redis")
		}
	}
	if err := store.Ready(t.Context()); !errors.Is(err, replay.ErrUnavailable) {
		t.Errorf("ready: %v", err)
	}
	s.Resume()
	replaytest.Await(t, "the store to be back", store.Ready)
	mustPass(t, store, nonce("after"))
}

// A claim whose reply never came may have been carried out. Whoever comes next is refused, and is told who holds it.
func TestRedisLostReplyStaysUsed(t *testing.T) {
	s := replaytest.Start(t)
	store := open(t, s)
	replaytest.Await(t, "the store to be ready", store.Ready)
	first := nonce("n")
	s.Hang()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if r, err := store.Claim(ctx, first); !errors.Is(err, replay.ErrUnavailable) {
		t.Fatalf("%v and %v, want ErrUnavailable", r.Status, err)
	}
	s.Resume()
	probe := s.Client()
	replaytest.Await(t, "the abandoned claim to be carried out", func(ctx context.Context) error {
		keys, err := probe.Keys(ctx, "sallyport:*:n:*").Result()
		if err == nil && len(keys) != 1 {
			err = fmt.Errorf("%d nonces in Redis", len(keys))
		}
		return err
	})
	r, err := store.Claim(t.Context(), nonce("n"))
	if err != nil || r.Status != replay.NonceUsed || r.Holder != first.RequestID {
		t.Errorf("%+v and %v, want it used by %s", r, err, first.RequestID)
	}
	mustPass(t, store, first) // the same request, had it tried again
}

// Redis dies and comes back, with all that it acknowledged, while many requests fight for the same nonces. Claims may fail,
// and a nonce may be lost to a claim that failed; none may pass twice.
func TestRedisKilledUnderLoadPassesNothingTwice(t *testing.T) {
	const nonces, rivals = 300, 4
	s := replaytest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	stores := []replay.Store{open(t, s), open(t, s)}
	var passed [nonces]atomic.Int64
	var failed atomic.Int64
	var wg sync.WaitGroup
	half := make(chan struct{}, nonces*rivals)
	for r := range rivals {
		wg.Go(func() {
			for n := range nonces {
				half <- struct{}{}
				c := nonce(fmt.Sprint("n", n))
				replaytest.Await(t, "an answer", func(ctx context.Context) error {
					res, err := stores[r%2].Claim(ctx, c)
					if err != nil {
						failed.Add(1)
						c = nonce(c.Nonce) // another request, as a client that was refused would send
						return err
					}
					if res.Status == replay.OK {
						passed[n].Add(1)
					}
					return nil
				})
			}
		})
	}
	for range 3 {
		for range nonces * rivals / 5 {
			<-half
		}
		s.Restart()
	}
	go func() {
		for range half {
			// only makes room
		}
	}()
	wg.Wait()
	close(half)
	total := int64(0)
	for n := range passed {
		if p := passed[n].Load(); p > 1 {
			t.Errorf("nonce %d passed %d times", n, p)
		}
		total += passed[n].Load()
	}
	if total == 0 {
		t.Error("nothing passed at all")
	}
	t.Logf("%d of %d nonces passed, %d claims failed", total, nonces, failed.Load())
}

func TestRedisForgetsItsScripts(t *testing.T) {
	s := replaytest.Start(t)
	store := open(t, s)
	mustPass(t, store, nonce("a"))
	if err := s.Client().ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	mustPass(t, store, nonce("b"))
	r, err := store.Claim(t.Context(), nonce("b"))
	if err != nil || r.Status != replay.NonceUsed {
		t.Errorf("%v and %v, want it used", r.Status, err)
	}
}

// A restart breaks every connection, empties the script cache and, without persistence, the memory. The next claim gets
// past the first two by itself; the third makes older single-use tokens count as used.
func TestRedisRestartedEmpty(t *testing.T) {
	s := replaytest.Start(t)
	store := open(t, s)
	c := nonce("n")
	mustPass(t, store, c)
	s.Restart()
	again := nonce("n")
	again.IssuedAt = time.Now().Add(-2 * time.Second)
	r, err := store.Claim(t.Context(), again)
	if err != nil || r.Status != replay.NonceUsed || r.Holder != "" {
		t.Errorf("a nonce from before the restart: %+v and %v, want it used by nobody knows whom", r, err)
	}
	mustPass(t, store, nonce("n2"))
	if err := s.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if r, err := store.Claim(t.Context(), again); err != nil || r.Status != replay.NonceUsed {
		t.Errorf("a nonce from before FLUSHALL: %v and %v, want it used", r.Status, err)
	}
}

func TestRedisThatEvictsIsRefused(t *testing.T) {
	s := replaytest.Start(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
	store := open(t, s)
	mustFail(t, store, nonce("a"))
	if err := s.Client().ConfigSet(t.Context(), "maxmemory-policy", "noeviction").Err(); err != nil {
		t.Fatal(err)
	}
	mustPass(t, store, nonce("a"))
	if err := s.Client().ConfigSet(t.Context(), "maxmemory-policy", "volatile-ttl").Err(); err != nil {
		t.Fatal(err)
	}
	if err := store.Ready(t.Context()); !errors.Is(err, replay.ErrUnavailable) {
		t.Errorf("ready: %v", err)
	}
}

func TestRedisOutOfMemoryIsAnError(t *testing.T) {
	s := replaytest.Start(t)
	store := open(t, s)
	mustPass(t, store, nonce("a"))
	if err := s.Client().ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	mustFail(t, store, nonce("b"))
}

func TestRedisReadOnlyIsAnError(t *testing.T) {
	s := replaytest.Start(t)
	store := open(t, s)
	mustPass(t, store, nonce("a"))
	if err := s.Client().ReplicaOf(t.Context(), "127.0.0.1", "1").Err(); err != nil {
		t.Fatal(err)
	}
	mustFail(t, store, nonce("b"))
}

func TestRedisHoldsNoPlainNames(t *testing.T) {
	s := replaytest.Start(t)
	store := open(t, s)
	c := nonce("plain-nonce")
	c.TokenHash, c.Mission, c.Binder, c.BindTTL = "plain-hash", "plain-mission", "peer_address=plain", time.Hour
	c.IdemKey, c.IdemFingerprint, c.IdemTTL = "plain-key", "plain-print", time.Hour
	mustPass(t, store, c)
	probe := s.Client()
	plain, err := probe.Keys(t.Context(), "*plain*").Result()
	if err != nil || len(plain) > 0 {
		t.Errorf("keys %v, %v", plain, err)
	}
	keys, err := probe.Keys(t.Context(), "sallyport:*:[bni]:*").Result()
	if err != nil || len(keys) != 3 {
		t.Fatalf("keys %v, %v, want three", keys, err)
	}
	for _, k := range keys {
		if ttl := probe.PTTL(t.Context(), k).Val(); ttl <= 0 {
			t.Errorf("%s never expires", k)
		}
	}
}

func TestRedisConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]replay.RedisConfig{
		"no URL":                 {},
		"another scheme":         {URL: "http://127.0.0.1"},
		"another kind":           {URL: "redis-ring://127.0.0.1"},
		"no URL at all":          {URL: "::"},
		"a prefix with a brace":  {URL: "redis://127.0.0.1", Prefix: "{a}"},
		"a negative timeout":     {URL: "redis://127.0.0.1", OpTimeout: -1},
		"sentinel without name":  {URL: "redis-sentinel://127.0.0.1"},
		"an unknown URL setting": {URL: "redis://127.0.0.1?nonsense=1"},
	} {
		if _, err := replay.NewRedis(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, url := range []string{
		"redis://127.0.0.1", "rediss://127.0.0.1", "unix:///tmp/none.sock?db=1",
		"redis-cluster://127.0.0.1?addr=127.0.0.2:6379", "redis-sentinel://127.0.0.1?master_name=m",
	} {
		openWith(t, replay.RedisConfig{URL: url})
	}
}

func BenchmarkRedisClaim(b *testing.B) {
	store := open(b, replaytest.Start(b))
	replaytest.Await(b, "the store to be ready", store.Ready)
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c := nonce(fmt.Sprint(ids.Load()))
			c.Nonce = c.RequestID
			c.Mission, c.Binder, c.BindTTL = "m", "run_id=r;", time.Hour
			if r, err := store.Claim(context.Background(), c); err != nil || r.Status != replay.OK {
				b.Errorf("%v %v", r, err)
			}
		}
	})
}
