// Package mainlib is the command line: it reads arguments, calls the part that does the work and prints what came of it
// in words. Commands that verify work offline on files; those that change something use the control API.
package mainlib

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"

	"sallyport/compose/config"
)

// Exit statuses.
const (
	ExitOK      = 0
	ExitFailure = 1 // the thing asked for did not succeed, or what was checked is wrong
	ExitUsage   = 2 // the command line or the configuration is wrong
)

// app is what all commands share.
type app struct {
	in         io.Reader
	out, err   io.Writer
	configPath string
	dataDir    string
	controlURL string
	adminFile  string
}

// errSilent ends with ExitFailure; what is to be said has been printed.
var errSilent = errors.New("failed")

// usageError is a wrong command line.
type usageError struct{ error }

// Main runs one command and returns the exit status. It ends early when ctx does.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{out: stdout, err: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var usage usageError
	var problems config.Problems
	var ended programEnded
	switch {
	case err == nil:
		return ExitOK
	case errors.Is(err, errSilent):
		return ExitFailure
	case errors.As(err, &ended):
		return ended.status
	case errors.As(err, &problems):
		fmt.Fprintln(stderr, problems)
		return ExitUsage
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "sallyport: %v\nTry: sallyport help\n", err)
		return ExitUsage
	default:
		fmt.Fprintf(stderr, "sallyport: %v\n", err)
		return ExitFailure
	}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "sallyport",
		Short:         "The guarded way out for AI agents",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVarP(&a.configPath, "config", "c", "", "configuration file (default: none; every field has a default)")
	root.PersistentFlags().StringVar(&a.dataDir, "data-dir", "", "data directory, instead of a configuration file (default: .sallyport)")
	root.PersistentFlags().StringVar(&a.controlURL, "control-url", "", "control API (default: from the configuration)")
	root.PersistentFlags().StringVar(&a.adminFile, "admin-token-file", "", "file with the administrator's key (default: from the configuration)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(a.up(), a.run(), a.contract(), a.token(), a.receipts(), a.evidence(), a.doctor(), a.config(), a.codes(), a.version())
	root.AddCommand(a.roles()...)
	root.AddCommand(jobInit())
	asUsage(root)
	return root
}

// asUsage makes cobra's argument errors usage errors, in every command.
func asUsage(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	for _, c := range cmd.Commands() {
		asUsage(c)
	}
}

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	g.AddCommand(commands...)
	return g
}

// load reads the configuration that the flags name.
func (a *app) load() (*config.Config, error) {
	switch {
	case a.dataDir != "" && a.configPath != "":
		return nil, usageError{errors.New("--data-dir and --config exclude each other: the file names its data directory")}
	case a.dataDir != "":
		return config.InDir(a.dataDir)
	default:
		return config.Load(a.configPath)
	}
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) { fmt.Fprintln(a.out, "sallyport "+Version()) },
	}
}

// Version is the module's version, or the commit that the program was built from.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version, modified := info.Main.Version, ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && (version == "" || version == "(devel)") && len(s.Value) >= 12:
			version = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "+modified"
		}
	}
	if version == "" {
		version = "(devel)"
	}
	return version + modified
}
