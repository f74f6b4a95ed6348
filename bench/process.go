package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	startTimeout = 90 * time.Second // a first start may have to build indexes and keys
	stopTimeout  = 20 * time.Second
	logTail      = 8 << 10 // bytes of a child's output that are kept for the error that names it
)

// process is a child. It ends with us, even if we are killed.
type process struct {
	name string
	cmd  *exec.Cmd
	log  tail
	done chan struct{} // closed when it has ended
	err  error         // how it ended, once done is closed
}

// start runs a program; its output is kept for error messages. If hello is set, the first line of its standard output
// is waited for and returned.
func start(ctx context.Context, name string, hello bool, bin string, args ...string) (*process, string, error) {
	p := &process{name: name, cmd: exec.Command(bin, args...), done: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = &p.log
	var out io.ReadCloser
	if hello {
		var err error
		if out, err = p.cmd.StdoutPipe(); err != nil {
			return nil, "", err
		}
	} else {
		p.cmd.Stdout = &p.log
	}
	if err := p.cmd.Start(); err != nil {
		return nil, "", fmt.Errorf("%s: %w", name, err)
	}
	first := make(chan string, 1)
	go func() {
		if hello {
			r := bufio.NewReader(out)
			line, _ := r.ReadString('\n') // empty if the child ended; then done is closed too
			first <- strings.TrimSpace(line)
			_, _ = io.Copy(&p.log, r)
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if !hello {
		return p, "", nil
	}
	select {
	case line := <-first:
		if line != "" {
			return p, line, nil
		}
		p.stop()
		return nil, "", fmt.Errorf("%s ended at once\n%s", name, p.log.String())
	case <-ctx.Done():
		p.stop()
		return nil, "", ctx.Err()
	case <-time.After(startTimeout):
		p.stop()
		return nil, "", fmt.Errorf("%s said nothing in %v", name, startTimeout)
	}
}

// await asks until ready returns nil, the child has ended, or too much time has passed.
func (p *process) await(ctx context.Context, ready func() error) error {
	deadline := time.After(startTimeout)
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before it was ready: %w\n%s", p.name, errors.Join(p.err, err), p.log.String())
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return fmt.Errorf("%s was not ready in %v: %w\n%s", p.name, startTimeout, err, p.log.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop asks the child to end, and kills it if it does not.
func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > 2*logTail {
		t.b = bytes.Clone(t.b[len(t.b)-logTail:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

// overSocket is a client for plain HTTP on a Unix socket.
func overSocket(path string) *http.Client {
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}}
}

// counts asks a role of ours what it has counted.
func counts(ctx context.Context, c *http.Client) (map[string]int64, error) {
	raw, err := get(ctx, c, "/counts")
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	return out, json.Unmarshal(raw, &out)
}

// get asks over a socket's client, whose host is always the same.
func get(ctx context.Context, c *http.Client, path string) ([]byte, error) {
	return getURL(ctx, c, "http://local"+path)
}

func getURL(ctx context.Context, c *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %d: %.200s", req.URL.Path, resp.StatusCode, raw)
	}
	return raw, err
}

// startRole starts this program again as one of its roles.
func startRole(ctx context.Context, role string, args ...string) (*process, string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	return start(ctx, role, true, self, append([]string{roleArgument, role}, args...)...)
}
