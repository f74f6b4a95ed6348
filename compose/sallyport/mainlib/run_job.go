package mainlib

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"sallyport/compose/config"
	"sallyport/compose/role"
	runner "sallyport/compose/run"
	"sallyport/signer/contract"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
	"sallyport/xds/reach"
)

const (
	maxRun        = 30 * 24 * time.Hour // life of the client certificate; no job of a person's is longer
	revokeTimeout = 5 * time.Second
	renewRetry    = 5 * time.Second
	maxCA         = 1 << 20 // bytes
	shownReceipts = 5
)

// job is what the gateway knows of a run.
type job struct {
	api           *api
	audience      []string
	hash, mission string
	sub           string
	ttl           time.Duration
	door          *door
	contract      *contract.Contract
	ca            []byte // PEM

	begin time.Time

	mu      sync.Mutex
	tokens  []runner.Token // the newest last; those before it may still be good
	expires time.Time
}

// newJob publishes the contract where needed and reads what a run of it needs.
func (a *app) newJob(ctx context.Context, c *config.Config, f *runFlags) (*job, error) {
	client, err := a.api()
	if err != nil {
		return nil, err
	}
	j := &job{api: client, audience: c.Audience, mission: f.mission, sub: f.sub, ttl: f.ttl, begin: time.Now()}
	if j.mission == "" {
		j.mission = "run-" + newUUID()
	}
	if err := client.ready(ctx); err != nil {
		return nil, err
	}
	if hashForm.MatchString(f.contract) {
		j.hash = f.contract
		j.contract, err = client.published(ctx, f.contract)
	} else {
		err = j.publish(ctx, a, f.contract)
	}
	if err != nil {
		return nil, fmt.Errorf("contract: %w", err)
	}
	if j.ca, err = client.certificateAuthority(ctx, j.hash); err != nil {
		return nil, err
	}
	j.door, err = forwardDoor(c, f, j.ca)
	return j, err
}

// ready asks whether the gateway is up and says how to start one.
func (c *api) ready(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/ready", nil)
	if err != nil {
		return err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return fmt.Errorf("no gateway answers at %s: start one with `sallyport up`, or name another with --config or --control-url (%w)", c.base, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the gateway at %s is not ready (status %d): `sallyport doctor` says what is missing", c.base, resp.StatusCode)
	}
	return nil
}

// publish puts the contract of a file in the registry; one that is there already stays as it is.
func (j *job) publish(ctx context.Context, a *app, path string) error {
	f, err := a.readContract(path)
	if err != nil {
		return err
	}
	answer, err := j.api.publish(ctx, f)
	if err != nil {
		return err
	}
	if answer.Hash != f.parsed.Hash {
		return fmt.Errorf("the registry calls %s %q, but its hash is %s", path, answer.Hash, f.parsed.Hash)
	}
	j.hash, j.contract = f.parsed.Hash, f.parsed
	return nil
}

// published reads a contract of the registry.
func (c *api) published(ctx context.Context, hash string) (*contract.Contract, error) {
	var answer struct {
		Envelope *envelope.Envelope `json:"envelope"`
	}
	if err := c.call(ctx, http.MethodGet, "/v1/wpc/"+hash, nil, &answer, false); err != nil {
		return nil, err
	}
	if answer.Envelope == nil {
		return nil, errors.New("the registry's answer has no envelope")
	}
	if got, err := jcs.HashCanonical(answer.Envelope.Payload); err != nil || got != hash {
		return nil, fmt.Errorf("the registry's contract hashes to %s, not to the address %s", got, hash)
	}
	return contract.Parse(answer.Envelope.Payload)
}

// certificateAuthority is what the program must trust, in PEM, for a contract's hosts.
func (c *api) certificateAuthority(ctx context.Context, hash string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v1/ca.pem?policy_hash="+hash, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxCA))
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("certificate authority: %w", readAPIError(resp.StatusCode, raw))
	}
	return raw, nil
}

// issue takes out a token and puts it to use.
func (j *job) issue(ctx context.Context) error {
	req := struct {
		issueRequest
		Cnf map[string]string `json:"cnf,omitempty"`
	}{issueRequest: issueRequest{
		Sub: j.sub, Aud: j.audience, Scope: []string{"proxy:call"}, TTLSec: int64(j.ttl / time.Second), PolicyHash: j.hash, MissionID: j.mission,
	}}
	req.Cnf = map[string]string{"x5t#S256": j.door.thumbprint}
	var answer struct {
		Token string `json:"token"`
	}
	if err := j.api.call(ctx, http.MethodPost, "/v1/tokens/issue", req, &answer, true); err != nil {
		return fmt.Errorf("token: %w", err)
	}
	if answer.Token == "" {
		return errors.New("token: the issuer's answer has none")
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.tokens = append(j.tokens, runner.Token(answer.Token))
	if len(j.tokens) > 2 {
		j.tokens = j.tokens[1:] // it has expired: a token is renewed after more than half of its life
	}
	j.expires = time.Now().Add(j.ttl)
	return nil
}

func (j *job) token() runner.Token {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.tokens[len(j.tokens)-1]
}

// keepFresh renews the token when three quarters of its life are over, until stop is called. When the issuer refuses,
// the gate does so too as soon as the token expires.
func (j *job) keepFresh(errs io.Writer) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		said := false
		for wait := j.ttl * 3 / 4; ; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			wait = j.ttl * 3 / 4
			if err := j.issue(ctx); err != nil && ctx.Err() == nil {
				wait = renewRetry
				if !said {
					fmt.Fprintf(errs, "sallyport: the token is not renewed: %v\n", err)
					said = true
				}
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// revoke withdraws the tokens that may still be good.
func (j *job) revoke() error {
	ctx, cancel := context.WithTimeout(context.Background(), revokeTimeout)
	defer cancel()
	var errs []error
	for _, t := range slices.Clone(j.tokens) {
		var answer map[string]any
		errs = append(errs, j.api.call(ctx, http.MethodPost, "/v1/tokens/revoke", map[string]string{"token": string(t), "reason": "the run has ended"}, &answer, true))
	}
	return errors.Join(errs...)
}

// names are the host names that the contract can reach: egress, tools and the models' upstreams. The gate decides about
// each request; this only keeps names in that could carry data in a question.
func (j *job) names(c *config.Config) func(string) bool {
	hosts := reach.New()
	places := role.Places(j.contract, nil)
	for _, u := range c.Upstreams {
		if url, err := u.ParsedURL(); err == nil {
			places = append(places, reach.Place{Host: strings.ToLower(url.Hostname())})
		}
	}
	hosts.Put(j.hash, places)
	return hosts.Named
}

// printSummary is the summary for people.
func printSummary(w io.Writer, s runSummary) {
	if s.Recorded != nil {
		s.Recorded.print(w, s)
		return
	}
	fmt.Fprintf(w, "sallyport: %d calls allowed, %d refused", s.Allowed, s.Refused)
	if s.Cut > 0 {
		fmt.Fprintf(w, ", %d cut", s.Cut)
	}
	if s.Failed > 0 {
		fmt.Fprintf(w, ", %d without an answer of the gate's", s.Failed)
	}
	fmt.Fprintln(w)
	for _, code := range slices.Sorted(maps.Keys(s.Codes)) {
		fmt.Fprintf(w, "  refused with %s: %d\n", code, s.Codes[code])
	}
	for _, host := range slices.Sorted(maps.Keys(s.Hosts)) {
		fmt.Fprintf(w, "  %s: %d allowed, %d refused\n", host, s.Hosts[host].Allowed, s.Hosts[host].Refused)
	}
	if len(s.RefusedNames) > 0 {
		fmt.Fprintf(w, "  names not in the contract: %s\n", strings.Join(s.RefusedNames, " "))
	}
	if s.ReceiptCount > 0 {
		fmt.Fprintf(w, "  receipts: %d, the first %s\n", s.ReceiptCount, strings.Join(s.Receipts[:min(shownReceipts, len(s.Receipts))], " "))
	}
	fmt.Fprintf(w, "  job %s under contract %s; evidence in %s\n", s.Mission, s.PolicyHash, s.Evidence)
}
