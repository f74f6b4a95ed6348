package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"sallyport/bench/report"
	"sallyport/bench/workload"
)

// command is a way to start a program.
type command struct {
	name     string
	prefix   []string // goes before the program and its arguments
	gated    bool     // the program's calls go through the gate
	isolated bool     // it has a network of its own
}

// warmStartups are not counted: they fill the page cache and the gate's.
const warmStartups = 2

// commands are `true` by itself, in namespaces alone, and under the two kinds of `sallyport run`.
func (f *forwardDoor) commands() []command {
	run := []string{f.s.bin, "run", "-c", f.s.config, "--quiet", "--contract", f.s.ready.ContractHash}
	return []command{
		{name: "true"},
		{name: "unshare -Urn true", prefix: []string{"unshare", "-Urn"}, isolated: true},
		{name: "sallyport run --no-isolation", prefix: slices.Concat(run, []string{"--no-isolation", "--"}), gated: true},
		{name: "sallyport run", prefix: slices.Concat(run, []string{"--"}), gated: true, isolated: true},
	}
}

// start runs a program in the command's way, and is an error where that does not end well.
func (c command) start(ctx context.Context, e *environment, program ...string) (out string, wall, cpu time.Duration, err error) {
	args := slices.Concat(c.prefix, program)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	// No proxy or setting of whoever runs the comparison.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + e.dir, "TMPDIR=" + os.TempDir()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begin := time.Now()
	err = cmd.Run()
	wall = time.Since(begin)
	if err != nil {
		return "", 0, 0, fmt.Errorf("%s %s: %w\n%.2000s", c.name, strings.Join(program, " "), err, stderr.String())
	}
	return strings.TrimSpace(stdout.String()), wall, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

// check shows that the command does what it is measured for: a network of its own or not; the program's own exit status; and
// under the gate, a program that knows nothing of it reaches the upstream, and its call has the real credential.
func (c command) check(ctx context.Context, e *environment) error {
	ours, err := os.Readlink(networkOfSelf)
	if err != nil {
		return err
	}
	theirs, _, _, err := c.start(ctx, e, "readlink", networkOfSelf)
	if err != nil {
		return err
	}
	if (theirs != ours) != c.isolated {
		return fmt.Errorf("%s: its network is %q, ours %q, and isolated should be %v", c.name, theirs, ours, c.isolated)
	}
	var ended *exec.ExitError
	if _, _, _, err := c.start(ctx, e, "false"); !errors.As(err, &ended) || ended.ExitCode() != 1 {
		return fmt.Errorf("%s: `false` should end with status 1: %w", c.name, err)
	}
	if !c.gated {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return e.during(ctx, "credential", 1, func() error {
		_, _, _, err := c.start(ctx, e, self, roleArgument, roleProgram, "https://"+e.upstream.authority()+workload.ChatPath)
		return err
	})
}

const networkOfSelf = "/proc/self/ns/net"

// runProgram makes one chat call as a program that knows nothing of a gate: Go's own client, which reads the proxy and the
// authorities from the environment.
func runProgram(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(chat.Body.Before))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+os.Getenv("OPENAI_API_KEY"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || !bytes.Equal(body, workload.Answer)) {
		err = fmt.Errorf("the call is answered with %d %.300q", resp.StatusCode, body)
	}
	return err
}

// measureStartups starts `true` in each way in turn, at a gateway that runs already, before there is any load. Each turn
// begins with another one.
func measureStartups(ctx context.Context, e *environment, peers []peer, r *report.Report, show *progress) error {
	turns := e.o.scenario.Startups
	i := slices.IndexFunc(peers, func(p peer) bool { return p.Name() == forwardName })
	if turns == 0 || i < 0 {
		return nil
	}
	f, ok := peers[i].(*forwardDoor)
	if !ok {
		return fmt.Errorf("%s is a %T", forwardName, peers[i])
	}
	all := f.commands()
	for _, c := range all {
		if err := c.check(ctx, e); err != nil {
			return fmt.Errorf("a start is not what it says, so none is measured: %w", err)
		}
		r.Startups = append(r.Startups, &report.Startup{Command: c.name})
	}
	for turn := range warmStartups + turns {
		show.say("start %d of %d", turn+1, warmStartups+turns)
		for i := range all {
			k := (i + turn) % len(all)
			_, wall, cpu, err := all[k].start(ctx, e, "true")
			if err != nil {
				return err
			}
			if turn >= warmStartups {
				r.Startups[k].Add(wall, cpu)
			}
		}
	}
	e.log.Info("measured", "startups", turns)
	return nil
}
