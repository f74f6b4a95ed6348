package mainlib

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"

	"github.com/spf13/cobra"

	"sallyport/compose/config"
	"sallyport/compose/role"
	"sallyport/signer/contract"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
)

func (a *app) contract() *cobra.Command {
	return group("contract", "Work policy contracts (WPC): what a job may do",
		a.contractLint(), a.contractSign(), a.contractHash(), a.contractDiff(), a.contractPublish(), a.contractShow(),
		a.contractExport(), a.contractCheck())
}

// contractFile is a contract as it stands in a file: the payload alone, or in its signed envelope.
type contractFile struct {
	payload  json.RawMessage
	envelope *envelope.Envelope // nil where the file holds the payload
	parsed   *contract.Contract
}

func (a *app) readContract(path string) (*contractFile, error) {
	raw, err := a.readInput(path)
	if err != nil {
		return nil, err
	}
	f := &contractFile{payload: raw}
	var head struct {
		Type string `json:"envelope_type"`
	}
	if json.Unmarshal(raw, &head) == nil && head.Type != "" {
		if f.envelope, err = envelope.Parse(raw); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		f.payload = f.envelope.Payload
	}
	if f.parsed, err = contract.Parse(f.payload); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

func (a *app) contractLint() *cobra.Command {
	strict := false
	cmd := &cobra.Command{
		Use: "lint FILE...", Short: "Check contracts and say what is probably not meant", Args: cobra.MinimumNArgs(1),
		Long: "Check contracts and say what is probably not meant. With --config, also whether the secret classes that their tools name are declared and may go there.",
		RunE: func(_ *cobra.Command, args []string) error {
			var conf *config.Config
			if a.configPath != "" {
				var err error
				if conf, err = a.load(); err != nil {
					return err
				}
			}
			failed := false
			for _, path := range args {
				f, err := a.readContract(path)
				if err != nil {
					fmt.Fprintln(a.out, err)
					failed = true
					continue
				}
				findings := contract.Lint(f.parsed)
				if conf != nil {
					classes, err := role.LintClasses(conf, f.parsed)
					if err != nil {
						return err
					}
					findings = append(findings, classes...)
				}
				for _, x := range findings {
					fmt.Fprintf(a.out, "%s: %s: %s: %s [%s]\n    remedy: %s\n", path, x.Severity, x.Path, x.Message, x.Rule, x.Remedy)
					failed = failed || strict || x.Severity == contract.SeverityError
				}
				fmt.Fprintf(a.out, "%s: %s contract %s, %d findings\n", path, f.parsed.Kind, f.parsed.Hash, len(findings))
			}
			if failed {
				return errSilent
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "fail on any finding, not only on errors")
	return cmd
}

func (a *app) contractHash() *cobra.Command {
	return &cobra.Command{
		Use: "hash FILE", Short: "Print the contract's hash, which is its address", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := a.readContract(args[0])
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, f.parsed.Hash)
			return nil
		},
	}
}

func (a *app) contractSign() *cobra.Command {
	out := ""
	cmd := &cobra.Command{
		Use: "sign FILE", Short: "Sign a contract with this installation's contract key (through the signer)", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := a.readContract(args[0])
			if err != nil {
				return err
			}
			c, err := a.api()
			if err != nil {
				return err
			}
			var answer struct {
				Envelope json.RawMessage `json:"envelope"`
			}
			if err := c.call(cmd.Context(), http.MethodPost, "/v1/contracts/sign", map[string]any{"wpc": f.payload}, &answer, true); err != nil {
				return err
			}
			if out == "" {
				return a.printJSON(answer.Envelope)
			}
			return os.WriteFile(out, append(answer.Envelope, '\n'), 0o644)
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "file for the signed envelope (default: standard output)")
	return cmd
}

func (a *app) contractDiff() *cobra.Command {
	failOnWiden := false
	cmd := &cobra.Command{
		Use: "diff OLD NEW", Short: "Say what changes from one contract to another, and whether it allows more", Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			old, err := a.readContract(args[0])
			if err != nil {
				return err
			}
			next, err := a.readContract(args[1])
			if err != nil {
				return err
			}
			widens := false
			for _, ch := range contract.Diff(old.parsed, next.parsed) {
				mark := "  "
				if ch.Widens {
					mark, widens = "+ ", true
				}
				fmt.Fprintf(a.out, "%s%s: %s\n", mark, ch.Path, ch.Message)
			}
			switch {
			case old.parsed.Hash == next.parsed.Hash:
				fmt.Fprintln(a.out, "the same contract")
			case widens:
				fmt.Fprintln(a.out, "the new contract allows more (lines with +)")
			default:
				fmt.Fprintln(a.out, "the new contract allows nothing that the old one did not")
			}
			if widens && failOnWiden {
				return errSilent
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&failOnWiden, "fail-on-widen", false, "fail if the new contract allows more")
	return cmd
}

// publication is the registry's answer.
type publication struct {
	Existed bool   `json:"existed"`
	Hash    string `json:"policy_hash_b64u"`
}

// publish puts a contract in the registry; one that is there already stays as it is.
func (c *api) publish(ctx context.Context, f *contractFile) (p publication, err error) {
	body := map[string]any{"wpc": f.payload}
	if f.envelope != nil {
		body = map[string]any{"envelope": f.envelope}
	}
	return p, c.call(ctx, http.MethodPost, "/v1/wpc", body, &p, true)
}

func (a *app) contractPublish() *cobra.Command {
	return &cobra.Command{
		Use: "publish FILE", Short: "Put a contract in the registry; an unsigned one is signed on the way", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := a.readContract(args[0])
			if err != nil {
				return err
			}
			c, err := a.api()
			if err != nil {
				return err
			}
			answer, err := c.publish(cmd.Context(), f)
			if err != nil {
				return err
			}
			what := "published"
			if answer.Existed {
				what = "was there already"
			}
			fmt.Fprintf(a.out, "%s %s\n", answer.Hash, what)
			return nil
		},
	}
}

var hashForm = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)

func (a *app) contractShow() *cobra.Command {
	return &cobra.Command{
		Use: "show HASH|FILE", Short: "Show a contract of the registry or of a file, and who signed it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !hashForm.MatchString(args[0]) {
				f, err := a.readContract(args[0])
				if err != nil {
					return err
				}
				if f.envelope != nil {
					return a.printJSON(f.envelope)
				}
				return a.printJSON(f.payload)
			}
			c, err := a.api()
			if err != nil {
				return err
			}
			var answer struct {
				Envelope json.RawMessage `json:"envelope"`
			}
			if err := c.call(cmd.Context(), http.MethodGet, "/v1/wpc/"+args[0], nil, &answer, false); err != nil {
				return err
			}
			env, err := envelope.Parse(answer.Envelope)
			if err != nil {
				return err
			}
			if got, err := jcs.HashCanonical(env.Payload); err != nil || got != args[0] {
				return fmt.Errorf("the registry's contract hashes to %s, not to the address %s", got, args[0])
			}
			return a.printJSON(env)
		},
	}
}
