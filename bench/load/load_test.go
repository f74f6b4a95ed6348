package load

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func ok() error { return nil }

func served(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func get(address string, want Want) *Call {
	return Prepare("x", http.MethodPost, address, "/", http.Header{}, Body{Before: []byte("ask")}, want)
}

func plan(address string, connections int, call *Call) Plan {
	p := Plan{Address: address, WarmUp: 20 * time.Millisecond, Window: 300 * time.Millisecond, Begin: ok, End: ok}
	for range connections {
		p.Connections = append(p.Connections, Same(call))
	}
	return p
}

func TestClosedLoopCountsWhatIsAnswered(t *testing.T) {
	var served64 atomic.Int64
	address := served(t, func(w http.ResponseWriter, _ *http.Request) {
		served64.Add(1)
		time.Sleep(5 * time.Millisecond)
		_, _ = w.Write([]byte("answer"))
	})
	r, err := Run(t.Context(), plan(address, 3, get(address, Want{Status: 200, Size: 6})))
	if err != nil || r.Errors != 0 {
		t.Fatalf("%v, %v", err, r.FirstErr)
	}
	if r.Answered["x"] != served64.Load() || r.Completed == 0 || r.Completed > r.Answered["x"] {
		t.Errorf("%d answered, %d completed in the window, %d served", r.Answered["x"], r.Completed, served64.Load())
	}
	if p50 := r.Latency.ValueAtQuantile(50); p50 < 5000 || p50 > 50_000 {
		t.Errorf("an answer that takes 5 ms took %d µs", p50)
	}
}

// TestOpenLoopCountsTheQueue has a target that stands still once for 150 ms. A client that waits for it would see one slow
// call; the calls that were due meanwhile waited too.
func TestOpenLoopCountsTheQueue(t *testing.T) {
	var n atomic.Int64
	address := served(t, func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) == 20 {
			time.Sleep(150 * time.Millisecond)
		}
		_, _ = w.Write([]byte("answer"))
	})
	p := plan(address, 1, get(address, Want{Status: 200, Size: 6}))
	p.Rate = 200
	r, err := Run(t.Context(), p)
	if err != nil || r.Errors != 0 {
		t.Fatalf("%v, %v", err, r.FirstErr)
	}
	if total := r.Latency.TotalCount(); total < 58 || total > 60 {
		t.Errorf("%d calls in 300 ms at 200 a second", total)
	}
	if p75 := r.Latency.ValueAtQuantile(75); p75 < 50_000 {
		t.Errorf("a quarter of all calls was due while nothing was answered for half of the time, and 75%% took at most %d µs", p75)
	}
	if r.Unsent != 0 {
		t.Errorf("%d calls were not sent", r.Unsent)
	}
}

func TestOpenLoopSaysWhatItCouldNotSend(t *testing.T) {
	address := served(t, func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(50 * time.Millisecond)
		_, _ = w.Write([]byte("answer"))
	})
	p := plan(address, 1, get(address, Want{Status: 200, Size: 6}))
	p.Rate = 1000
	r, err := Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if r.Unsent < 200 {
		t.Errorf("of 320 calls at most 13 can be answered, but only %d are unsent", r.Unsent)
	}
}

func TestCallsThatRunOutEndTheWindow(t *testing.T) {
	address := served(t, func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(10 * time.Millisecond)
		_, _ = w.Write([]byte("answer"))
	})
	p, left := plan(address, 1, nil), 10
	call := get(address, Want{Status: 200, Size: 6})
	p.Connections[0] = func() *Call {
		if left--; left < 0 {
			return nil
		}
		return call
	}
	ended := 0
	p.End = func() error { ended++; return nil }
	r, err := Run(t.Context(), p)
	if err != nil || !r.Exhausted || r.Window > 250*time.Millisecond || ended != 1 {
		t.Errorf("%v, exhausted %v, window %v, ended %d times", err, r.Exhausted, r.Window, ended)
	}
	left, p.WarmUp = 2, time.Second
	if _, err := Run(t.Context(), p); err == nil || !strings.Contains(err.Error(), "during the warm-up") {
		t.Errorf("they ran out before the window: %v", err)
	}
}

func TestIntervalsAddUp(t *testing.T) {
	address := served(t, func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(2 * time.Millisecond)
		_, _ = w.Write([]byte("answer"))
	})
	p := plan(address, 2, get(address, Want{Status: 200, Size: 6}))
	edges := 0
	p.Every, p.Edge = 100*time.Millisecond, func() error { edges++; return nil }
	r, err := Run(t.Context(), p)
	if err != nil || len(r.Intervals) != 3 || edges != 3 {
		t.Fatalf("%v, %d intervals, %d edges", err, len(r.Intervals), edges)
	}
	var sum int64
	for _, i := range r.Intervals {
		if i.Latency.TotalCount() == 0 {
			t.Error("an interval without calls")
		}
		sum += i.Latency.TotalCount()
	}
	if total := r.Latency.TotalCount(); sum > total || sum < total-2 {
		t.Errorf("%d in intervals, %d in all", sum, total)
	}
}

func TestStreamIsTimed(t *testing.T) {
	address := served(t, func(w http.ResponseWriter, _ *http.Request) {
		out := http.NewResponseController(w)
		for range 4 {
			time.Sleep(10 * time.Millisecond)
			fmt.Fprint(w, "data: x\n\n")
			_ = out.Flush()
		}
	})
	r, err := Run(t.Context(), plan(address, 1, get(address, Want{Status: 200, Events: 4})))
	if err != nil || r.Errors != 0 {
		t.Fatalf("%v, %v", err, r.FirstErr)
	}
	for name, h := range map[string]*Latencies{"first byte": r.FirstByte, "gap": r.Gap} {
		if p50 := h.ValueAtQuantile(50); p50 < 9000 || p50 > 30_000 {
			t.Errorf("%s: %d µs, want about 10 ms", name, p50)
		}
	}
	if gaps, answers := r.Gap.TotalCount(), r.FirstByte.TotalCount(); gaps < 3*(answers-1) {
		t.Errorf("%d gaps in %d answers of 4 events", gaps, answers)
	}
}

func TestWrongAnswersAreErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		want Want
		err  string // "" for none
	}{
		"as wanted":    {Want{Status: 200, Size: 6, Header: "X-There", Text: "nswe"}, ""},
		"any size":     {Want{Status: 200, Size: AnySize}, ""},
		"status":       {Want{Status: 401, Size: 6}, "status 200: answer"},
		"size":         {Want{Status: 200, Size: 7}, "6 bytes, want 7"},
		"header":       {Want{Status: 200, Size: 6, Header: "X-Gone"}, "without X-Gone"},
		"text":         {Want{Status: 200, Text: "TOKEN_EXPIRED"}, "does not say TOKEN_EXPIRED"},
		"no stream":    {Want{Status: 200, Events: AnyEvents}, "without events"},
		"fewer events": {Want{Status: 200, Events: 2}, "without events"},
	} {
		t.Run(name, func(t *testing.T) {
			address := served(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-There", "yes")
				_, _ = w.Write([]byte("answer"))
			})
			c := &connection{way: Way{Address: address}, run: &run{}}
			defer c.close()
			_, err := c.call(context.Background(), get(address, tc.want))
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%v, want %q", err, tc.err)
			}
		})
	}
}

func TestBodyIsSentWhole(t *testing.T) {
	for _, fill := range []int64{0, 1, 63 << 10, 1<<20 + 7} {
		b := Body{Before: []byte("<"), Block: []byte("0123456789"), Fill: fill, After: []byte(">")}
		var got atomic.Int64
		address := served(t, func(_ http.ResponseWriter, r *http.Request) {
			raw := make([]byte, b.Size()+1)
			n := 0
			for {
				m, err := r.Body.Read(raw[n:])
				if n += m; err != nil {
					break
				}
			}
			if raw[0] == '<' && raw[n-1] == '>' {
				got.Store(int64(n))
			}
		})
		call := Prepare("x", http.MethodPost, address, "/", http.Header{}, b, Want{})
		if _, err := Once(t.Context(), Way{Address: address}, call); err != nil || got.Load() != b.Size() {
			t.Errorf("fill %d: %d of %d bytes, %v", fill, got.Load(), b.Size(), err)
		}
	}
}
