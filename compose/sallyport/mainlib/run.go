package mainlib

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"sallyport/compose/config"
	runner "sallyport/compose/run"
	"sallyport/signer/runs"
)

// exitRun is the status when the program was not run, or not to its end, as of env and docker run: no status of the
// program's own.
const exitRun = 125

// programEnded carries the program's exit status to Main.
type programEnded struct{ status int }

func (e programEnded) Error() string {
	return fmt.Sprintf("the program ended with status %d", e.status)
}

// runFlags are the command's.
type runFlags struct {
	contract, mission, sub     string
	ttl                        time.Duration
	noIsolation, privateTmp    bool
	keep, hide, show           []string
	quiet                      bool
	summaryFile                string
	forwardAddress, forwardCAs string
}

func (a *app) run() *cobra.Command {
	f := &runFlags{}
	cmd := &cobra.Command{
		Use:   "run --contract FILE|HASH -- PROGRAM [ARGUMENT]...",
		Short: "Run any program under a contract; the only way out of it is the gate",
		Long: `Run any program under a contract. On Linux it gets namespaces of its own, in which every connection, with proxy
settings or without, ends at this process and goes on to the gate with the job's token, which the program never sees.
The files stay the caller's, but for sockets, credentials and what --hide names.

The exit status is the program's own; 125 says that it was not run, or not to its end.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runProgram(cmd.Context(), f, args) },
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVar(&f.contract, "contract", "", "the contract: a file, which is published where it is not yet, or the hash of a published one")
	cmd.Flags().StringVar(&f.mission, "mission", "", "the job's name (default: a new one)")
	cmd.Flags().StringVar(&f.sub, "sub", exampleSubject, "the agent")
	cmd.Flags().DurationVar(&f.ttl, "ttl", 10*time.Minute, "life of the token; it is renewed while the program runs")
	cmd.Flags().BoolVar(&f.noIsolation, "no-isolation", false, "environment only: a program that ignores it is not held back")
	cmd.Flags().BoolVar(&f.privateTmp, "private-tmp", false, "an empty /tmp instead of the caller's")
	cmd.Flags().StringSliceVar(&f.keep, "keep", nil, "environment variable to leave to the program although it looks like a secret")
	cmd.Flags().StringSliceVar(&f.hide, "hide", nil, "file or directory that the program must not see")
	cmd.Flags().StringSliceVar(&f.show, "show", nil, "file or directory of the caller's credentials to leave to the program, such as ~/.ssh")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "no notes, no summary and no archive for the auditor")
	cmd.Flags().StringVar(&f.summaryFile, "summary-file", "", "file for the summary as JSON")
	cmd.Flags().StringVar(&f.forwardAddress, "forward", "", "the gate's forward door, HOST:PORT (default: from the configuration)")
	cmd.Flags().StringVar(&f.forwardCAs, "forward-ca", "", "file with the authority of the forward door's certificate (default: the gateway's own)")
	return cmd
}

// jobInit is the first process in a program's namespaces. Nobody calls it by hand.
func jobInit() *cobra.Command {
	return &cobra.Command{
		Use: runner.InitCommand, Hidden: true, Args: cobra.NoArgs, DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error { return programEnded{runner.Init()} },
	}
}

func (a *app) runProgram(ctx context.Context, f *runFlags, program []string) error {
	if f.contract == "" {
		return usageError{errors.New("--contract is missing: a file, or the hash of a published contract")}
	}
	if f.ttl < time.Minute {
		return usageError{errors.New("--ttl must be at least a minute")}
	}
	c, err := a.load()
	if err != nil {
		return err
	}
	status, err := a.runJob(ctx, c, f, program)
	if err != nil {
		fmt.Fprintf(a.err, "sallyport: run: %v\n", err)
		return programEnded{exitRun}
	}
	return programEnded{status}
}

// runJob prepares the job at the gateway, runs the program and withdraws the token.
func (a *app) runJob(ctx context.Context, c *config.Config, f *runFlags, program []string) (int, error) {
	end, err := a.ensureGateway(ctx, c, f.quiet)
	if err != nil {
		return 0, err
	}
	defer end()
	j, err := a.newJob(ctx, c, f)
	if err != nil {
		return 0, err
	}
	if err := j.issue(ctx); err != nil {
		return 0, err
	}
	defer func() {
		if err := j.revoke(); err != nil {
			fmt.Fprintf(a.err, "sallyport: the token is good until it expires: %v\n", err)
		}
	}()
	stop := j.keepFresh(a.err)
	defer stop()
	notes := a.err
	if f.quiet {
		notes = io.Discard
	}
	// The program's own end counts, not a signal to this process: that is passed on.
	result, err := runner.Run(context.WithoutCancel(ctx), runner.Config{
		ForwardAddress: j.door.address, TLS: j.door.tls, Token: j.token, CA: j.ca, Doors: doors(c), Names: j.names(c),
		Program: program, Environ: os.Environ(), Keep: f.keep, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Notes: notes,
		NoIsolation: f.noIsolation, Hide: hidden(c, a.adminFile, f), PrivateTmp: f.privateTmp,
	})
	if err != nil {
		return 0, err
	}
	return result.ExitCode, a.conclude(c, f, j, result)
}

// door is where and how the gate's forward door is reached.
type door struct {
	address    string
	tls        *tls.Config
	thumbprint string // of our client certificate, for the token
}

// forwardDoor finds the forward door: flags first. Its certificate is the contract's authority's, unless a flag names
// another.
func forwardDoor(c *config.Config, f *runFlags, ca []byte) (*door, error) {
	d := &door{address: f.forwardAddress}
	switch {
	case d.address != "":
	case !c.Forward():
		return nil, errors.New("the gateway has no forward door: forward_listen is off in the configuration")
	default:
		d.address = dialable(c.ForwardListen)
	}
	if f.forwardCAs != "" {
		var err error
		if ca, err = os.ReadFile(f.forwardCAs); err != nil {
			return nil, fmt.Errorf("--forward-ca: %w", err)
		}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("the authority of the forward door's certificate is no certificate in PEM")
	}
	cert, thumbprint, err := runner.ClientCertificate(time.Now(), maxRun)
	if err != nil {
		return nil, err
	}
	d.thumbprint = thumbprint
	d.tls = &tls.Config{RootCAs: roots, ServerName: runner.ReverseHost, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
	return d, nil
}

// doors are the base URLs that the gate offers.
func doors(c *config.Config) []runner.Door {
	out := make([]runner.Door, 0, len(c.Upstreams))
	for _, u := range c.Upstreams {
		out = append(out, runner.Door{Name: u.Name, Dialect: u.Dialect})
	}
	return out
}

// hidden are the gateway's own files, the credentials that it sends and the caller's.
func hidden(c *config.Config, adminFile string, f *runFlags) []string {
	out := append([]string{c.DataDir, c.RunDir(), c.AdminTokenFile, c.ViewerTokenFile, c.Evidence.Dir, c.ContractsDir, c.File, adminFile}, f.hide...)
	for _, s := range c.SecretClasses {
		out = append(out, s.From.SecretFiles()...)
	}
	home, _ := os.UserHomeDir() // without one there is nothing in it to hide
	shown := map[string]bool{}
	for _, p := range f.show {
		if abs, err := filepath.Abs(p); err == nil {
			shown[abs] = true
		}
	}
	out = append(out, slices.DeleteFunc(runner.CredentialFiles(home), func(p string) bool { return shown[p] })...)
	return slices.DeleteFunc(out, func(p string) bool { return p == "" })
}

// runSummary is what --summary-file gets.
type runSummary struct {
	runner.Summary
	PolicyHash string `json:"policy_hash_b64u"`
	Mission    string `json:"mission_id"`
	ExitStatus int    `json:"exit_status"`
	Evidence   string `json:"evidence"` // directory of the receipts
	// Recorded is what the evidence says of the job; nil where it cannot be read from here.
	Recorded *recorded `json:"recorded,omitempty"`
	// Archives are the files for the auditor, one for each run of the job; NoArchive says why one is missing.
	Archives  []string `json:"archives"`
	NoArchive string   `json:"no_archive,omitempty"`

	trustFile string // of this installation, by which the archives are believed
}

// archiveWait bounds the wait for records that are on their way when the program has ended.
const archiveWait = 2 * time.Second

// archives writes what the job leaves to an auditor. That there is none does not change how the program ended.
func (a *app) archives(c *config.Config, s *runSummary) {
	s.Archives = []string{}
	api, err := a.api()
	if err != nil {
		s.NoArchive = err.Error()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), bundleTimeout)
	defer cancel()
	var answer struct{ Runs []runs.Summary }
	if err := api.call(ctx, http.MethodGet, "/v1/runs?q="+url.QueryEscape(s.Mission), nil, &answer, true); err != nil {
		s.NoArchive = err.Error()
		return
	}
	dir := filepath.Join(c.DataDir, "runs")
	for _, r := range answer.Runs {
		if r.Job != s.Mission {
			continue
		}
		err := os.MkdirAll(dir, 0o700)
		if err == nil {
			var path string
			if path, err = a.writeBundle(ctx, &bundleFlags{run: r.ID, out: filepath.Join(dir, r.ID+".zip"), wait: archiveWait}); err == nil {
				s.Archives = append(s.Archives, path)
			}
		}
		if err != nil {
			s.NoArchive = err.Error()
		}
	}
}

// conclude tells how the run went.
func (a *app) conclude(c *config.Config, f *runFlags, j *job, r *runner.Result) error {
	if f.quiet && f.summaryFile == "" {
		return nil // nobody is told, so nothing is read
	}
	s := runSummary{Summary: r.Summary, PolicyHash: j.hash, Mission: j.mission, ExitStatus: r.ExitCode, Evidence: c.Evidence.Dir, trustFile: c.TrustFile()}
	s.Recorded = readRecorded(c.Evidence.Dir, j.mission, j.begin)
	a.archives(c, &s)
	if !f.quiet {
		printSummary(a.err, s)
	}
	if f.summaryFile == "" {
		return nil
	}
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(f.summaryFile, append(raw, '\n'), 0o644)
}
