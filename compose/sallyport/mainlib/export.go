package mainlib

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/compose/export"
	"sallyport/signer/contract"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
)

func (a *app) contractExport() *cobra.Command {
	baseURL, out := "", ""
	cmd := &cobra.Command{
		Use: "export RUNTIME FILE|HASH", Short: "Write the settings of an agent runtime that a contract means (" + strings.Join(export.Runtimes(), ", ") + ")",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.findContract(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			o, err := a.exportOptions(baseURL)
			if err != nil {
				return err
			}
			settings, err := export.Export(args[0], c, o)
			if err != nil {
				return exportUsage(err)
			}
			for _, n := range settings.Notes { // beside the settings, so that these can be piped
				fmt.Fprintf(a.err, "note: %s: %s\n", n.Path, n.Message)
			}
			if out != "" {
				return os.WriteFile(out, settings.File, 0o600)
			}
			_, err = a.out.Write(settings.File)
			return err
		},
	}
	cmd.Flags().StringVar(&baseURL, "base-url", export.DefaultBaseURL, "where the gateway's reverse door is reached")
	cmd.Flags().StringVar(&out, "out", "", "file for the settings (default: standard output)")
	return cmd
}

func (a *app) contractCheck() *cobra.Command {
	baseURL, ref, asJSON := "", "", false
	cmd := &cobra.Command{
		Use: "check RUNTIME CONFIG --contract FILE|HASH", Short: "List what an agent runtime's settings allow beyond a contract", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if ref == "" {
				return usageError{errors.New("--contract is missing: name the contract's file or hash")}
			}
			c, err := a.findContract(cmd.Context(), ref)
			if err != nil {
				return err
			}
			o, err := a.exportOptions(baseURL)
			if err != nil {
				return err
			}
			raw, err := a.readInput(args[1])
			if err != nil {
				return err
			}
			findings, err := export.Check(args[0], raw, c, o)
			if err != nil {
				return exportUsage(fmt.Errorf("%s: %w", args[1], err))
			}
			return a.printFindings(args[1], findings, asJSON)
		},
	}
	cmd.Flags().StringVar(&ref, "contract", "", "the contract: its file, or its hash in the registry")
	cmd.Flags().StringVar(&baseURL, "base-url", export.DefaultBaseURL, "where the gateway's reverse door is reached")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	return cmd
}

func (a *app) printFindings(path string, findings []export.Finding, asJSON bool) error {
	if asJSON {
		if err := a.printJSON(map[string]any{"wider": len(findings) > 0, "findings": append([]export.Finding{}, findings...)}); err != nil {
			return err
		}
	} else {
		for _, f := range findings {
			fmt.Fprintf(a.out, "%s\n    allows:   %s\n    contract: %s\n    instead:  %s\n", f.Path, f.Allows, f.Contract, f.Instead)
		}
		if len(findings) == 0 {
			fmt.Fprintf(a.out, "%s allows nothing that the contract does not\n", path)
		} else {
			fmt.Fprintf(a.out, "%s allows more than the contract in %d places\n", path, len(findings))
		}
	}
	if len(findings) > 0 {
		return errSilent
	}
	return nil
}

func exportUsage(err error) error {
	if errors.Is(err, export.ErrRuntime) {
		return usageError{err}
	}
	return err
}

// exportOptions takes the doors from the configuration where one is named.
func (a *app) exportOptions(baseURL string) (export.Options, error) {
	o := export.Options{BaseURL: baseURL}
	if a.configPath == "" && a.dataDir == "" {
		return o, nil
	}
	cfg, err := a.load()
	if err != nil {
		return o, err
	}
	for _, u := range cfg.Upstreams {
		o.Doors = append(o.Doors, export.Door{Name: u.Name, Provider: u.Provider, Dialect: u.Dialect})
	}
	return o, nil
}

// findContract reads a contract from a file, or from the registry by its hash.
func (a *app) findContract(ctx context.Context, ref string) (*contract.Contract, error) {
	if !hashForm.MatchString(ref) {
		f, err := a.readContract(ref)
		if err != nil {
			return nil, err
		}
		return f.parsed, nil
	}
	c, err := a.api()
	if err != nil {
		return nil, err
	}
	var answer struct {
		Envelope json.RawMessage `json:"envelope"`
	}
	if err := c.call(ctx, http.MethodGet, "/v1/wpc/"+ref, nil, &answer, false); err != nil {
		return nil, err
	}
	env, err := envelope.Parse(answer.Envelope)
	if err != nil {
		return nil, err
	}
	if got, err := jcs.HashCanonical(env.Payload); err != nil || got != ref {
		return nil, fmt.Errorf("the registry's contract hashes to %s, not to the address %s", got, ref)
	}
	return contract.Parse(env.Payload)
}
