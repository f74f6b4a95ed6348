package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/tests/harness"
)

// attempt is one line of hostile.py.
type attempt struct {
	Attempt string
	Out     bool
	Detail  string
}

// TestHostileProgram stages the five threats of the founding document under `sallyport run`: print the environment and
// the credential files, reuse the token in another job, reach another tenant's resource with the same credential, send
// data out by a generic tool and by the shell, call a model past the gate. Nothing gets out, and what reached the gate
// stands in the evidence under the program's own job.
func TestHostileProgram(t *testing.T) {
	t.Parallel()
	o := startOutside(t)
	l, err := net.Listen("unix", "@sallyport-test-"+filepath.Base(o.Dir))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	data := filepath.Join(o.Dir, "data")
	targets, err := json.Marshal(map[string]any{
		"site": "127.0.0.1:" + o.site.Port(), "allowed": dataHost + ":" + o.site.Port(), "forbidden": otherHost + ":" + o.site.Port(),
		"model":   o.url(modelHost, "/v1/chat/completions"),
		"control": strings.TrimPrefix(o.ControlURL, "http://"), "abstract": strings.TrimPrefix(l.Addr().String(), "@"),
		"sockets": []string{filepath.Join(data, "run", "envoy.sock"), filepath.Join(data, "run", "signer.sock"), filepath.Join(data, "run", "issuer.sock")},
		"files":   []string{o.AdminTokenFile, filepath.Join(data, "viewer-token"), filepath.Join(data, "trust.json")},
	})
	if err != nil {
		t.Fatal(err)
	}
	const job = "hostile"
	planted := "planted-in-the-callers-environment"
	cmd := exec.Command(harness.Binary(t, false), "run", "-c", filepath.Join(o.Dir, "sallyport.yaml"), "--contract", o.contract, "--mission", job, "--",
		"python3", filepath.Join(harness.Root(), "tests", "programs", "hostile.py"), string(targets))
	cmd.Env = append(os.Environ(), "GITHUB_TOKEN="+planted, "MY_API_KEY="+planted)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out.String(), said.String())
	}
	text := out.String()
	tried := 0
	for dec := json.NewDecoder(&out); ; tried++ {
		var a attempt
		if err := dec.Decode(&a); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if a.Out {
			t.Errorf("%s: %s", a.Attempt, a.Detail)
		}
		if a.Attempt == "processes" && (strings.Contains(a.Detail, "envoy") || strings.Contains(a.Detail, "signer")) {
			t.Errorf("the program sees the gateway's processes: %s", a.Detail)
		}
		t.Logf("%-46s %.160s", a.Attempt, a.Detail)
	}
	if tried < 25 {
		t.Errorf("only %d attempts were made", tried)
	}
	// Only what the contract allows: the request that is answered by a redirect to elsewhere.
	if got := o.site.Requests(); len(got) != 1 || got[0].Path != "/public/to-metadata" {
		t.Errorf("%d requests reached the site: %v", len(got), got)
	}
	for what, secret := range map[string]string{"a secret of the caller's": planted, "a credential": "planted-value-of-", "a token": "eyJ"} {
		if strings.Contains(text, secret) {
			t.Errorf("the program has seen %s", what)
		}
	}
	if !strings.Contains(said.String(), "GITHUB_TOKEN") || strings.Contains(said.String(), planted) {
		t.Errorf("what was kept from the program is not said by name alone:\n%s", said.String())
	}
	codes := map[string]int{}
	harness.Eventually(t, "the refusals are in the evidence", func() bool {
		clear(codes)
		for _, r := range o.Evidence().Refusals {
			if r.MissionID == job {
				codes[r.Code]++
			}
		}
		return codes["POLICY_MODEL_NOT_ALLOWED"] > 0 && codes["POLICY_EGRESS_NOT_ALLOWED"] >= 5
	})
	t.Logf("refused under the job: %v", codes)
}

// TestStolenToken: a token that is bound to the client certificate of its job is of no use to anybody else, by any door.
func TestStolenToken(t *testing.T) {
	t.Parallel()
	o := startOutside(t)
	stolen := o.issue(harness.Claims{"mission_id": "robbed", "cnf": map[string]string{"x5t#S256": "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"}})
	if a := o.Do(harness.Call{Token: stolen}); a.Code != "JOB_BINDING_MISMATCH" {
		t.Errorf("reverse door: %d %s %v", a.Status, a.Body, a.Err)
	}
	req := o.Request(harness.Call{Method: "GET", Path: "/public/a"})
	req.URL.Scheme, req.URL.Host, req.URL.Opaque = "https", dataHost+":"+o.site.Port(), ""
	if a := harness.Send(o.Proxied(t, stolen, o.contract, nil), req); a.Err == nil {
		t.Errorf("forward door: %d %s", a.Status, a.Body)
	}
	if n := o.site.Count(); n != 0 {
		t.Errorf("%d requests reached the site", n)
	}
	harness.Eventually(t, "both refusals in the evidence", func() bool { return o.RefusalCodes()["JOB_BINDING_MISMATCH"] >= 2 })
}
