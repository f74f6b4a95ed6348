package audit_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sallyport/signer/audit"
	"sallyport/signer/clawverify"
	"sallyport/signer/internal/testarchive"
)

func trusting(a *testarchive.Archive) *audit.Config {
	return &audit.Config{
		GatewaySigners: []string{a.Gateway.DID()}, ContractSigners: []string{a.Contract.DID()}, Now: testarchive.Start.Add(24 * time.Hour),
	}
}

func run(data []byte, c *audit.Config) (*clawverify.Report, *audit.Result) {
	r := audit.Archive(bytes.NewReader(data), int64(len(data)), c, "archive.zip")
	return r, r.Verification.(*audit.Result)
}

func check(r *audit.Result, name string) *audit.Check {
	for _, k := range r.Checks {
		if k.Name == name {
			return k
		}
	}
	return nil
}

func TestArchive(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]testarchive.Options{
		"one part":      {Calls: 12, Refused: 3, ClientRecorded: 2},
		"three parts":   {Calls: 25, PartSize: 10, Refused: 1},
		"full parts":    {Calls: 1001},
		"only refusals": {Refused: 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := testarchive.New(o)
			rep, res := run(a.Seal(), trusting(a))
			if rep.Status != clawverify.Pass {
				t.Fatalf("%s %s", rep.ReasonCode, rep.Reason)
			}
			if res.Calls != o.Calls || res.Refused != o.Refused || res.Own != o.ClientRecorded || res.Calls != res.Completed+res.Cut || res.Parts != a.Parts {
				t.Errorf("got %+v", res)
			}
			if o.Calls > 0 {
				if k := check(res, "contract replay"); k.Verdict != audit.Passed || k.Count != o.Calls+o.ClientRecorded {
					t.Errorf("contract replay: %+v", k)
				}
			}
			raw, err := json.MarshalIndent(rep, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			if name == "one part" {
				t.Logf("%s", raw)
			}
		})
	}
}

// TestGoldenArchive holds the format still: an archive that was written once verifies for as long as the format has its name.
// The command line's test reads it too.
func TestGoldenArchive(t *testing.T) {
	t.Parallel()
	a := testarchive.New(testarchive.Options{Calls: 5, PartSize: 3, Refused: 2, ClientRecorded: 1})
	path := filepath.Join("testdata", "archive.zip")
	if *update {
		if err := os.WriteFile(path, a.Seal(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if rep, _ := run(data, trusting(a)); rep.Status != clawverify.Pass {
		t.Errorf("%s %s", rep.ReasonCode, rep.Reason)
	}
	if !bytes.Equal(data, a.Seal()) {
		t.Error("the same run makes another archive now; if that is meant, write the golden file anew")
	}
}
