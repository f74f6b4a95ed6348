package role

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"sallyport/signer/bundle"
	"sallyport/signer/envelope"
	"sallyport/signer/evidenceapi"
	"sallyport/signer/evlog"
	"sallyport/signer/issuer"
	"sallyport/signer/runs"
	"sallyport/signer/tlog"
	"sallyport/signer/trustpulse"
)

const (
	// indexEvery is how far the index of runs may be behind the evidence. Who asks it first has it catch up.
	indexEvery = 250 * time.Millisecond
	// proofWait bounds how long an archive waits until the newest records are in the transparency log, which takes a second.
	proofWait  = 5 * time.Second
	proofCheck = 50 * time.Millisecond
)

// openIndex opens the index of the evidence by run.
func (p *Process) openIndex(evidence *evlog.Log) (*runs.Index, error) {
	dir := p.Config.Evidence.Dir
	x, err := runs.Open(filepath.Join(dir, "index", "runs.db"), dir, evidence, p.Log)
	if err != nil {
		return nil, err
	}
	return x, x.CatchUp(context.Background())
}

// evidenceAPI serves bundles and archives: made in this process, because the keys are here.
func (p *Process) evidenceAPI(x *runs.Index, keys *Keys, lk *logKeys, l *logs) (http.Handler, error) {
	trust := keys.trust()
	trust.LogKeys = lk.verifiers.Keys()
	m := &bundle.Maker{
		Gateway: keys.Gateway.Active(), Job: func(job string) envelope.Signer { return keys.Jobs.For(job) },
		Version: p.Version, Contract: p.contractEnvelope, Sealed: x.Sealed, Trust: trust,
	}
	if l.log != nil {
		m.Proofs = l.prove
	}
	c := evidenceapi.Config{Index: x, Maker: m, Admin: l.admin.Authenticate, Log: p.Log, Pulses: trustpulse.Store{Dir: filepath.Join(p.Config.Evidence.Dir, "trust-pulse")}}
	viewer, created, err := issuer.CreateAdminKey(p.Config.ViewerTokenFile, rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("viewer's key: %w", err)
	}
	if created {
		p.Log.Info("a viewer's key was generated", "file", p.Config.ViewerTokenFile)
	}
	c.Reader = func(r *http.Request) (string, bool) {
		if _, ok := viewer.Authenticate(r); ok {
			return "viewer", true
		}
		return c.Admin(r)
	}
	return evidenceapi.Handler(c), nil
}

// packEvery is how often it is looked for segments to compress.
const packEvery = 10 * time.Minute

// pack compresses segments that have rested long enough. What cannot be packed stays as it is, and is told once.
func (p *Process) pack(ctx context.Context) error {
	tick := time.NewTicker(packEvery)
	defer tick.Stop()
	told := ""
	for {
		n, err := evlog.Pack(p.Config.Evidence.Dir, time.Now().Add(-time.Duration(p.Config.Evidence.CompressAfter)))
		if n > 0 {
			p.Log.Info("segments of the evidence were compressed", "segments", n)
		}
		if err != nil && err.Error() != told {
			told = err.Error()
			p.Log.Error("the evidence is not compressed; it stays as it is", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// contractEnvelope reads a contract as it was published on this machine.
func (p *Process) contractEnvelope(hash string) ([]byte, error) {
	raw, err := os.ReadFile(filepath.Join(p.Config.ContractsDir, filepath.Base(hash)+".json"))
	if err != nil {
		return nil, err
	}
	env, err := envelope.Parse(raw)
	if err != nil {
		return nil, err
	}
	if env.PayloadHashB64u != hash {
		return nil, fmt.Errorf("the file holds contract %s", env.PayloadHashB64u)
	}
	return env.Encode()
}

// prove has the logs prove entries, once they are in them.
func (l *logs) prove(hashes []string) (*bundle.Proofs, error) {
	var found []tlog.Proof
	var err error
	for end := time.Now().Add(proofWait); ; time.Sleep(proofCheck) {
		if found, err = l.log.Proofs(hashes); !errors.Is(err, tlog.ErrNotFound) || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	out := &bundle.Proofs{Lines: make([]bundle.Proof, 0, len(found))}
	for i := range found {
		p := &found[i]
		line := bundle.Proof{Kind: p.Kind, PayloadHash: p.PayloadHash, Log: &bundle.LogProof{Index: p.Index, Inclusion: []string{}}}
		for _, h := range p.Inclusion {
			line.Log.Inclusion = append(line.Log.Inclusion, base64.StdEncoding.EncodeToString(h))
		}
		if p.Kind == tlog.Receipt && l.receipts != nil {
			proof, err := l.receipts.Proof(p.PayloadHash)
			if err != nil {
				return nil, err
			}
			if line.ReceiptLog, err = json.Marshal(proof); err != nil {
				return nil, err
			}
		}
		out.Lines, out.Checkpoint = append(out.Lines, line), p.Checkpoint
	}
	return out, nil
}
