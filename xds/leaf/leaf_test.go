package leaf_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/signer/ca"
	"sallyport/signer/issuer"
	"sallyport/signer/keyring"
	"sallyport/xds/leaf"
)

// authority signs in this process and counts. Its fault is returned in place of a leaf.
type authority struct {
	*ca.Authority
	signed atomic.Int32
	fault  atomic.Pointer[error]
	before func()
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a, _, err := ca.OpenOrCreate(ca.Config{Dir: filepath.Join(t.TempDir(), "ca"), Rate: 1e6, Burst: 1e6}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &authority{Authority: a}
}

func (a *authority) fail(err error) { a.fault.Store(&err) }

func (a *authority) Sign(_ context.Context, host string, der []byte) ([]byte, time.Time, error) {
	a.signed.Add(1)
	if a.before != nil {
		a.before()
	}
	if err := a.fault.Load(); err != nil && *err != nil {
		return nil, time.Time{}, *err
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, time.Time{}, err
	}
	return a.Authority.Sign(host, pub, time.Now())
}

func newCache(t *testing.T, c leaf.Config) *leaf.Cache {
	t.Helper()
	if c.Allowed == nil {
		c.Allowed = func(string) bool { return true }
	}
	cache, err := leaf.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return cache
}

func get(t *testing.T, c *leaf.Cache, host string) *leaf.Leaf {
	t.Helper()
	l, err := c.Leaf(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLeafIsMadeOnceAndServes(t *testing.T) {
	a := newAuthority(t)
	c := newCache(t, leaf.Config{Sign: a.Sign})
	l := get(t, c, "api.example.com")
	pair, err := tls.X509KeyPair(l.ChainPEM, l.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	if err := pair.Leaf.VerifyHostname("api.example.com"); err != nil {
		t.Error(err)
	}
	if again := get(t, c, "api.example.com"); again != l || a.signed.Load() != 1 {
		t.Errorf("signed %d times", a.signed.Load())
	}
}

func TestHostThatIsNotAllowedCostsNothing(t *testing.T) {
	a := newAuthority(t)
	var allowed atomic.Bool
	c := newCache(t, leaf.Config{Sign: a.Sign, Allowed: func(string) bool { return allowed.Load() }})
	refused := func(when string, signed int32) {
		t.Helper()
		if l, err := c.Leaf(t.Context(), "a.test"); !errors.Is(err, leaf.ErrNotAllowed) || l != nil {
			t.Errorf("%s: %v, %v", when, l, err)
		}
		if c.Len() != 0 || a.signed.Load() != signed {
			t.Errorf("%s: %d kept, %d signed", when, c.Len(), a.signed.Load())
		}
	}
	refused("before", 0)
	allowed.Store(true)
	get(t, c, "a.test")
	allowed.Store(false)
	refused("withdrawn", 1)
}

func TestOneFlightForEachHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		a.before = func() { time.Sleep(time.Second) }
		c := newCache(t, leaf.Config{Sign: a.Sign})
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := c.Leaf(impatient, "host0.test"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the one who leaves: %v", err)
			}
		})
		synctest.Wait() // its flight is the one that the others join
		for n := range 100 {
			all.Go(func() { get(t, c, fmt.Sprintf("host%d.test", n%2)) })
		}
		all.Wait()
		if got := a.signed.Load(); got != 2 {
			t.Errorf("two hosts took %d signatures", got)
		}
	})
}

func TestBounded(t *testing.T) {
	a := newAuthority(t)
	c := newCache(t, leaf.Config{Sign: a.Sign, Max: 8})
	first := get(t, c, "keep.test")
	for n := range 200 {
		get(t, c, fmt.Sprintf("h%d.test", n))
		if get(t, c, "keep.test") != first {
			t.Fatal("the leaf that is used most went")
		}
	}
	if c.Len() != 8 {
		t.Errorf("%d kept", c.Len())
	}
}

func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		c := newCache(t, leaf.Config{Sign: a.Sign})
		first := get(t, c, "a.test")
		time.Sleep(8*time.Hour - time.Minute)
		if get(t, c, "a.test") != first {
			t.Fatal("renewed before two thirds of its life")
		}
		time.Sleep(2 * time.Minute)
		down := errors.New("down")
		a.fail(down)
		for range 3 {
			if get(t, c, "a.test") != first {
				t.Fatal("a leaf that is still good is not given out while the signer is down")
			}
		}
		if got := a.signed.Load(); got != 2 {
			t.Errorf("%d tries at once, want one", got-1)
		}
		time.Sleep(6 * time.Second)
		a.fail(nil)
		second := get(t, c, "a.test")
		if second == first || !second.NotAfter.After(first.NotAfter) {
			t.Error("not renewed")
		}
		a.fail(down)
		time.Sleep(12*time.Hour - 30*time.Second)
		if l, err := c.Leaf(t.Context(), "a.test"); !errors.Is(err, down) {
			t.Errorf("a leaf that ends in half a minute: %v, %v", l, err)
		}
		a.fail(nil)
		get(t, c, "a.test") // the fault was not kept
	})
}

func TestAnswersOfNoUse(t *testing.T) {
	a := newAuthority(t)
	for name, sign := range map[string]func(context.Context, string, []byte) ([]byte, time.Time, error){
		"no PEM": func(context.Context, string, []byte) ([]byte, time.Time, error) {
			return []byte("x"), time.Now().Add(time.Hour), nil
		},
		"another host's": func(ctx context.Context, _ string, der []byte) ([]byte, time.Time, error) {
			return a.Sign(ctx, "b.test", der)
		},
		"ended": func(ctx context.Context, h string, der []byte) ([]byte, time.Time, error) {
			c, _, err := a.Sign(ctx, h, der)
			return c, time.Now(), err
		},
		"said to last longer": func(ctx context.Context, h string, der []byte) ([]byte, time.Time, error) {
			c, at, err := a.Sign(ctx, h, der)
			return c, at.Add(time.Hour), err
		},
	} {
		c := newCache(t, leaf.Config{Sign: sign})
		if l, err := c.Leaf(t.Context(), "a.test"); err == nil || c.Len() != 0 {
			t.Errorf("%s: %v, %v", name, l, err)
		}
	}
}

func TestConfigsThatAreRefused(t *testing.T) {
	_, err := leaf.New(leaf.Config{Max: -1})
	for _, want := range []string{"allowed", "signer", "negative"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

const adminKey = "not-a-real-key-not-a-real-key"

// The client and the issuer's own handler, over a Unix socket.
func TestSigner(t *testing.T) {
	dir := t.TempDir()
	a := newAuthority(t)
	ring, _, err := keyring.OpenOrCreate(filepath.Join(dir, "keys"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := issuer.NewAdminKey(adminKey)
	if err != nil {
		t.Fatal(err)
	}
	iss, err := issuer.New(issuer.Config{Ring: ring, Admin: admin, Dir: filepath.Join(dir, "issuer"), CA: a.Authority, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = iss.Close() })
	socket := onSocket(t, iss.Handler())
	s := leaf.NewSigner(socket, adminKey)
	t.Cleanup(s.Close)

	l := get(t, newCache(t, leaf.Config{Sign: s.Sign}), "api.example.com")
	text, err := s.Certificate(t.Context(), []string{"api.example.com"}, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		t.Fatalf("no certificate: %q", text)
	}
	block, _ := pem.Decode(l.ChainPEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: "api.example.com"}); err != nil {
		t.Error(err)
	}
	if _, err := s.Certificate(t.Context(), nil, nil); !errors.Is(err, leaf.ErrRefused) || !strings.Contains(err.Error(), "names none") {
		t.Errorf("a certificate for nothing: %v", err)
	}
	stranger := leaf.NewSigner(socket, "another-key-another-key-another")
	t.Cleanup(stranger.Close)
	if _, _, err := stranger.Sign(t.Context(), "a.test", nil); !errors.Is(err, leaf.ErrRefused) {
		t.Errorf("without the key: %v", err)
	}
	if _, _, err := leaf.NewSigner(filepath.Join(dir, "none.sock"), adminKey).Sign(t.Context(), "a.test", nil); !errors.Is(err, leaf.ErrSigner) {
		t.Errorf("without a signer: %v", err)
	}
}

func TestSignersFaults(t *testing.T) {
	for _, x := range []struct {
		name   string
		status int
		body   string
		want   error
	}{
		{"busy", 429, `{"error":"RATE_LIMITED","message":"wait"}`, leaf.ErrSigner},
		{"broken", 503, `{"error":"CA_UNAVAILABLE","message":"no"}`, leaf.ErrSigner},
		{"refused", 400, `{"error":"INVALID_REQUEST","message":"no"}`, leaf.ErrRefused},
		{"nonsense", 200, `nonsense`, leaf.ErrSigner},
	} {
		t.Run(x.name, func(t *testing.T) {
			socket := onSocket(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(x.status)
				_, _ = w.Write([]byte(x.body))
			}))
			s := leaf.NewSigner(socket, adminKey)
			t.Cleanup(s.Close)
			_, _, err := s.Sign(t.Context(), "a.test", nil)
			if !errors.Is(err, x.want) {
				t.Errorf("got %v", err)
			}
			var a struct{ Error string }
			if json.Unmarshal([]byte(x.body), &a) == nil && !strings.Contains(err.Error(), a.Error) {
				t.Errorf("%v does not say %s", err, a.Error)
			}
		})
	}
}

// onSocket serves h on a Unix socket, whose path must be short, until the test ends.
func onSocket(t *testing.T, h http.Handler) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	t.Cleanup(func() { _ = srv.Close() })
	go func() { _ = srv.Serve(l) }()
	return l.Addr().String()
}
