package mainlib

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"sallyport/signer/runs"
)

// bundleTimeout bounds the making of an archive of a long run, and the wait for its last calls.
const bundleTimeout = 2 * time.Minute

// bundleFlags say which run, and what of it.
type bundleFlags struct {
	run, job, out string
	part          int
	wait          time.Duration
	withoutSealed bool
}

func (a *app) evidenceBundle() *cobra.Command {
	f := &bundleFlags{}
	cmd := &cobra.Command{
		Use:   "bundle --run RUN",
		Short: "Write a run's archive for the auditor: its proof bundles, contracts, decisions and inclusion proofs in one file",
		Long: `Write the archive of a run: one zip with its proof bundles in the Claw ecosystem's form, the contracts, the refusals, and the
proofs that all of it is in the logs. "sallyport evidence verify" reads it with the network unplugged. With --part one proof bundle
alone is written, as the ecosystem's own verifiers read it. Bundles are signed by the signer, so it must be running.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.run == "" {
				return usageError{errors.New("name a run with --run; `sallyport evidence runs` lists them")}
			}
			path, err := a.writeBundle(cmd.Context(), f)
			if err != nil {
				return err
			}
			if path != "-" {
				fmt.Fprintln(a.out, path)
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.run, "run", "", "the run's id, or its short name")
	fs.StringVar(&f.job, "job", "", "the job, where several have a run of that id")
	fs.StringVarP(&f.out, "out", "o", "", "file to write, - for standard output (default: RUN.zip, or RUN-bundle.json with --part)")
	fs.IntVar(&f.part, "part", 0, "write this proof bundle alone, counted from 1")
	fs.BoolVar(&f.withoutSealed, "without-sealed", false, "leave sealed bodies out")
	fs.DurationVar(&f.wait, "wait", 5*time.Second, "how long to wait for calls that are not settled yet")
	return cmd
}

// writeBundle fetches and writes, and returns where it is.
func (a *app) writeBundle(ctx context.Context, f *bundleFlags) (string, error) {
	q := url.Values{"wait": {f.wait.String()}}
	if f.job != "" {
		q.Set("job", f.job)
	}
	if f.withoutSealed {
		q.Set("sealed", "no")
	}
	path, name := "/archive", f.run+".zip"
	if f.part > 0 {
		path, name = "/bundle", f.run+"-bundle.json"
		q.Set("part", strconv.Itoa(f.part))
	}
	if f.out == "" {
		f.out = strings.ReplaceAll(name, string(filepath.Separator), "_")
	}
	api, err := a.api()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, bundleTimeout)
	defer cancel()
	body, err := api.download(ctx, "/v1/runs/"+url.PathEscape(f.run)+path+"?"+q.Encode())
	if err != nil {
		return "", err
	}
	defer body.Close()
	if f.out == "-" {
		_, err = io.Copy(a.out, body)
		return f.out, err
	}
	return f.out, writeWhole(f.out, body)
}

// writeWhole writes a file, or none: what was cut short on its way must not lie there as if it were all.
func writeWhole(path string, body io.Reader) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".evidence-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = io.Copy(tmp, body)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// download is a call of the administrator's whose answer is no JSON of ours.
func (c *api) download(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(c.adminFile)
	if err != nil {
		return nil, fmt.Errorf("administrator's key: %w (is Sallyport running here? else name the file with --admin-token-file)", err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(key)))
	resp, err := (&http.Client{Transport: c.client.Transport}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("control API: %w (is Sallyport running? `sallyport doctor` looks)", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAPIAnswer))
	if err != nil {
		return nil, fmt.Errorf("control API: %w", err)
	}
	return nil, readAPIError(resp.StatusCode, raw)
}

func (a *app) evidenceRuns() *cobra.Command {
	asJSON, limit, text := false, 0, ""
	cmd := &cobra.Command{
		Use: "runs", Short: "List runs, the newest first, with what each adds up to", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := a.api()
			if err != nil {
				return err
			}
			var answer struct{ Runs []runs.Summary }
			q := url.Values{"limit": {strconv.Itoa(limit)}, "q": {text}}
			if err := api.call(cmd.Context(), http.MethodGet, "/v1/runs?"+q.Encode(), nil, &answer, true); err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(answer.Runs)
			}
			w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "STARTED\tRUN\tJOB\tCALLS\tCUT\tREFUSED\tOPEN\tCLASSES")
			for _, r := range answer.Runs {
				fmt.Fprintf(w, "%s\t%s\t%.40s\t%d\t%d\t%d\t%d\t%s\n", r.Started.Format("2006-01-02T15:04:05Z"), r.Run, r.Job, r.Calls+r.ClientRecorded, r.Cut, r.Refused, r.Open, strings.Join(slices.Sorted(maps.Keys(r.SecretClasses)), " "))
			}
			return w.Flush()
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&asJSON, "json", false, "print JSON")
	fs.IntVarP(&limit, "limit", "n", 50, "how many")
	fs.StringVarP(&text, "query", "q", "", "only runs with this in their id, job or subject")
	return cmd
}
