package role

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"

	"sallyport/compose/control"
)

func TestProfilesAreServedBesideTheStatus(t *testing.T) {
	h := withProfiles(control.NewStatus("x", "1").Handler())
	before := runtime.SetMutexProfileFraction(-1)
	for _, path := range []string{"/health", "/debug/pprof/heap", "/debug/pprof/goroutine", "/debug/pprof/mutex?seconds=1", "/debug/pprof/profile?seconds=1"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusOK || w.Body.Len() == 0 {
			t.Errorf("%s: %d, %d bytes", path, w.Code, w.Body.Len())
		}
		if path != "/health" && !bytes.HasPrefix(w.Body.Bytes(), []byte{0x1f, 0x8b}) {
			t.Errorf("%s is no profile: %.20q", path, w.Body.Bytes())
		}
	}
	if after := runtime.SetMutexProfileFraction(-1); after != before {
		t.Errorf("locks go on being noted: %d, before %d", after, before)
	}
}

// TestStatusAloneHasNoProfiles holds for the control API, which serves the status on a TCP port.
func TestStatusAloneHasNoProfiles(t *testing.T) {
	w := httptest.NewRecorder()
	control.NewStatus("x", "1").Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/debug/pprof/heap", nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("%d", w.Code)
	}
}
