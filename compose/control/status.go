package control

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// checkTimeout bounds one readiness check; a check that hangs is a check that fails.
const checkTimeout = 2 * time.Second

// Check says why a part cannot do its work now, or nil.
type Check func(context.Context) error

// Status is what one process says of itself: alive, ready and in figures.
type Status struct {
	Role     string
	Version  string
	Registry *prometheus.Registry

	mu     sync.Mutex
	checks map[string]Check
	told   map[string]Check // shown beside the checks; readiness does not depend on them
}

// NewStatus makes the status of a process, with the metrics that every process has.
func NewStatus(role, version string) *Status {
	s := &Status{Role: role, Version: version, Registry: prometheus.NewRegistry(), checks: map[string]Check{}, told: map[string]Check{}}
	s.Registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return s
}

// Add makes the process's readiness depend on a check.
func (s *Status) Add(name string, c Check) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks[name] = c
}

// Tell shows a check among the others without making the readiness depend on it: for what must be looked into while the
// process goes on doing its work.
func (s *Status) Tell(name string, c Check) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told[name] = c
}

// Readiness is the answer of /ready.
type Readiness struct {
	Ready  bool              `json:"ready"`
	Role   string            `json:"role"`
	Checks map[string]string `json:"checks"` // "ok" or what is wrong
}

// Readiness asks all checks at once.
func (s *Status) Readiness(ctx context.Context) Readiness {
	s.mu.Lock()
	names := make([]string, 0, len(s.checks)+len(s.told))
	checks := make([]Check, 0, len(s.checks)+len(s.told))
	for n, c := range s.checks {
		names, checks = append(names, n), append(checks, c)
	}
	counted := len(checks)
	for n, c := range s.told {
		names, checks = append(names, n), append(checks, c)
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	answers := make([]string, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() {
			answers[i] = "ok"
			if err := c(ctx); err != nil {
				answers[i] = err.Error()
			}
		})
	}
	wg.Wait()
	out := Readiness{Role: s.Role, Checks: map[string]string{}}
	for i, n := range names {
		out.Checks[n] = answers[i]
	}
	out.Ready = !slices.ContainsFunc(answers[:counted], func(a string) bool { return a != "ok" })
	return out
}

// Handler answers /health, /ready and /metrics.
func (s *Status) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok", "service": "sallyport", "role": s.Role, "version": s.Version})
	})
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		ready, status := s.Readiness(r.Context()), http.StatusOK
		if !ready.Ready {
			status = http.StatusServiceUnavailable
		}
		writeJSON(w, status, ready)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Registry, promhttp.HandlerOpts{}))
	return mux
}

// PeerReady is a check that asks another process for its readiness over its status socket; path is /ready.
func PeerReady(socket, path string) Check {
	client := UnixClient(socket, checkTimeout)
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://peer"+path, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return errUnreachable(err)
		}
		defer resp.Body.Close()
		return readinessError(resp)
	}
}
