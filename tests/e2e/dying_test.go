package e2e

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/tests/harness"
)

// TestGatewayDiesUnderProgram: each part of the gateway is killed while a program calls without pause. The program gets
// errors and goes on; nothing leaves without a record, every record is settled, and afterwards calls pass again.
func TestGatewayDiesUnderProgram(t *testing.T) {
	t.Parallel()
	o := startOutside(t)
	const job = "survivor"
	const loop = `i=0; while [ ! -e "$1" ]; do curl -s -o /dev/null -m 5 -w "$i %%{http_code}\n" %s/$i; i=$((i+1)); done`
	stop := filepath.Join(t.TempDir(), "stop")
	cmd := exec.Command(harness.Binary(t, false), "run", "-c", filepath.Join(o.Dir, "sallyport.yaml"), "--contract", o.contract, "--mission", job, "--",
		"sh", "-c", fmt.Sprintf(loop, o.url(dataHost, "/public/run")), "loop", stop)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	answered := func() int { return o.site.Count() }
	for _, role := range []string{"extproc", "signer", "envoy", "xds"} {
		before := answered()
		harness.Eventually(t, "calls pass before "+role+" is killed", func() bool { return answered() > before+5 })
		o.Signal(role, syscall.SIGKILL)
		time.Sleep(200 * time.Millisecond) // calls meet the gap
		before = answered()
		harness.Eventually(t, "calls pass after "+role+" was killed", func() bool { return answered() > before+5 })
	}
	if out, err := exec.Command("touch", stop).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if err := <-ended; err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	harness.Eventually(t, "every call is settled", func() bool { return len(o.Evidence().Open()) == 0 })
	recorded := map[string]int{}
	ev := o.Evidence()
	for id, i := range ev.Intents {
		if i.MissionID == job {
			recorded[i.Path]++
			if err := ev.Receipts[id].Verify(o.GatewaySignerDID); err != nil {
				t.Errorf("receipt %s: %v", id, err)
			}
		}
	}
	for _, r := range o.site.Requests() {
		if recorded[r.Path] == 0 {
			t.Errorf("%s reached the site and is not recorded", r.Path)
		}
	}
	codes := map[string]int{}
	for line := range strings.Lines(out.String()) {
		if _, code, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			codes[code]++
		}
		if number, code, _ := strings.Cut(strings.TrimSpace(line), " "); code == "200" && recorded["/public/run/"+number] == 0 {
			t.Errorf("call %s was answered and is not recorded", number)
		}
	}
	if codes["200"] < 20 {
		t.Errorf("answers: %v", codes)
	}
	t.Logf("answers by status (000: the connection broke): %v; %d requests at the site, %d recorded", codes, o.site.Count(), len(recorded))
}
