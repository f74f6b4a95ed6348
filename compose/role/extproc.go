package role

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sallyport/compose/config"
	"sallyport/extproc/gate"
	"sallyport/extproc/replay"
	"sallyport/extproc/secret"
	"sallyport/signer/address"
	"sallyport/signer/client"
)

// giveBackTimeout is how long the end of a process waits for the sources of its credentials.
const giveBackTimeout = 3 * time.Second

// ExtProcName tells the ext_proc processes of one machine apart.
func ExtProcName(index int) string { return fmt.Sprintf("extproc-%d", index) }

// ExtProc runs one of the deciding processes.
func (p *Process) ExtProc(ctx context.Context, index int) error {
	tune()
	c := p.Config
	sockets := c.ExtProcSockets()
	if index < 0 || index >= len(sockets) {
		return fmt.Errorf("extproc: there is no process %d among %d replicas", index, len(sockets))
	}
	if err := Prepare(c); err != nil {
		return err
	}
	signer, err := p.signerClient(index)
	if err != nil {
		return err
	}
	store, err := p.replayStore()
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	g, broker, err := p.gate(signer, store)
	if err != nil {
		return err
	}
	p.Status.Add("gate", g.Ready)
	p.Status.Registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "sallyport_refusals_lost_total", Help: "Refusals that could not be recorded, because the signer was away for too long.",
	}, func() float64 { return float64(signer.LostRefusals()) }))
	// A missing credential stops only the calls that need it, so it is said once and does not make the gate unready.
	if err := broker.Ready(ctx); err != nil {
		p.Log.Warn("some secret classes have no credential now; calls that need them are refused", slog.Any("error", err))
	}
	lis, err := listenUnix(sockets[index])
	if err != nil {
		return err
	}
	s := newServices(ctx)
	if err := p.status(s); err != nil {
		return err
	}
	// The signer's client outlives the gate: what is open when the gate ends must still be recorded.
	clientCtx, stopClient := context.WithCancel(context.WithoutCancel(ctx))
	clientDone := make(chan error, 1)
	go func() { clientDone <- signer.Run(clientCtx) }()
	s.run("gate", func(ctx context.Context) error { return g.Serve(ctx, lis) })
	err = s.wait()
	p.giveBack(ctx, broker)
	stopClient()
	if clientErr := <-clientDone; clientErr != nil && !errors.Is(clientErr, context.Canceled) {
		err = errors.Join(err, clientErr)
	}
	return err
}

// giveBack ends what the gate holds at the sources of its credentials.
func (p *Process) giveBack(ctx context.Context, broker *secret.Broker) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackTimeout)
	defer cancel()
	if err := broker.Close(ctx); err != nil {
		p.Log.Warn("some credentials could not be given back and end by themselves", slog.Any("error", err))
	}
}

func (p *Process) signerClient(index int) (*client.Client, error) {
	c := p.Config
	conf, err := clientTLS(c.Signer)
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	network, address := dialAddress(c.Signer)
	instance, err := instanceName(index)
	if err != nil {
		return nil, err
	}
	return client.New(client.Config{Network: network, Address: address, TLS: conf, Instance: instance, Log: p.Log})
}

func (p *Process) replayStore() (replay.Store, error) {
	if p.Config.RedisURL == "" {
		p.Log.Info("replay state is kept in this process; with more than one replica or machine set redis_url")
		return replay.NewMemory(time.Now), nil
	}
	store, err := replay.NewRedis(replay.RedisConfig{URL: p.Config.RedisURL, Log: p.Log})
	if err != nil {
		return nil, err
	}
	p.Log.Info("replay state is kept in Redis")
	return store, nil
}

func (p *Process) gate(signer *client.Client, store replay.Store) (*gate.Gate, *secret.Broker, error) {
	c := p.Config
	broker, err := newBroker(c, p.Log)
	if err != nil {
		return nil, nil, err
	}
	trusted, err := trustedContractSigners(c)
	if err != nil {
		return nil, nil, err
	}
	registry, err := newFetcher(c)
	if err != nil {
		return nil, nil, err
	}
	ups, err := gateUpstreams(c)
	if err != nil {
		return nil, nil, err
	}
	redaction, err := openRedactionSecret(c.ExtProc.RedactionSecretFile)
	if err != nil {
		return nil, nil, err
	}
	auditors, err := auditorKeys(c.Evidence.AuditorKeys)
	if err != nil {
		return nil, nil, err
	}
	g, err := gate.New(gate.Config{
		Upstreams: ups, Audience: c.Audience, TrustedContractSigners: trusted, Registry: registry, Replay: store,
		Secrets: broker, Signer: signer, Binding: c.JobBinding, MaxBodyBytes: c.MaxBodyBytes, Log: p.Log, Metrics: p.Status.Registry,
		AddressAllowed: address.Allowed, RedactionSecret: redaction, AuditorKeys: auditors,
	})
	return g, broker, err
}

func gateUpstreams(c *config.Config) ([]gate.Upstream, error) {
	out := make([]gate.Upstream, 0, len(c.Upstreams))
	for _, u := range c.Upstreams {
		to, err := u.ParsedURL()
		if err != nil {
			return nil, fmt.Errorf("upstream %s: %w", u.Name, err)
		}
		out = append(out, gate.Upstream{Name: u.Name, Provider: providerOf(u), Dialect: u.Dialect, URL: to, SecretClass: u.SecretClass})
	}
	return out, nil
}

func newBroker(c *config.Config, log *slog.Logger) (*secret.Broker, error) {
	var classes []secret.Class
	for _, s := range c.SecretClasses {
		src, err := Source(s.From)
		if err != nil {
			return nil, fmt.Errorf("secret class %s: %w", s.Name, err)
		}
		cl := secret.Class{
			Name: s.Name, Source: src, Hosts: c.Authorities(s), Methods: s.Methods, PathPrefixes: s.PathPrefixes, TTL: time.Duration(s.TTL),
			NeedsTool: s.NeedsTool, PerJob: s.PerJob,
		}
		if s.Inject != nil {
			cl.Inject = secret.Inject{
				Header: strings.ToLower(s.Inject.Header), Format: s.Inject.Format, Query: s.Inject.Query, Basic: s.Inject.Basic,
			}
		}
		classes = append(classes, cl)
	}
	return secret.New(classes, secret.WithLog(log))
}
