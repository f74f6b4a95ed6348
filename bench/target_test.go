package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/bench/report"
	"sallyport/bench/workload"
)

// fakeDeployment is a gateway and its control API, as far as a load test sees them. With refuse false it lets everything pass.
func fakeDeployment(t *testing.T, refuse bool) []string {
	t.Helper()
	control := http.NewServeMux()
	control.HandleFunc("POST /v1/tokens/issue", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Contract string `json:"policy_hash_b64u"`
		}
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.Contract != "the-contract" || r.Header.Get("Authorization") != "Bearer the-admin" {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		_, _ = w.Write([]byte(`{"token":"issued"}`))
	})
	gate := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch auth := r.Header.Get("Authorization"); {
		case !strings.HasPrefix(r.URL.Path, "/openai/v1/"):
			http.NotFound(w, r)
		case refuse && auth != "Bearer issued":
			http.Error(w, `{"error":{"code":"CREDENTIAL_NOT_BROKERED"}}`, http.StatusUnauthorized)
		default:
			w.Header().Set(receiptHeader, "r")
			_, _ = w.Write([]byte(`{"of":"another length"}`))
		}
	})
	c, g := httptest.NewServer(control), httptest.NewServer(gate)
	t.Cleanup(c.Close)
	t.Cleanup(g.Close)
	key := filepath.Join(t.TempDir(), "admin")
	if err := os.WriteFile(key, []byte("the-admin\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--target", g.URL + "/openai", "--control", c.URL, "--admin-token-file", key, "--contract", "the-contract"}
}

func TestTarget(t *testing.T) {
	args := append(fakeDeployment(t, true), "--workloads", "chat,refused-garbage", "--rounds", "1", "--seconds", "0.2", "--connections", "2")
	r, table := measured(t, args...)
	if len(r.Cells) != 2 || r.Cells[1].Workload != workload.RefusedGarbage {
		t.Fatalf("%+v", r.Cells)
	}
	for _, c := range r.Cells {
		if _, ok := c.CPU[report.GroupClient]; c.Requests == 0 || c.Errors != 0 || !ok {
			t.Errorf("%+v", c)
		}
	}
	if strings.Contains(table, "the-admin") {
		t.Error("the table shows the administrator's key")
	}
}

func TestTargetThatRefusesNobodyIsNotMeasured(t *testing.T) {
	args := append(fakeDeployment(t, false), "--out", t.TempDir())
	if err := run(t.Context(), args, os.Stderr, os.Stderr); err == nil || !strings.Contains(err.Error(), "is that the gateway?") {
		t.Errorf("%v", err)
	}
}
