package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sallyport/bench/report"
	"sallyport/bench/workload"
	"sallyport/envoy"
)

// TestMain lets the test binary stand in for the program when it starts itself in one of its roles.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == roleArgument {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// needEnvoy skips without an Envoy, except in CI, where nothing is skipped.
func needEnvoy(t *testing.T) {
	t.Helper()
	root, err := repository()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := envoy.Find(filepath.Join(root, ".tools")); errors.Is(err, envoy.ErrNotFound) && os.Getenv("CI") != "true" {
		t.Skipf("the comparison needs an Envoy: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
}

// measured runs a scenario as a person would and reads the report it leaves.
func measured(t *testing.T, args ...string) (*report.Report, string) {
	t.Helper()
	dir := t.TempDir()
	var out, log bytes.Buffer
	if err := run(t.Context(), append(args, "--out", dir), &out, &log); err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	raw, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r report.Report
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"table.md", "report.svg"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	return &r, out.String()
}

// TestSmoke compares the ways without Sallyport.
func TestSmoke(t *testing.T) {
	needEnvoy(t)
	r, table := measured(t, "--workloads", "chat", "--rounds", "2", "--seconds", "0.3", "--connections", "1,4", "--peers", "direct,envoy,noop-headers,noop-bodies")
	if len(r.Cells) != 16 || len(r.Summary) != 8 {
		t.Fatalf("%d cells and %d summaries, want 16 and 8", len(r.Cells), len(r.Summary))
	}
	groups := map[string]string{
		"direct": "client upstream", "envoy": "client envoy upstream",
		"noop-headers": "client envoy processor upstream", "noop-bodies": "client envoy processor upstream",
	}
	for _, c := range r.Cells {
		if c.Requests == 0 || c.Errors != 0 || c.Latency.P50 <= 0 || c.Latency.P99 < c.Latency.P50 {
			t.Errorf("no figures: %+v", c)
		}
		for g := range strings.FieldsSeq(groups[c.Peer]) {
			if _, ok := c.CPU[g]; !ok || c.Memory[g].Peak <= 0 {
				t.Errorf("%s: no CPU time or memory of %s in %v, %v", c.Peer, g, c.CPU, c.Memory)
			}
		}
	}
	for _, s := range r.Summary {
		if s.Peer == baseline && s.Ratios[report.RequestsPerSecond] != (report.Spread{Median: 1, Min: 1, Max: 1}) {
			t.Errorf("the baseline's ratio to itself is %v", s.Ratios[report.RequestsPerSecond])
		}
		if !strings.Contains(table, s.Peer) {
			t.Errorf("the table does not show %s:\n%s", s.Peer, table)
		}
	}
}

// TestChecksRefuseImpostors puts something else in the place of what a peer says it is.
func TestChecksRefuseImpostors(t *testing.T) {
	needEnvoy(t)
	ctx := t.Context()
	dir, err := os.MkdirTemp("", "spbench")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	e, err := newEnvironment(ctx, options{scenario: defaultScenario()}, dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.stop)
	p, err := newNoop(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	real, ok := p.(*noop)
	if !ok {
		t.Fatalf("newNoop makes a %T", p)
	}
	if err := real.Check(ctx); err != nil {
		t.Fatalf("the real one is refused: %v", err)
	}
	if err := real.Verify(ctx, 2); err == nil {
		t.Error("one call was made, and two are verified")
	}

	t.Run("noop without a processor", func(t *testing.T) {
		bare := *real
		bare.envoy = &staticEnvoy{process: real.envoy.process, address: e.upstream.address}
		if err := bare.Check(ctx); err == nil || !strings.Contains(err.Error(), "the processor has seen") {
			t.Errorf("Check: %v", err)
		}
	})
	t.Run("direct to an upstream that counts nothing", func(t *testing.T) {
		other, err := startUpstream(ctx, dir, "other")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(other.stop)
		if err := e.expectForwarded(ctx, same(other.address, 1)); err == nil || !strings.Contains(err.Error(), "went up by 0") {
			t.Errorf("expectForwarded: %v", err)
		}
	})
	t.Run("sallyport that lets everything pass", func(t *testing.T) {
		open := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(workload.Answer) }))
		t.Cleanup(open.Close)
		s := &sallyport{e: e, gateway: open.Listener.Addr().String()}
		if err := s.refuses(ctx, s.target(nil), "TOKEN_REQUIRED"); err == nil || !strings.Contains(err.Error(), "answered with 200") {
			t.Errorf("refuses: %v", err)
		}
	})
	t.Run("answers without the receipt", func(t *testing.T) {
		target := same(e.upstream.address, 1)
		target.Answer = receiptHeader
		if err := e.expectForwarded(ctx, target); err == nil || !strings.Contains(err.Error(), receiptHeader) {
			t.Errorf("expectForwarded: %v", err)
		}
	})
}
