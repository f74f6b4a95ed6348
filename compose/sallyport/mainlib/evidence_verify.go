package mainlib

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"sallyport/compose/role"
	"sallyport/signer/audit"
	"sallyport/signer/clawlog"
	"sallyport/signer/clawverify"
	"sallyport/signer/tlog"
)

// kindAuto lets the file say what it is.
const kindAuto = "auto"

// verifyFlags are what `evidence verify` is told to believe, and how.
type verifyFlags struct {
	kind, at, config, urm          string
	gateways, contracts, trustFile []string
	logKeys                        []string
	contractFiles                  []string
	asJSON, allowUnchecked         bool
}

func (a *app) evidenceVerify() *cobra.Command {
	f := &verifyFlags{}
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Verify an archive, a bundle or a receipt offline, believing only the keys given",
		Long: `Verify an auditor's archive, a proof bundle, an export bundle or a gateway receipt. Nothing is asked over the network, and
nobody is believed but the keys given here. Without --trust, --trust-file or --config no receipt can be verified.

Exit status: 0 everything checked is right, 1 something is wrong, 2 nothing could be said of the file.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.verifyFile(f, args[0]) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.kind, "kind", kindAuto, "archive, "+clawverify.KindBundle+", "+clawverify.KindExport+" or "+clawverify.KindReceipt+"; "+kindAuto+" lets the file say")
	fs.StringSliceVar(&f.gateways, "trust", nil, "DIDs of gateways whose receipts are believed")
	fs.StringSliceVar(&f.contracts, "trust-contract", nil, "DIDs whose signatures on contracts are believed")
	fs.StringSliceVar(&f.logKeys, "trust-log", nil, "verifier keys of the transparency log, as signed notes write them: Ed25519, and ML-DSA-65 where it is to be checked too")
	fs.StringSliceVar(&f.trustFile, "trust-file", nil, "trust files of installations, got by another way than the evidence")
	fs.StringVar(&f.config, "verifier-config", "", "configuration file of the ecosystem's verifiers with its allowlists (config_version 1)")
	fs.StringSliceVar(&f.contractFiles, "contract", nil, "signed contracts (envelopes), to replay a bundle that comes without its archive")
	fs.StringVar(&f.urm, "urm", "", "run manifest that the bundle refers to (default: X-urm.json beside X-bundle.json)")
	fs.StringVar(&f.at, "at", "", "judge what may expire by this time, RFC 3339 (default: now)")
	fs.BoolVar(&f.asJSON, "json", false, "print the whole result as JSON")
	fs.BoolVar(&f.allowUnchecked, "allow-unchecked", false, "pass bundles with evidence of kinds that are not read here; they are named and count for nothing")
	return cmd
}

// trust gathers whom to believe.
func (f *verifyFlags) trust() (*audit.Config, *clawverify.Config, error) {
	now := time.Now()
	if f.at != "" {
		at, err := time.Parse(time.RFC3339, f.at)
		if err != nil {
			return nil, nil, fmt.Errorf("--at: write an RFC 3339 time such as 2026-03-01T12:00:00Z: %w", err)
		}
		now = at
	}
	claw := &clawverify.Config{GatewaySigners: slices.Clone(f.gateways), Now: now, AllowUnchecked: f.allowUnchecked}
	claw.AddEnvironment(os.Getenv)
	if f.config != "" {
		raw, err := readBounded(f.config, clawverify.MaxBytes)
		if err == nil {
			err = claw.AddFile(raw)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("--verifier-config: %w", err)
		}
	}
	contracts, logs := slices.Clone(f.contracts), slices.Clone(f.logKeys)
	for _, file := range f.trustFile {
		t, err := role.ReadTrust(file)
		if err != nil {
			return nil, nil, err
		}
		claw.GatewaySigners = append(claw.GatewaySigners, t.GatewaySigners...)
		contracts = append(contracts, t.ContractSigners...)
		logs = append(logs, t.LogKeys...)
	}
	for _, did := range slices.Concat(claw.GatewaySigners, contracts) {
		if !strings.HasPrefix(did, "did:key:") {
			return nil, nil, fmt.Errorf("%q is no did:key; give the gateway's DID as its operator published it", did)
		}
	}
	c := &audit.Config{GatewaySigners: claw.GatewaySigners, ContractSigners: contracts, Now: now, AllowUnchecked: f.allowUnchecked}
	if err := trustLogs(c, logs); err != nil {
		return nil, nil, err
	}
	for _, file := range f.contractFiles {
		raw, err := readBounded(file, clawverify.MaxBytes)
		if err != nil {
			return nil, nil, fmt.Errorf("--contract: %w", err)
		}
		c.Contracts = append(c.Contracts, raw)
	}
	return c, claw, nil
}

// trustLogs has inclusion proofs checked: in the transparency log by its keys, in the ecosystem's log by the gateway's.
func trustLogs(c *audit.Config, keys []string) error {
	if len(c.GatewaySigners) > 0 {
		c.ClawLog = func(raw []byte) (string, error) {
			p, err := clawlog.ParseProof(raw)
			if err != nil {
				return "", err
			}
			if err := clawlog.Verify(p); err != nil {
				return "", err
			}
			if !slices.Contains(c.GatewaySigners, p.RootSignature.SignerDID) {
				return "", fmt.Errorf("the root is signed by %s, which is not among the trusted gateways", p.RootSignature.SignerDID)
			}
			return p.LeafHash, nil
		}
	}
	if len(keys) == 0 {
		return nil
	}
	v, err := tlog.ParseVerifiers(keys...)
	if err != nil {
		return fmt.Errorf("--trust-log: %w", err)
	}
	c.TLog = func(kind, payloadHash string, index uint64, inclusion [][]byte, checkpoint []byte) error {
		return tlog.VerifyInclusion(kind, payloadHash, &tlog.Proof{Index: index, Inclusion: inclusion}, checkpoint, v)
	}
	return nil
}

// verifyInput is what the result says of where it came from.
type verifyInput struct {
	Path           string `json:"path"`
	VerifierConfig string `json:"config_path,omitempty"`
	URM            string `json:"urm_path,omitempty"`
}

func (a *app) verifyFile(f *verifyFlags, path string) error {
	c, claw, err := f.trust()
	if err != nil {
		return usageError{err}
	}
	input := &verifyInput{Path: path, VerifierConfig: f.config, URM: f.urm}
	if candidate, ok := strings.CutSuffix(path, "-bundle.json"); ok && input.URM == "" {
		if _, err := os.Stat(candidate + "-urm.json"); err == nil {
			input.URM = candidate + "-urm.json"
		}
	}
	if input.URM != "" {
		if claw.URM, err = readBounded(input.URM, clawverify.MaxBytes); err != nil {
			return usageError{fmt.Errorf("--urm: %w", err)}
		}
		c.URM = claw.URM
	}
	report, err := f.verify(path, c, claw, input)
	if err != nil {
		return usageError{err}
	}
	if f.asJSON {
		enc := json.NewEncoder(a.out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		err = enc.Encode(report)
	} else {
		err = a.printReport(report)
	}
	if err != nil {
		return err
	}
	switch report.Status {
	case clawverify.Pass:
		return nil
	case clawverify.Fail:
		return errSilent
	case clawverify.Errors:
	}
	return programEnded{report.Status.ExitCode()}
}

// verify opens the file and has it verified as what it is. A bundle of this gateway's is audited too.
func (f *verifyFlags) verify(path string, c *audit.Config, claw *clawverify.Config, input *verifyInput) (*clawverify.Report, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	head := make([]byte, 4)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	kind := f.kind
	if kind == kindAuto {
		kind = ""
		if bytes.HasPrefix(head[:n], []byte("PK")) {
			kind = "archive"
		}
	}
	if kind == "archive" {
		info, err := file.Stat()
		if err != nil {
			return nil, err
		}
		return audit.Archive(file, info.Size(), c, input), nil
	}
	raw, err := readBounded(path, clawverify.MaxBytes+1)
	if err != nil {
		return nil, err
	}
	report := clawverify.Verify(kind, raw, claw, input)
	if report.Kind == clawverify.KindBundle && report.Status != clawverify.Errors && audit.Ours(raw) {
		return audit.Bundle(raw, c, input), nil
	}
	return report, nil
}

// readBounded reads a file up to a size; of a larger one it gives the beginning, which its reader refuses by its length.
func readBounded(path string, most int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, most))
}

// printReport says in words what was checked, what was not, and what came of it.
func (a *app) printReport(r *clawverify.Report) error {
	fmt.Fprintf(a.out, "%s  %s  %s\n%s\n", r.Status, r.Kind, r.ReasonCode, r.Reason)
	if r.Hint != "" {
		fmt.Fprintln(a.out, r.Hint)
	}
	switch v := r.Verification.(type) {
	case *audit.Result:
		return a.printChecks(v)
	case *clawverify.Verification:
		n := v.Result.Components
		fmt.Fprintf(a.out, "\nbundle %s of agent %s: proof tier %s, %d events, %d of %d receipts count\n",
			v.Result.BundleID, v.Result.AgentDID, v.Result.ProofTier, n.EventsCount, n.ReceiptsVerified, n.ReceiptsCount)
		for _, name := range n.NotChecked {
			fmt.Fprintf(a.out, "NOT CHECKED: %s\n", name)
		}
	}
	return nil
}

func (a *app) printChecks(v *audit.Result) error {
	fmt.Fprintf(a.out, "\nrun      %s\njob      %s\nagent    %s\ngateway  %s\ncalls    %d (%d completed, %d cut) in %d bundles; %d refused; %d recorded by the client\n\n",
		v.RunID, v.Job, v.AgentDID, v.GatewayDID, v.Calls, v.Completed, v.Cut, v.Parts, v.Refused, v.Own)
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	for _, k := range v.Checks {
		word := map[audit.Verdict]string{audit.Passed: "ok", audit.Failed: "FAILED", audit.NotChecked: "NOT CHECKED"}[k.Verdict]
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", word, k.Name, k.Count, k.What)
		switch k.Verdict {
		case audit.Failed:
			fmt.Fprintf(w, "\t\t%d wrong\t%s: %s: %s\n", k.Faults, k.Code, k.Field, k.Reason)
			for _, m := range k.More {
				fmt.Fprintf(w, "\t\t\t%s\n", m)
			}
		case audit.NotChecked:
			fmt.Fprintf(w, "\t\t\t%s\n", k.Reason)
		case audit.Passed:
		}
	}
	return w.Flush()
}
