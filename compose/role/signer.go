package role

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"syscall"
	"time"

	"sallyport/compose/config"
	"sallyport/signer/ca"
	"sallyport/signer/contract"
	"sallyport/signer/envelope"
	"sallyport/signer/evlog"
	"sallyport/signer/issuer"
	"sallyport/signer/runs"
	"sallyport/signer/service"
)

// IssuerSocket is where the signer process answers the issuer's HTTP API.
func IssuerSocket(c *config.Config) string { return c.Socket("issuer") }

// Signer runs the signer: the only process that holds private keys. It records calls for the ext_proc processes, and
// issues and withdraws tokens.
func (p *Process) Signer(ctx context.Context) error {
	tune()
	c := p.Config
	if err := Prepare(c); err != nil {
		return err
	}
	keys, err := openKeys(c, p.Log)
	if err != nil {
		return err
	}
	logKeys, err := openLogKeys(c, keys)
	if err != nil {
		return err
	}
	trust := keys.trust()
	trust.LogKeys = logKeys.verifiers.Keys()
	if err := writeTrust(c.TrustFile(), trust); err != nil {
		return err
	}
	iss, closeIssuer, err := p.issuer(keys)
	if err != nil {
		return err
	}
	defer closeIssuer()

	log, recovered, err := evlog.Open(c.Evidence.Dir, evlog.Options{Log: p.Log})
	if err != nil {
		return err
	}
	defer func() {
		if err := log.Close(); err != nil {
			p.Log.Error("the evidence log did not close cleanly", slog.Any("error", err))
		}
	}()
	p.Log.Info("evidence log opened", slog.String("dir", c.Evidence.Dir), slog.Any("recovered", recovered))
	index, err := p.openIndex(log)
	if err != nil {
		return err
	}
	defer func() {
		if err := index.Close(); err != nil {
			p.Log.Error("the index of runs did not close cleanly", slog.Any("error", err))
		}
	}()
	svc, err := service.New(service.Config{
		Log: log, Gateway: keys.Gateway.Active(), GatewayID: keys.Gateway.Active().DID(), KID: keys.Gateway.Active().KID(),
		Receipts: index, Heads: index,
		Mode: service.Mode(c.Evidence.Mode), Trust: iss, Now: time.Now, Slog: p.Log, Metrics: p.Status.Registry,
	})
	if err != nil {
		return err
	}
	open, err := svc.Recover(c.Evidence.Dir)
	if err != nil {
		return err
	}
	if open > 0 {
		p.Log.Warn("calls were open when the signer ended; those that no processor claims are recorded as cut", slog.Int("calls", open))
	}
	p.Status.Add("evidence", func(context.Context) error { return roomLeft(c.Evidence.Dir) })
	logs, err := p.openLogs(ctx, log, keys, logKeys)
	if err != nil {
		return err
	}
	defer logs.close()
	evidence, err := p.evidenceAPI(index, keys, logKeys, logs)
	if err != nil {
		return err
	}
	return p.serveSigner(ctx, svc, iss, logs, index, evidence)
}

func (p *Process) serveSigner(ctx context.Context, svc *service.Service, iss *issuer.Issuer, logs *logs, index *runs.Index, evidence http.Handler) error {
	stream, err := listenTLS(p.Config.Signer)
	if err != nil {
		return fmt.Errorf("signer: %w", err)
	}
	api, err := listenUnix(IssuerSocket(p.Config))
	if err != nil {
		return err
	}
	s := newServices(ctx)
	if err := p.status(s); err != nil {
		return err
	}
	s.run("signer", func(ctx context.Context) error { return svc.Serve(ctx, stream) })
	s.run("transparency log", logs.run)
	s.run("compression", p.pack)
	s.run("index of runs", func(ctx context.Context) error { return index.Follow(ctx, indexEvery) })
	paths := http.NewServeMux()
	paths.Handle("/", logs.handler(iss.Handler()))
	paths.Handle("/v1/runs", evidence)
	paths.Handle("/v1/runs/", evidence)
	paths.Handle("/v1/trust", evidence)
	s.http(api, paths, p.Log)
	return s.wait()
}

// leastRoom is what a few thousand calls need, in bytes: enough to be told before calls are refused.
const leastRoom = 16 << 20

// roomLeft says when the disk of the evidence is nearly full.
func roomLeft(dir string) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if left := fs.Bavail * uint64(fs.Bsize); left < leastRoom { //nolint:gosec // a block size is positive
		return fmt.Errorf("%s has only %d KiB left; without room nothing passes", dir, left>>10)
	}
	return nil
}

// issuer opens what the issuer keeps and makes it.
func (p *Process) issuer(keys *Keys) (iss *issuer.Issuer, closeAll func(), err error) {
	c := p.Config
	admin, created, err := issuer.CreateAdminKey(c.AdminTokenFile, rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if created {
		p.Log.Warn("an administrator key was generated", slog.String("file", c.AdminTokenFile))
	}
	authority, created, err := ca.OpenOrCreate(ca.Config{Dir: filepath.Join(c.KeysDir(), "ca")}, time.Now())
	if err != nil {
		return nil, nil, err
	}
	if created {
		p.Log.Warn("a certificate authority for programs under a contract was made", slog.String("dir", filepath.Join(c.KeysDir(), "ca")))
	}
	rev, err := issuer.OpenRevocations(c.IssuerDir(), p.Log)
	if err != nil {
		return nil, nil, err
	}
	iss, err = issuer.New(issuer.Config{
		Ring: keys.Issuer, Revocations: rev, Admin: admin, Dir: c.IssuerDir(), CA: authority,
		SignContract: func(payload []byte, at time.Time) (*envelope.Envelope, error) {
			return contract.Sign(payload, keys.Contract.Active(), at)
		},
		GatewayDID: keys.Gateway.Active().DID(), ContractDIDs: dids(keys.Contract), Log: p.Log,
	})
	if err != nil {
		_ = rev.Close()
		return nil, nil, err
	}
	return iss, func() {
		if err := iss.Close(); err != nil {
			p.Log.Error("the record of issued tokens did not close cleanly", slog.Any("error", err))
		}
		if err := rev.Close(); err != nil {
			p.Log.Error("the record of revocations did not close cleanly", slog.Any("error", err))
		}
	}, nil
}

// listenTLS listens on a link, with mutual TLS where it has the material.
func listenTLS(l config.Link) (net.Listener, error) {
	conf, err := serverTLS(l)
	if err != nil {
		return nil, err
	}
	lis, err := listenLink(l)
	if err != nil || conf == nil {
		return lis, err
	}
	return tls.NewListener(lis, conf), nil
}
