package resolver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A real Envoy's c-ares takes the answers as they are meant: what is permitted is reached, what is not is refused at once
// and not for longer than Envoy is told to keep it.
func TestEnvoyAsks(t *testing.T) {
	bin := os.Getenv("ENVOY")
	if bin == "" || testing.Short() {
		t.Skip("needs Envoy; set ENVOY to its path")
	}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "reached") }))
	t.Cleanup(upstream.Close)
	_, port, err := net.SplitHostPort(upstream.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var moved atomic.Bool
	var lookups atomic.Int32 // of failing.test
	s := start(t, Config{
		TTL: time.Second,
		Lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
			switch {
			case host == "failing.test":
				lookups.Add(1)
				return nil, errors.New("server misbehaving")
			case host == "moving.test" && !moved.Load():
				return nil, &net.DNSError{Name: host, IsNotFound: true}
			}
			return addresses("127.0.0.1"), nil
		},
		Permitted: func(host string) []netip.Prefix {
			if host == "permitted.test" || host == "moving.test" {
				return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			}
			return nil
		},
	})
	door := startEnvoy(t, bin, s.Addr().Port())
	for _, x := range []struct {
		host   string
		status int
		within time.Duration
	}{
		{"permitted.test", 200, 2 * time.Second},
		{"private.test", 503, 2 * time.Second},
		{"private.test", 503, 2 * time.Second},
		{"failing.test", 503, 20 * time.Second}, // c-ares asks again
		// c-ares answers for localhost, and for what is in the machine's hosts file, without asking (Envoy 1.40). That is why
		// the gate refuses such names and the address filter looks at what was resolved; this shows that they must.
		{"localhost", 200, 2 * time.Second},
		{"moving.test", 503, 2 * time.Second},
	} {
		began := time.Now()
		status, body := through(t, door, x.host+":"+port)
		took := time.Since(began)
		t.Logf("%s: %d %s after %v", x.host, status, body, took)
		if status != x.status || took > x.within {
			t.Errorf("%s: %d %q after %v, want %d within %v", x.host, status, body, took, x.status, x.within)
		}
	}
	if asked := lookups.Load(); asked <= 2 { // one for A, one for AAAA
		t.Errorf("c-ares asked %d times for the name whose lookup failed; where it does not ask again, SERVFAIL would do for every name", asked)
	}
	moved.Store(true)
	began := time.Now()
	for status := 0; status != 200; status, _ = through(t, door, "moving.test:"+port) {
		if time.Since(began) > 15*time.Second {
			t.Fatal("Envoy keeps a refusal for longer than 15 s")
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Logf("a refusal was kept for %v", time.Since(began))
}

// through sends a request for a host through the door.
func through(t *testing.T, door, host string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+door+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// startEnvoy starts Envoy with the configuration in testdata and returns the address of its door.
func startEnvoy(t *testing.T, bin string, dns uint16) (door string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp") // its path must be short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cache := strings.ReplaceAll(read(t, "cache.json"), "DNSPORT", strconv.Itoa(int(dns)))
	config := strings.NewReplacer("CACHE", cache, "DIR", dir).Replace(read(t, "envoy.json"))
	path := filepath.Join(dir, "envoy.json")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-c", path, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log := &lockedBuffer{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("envoy's log:\n%s", log)
		}
	})
	admin := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "admin"))
	}}}
	t.Cleanup(admin.CloseIdleConnections)
	for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(50 * time.Millisecond) {
		if door = doorOf(admin); door != "" {
			return door
		}
	}
	t.Fatal("Envoy does not start")
	return ""
}

func doorOf(admin *http.Client) string {
	resp, err := admin.Get("http://admin/listeners?format=json")
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	var list struct {
		Statuses []struct {
			Local struct {
				Socket struct {
					Port int `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil || len(list.Statuses) == 0 {
		return ""
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(list.Statuses[0].Local.Socket.Port))
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
