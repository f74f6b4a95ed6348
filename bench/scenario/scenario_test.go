package scenario

import (
	"strings"
	"testing"
	"time"
)

var peers = []string{"direct", "sallyport"}

func TestDefaults(t *testing.T) {
	s, err := Parse("f.yaml", []byte("parts:\n- workload: chat\n- workload: stream-50\n  soak: 2m\n"), peers, peers)
	if err != nil {
		t.Fatal(err)
	}
	p := s.Parts[0]
	if s.Evidence != DefaultEvidence || p.Rounds != DefaultRounds || p.Seconds != DefaultSeconds || len(p.Peers) != 2 || len(p.Connections) != 1 || p.Every != 0 {
		t.Errorf("%+v", s)
	}
	if soak := s.Parts[1]; soak.Rounds != 1 || soak.Seconds != 120 || soak.Every != time.Minute {
		t.Errorf("%+v", soak)
	}
}

// TestProblemsNameTheLine has one mistake in each file.
func TestProblemsNameTheLine(t *testing.T) {
	for name, tc := range map[string]struct{ file, want string }{
		"empty":              {"", "f.yaml:1: the file is empty"},
		"no YAML":            {"parts:\n- workload: [\n", "f.yaml:"},
		"unknown field":      {"rouns: 3\nparts:\n- workload: chat\n", "f.yaml:1: there is no field rouns here; the fields of a scenario are title, rounds"},
		"unknown in part":    {"parts:\n- workload: chat\n  conections: [1]\n", "f.yaml:3: there is no field conections here; the fields of a part are workload, connections"},
		"wrong type":         {"parts:\n- workload: chat\n  rate: fast\n", "f.yaml:3: cannot unmarshal"},
		"field twice":        {"rounds: 1\nrounds: 2\nparts:\n- workload: chat\n", "already defined"},
		"second document":    {"parts:\n- workload: chat\n---\nparts: []\n", "a second document"},
		"nothing":            {"rounds: 1\n", "nothing to measure"},
		"rounds":             {"rounds: -1\nparts:\n- {workload: chat, rounds: 1}\n", "f.yaml:1: rounds: -1 rounds"},
		"evidence":           {"evidence: none\nparts:\n- workload: chat\n", `f.yaml:1: evidence: "none"; give strict`},
		"peer":               {"peers: [nginx]\nparts:\n- workload: chat\n  peers: [direct]\n", `"nginx" is not one of direct, sallyport`},
		"peer of part":       {"peers: [direct]\nparts:\n- workload: chat\n  peers: [sallyport]\n", `f.yaml:4: parts[0].peers: "sallyport" is not one of direct`},
		"baseline":           {"baseline: sallyport\npeers: [direct]\nparts:\n- workload: chat\n", `f.yaml:1: baseline: "sallyport" is not one of direct`},
		"startups":           {"startups: -1\nparts:\n- workload: chat\n", "f.yaml:1: startups: give 0 to"},
		"no workload":        {"parts:\n- rate: 5\n", "f.yaml:2: parts[0].workload: it is missing; give one of chat"},
		"unknown workload":   {"parts:\n- workload: chat\n- workload: mcp\n", `f.yaml:3: parts[1].workload: "mcp": no such workload`},
		"connections":        {"parts:\n- workload: chat\n  connections: [1, 5000]\n", "f.yaml:3: parts[0].connections: 5000 is not between"},
		"empty connections":  {"parts:\n- workload: chat\n  connections: []\n", "f.yaml:3: parts[0].connections: no number"},
		"negative rate":      {"parts:\n- workload: chat\n  rate: -1\n", "f.yaml:3: parts[0].rate: give calls a second"},
		"every without soak": {"parts:\n- workload: chat\n  every: 1m\n", "f.yaml:3: parts[0].every: only a soak"},
		"every beyond soak":  {"parts:\n- workload: chat\n  soak: 10s\n  every: 1m\n", "f.yaml:4: parts[0].every: give a duration from 1s"},
		"flat":               {"parts:\n- workload: tenants\n  skew: 0.9\n", "f.yaml:3: parts[0].skew: give more than 1"},
		"mix of nothing":     {"parts:\n- workload: mix\n", "f.yaml:2: parts[0].weights: a mix needs them"},
		"mix of mix":         {"parts:\n- workload: mix\n  weights: {mix: 1}\n", "no such workload"},
		"mix of tokens":      {"parts:\n- workload: mix\n  weights: {single-use: 1}\n", "cannot be mixed"},
		"no weight":          {"parts:\n- workload: mix\n  weights: {chat: 0}\n", "0 is not between 1 and 1000"},
		"weights of no mix":  {"parts:\n- workload: chat\n  weights: {chat: 1}\n", "only a mix has weights"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("f.yaml", []byte(tc.file), peers, peers)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("one mistake, several errors: %v", err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("parts:\n- workload: chat\n  connections: [1]\n")
	f.Add("peers: [direct]\nparts:\n- {workload: mix, weights: {chat: 1}}\n")
	f.Fuzz(func(t *testing.T, in string) {
		s, err := Parse("f", []byte(in), peers, peers)
		if err == nil && s.Validate(peers) != nil {
			t.Errorf("%q was read, and is not valid", in)
		}
	})
}
