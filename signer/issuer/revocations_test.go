package issuer

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const policyHash = "Dz1r1UbKtJq3--RwaKBG5zeSnloNEBE6oZ5ba3-sJgc"

var quiet = slog.New(slog.DiscardHandler)

func hashOf(digit string) string { return strings.Repeat(digit, 64) }

func openRevocations(t *testing.T, dir string) *Revocations {
	t.Helper()
	r, err := OpenRevocations(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func TestRevocationsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	r := openRevocations(t, dir)
	revs := []Revocation{
		{Kind: KindToken, Value: hashOf("a"), RevokedAt: 1_700_000_000, Reason: "leaked", RevokedBy: "admin"},
		{Kind: KindMission, Value: "job 7", RevokedAt: 1_700_000_001, RevokedBy: "admin"},
		{Kind: KindPolicy, Value: policyHash, RevokedAt: 1_700_000_002, RevokedBy: "admin"},
	}
	for _, rev := range revs {
		if stands, already, err := r.Revoke(rev); err != nil || already || stands != rev {
			t.Fatalf("%+v: %+v %v %v", rev, stands, already, err)
		}
	}
	later := revs[0]
	later.RevokedAt, later.Reason = 1_700_009_999, "again"
	check := func(r *Revocations) {
		t.Helper()
		if stands, already, err := r.Revoke(later); err != nil || !already || stands != revs[0] {
			t.Errorf("again: %+v %v %v, want the first one", stands, already, err)
		}
		for _, rev := range revs {
			if got, ok := r.Lookup(rev.Kind, rev.Value); !ok || got != rev {
				t.Errorf("lookup %+v: %+v %v", rev, got, ok)
			}
			if got := r.InForce(rev.Kind, time.Unix(1_700_000_100, 0)); !slices.Equal(got, []string{rev.Value}) {
				t.Errorf("in force %v: %v", rev.Kind, got)
			}
		}
	}
	check(r)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Revoke(Revocation{Kind: KindMission, Value: "m", RevokedAt: 1}); !errors.Is(err, ErrJournal) {
		t.Errorf("after close: %v, want ErrJournal", err)
	}
	if _, ok := r.Lookup(KindMission, "m"); ok {
		t.Error("what could not be kept is in force")
	}
	check(openRevocations(t, dir))
}

func TestRevocationsOfTokensEnd(t *testing.T) {
	r := openRevocations(t, t.TempDir())
	at := time.Unix(1_700_000_000, 0)
	for _, rev := range []Revocation{
		{Kind: KindToken, Value: hashOf("a"), RevokedAt: at.Unix()}, {Kind: KindMission, Value: "m", RevokedAt: at.Unix()},
	} {
		if _, _, err := r.Revoke(rev); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.InForce(KindToken, at.Add(TokenRevocationTTL)); len(got) != 1 {
		t.Errorf("at the end of its time: %v, want it in force", got)
	}
	late := at.Add(TokenRevocationTTL + time.Second)
	if got := r.InForce(KindToken, late); len(got) != 0 {
		t.Errorf("after its time: %v", got)
	}
	if got := r.InForce(KindMission, late); len(got) != 1 {
		t.Errorf("a job: %v, want it withdrawn for good", got)
	}
}

func TestRevocationsRefuseADamagedFile(t *testing.T) {
	good := `{"kind":"mission","value":"m","revoked_at":1,"revoked_by":"admin"}`
	for name, line := range map[string]string{
		"no JSON":            `{"kind":`,
		"an empty line":      ``,
		"an unknown member":  `{"kind":"mission","value":"m","revoked_at":1,"revoked_by":"admin","x":1}`,
		"a duplicate member": `{"kind":"mission","kind":"token","value":"m","revoked_at":1,"revoked_by":"admin"}`,
		"an unknown kind":    `{"kind":"did","value":"m","revoked_at":1,"revoked_by":"admin"}`,
		"no value":           `{"kind":"mission","revoked_at":1,"revoked_by":"admin"}`,
		"no token hash":      `{"kind":"token","value":"m","revoked_at":1,"revoked_by":"admin"}`,
		"no policy hash":     `{"kind":"policy","value":"m","revoked_at":1,"revoked_by":"admin"}`,
		"no time":            `{"kind":"mission","value":"m","revoked_by":"admin"}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			text := good + "\n" + line + "\n" + good + "\n"
			if err := os.WriteFile(filepath.Join(dir, "revocations.jsonl"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if r, err := OpenRevocations(dir, quiet); err == nil {
				_ = r.Close()
				t.Error("it was read")
			} else if !strings.Contains(err.Error(), "line 2") {
				t.Errorf("%v, want it to name line 2", err)
			}
		})
	}
}

func TestRevocationsTornTail(t *testing.T) {
	dir := t.TempDir()
	text := `{"kind":"mission","value":"m","revoked_at":1,"revoked_by":"admin"}` + "\n" + `{"kind":"mission","val`
	if err := os.WriteFile(filepath.Join(dir, "revocations.jsonl"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	r, err := OpenRevocations(dir, slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if got := r.InForce(KindMission, time.Unix(2, 0)); !slices.Equal(got, []string{"m"}) {
		t.Errorf("in force: %v", got)
	}
	if !strings.Contains(logged.String(), "cut off") {
		t.Errorf("nothing is said about it: %s", logged.String())
	}
}

func TestRevocationEvents(t *testing.T) {
	r := openRevocations(t, t.TempDir())
	for i := range 7 {
		if _, _, err := r.Revoke(Revocation{Kind: KindToken, Value: hashOf(fmt.Sprint(i)), RevokedAt: int64(1_700_000_000 + i)}); err != nil {
			t.Fatal(err)
		}
	}
	var order []int64
	cursor := ""
	for pages := 1; ; pages++ {
		page, complete := r.Events(cursor, 3)
		for _, e := range page {
			order = append(order, e.Record.RevokedAt-1_700_000_000)
			cursor = e.Key
		}
		if complete {
			if pages != 3 {
				t.Errorf("%d pages, want 3", pages)
			}
			break
		}
	}
	if !slices.Equal(order, []int64{6, 5, 4, 3, 2, 1, 0}) {
		t.Errorf("order %v, want the newest first and each once", order)
	}
	// WIRE 3.3: zero-padded 9999999999 - revoked_at.
	rev := Revocation{Kind: KindToken, Value: hashOf("a"), RevokedAt: 1_700_000_000}
	if got, want := rev.EventKey(), "events:revocations:8299999999:"+hashOf("a"); got != want {
		t.Errorf("key %s, want %s", got, want)
	}
}
