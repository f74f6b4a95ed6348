package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"

	"sallyport/bench/load"
	"sallyport/bench/workload"
)

const targetName = "target"

// remote is a deployment that runs already. Its tokens are issued by its own control API.
type remote struct {
	e      *environment
	d      *deployment
	tokens *tokens
}

func newRemote(e *environment) (peer, error) {
	d := e.o.target
	t, err := newTokens(d.control)
	return &remote{e: e, d: d, tokens: t}, err
}

func (r *remote) Name() string { return targetName }

// Check wants a call without a token to be refused, and one with a token to be answered with a receipt.
func (r *remote) Check(ctx context.Context) error {
	t := r.target(nil)
	a, err := load.Once(ctx, t.way(), t.call(chat, nil))
	if err != nil {
		return err
	}
	if a.Status != http.StatusUnauthorized {
		return fmt.Errorf("a call without a token is answered with %d %.300q, not refused; is that the gateway?", a.Status, a.Body)
	}
	job, err := r.tokens.job(ctx)
	if err != nil {
		return err
	}
	a, err = load.Once(ctx, t.way(), t.call(chat, job))
	switch {
	case err != nil:
		return err
	case a.Status != http.StatusOK:
		return fmt.Errorf("a call with a token of the contract %s is answered with %d %.500q", r.d.control.ContractHash, a.Status, a.Body)
	case a.Header.Get(receiptHeader) == "":
		return fmt.Errorf("the answer has no %s", receiptHeader)
	}
	return r.e.prepareRefusals(ctx, r.tokens)
}

func (r *remote) target(headers []http.Header) target {
	t := target{Address: withPort(r.d.url), Host: r.d.url.Host, Prefix: strings.TrimSuffix(r.d.url.Path, "/"), Headers: headers, Answer: receiptHeader}
	if r.d.url.Scheme == "https" {
		t.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: r.d.url.Hostname()}
	}
	return t
}

func withPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	return net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
}

func (r *remote) Target(ctx context.Context, n int) (target, error) {
	jobs, err := r.tokens.jobs(ctx, n)
	return r.target(jobs), err
}

func (r *remote) Identities(ctx context.Context, name string, n, count int) ([][]http.Header, error) {
	return r.tokens.identities(ctx, name, n, count)
}

// Carries refuses what a gateway with the default configuration refuses.
func (r *remote) Carries(name string) error {
	if kind, size := workload.Size(name); kind != "" && kind != "download" && size > maxBuffered {
		return errTooLong
	}
	return nil
}

func (r *remote) Groups() map[string][]int {
	out := maps.Clone(r.d.pids)
	maps.DeleteFunc(out, func(_ string, pids []int) bool { return len(pids) == 0 })
	return out
}

// Verify has nothing to hold the count against: the upstream is not ours.
func (r *remote) Verify(context.Context, int64) error { return nil }

func (r *remote) Stop() {}
