package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"sallyport/bench/workload"
)

// issuers is how many tokens are asked for at a time.
const issuers = 8

// tokens makes identities over a control API, before anything is measured.
type tokens struct {
	*admin
	prefix  string // tells the jobs of this run from those of others at the same deployment
	jobsTo  int    // jobs made so far
	expired string // a token that was issued for a moment, and when it is of no use any more
	expires time.Time
	hashes  []string      // contracts of tenants published so far
	tenants []http.Header // a job of each of them
	issued  time.Time     // when the first of these was made
}

func newTokens(c control) (*tokens, error) {
	a, err := newAdmin(c)
	if err != nil {
		return nil, err
	}
	return &tokens{admin: a, prefix: uuid.NewString()[:8]}, nil
}

// job makes a new job: a token of its own mission, and the run that it will be bound to.
func (t *tokens) job(ctx context.Context) (http.Header, error) {
	jobs, err := t.jobs(ctx, 1)
	if err != nil {
		return nil, err
	}
	return jobs[0], nil
}

// jobs makes n new jobs.
func (t *tokens) jobs(ctx context.Context, n int) ([]http.Header, error) {
	first := t.jobsTo + 1
	t.jobsTo += n
	return inParallel(ctx, n, func(ctx context.Context, i int) (http.Header, error) {
		return t.newJob(ctx, t.ContractHash, first+i)
	})
}

func (t *tokens) newJob(ctx context.Context, contract string, number int) (http.Header, error) {
	token, err := t.issue(ctx, ask{Contract: contract, Mission: fmt.Sprintf("bench-%s-mission-%d", t.prefix, number), TTL: tokenTTL})
	if err != nil {
		return nil, err
	}
	h := bearer(token)
	h.Set(runIDHeader, fmt.Sprintf("run_bench_%s_%d", t.prefix, number))
	return h, nil
}

// identities makes the headers of the workloads about tokens; see identifier.
func (t *tokens) identities(ctx context.Context, name string, n, count int) ([][]http.Header, error) {
	switch name {
	case workload.SingleUse:
		return t.singleUse(ctx, n, count)
	case workload.Tenants:
		all, err := t.manyTenants(ctx, count)
		return repeated(all, n), err
	case workload.RefusedGarbage:
		return repeated([]http.Header{bearer(stockToken)}, n), nil
	case workload.RefusedSignature:
		token, err := t.issue(ctx, ask{Contract: t.ContractHash, TTL: tokenTTL})
		return repeated([]http.Header{bearer(forged(token))}, n), err
	case workload.RefusedExpired:
		token, err := t.outlived(ctx)
		return repeated([]http.Header{bearer(token)}, n), err
	default:
		return nil, fmt.Errorf("%s is not about tokens", name)
	}
}

// refusalCodes are what the gate says to the kinds of refused calls.
var refusalCodes = map[string]string{
	workload.RefusedGarbage: "CREDENTIAL_NOT_BROKERED", workload.RefusedSignature: "TOKEN_SIGNATURE_INVALID", workload.RefusedExpired: "TOKEN_EXPIRED",
}

func repeated(all []http.Header, n int) [][]http.Header {
	out := make([][]http.Header, n)
	for i := range out {
		out[i] = all
	}
	return out
}

// singleUse makes count tokens for each of n connections, each good for one call.
func (t *tokens) singleUse(ctx context.Context, n, count int) ([][]http.Header, error) {
	all, err := inParallel(ctx, n*count, func(ctx context.Context, _ int) (http.Header, error) {
		token, err := t.issue(ctx, ask{Contract: t.ContractHash, Nonce: uuid.NewString(), TTL: tokenTTL})
		return bearer(token), err
	})
	if err != nil {
		return nil, err
	}
	out := make([][]http.Header, n)
	for i := range out {
		out[i] = all[i*count : (i+1)*count]
	}
	return out, nil
}

// manyTenants publishes contracts that differ in their name alone, and makes a job of each. What earlier cells published
// is used again, and so are their jobs while they are fresh.
func (t *tokens) manyTenants(ctx context.Context, count int) ([]http.Header, error) {
	if have := len(t.hashes); have < count {
		more, err := inParallel(ctx, count-have, func(ctx context.Context, i int) (string, error) {
			return t.publish(ctx, tenantContract(fmt.Sprintf("bench-%s-tenant-%d", t.prefix, have+i)))
		})
		if err != nil {
			return nil, err
		}
		t.hashes = append(t.hashes, more...)
	}
	if len(t.tenants) >= count && time.Since(t.issued) < renewAfter {
		return t.tenants[:count], nil
	}
	t.issued = time.Now()
	first := t.jobsTo + 1
	t.jobsTo += count
	var err error
	t.tenants, err = inParallel(ctx, count, func(ctx context.Context, i int) (http.Header, error) {
		return t.newJob(ctx, t.hashes[i], first+i)
	})
	return t.tenants, err
}

// tenantContract allows what the measured calls need.
func tenantContract(id string) map[string]any {
	return map[string]any{
		"policy_kind": "wpc", "policy_version": "v1", "policy_id": id, "intent": "A tenant of a load test", "agent_runtime": "OpenClaw",
		"tools":       map[string]any{"allow": []string{"provider:sallyport/openai"}, "deny": []string{"tool:shell.exec", "tool:http.request", "tool:filesystem.read"}},
		"models":      []any{map[string]any{"provider": "openai", "models": []string{"gpt-4o*", "text-embedding-3-*"}}},
		"egress":      map[string]any{"default": "deny"},
		"secrets":     map[string]any{"minting": "cst_required", "allowed_secret_classes": []string{"openai_key"}, "max_ttl_seconds": 900},
		"auth":        map[string]any{"pin_policy_hash": true},
		"model_calls": map[string]any{"must_route_via": "sallyport", "receipts_required": true},
	}
}

// forged changes one character in the middle of the signature.
func forged(token string) string {
	i := len(token) - 20
	if i < 0 {
		return token
	}
	other := "A"
	if token[i] == 'A' {
		other = "B"
	}
	return token[:i] + other + token[i+1:]
}

// leeway is how long after its end a gate still takes a token, with a second for rounding.
const leeway = 31 * time.Second

// outlived is a token that no gate takes any more. The first call waits for that.
func (t *tokens) outlived(ctx context.Context) (string, error) {
	if err := t.prepareOutlived(ctx); err != nil {
		return "", err
	}
	select {
	case <-time.After(time.Until(t.expires)):
		return t.expired, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// prepareRefusals begins early what refused calls need, where there are to be any.
func (e *environment) prepareRefusals(ctx context.Context, t *tokens) error {
	for _, p := range e.o.scenario.Parts {
		if p.Workload == workload.Refusals || p.Workload == workload.RefusedExpired {
			return t.prepareOutlived(ctx)
		}
	}
	return nil
}

// prepareOutlived issues it, so that it grows old while others are measured.
func (t *tokens) prepareOutlived(ctx context.Context) (err error) {
	if t.expired != "" {
		return nil
	}
	t.expires = time.Now().Add(time.Second + leeway)
	t.expired, err = t.issue(ctx, ask{Contract: t.ContractHash, TTL: time.Second})
	return err
}

// inParallel makes n things, some at a time, in order.
func inParallel[T any](ctx context.Context, n int, one func(ctx context.Context, i int) (T, error)) ([]T, error) {
	out := make([]T, n)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(issuers)
	for i := range n {
		g.Go(func() (err error) {
			out[i], err = one(ctx, i)
			return err
		})
	}
	return out, g.Wait()
}
