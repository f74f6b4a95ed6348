package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sallyport/bench/scenario"
	"sallyport/bench/workload"
)

func TestOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		args string
		want string // in the error, "" for none
	}{
		"none":                 {"", ""},
		"all":                  {"--rounds 1 --seconds 0.5 --connections 1,2 --evidence strict --peers noop-bodies,direct --out d", ""},
		"own workloads":        {"--workloads chat,stream-5,prompt-1KiB --rate 10", ""},
		"no time":              {"--seconds -1", "more than 0"},
		"connections text":     {"--connections 1,x", "no number"},
		"no connections":       {"--connections 0", "between"},
		"too many":             {"--connections 1001", "between"},
		"unknown evidence":     {"--evidence none", "strict, sealed or async"},
		"unknown peer":         {"--peers nginx", "not one of"},
		"peer on request":      {"--peers direct,litellm", ""},
		"peer twice":           {"--peers direct,direct", "twice"},
		"unknown workload":     {"--workloads mcp", "no such workload"},
		"rate of what":         {"--rate 5", "--workloads"},
		"argument":             {"now", "unexpected"},
		"file and workloads":   {"--scenario scenarios/example.yaml --workloads chat", "edit the file"},
		"no such file":         {"--scenario none.yaml", "no such file"},
		"target alone":         {"--target http://127.0.0.1:1/openai", "--contract"},
		"control alone":        {"--control http://127.0.0.1:1", "--target"},
		"target is no URL":     {"--target 127.0.0.1 --control c --admin-token-file f --contract h", "no base URL"},
		"target":               {"--target https://127.0.0.1/openai --control c --admin-token-file f --contract h", ""},
		"target has one peer":  {"--target http://127.0.0.1:1 --control c --admin-token-file f --contract h --peers direct", "not one of target"},
		"target and profile":   {"--target http://127.0.0.1:1 --control c --admin-token-file f --contract h --profile", "--profile"},
		"ready file and more":  {"--ready-file r --target http://127.0.0.1:1", "remove --target"},
		"ready file not there": {"--ready-file none.json", "no such file"},
		"startups":             {"--startups 5 --peers direct,sallyport-forward", ""},
		"startups of what":     {"--startups 5", "startups: programs are started at sallyport-forward"},
		"other baseline":       {"--scenario scenarios/forward.yaml --startups 1 --peers noop-bodies,sallyport-forward", ""},
		"several problems":     {"--evidence none --peers nginx", "evidence"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseOptions(strings.Fields(tc.args), io.Discard)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

// TestScenariosOfThisFolderAreGood keeps the examples readable.
func TestScenariosOfThisFolderAreGood(t *testing.T) {
	files, err := filepath.Glob("scenarios/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		if _, err := parseOptions([]string{"--scenario", f}, io.Discard); err != nil {
			t.Error(err)
		}
	}
}

// TestSmokeHasEverything names each workload that there is, and each peer that needs no installation.
func TestSmokeHasEverything(t *testing.T) {
	s, err := scenario.Load("scenarios/smoke.yaml", allPeers(), peerNames)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(slices.Clone(peerNames), forwardName) {
		if !slices.Contains(s.Peers, name) {
			t.Errorf("no %s in %v", name, s.Peers)
		}
	}
	var all []string
	for _, p := range s.Parts {
		all = append(all, p.Workload)
	}
	for kind := range strings.SplitSeq(workload.Names, ", ") {
		kind = strings.TrimRight(kind, "NSIZE") // stream-N is there as stream-50
		if !slices.ContainsFunc(all, func(name string) bool { return strings.HasPrefix(name, kind) }) {
			t.Errorf("no %s in %v", kind, all)
		}
	}
}

func TestForgedTokenDiffersInItsSignatureOnly(t *testing.T) {
	const token = "eyJh.eyJz.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	got := forged(token)
	if got == token || len(got) != len(token) || !strings.HasPrefix(got, "eyJh.eyJz.") {
		t.Error(got)
	}
}

// TestEveryKindOfRefusalHasItsCode would else count any refusal as the right one.
func TestEveryKindOfRefusalHasItsCode(t *testing.T) {
	for _, name := range workload.Refused {
		if refusalCodes[name] == "" {
			t.Errorf("%s has none", name)
		}
	}
}

func TestProgressIsSilentOffATerminal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	newProgress(f).say("hello")
	if raw, err := os.ReadFile(f.Name()); err != nil || len(raw) > 0 {
		t.Errorf("%q, %v", raw, err)
	}
}
