package role

import (
	"net/http"
	"net/http/pprof"
	"runtime"
)

// mutexFraction is how many contended locks there are for each that a mutex profile notes, while one is taken.
const mutexFraction = 100

// withProfiles adds Go's profiles below /debug/pprof/ to a handler. Nothing is recorded while nobody asks.
func withProfiles(h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", h)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.Handle("GET /debug/pprof/heap", pprof.Handler("heap"))
	mux.Handle("GET /debug/pprof/goroutine", pprof.Handler("goroutine"))
	mux.HandleFunc("GET /debug/pprof/mutex", func(w http.ResponseWriter, r *http.Request) {
		before := runtime.SetMutexProfileFraction(mutexFraction)
		defer runtime.SetMutexProfileFraction(before)
		pprof.Handler("mutex").ServeHTTP(w, r)
	})
	return mux
}
