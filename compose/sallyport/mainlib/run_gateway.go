package mainlib

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"sallyport/compose/config"
)

const (
	gatewayStart = 2 * time.Minute // an Envoy may have to be fetched
	gatewayStop  = 20 * time.Second
	gatewayPoll  = 50 * time.Millisecond
)

// ensureGateway starts a gateway of the configuration for as long as the program runs, where none answers. What it prints
// goes to a log file in the data directory: the terminal is the program's.
func (a *app) ensureGateway(ctx context.Context, c *config.Config, quiet bool) (end func(), err error) {
	if a.controlURL != "" || answers(ctx, dialable(c.ControlListen)) {
		return func() {}, nil
	}
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("this program's own path: %w", err)
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(c.DataDir, "run-gateway.log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if !quiet {
		fmt.Fprintf(a.err, "sallyport: no gateway answers on %s; one is started for this program, its log is %s\n", c.ControlListen, path)
	}
	cmd := exec.Command(binary, append([]string{"up"}, roleArgs(c)...)...)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own, so that the terminal's Ctrl-C is the program's alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended stands in its log
		close(exited)
	}()
	end = func() { stopGateway(cmd, exited) }
	if err := waitGateway(ctx, c, exited); err != nil {
		end()
		return nil, fmt.Errorf("%w; its log is %s", err, path)
	}
	return end, nil
}

func waitGateway(ctx context.Context, c *config.Config, exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, gatewayStart)
	defer cancel()
	client := &api{base: "http://" + dialable(c.ControlListen), client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	for client.ready(ctx) != nil {
		select {
		case <-exited:
			return errors.New("the gateway ended before it was ready")
		case <-ctx.Done():
			return errors.New("the gateway was not ready in time")
		case <-time.After(gatewayPoll):
		}
	}
	return nil
}

func stopGateway(cmd *exec.Cmd, exited <-chan struct{}) {
	_ = cmd.Process.Signal(os.Interrupt) // it is gone, then
	select {
	case <-exited:
	case <-time.After(gatewayStop):
		_ = cmd.Process.Kill() // its children notice
		<-exited
	}
}

// answers says whether somebody listens there.
func answers(ctx context.Context, address string) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was said
	return true
}
