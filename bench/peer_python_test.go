package main

import (
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// needPython skips unless these peers were asked for: to install them takes minutes, and to start them half a minute.
func needPython(t *testing.T) {
	t.Helper()
	if os.Getenv("BENCH_PEERS") == "" {
		t.Skip("BENCH_PEERS=1 installs and tests the peers in Python")
	}
}

// TestMitmproxy spoils the addon in one place at a time, as a reverse proxy and as one that clients are told to use.
func TestMitmproxy(t *testing.T) {
	needPython(t)
	spoiled := map[string]spoil{
		"as it is":            {"", "", ""},
		"everyone may":        {"if claims is None:", "if False:", "without a token: is answered with 500"},
		"no signature":        {"KEY.verify(", "(lambda *_: None)(", "somebody else has signed: is answered with 200"},
		"any role":            {`claims.get("role") != WANTED["role"] or `, "", "another role: is answered with 200"},
		"any model":           {`in WANTED["models"]`, `!= ""`, "another model: is answered with 200"},
		"the token passes on": {`flow.request.headers["Authorization"] =`, "_ =", `"credential" went up by 0`},
		"the token leaks":     {"self.swapped += 1", "self.swapped += 1\n        flow.request.headers['X-Was'] = token", "arrives as X-Was"},
	}
	forward := maps.Clone(spoiled)
	maps.Copy(forward, map[string]spoil{
		"everyone may": {"if claims_of(token) is None:", "if False:", "without a token: is answered with 401"},
		"any host":     {`!= WANTED["authority"]:` + "\n            flow", `== "":` + "\n            flow", "another host: is answered with 421"},
	})
	for name, all := range map[string]map[string]spoil{mitmproxyName: spoiled, mitmproxyForwardName: forward} {
		e := testEnvironment(t)
		for spoilt, c := range all {
			t.Run(name+"/"+spoilt, func(t *testing.T) {
				p, err := startMitmproxy(t.Context(), e, name, c.apply(t, mitmproxyAddon))
				c.holds(t, p, err)
			})
		}
	}
}

// TestLitellm starts it once as it is, and once with a list of models that is wrong in two ways.
func TestLitellm(t *testing.T) {
	needPython(t)
	e := testEnvironment(t)
	t.Run("as it is", func(t *testing.T) {
		p, err := newLitellm(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Stop)
		if err := p.Check(t.Context()); err != nil {
			t.Errorf("Check: %v", err)
		}
		if pids := p.Groups()[litellmName]; len(pids) < 3 {
			t.Errorf("%d processes, want the first and its workers", len(pids))
		}
		verifiesOnlyWhatItSaw(t, p)
	})
	t.Run("another credential, any model", func(t *testing.T) {
		w, err := startWitness(nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := startLitellm(t.Context(), e, w, []litellmModel{
			litellmAt("*", e.upstream.address, "something-else"), litellmAt(allowedModel, e.upstream.address, "something-else"),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Stop)
		if err := p.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "another model: is answered with 200") {
			t.Errorf("Check: %v", err)
		}
		p.refused = nil
		if err := p.Check(t.Context()); err == nil || !strings.Contains(err.Error(), `"credential" went up by 0`) {
			t.Errorf("Check of the allowed call alone: %v", err)
		}
	})
}

// TestFamily: a shell with a child and a grandchild are three.
func TestFamily(t *testing.T) {
	cmd := exec.Command("sh", "-c", `sh -c 'sleep 60 & echo; wait' & wait`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // all have started
		t.Fatal(err)
	}
	all, err := family(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range slices.Backward(all) {
		p, err := os.FindProcess(pid)
		if err == nil {
			err = p.Kill()
		}
		if err != nil {
			t.Error(err)
		}
	}
	_ = cmd.Wait() // it was killed
	if len(all) != 3 || all[0] != cmd.Process.Pid {
		t.Errorf("the family is %v", all)
	}
}

func TestParentOf(t *testing.T) {
	for stat, want := range map[string]int{
		"12 (sh) S 7 12 12 0":    7,
		"12 (a) S 9 (b c) R 8 1": 8,
		"12 (sh":                 0, "": 0, "12 (sh) S": 0, "12 (sh) S x": 0,
	} {
		if got, ok := parentOf(stat); got != want || ok != (want != 0) {
			t.Errorf("parentOf(%q) is %d, %v", stat, got, ok)
		}
	}
}

// TestPinned: what is measured is one version, which the report names.
func TestPinned(t *testing.T) {
	for name, requirements := range map[string]string{"mitmproxy": mitmproxyRequirements, "litellm[proxy]": litellmRequirements} {
		if pinned(requirements, name) == "" {
			t.Errorf("%s has no version", name)
		}
		for line := range strings.Lines(requirements) {
			line = strings.TrimSpace(line)
			if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "--") && strings.Count(line, "==") != 1 {
				t.Errorf("%s: %q is not one version", name, line)
			}
		}
	}
	e := &environment{root: "root"}
	if e.pythonDir("a", "x==1") == e.pythonDir("a", "x==2") {
		t.Error("another version is installed into the same place")
	}
}

// TestSlowPeersAreNotByDefault: to install them takes minutes, so they run only where they are asked for.
func TestSlowPeersAreNotByDefault(t *testing.T) {
	for _, name := range []string{litellmName, mitmproxyName, mitmproxyForwardName} {
		if slices.Contains(peerNames, name) {
			t.Errorf("%s is measured by default", name)
		}
		if registry[name] == nil {
			t.Errorf("%s cannot be measured", name)
		}
	}
}
