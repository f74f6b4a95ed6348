package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sallyport/bench/load"
	"sallyport/bench/workload"
)

const (
	sallyportName   = "sallyport"
	reverseTLSName  = "sallyport-reverse-tls"
	forwardName     = "sallyport-forward"
	modeName        = "sallyport-" // and an evidence mode
	sallyportPrefix = "/openai"
	receiptHeader   = "X-Sallyport-Receipt"
	runIDHeader     = "X-Run-Id"
)

// sallyport is the whole system with everything on: token, contract, job binding in Redis, credential swap, signed
// receipts. It is driven through what users have: the configuration, the ready file and the control API.
type sallyport struct {
	*process
	e       *environment
	name    string
	mode    string // of the evidence
	tls     bool   // the upstream is asked over TLS
	dir     string // of its files
	bin     string
	config  string // file
	ready   *readyFile
	tokens  *tokens
	redis   *redisServer // nil where redis-server is missing
	gateway string       // host:port
}

func newSallyport(ctx context.Context, e *environment) (peer, error) {
	return startSallyport(ctx, e, &sallyport{name: sallyportName})
}

// newMode is the same in one evidence mode, whatever the scenario's is, so that modes can be measured side by side.
func newMode(mode string) func(context.Context, *environment) (peer, error) {
	return func(ctx context.Context, e *environment) (peer, error) {
		return startSallyport(ctx, e, &sallyport{name: modeName + mode, mode: mode})
	}
}

// newReverseTLS is the same with the upstream over TLS.
func newReverseTLS(ctx context.Context, e *environment) (peer, error) {
	return startSallyport(ctx, e, &sallyport{name: reverseTLSName, tls: true})
}

// startSallyport starts the system that s describes.
func startSallyport(ctx context.Context, e *environment, s *sallyport) (*sallyport, error) {
	bin, err := e.sallyportBinary(ctx)
	if err != nil {
		return nil, err
	}
	s.e, s.dir, s.bin = e, filepath.Join(e.dir, s.name+".d"), bin
	if s.mode == "" {
		s.mode, e.facts["evidence"] = e.o.scenario.Evidence, e.o.scenario.Evidence
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, err
	}
	if s.redis, err = startRedis(ctx, s.dir); err != nil {
		return nil, err
	}
	e.facts["replay_store"] = "redis"
	if s.redis == nil {
		e.facts["replay_store"] = "in process (redis-server is missing)"
		e.log.Warn("redis-server is missing, so job binding is measured in process")
	}
	if err := s.start(ctx); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// sallyportBinary is the named binary, or one built from this checkout, once.
func (e *environment) sallyportBinary(ctx context.Context) (string, error) {
	if e.o.sallyport != "" {
		return filepath.Abs(e.o.sallyport)
	}
	bin := filepath.Join(e.dir, "sallyport")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin, "./compose/sallyport")
	cmd.Dir = e.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build sallyport: %w\n%s", err, out)
	}
	return bin, nil
}

func (s *sallyport) start(ctx context.Context) error {
	var err error
	if s.config, err = s.writeConfig(ctx); err != nil {
		return err
	}
	file := filepath.Join(s.dir, "ready.json")
	if s.process, _, err = start(ctx, s.name, false, s.bin, "up", "-c", s.config, "--ready-file", file); err != nil {
		return err
	}
	if err := s.await(ctx, func() error { s.ready, err = readReady(file); return err }); err != nil {
		return err
	}
	u, err := url.Parse(s.ready.GatewayURL)
	if err != nil {
		return fmt.Errorf("gateway_url: %w", err)
	}
	s.gateway = u.Host
	s.tokens, err = newTokens(s.ready.control())
	return err
}

// writeConfig sets what the comparison needs and leaves everything else at its default.
func (s *sallyport) writeConfig(ctx context.Context) (string, error) {
	envoy, err := s.e.envoyBinary(ctx)
	if err != nil {
		return "", err
	}
	c := map[string]any{
		"data_dir": filepath.Join(s.dir, "data"), "evidence": map[string]any{"mode": s.mode},
		"loopback_model": map[string]any{"enabled": false}, "envoy": map[string]any{"path": envoy},
	}
	for _, door := range []string{"listen", "control_listen", "forward_listen"} {
		if c[door], err = freeAddress(); err != nil {
			return "", err
		}
	}
	key := filepath.Join(s.dir, "upstream.key")
	if err := os.WriteFile(key, []byte(credential), 0o600); err != nil {
		return "", err
	}
	address, upstream := s.e.upstream.address, map[string]any{"name": "openai", "dialect": "openai", "secret_class": "openai_key"}
	upstream["url"] = "http://" + address
	if s.tls {
		address = s.e.upstream.authority()
		upstream["url"], upstream["ca_file"] = "https://"+address, s.e.upstream.certs.ca
		c["egress"] = map[string]any{"hosts": map[string]any{upstreamHost: []string{"127.0.0.1"}}}
	}
	c["upstreams"] = []any{upstream}
	c["secret_classes"] = []any{map[string]any{"name": "openai_key", "from": "file:" + key, "hosts": []string{address}}}
	if s.redis != nil {
		c["redis_url"] = s.redis.url
	}
	raw, err := json.Marshal(c) // JSON is YAML too
	if err != nil {
		return "", err
	}
	file := filepath.Join(s.dir, "sallyport.yaml")
	return file, os.WriteFile(file, raw, 0o600)
}

func (s *sallyport) Name() string { return s.name }

// target is the gate's door, for whoever the headers say.
func (s *sallyport) target(headers ...http.Header) target {
	return target{Address: s.gateway, Prefix: sallyportPrefix, Headers: headers, Answer: receiptHeader}
}

// Check shows each thing that "everything on" means: no token, no call; the token of one job is no use to another; an
// allowed call leaves with the real credential and comes back with a receipt; the binding is in Redis.
func (s *sallyport) Check(ctx context.Context) error {
	if err := s.refuses(ctx, s.target(nil), "TOKEN_REQUIRED"); err != nil {
		return fmt.Errorf("a call without a token: %w", err)
	}
	job, err := s.job(ctx)
	if err != nil {
		return err
	}
	forwarded := func() error { return s.e.expectForwarded(ctx, s.target(job)) }
	if err := s.e.during(ctx, "credential", 1, forwarded); err != nil {
		return fmt.Errorf("an allowed call: %w", err)
	}
	other := job.Clone()
	other.Set(runIDHeader, job.Get(runIDHeader)+"-other")
	if err := s.refuses(ctx, s.target(other), "JOB_BINDING_MISMATCH"); err != nil {
		return fmt.Errorf("the token of another job: %w", err)
	}
	return errors.Join(s.bindingInRedis(ctx), s.e.prepareRefusals(ctx, s.tokens))
}

func (s *sallyport) bindingInRedis(ctx context.Context) error {
	if s.redis == nil {
		return nil
	}
	n, err := s.redis.keys(ctx)
	if err == nil && n == 0 {
		err = errors.New("nothing of an allowed call is in Redis")
	}
	return err
}

// refuses wants the chat call of a target's first identity to be refused with a code, without reaching the upstream.
func (s *sallyport) refuses(ctx context.Context, t target, code string) error {
	return s.refusesCall(ctx, t, chat, code)
}

func (s *sallyport) refusesCall(ctx context.Context, t target, c *workload.Call, code string) error {
	return s.e.during(ctx, "requests", 0, func() error {
		a, err := load.Once(ctx, t.way(), t.call(c, t.Headers[0]))
		if err != nil {
			return err
		}
		var body struct {
			Error struct {
				Code string `json:"code"`
			} `json:"error"`
		}
		if json.Unmarshal(a.Body, &body) != nil || a.Status < 400 || !strings.EqualFold(body.Error.Code, code) {
			return fmt.Errorf("is answered with %d %.300q, want %s", a.Status, a.Body, code)
		}
		return nil
	})
}

// job makes a new job: a token of its own mission, and the run that it will be bound to.
func (s *sallyport) job(ctx context.Context) (http.Header, error) { return s.tokens.job(ctx) }

// Target gives each connection a job of its own, as agents have.
func (s *sallyport) Target(ctx context.Context, n int) (target, error) {
	jobs, err := s.tokens.jobs(ctx, n)
	return s.target(jobs...), err
}

// Swaps makes it a swapper.
func (s *sallyport) Swaps() {}

// Identities gives the tokens of the workloads about tokens.
func (s *sallyport) Identities(ctx context.Context, name string, n, count int) ([][]http.Header, error) {
	return s.tokens.identities(ctx, name, n, count)
}

// Carries refuses what the gate's default configuration refuses.
func (s *sallyport) Carries(name string) error {
	if kind, size := workload.Size(name); kind != "" && kind != "download" && size > maxBuffered {
		return errTooLong
	}
	return nil
}

func (s *sallyport) Groups() map[string][]int {
	g := map[string][]int{}
	for role, pids := range s.ready.PIDs {
		if len(pids) > 0 {
			g[role] = pids
		}
	}
	if s.redis != nil {
		g["redis"] = []int{s.redis.pid()}
	}
	return g
}

// Verify wants every answered call to have left a receipt that verifies offline. That each went with the real credential was
// counted at the upstream, cell by cell.
func (s *sallyport) Verify(ctx context.Context, answered int64) error {
	return s.verifyReceipts(ctx, answered)
}

// verifyReceipts has the offline verifier read the whole log. Calls that failed, or that the check made, may have left
// receipts too.
func (s *sallyport) verifyReceipts(ctx context.Context, answered int64) error {
	cmd := exec.CommandContext(ctx, s.bin, "receipts", "verify", "all", "--evidence", s.ready.EvidenceDir, "--trust", s.ready.GatewaySignerDID)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("receipts verify: %w\n%.2000s", err, out)
	}
	var good, bad int64
	if _, err := fmt.Sscanf(string(out), "%d receipts verified, %d not", &good, &bad); err != nil {
		return fmt.Errorf("receipts verify says %.300q: %w", out, err)
	}
	if good < answered || bad != 0 {
		return fmt.Errorf("%d calls were answered, and %d receipts verify, %d do not", answered, good, bad)
	}
	s.e.log.Info("receipts verified offline", "answered", answered, "verified", good)
	return nil
}

func (s *sallyport) Stop() {
	s.stop()
	s.redis.stop()
}
