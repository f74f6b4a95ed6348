package mainlib

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"sallyport/compose/role"
	"sallyport/signer/clawlog"
	"sallyport/signer/jcs"
	"sallyport/signer/tlog"
)

// logFlags are where the transparency log is and which keys are believed.
type logFlags struct {
	receiptFlags
	log  string
	keys []string
}

func (a *app) evidenceLog() *cobra.Command {
	f := &logFlags{}
	g := group("log", "The transparency log over the evidence: audit it, and prove what is in it",
		a.logAudit(f), a.logCheckpoint(f), a.logProof(f), a.logKeys(f))
	p := g.PersistentFlags()
	p.StringVar(&f.evidence, "evidence", "", "evidence directory (default: from the configuration)")
	p.StringVar(&f.log, "log", "", "directory of the log alone, without the evidence (default: tlog in the evidence directory)")
	p.StringArrayVar(&f.keys, "log-key", nil, "verifier key of the log, NAME+HASH+BASE64; once for each key (default: this installation's)")
	return g
}

// logDir is the log's directory, and the evidence that it is held against: none where the log is named alone.
func (a *app) logDir(f *logFlags) (dir, evidence string, err error) {
	if f.log != "" {
		return f.log, f.evidence, nil
	}
	evidence, err = a.evidenceDir(&f.receiptFlags)
	return role.LogDir(evidence), evidence, err
}

func (a *app) logVerifiers(f *logFlags) (tlog.Verifiers, error) {
	keys := f.keys
	if len(keys) == 0 {
		c, err := a.load()
		if err != nil {
			return tlog.Verifiers{}, err
		}
		t, err := role.ReadTrust(c.TrustFile())
		if err != nil {
			return tlog.Verifiers{}, fmt.Errorf("which keys to believe is not known; name them with --log-key: %w", err)
		}
		keys = t.LogKeys
	}
	return tlog.ParseVerifiers(keys...)
}

func (a *app) logAudit(f *logFlags) *cobra.Command {
	since, asJSON := "", false
	cmd := &cobra.Command{
		Use: "audit", Short: "Read the whole log: signatures, every tile and entry, the root, and every entry against its record",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, evidence, err := a.logDir(f)
			if err != nil {
				return err
			}
			v, err := a.logVerifiers(f)
			if err != nil {
				return err
			}
			o := tlog.AuditOptions{Verifiers: v, Evidence: evidence}
			if since != "" {
				if o.Since, err = os.ReadFile(since); err != nil {
					return fmt.Errorf("the older checkpoint: %w", err)
				}
			}
			rep, err := tlog.Audit(dir, o)
			if err != nil {
				return err
			}
			if err := a.printLogAudit(rep, asJSON, evidence != "", since != ""); err != nil {
				return err
			}
			if len(rep.Findings) > 0 {
				return errSilent
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&since, "since", "", "file with an older checkpoint, which the log must be a continuation of")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

func (a *app) printLogAudit(rep *tlog.Report, asJSON, compared, since bool) error {
	if asJSON {
		return a.printJSON(map[string]any{
			"ok": len(rep.Findings) == 0, "origin": rep.Origin, "entries": rep.Entries, "root_hash": base64.StdEncoding.EncodeToString(rep.Root),
			"consistent_since": rep.Since, "kinds": rep.Kinds, "compared": rep.Compared, "pending": rep.Pending,
			"findings": append([]string{}, rep.Findings...), "findings_dropped": rep.Dropped,
		})
	}
	fmt.Fprintf(a.out, "log %s\n%d entries under a signed checkpoint: %d receipts, %d decisions, %d tombstones\n",
		rep.Origin, rep.Entries, rep.Kinds[tlog.Receipt], rep.Kinds[tlog.Decision], rep.Kinds[tlog.Tombstone])
	if compared {
		fmt.Fprintf(a.out, "%d entries agree with their record in the evidence; %d newer records are not under this checkpoint yet\n", rep.Compared, rep.Pending)
	}
	if since && rep.Since > 0 {
		fmt.Fprintf(a.out, "the log is a continuation of the older checkpoint of %d entries\n", rep.Since)
	}
	for _, f := range rep.Findings {
		fmt.Fprintf(a.out, "WRONG: %s\n", f)
	}
	if rep.Dropped > 0 {
		fmt.Fprintf(a.out, "and %d more\n", rep.Dropped)
	}
	if len(rep.Findings) == 0 {
		fmt.Fprintln(a.out, "nothing is wrong")
	}
	return nil
}

func (a *app) logCheckpoint(f *logFlags) *cobra.Command {
	return &cobra.Command{
		Use: "checkpoint", Short: "Print the newest checkpoint after checking its signatures; keep it for a later audit --since", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			r, err := a.logReader(f)
			if err != nil {
				return err
			}
			_, signed, err := r.Checkpoint()
			if err != nil {
				return err
			}
			_, err = a.out.Write(signed)
			return err
		},
	}
}

func (a *app) logReader(f *logFlags) (*tlog.Reader, error) {
	dir, _, err := a.logDir(f)
	if err != nil {
		return nil, err
	}
	v, err := a.logVerifiers(f)
	if err != nil {
		return nil, err
	}
	return tlog.OpenReader(dir, v)
}

func (a *app) logKeys(f *logFlags) *cobra.Command {
	return &cobra.Command{
		Use: "keys", Short: "Print the verifier keys of the log, for whoever audits it elsewhere", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v, err := a.logVerifiers(f)
			if err != nil {
				return err
			}
			for _, k := range v.Keys() {
				fmt.Fprintln(a.out, k)
			}
			return nil
		},
	}
}

// logProofs is what proves one record: in this log, and in the ecosystem's where it is a receipt.
type logProofs struct {
	PayloadHash string         `json:"payload_hash_b64u"`
	Kind        tlog.Kind      `json:"kind"`
	Inclusion   *clawlog.Proof `json:"log_inclusion_proof,omitempty"`
	TLog        struct {
		Index     uint64   `json:"index"`
		Inclusion []string `json:"inclusion"`
	} `json:"tlog"`
	Checkpoint string `json:"checkpoint"`
}

func (a *app) logProof(f *logFlags) *cobra.Command {
	return &cobra.Command{
		Use: "proof PAYLOAD_HASH|RECEIPT_ID", Short: "Prove that a receipt, a signed refusal or a tombstone is in the log", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			hash, err := a.payloadHash(f, args[0])
			if err != nil {
				return err
			}
			r, err := a.logReader(f)
			if err != nil {
				return err
			}
			p, err := r.Proof(hash)
			if err != nil {
				return err
			}
			out := logProofs{PayloadHash: hash, Kind: p.Kind, Checkpoint: string(p.Checkpoint)}
			out.TLog.Index, out.TLog.Inclusion = p.Index, []string{}
			for _, h := range p.Inclusion {
				out.TLog.Inclusion = append(out.TLog.Inclusion, base64.StdEncoding.EncodeToString(h))
			}
			if p.Kind == tlog.Receipt && f.log == "" {
				if out.Inclusion, err = a.receiptProof(f, hash); err != nil {
					return err
				}
			}
			return a.printJSON(out)
		},
	}
}

// payloadHash is the argument itself, or that of the receipt with this id.
func (a *app) payloadHash(f *logFlags, arg string) (string, error) {
	if jcs.IsHash(arg) {
		return arg, nil
	}
	dir, err := a.evidenceDir(&f.receiptFlags)
	if err != nil {
		return "", err
	}
	ev, err := find(dir, arg)
	if err != nil {
		return "", err
	}
	var head struct {
		Hash string `json:"payload_hash_b64u"`
	}
	if ev.Envelope == nil || json.Unmarshal(ev.Envelope, &head) != nil || head.Hash == "" {
		return "", fmt.Errorf("%s is not a receipt but: %s; name the payload hash of what is to be proven", ev.ID, ev.Outcome)
	}
	return head.Hash, nil
}

// receiptProof is the ecosystem's proof, where there is one.
func (a *app) receiptProof(f *logFlags, hash string) (*clawlog.Proof, error) {
	dir, err := a.evidenceDir(&f.receiptFlags)
	if err != nil {
		return nil, err
	}
	p, err := clawlog.FindProof(role.ReceiptLogDir(dir), hash)
	if errors.Is(err, clawlog.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return p, err
}
