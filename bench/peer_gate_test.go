package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"sallyport/bench/workload"
)

// testEnvironment is an upstream and a short directory; both go when the test ends.
func testEnvironment(t *testing.T) *environment {
	t.Helper()
	dir, err := os.MkdirTemp("", "spbench")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	e, err := newEnvironment(t.Context(), options{}, dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.stop)
	return e
}

// standIn is a gate of a few lines, to leave things out of.
type standIn struct {
	tokens                                     roleTokens
	upstream                                   string
	anyone, anySignature, anyRole, anyModel    bool
	unswapped, leaksHeader, leaksBody, doubled bool
	rewrites, shortens                         bool
}

func (s standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	body, _ := io.ReadAll(r.Body) // the probe sees a short answer
	switch {
	case !s.anyone && token == "", !s.anySignature && token == s.tokens.forged:
		http.Error(w, "who are you", http.StatusUnauthorized)
		return
	case !s.anyRole && token == s.tokens.other, !s.anyModel && !bytes.Contains(body, []byte(`"`+allowedModel+`"`)):
		http.Error(w, "not you", http.StatusForbidden)
		return
	}
	out := body
	if s.leaksBody {
		out = append(bytes.Clone(body), token...)
	}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, "http://"+s.upstream+r.URL.Path, bytes.NewReader(out))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	req.Header.Set("Authorization", "Bearer "+credential)
	if s.unswapped {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if s.doubled {
		req.Header.Add("Authorization", "Bearer "+token)
	}
	if s.leaksHeader {
		req.Header.Set("X-Forwarded-Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	got, _ := io.ReadAll(resp.Body)
	if s.rewrites {
		got = append([]byte(`{"model":"gpt-4o-mini",`), bytes.Replace(got[1:], []byte(`"model":"gpt-4o-mini",`), nil, 1)...)
	}
	if s.shortens {
		got = bytes.Replace(got, []byte("aaa"), []byte("a"), 1)
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(got)
}

// TestGateCheck: the check that peers share takes a gate that does its job, and none that leaves a part of it out.
func TestGateCheck(t *testing.T) {
	e := testEnvironment(t)
	maker, err := newTokenMaker()
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := maker.roleTokens()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		gate standIn
		want string // of the error, "" for none
	}{
		"all of it":              {standIn{}, ""},
		"writes JSON anew":       {standIn{rewrites: true}, ""},
		"lets everyone in":       {standIn{anyone: true}, "no token: is answered with 200"},
		"checks no signature":    {standIn{anySignature: true}, "forged: is answered with 200"},
		"checks no role":         {standIn{anyRole: true}, "role: is answered with 200"},
		"checks no model":        {standIn{anyModel: true}, "model: is answered with 200"},
		"passes the token on":    {standIn{unswapped: true}, `"credential" went up by 0`},
		"changes the answer":     {standIn{shortens: true}, "not with what the upstream says"},
		"refuses for another":    {standIn{tokens: roleTokens{other: tokens.forged, forged: tokens.other}}, "forged: is answered with 403"},
		"refuses what it should": {standIn{tokens: roleTokens{forged: tokens.good, other: tokens.other}, anySignature: false}, "forged: is answered with 200"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.gate.tokens == (roleTokens{}) {
				c.gate.tokens = tokens
			}
			c.gate.upstream = e.upstream.address
			server := httptest.NewServer(c.gate)
			t.Cleanup(server.Close)
			g := gate{e: e, address: server.Listener.Addr().String(), token: tokens.good, rewritten: c.gate.rewrites, refused: []probe{
				{name: "no token", statuses: []int{401}},
				{name: "forged", token: tokens.forged, statuses: []int{401}},
				{name: "role", token: tokens.other, statuses: []int{403}},
				{name: "model", token: tokens.good, model: otherModel, statuses: []int{403}},
			}}
			err := g.check(t.Context())
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("check: %v, want %q", err, c.want)
			}
			if c.want != "" {
				return
			}
			if err := g.Verify(t.Context(), 1); err != nil {
				t.Errorf("verify: %v", err)
			}
		})
	}
}

// TestWitness: what arrives beside the credential is seen.
func TestWitness(t *testing.T) {
	w, err := startWitness(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.stop)
	for name, c := range map[string]struct {
		gate standIn
		want string
	}{
		"swaps":                {standIn{}, ""},
		"passes the token on":  {standIn{unswapped: true}, "not the credential alone"},
		"adds to the token":    {standIn{doubled: true}, "not the credential alone"},
		"leaks it in a header": {standIn{leaksHeader: true}, "arrives as X-Forwarded-Authorization"},
		"leaks it in the body": {standIn{leaksBody: true}, "arrives in the body"},
		"refuses":              {standIn{tokens: roleTokens{forged: stockToken}}, "has seen 0 calls"},
	} {
		t.Run(name, func(t *testing.T) {
			c.gate.upstream = w.address
			server := httptest.NewServer(c.gate)
			t.Cleanup(server.Close)
			g := gate{address: server.Listener.Addr().String(), token: stockToken}
			err := w.expectSwapped(t.Context(), &g, g.address, "")
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("expectSwapped: %v, want %q", err, c.want)
			}
		})
	}
}

// TestTokens: all carry headers of about one size, and no two tokens are the same.
func TestTokens(t *testing.T) {
	maker, err := newTokenMaker()
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := maker.roleTokens()
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{tokens.good, tokens.other, tokens.forged} {
		if d := len(token) - len(stockToken); d < 0 || d > 2 {
			t.Errorf("a token of %d bytes beside one of %d", len(token), len(stockToken))
		}
	}
	if tokens.good == tokens.forged || tokens.good == tokens.other {
		t.Error("a token that must be refused is the good one")
	}
	if len(otherModel) != len(allowedModel) || workload.Model != allowedModel {
		t.Error("the models are not of one length, or the prompt asks for another")
	}
}

// TestEnvoyNative spoils the configuration in one place at a time.
func TestEnvoyNative(t *testing.T) {
	needEnvoy(t)
	e := testEnvironment(t)
	spoiled := map[string]spoil{
		"as it is":              {"", "", ""},
		"no rule for the token": {"requires: {provider_name: bench}", "", "without a token: is answered with 403"},
		"a token is optional":   {"requires: {provider_name: bench}", "requires: {allow_missing: {}}", "without a token: is answered with 403"},
		"roles only watched":    {"action: ALLOW", "action: LOG", "another role: is answered with 200"},
		"any role":              {"value: {string_match: {exact: {{json .Role}}}}", `value: {present_match: true}`, "another role: is answered with 200"},
		"another path only":     {"exact: {{json .Path}}", `exact: "/"`, "an allowed call"},
		"another credential":    {"inline_string: {{json .Credential}}", `inline_string: "Bearer something-else"`, `"credential" went up by 0`},
	}
	for name, c := range spoiled {
		t.Run(name, func(t *testing.T) {
			p, err := startEnvoyNative(t.Context(), e, c.apply(t, envoyNativeConfig))
			c.holds(t, p, err)
		})
	}
}

// spoil is one change to a peer's configuration, and what the peer's check must say then; "" for nothing.
type spoil struct{ cut, paste, want string }

func (c spoil) apply(t *testing.T, config string) string {
	t.Helper()
	changed := strings.Replace(config, c.cut, c.paste, 1)
	if c.cut != "" && changed == config {
		t.Fatalf("%q is not in the configuration", c.cut)
	}
	return changed
}

// holds checks a peer that was started with the change.
func (c spoil) holds(t *testing.T, p peer, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	err = p.Check(t.Context())
	if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
		t.Errorf("Check: %v, want %q", err, c.want)
	}
	if c.want == "" {
		verifiesOnlyWhatItSaw(t, p)
	}
}

// verifiesOnlyWhatItSaw: a check makes at least one good call and far fewer than a million.
func verifiesOnlyWhatItSaw(t *testing.T, p peer) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	if err := p.Verify(ctx, 1); err != nil {
		t.Errorf("Verify: %v", err)
	}
	if err := p.Verify(ctx, 1e6); err == nil {
		t.Error("a million calls are verified")
	}
}
