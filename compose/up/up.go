// Package up starts all of Sallyport on one machine: the roles as child processes in the order in which they need each
// other, Envoy in front, then a check from outside that the gate refuses, and only then says that it is ready. It ends
// everything in the reverse order, so that the signer, which records, is the last to go.
package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"sallyport/compose/config"
	"sallyport/compose/control"
	"sallyport/compose/role"
	"sallyport/compose/supervise"
	"sallyport/envoy"
)

const (
	// drain is how long calls under way may go on after Ctrl-C.
	drain = 8 * time.Second
	// envoyStart bounds the wait for Envoy's first configuration.
	envoyStart = 30 * time.Second
	// roleStop is longer than the longest wait of a role for what it has begun.
	roleStop = 8 * time.Second
)

// Config is what starting everything needs.
type Config struct {
	Config    *config.Config
	RoleArgs  []string // what each role gets on its command line besides its name, so that it reads the same configuration
	Binary    string   // this program
	Log       *slog.Logger
	Out       io.Writer // for what the person reads
	ChildOut  io.Writer // for the log of the roles
	ReadyFile string    // "" for none
}

// system is what runs.
type system struct {
	Config
	sup   *supervise.Supervisor
	envoy *envoy.Supervisor

	envoyVersion string
	envoyStop    context.CancelFunc
	envoyDone    chan error
}

// ErrInterrupted says that the person stopped it before everything ran.
var ErrInterrupted = errors.New("interrupted before everything was ready")

// Run starts everything, says that it is ready, and returns after ctx has ended and everything has stopped. An error
// says what could not be started; what was started by then is stopped.
func Run(ctx context.Context, cfg Config) error {
	err := run(ctx, cfg)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrInterrupted, err)
	}
	return err
}

func run(ctx context.Context, cfg Config) error {
	if err := role.Check(cfg.Config); err != nil {
		return err
	}
	if err := role.Prepare(cfg.Config); err != nil {
		return err
	}
	if cfg.ReadyFile != "" {
		if err := os.Remove(cfg.ReadyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("ready file: %w", err)
		}
	}
	s := &system{Config: cfg, sup: supervise.New(supervise.Config{Log: cfg.Log, Output: cfg.ChildOut})}
	defer s.stop()
	bin, err := s.findEnvoy(ctx)
	if err != nil {
		return err
	}
	if err := s.startRoles(ctx); err != nil {
		return err
	}
	if err := s.startEnvoy(ctx, bin); err != nil {
		return err
	}
	ready, err := s.introduce(ctx)
	if err != nil {
		return err
	}
	if err := s.announce(ready); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		s.Log.Info("stopping in order: envoy, extproc, xds, signer")
		return nil
	case err := <-s.envoyDone:
		s.envoyDone <- err
		return fmt.Errorf("envoy cannot be kept running: %w", err)
	}
}

func (s *system) findEnvoy(ctx context.Context) (string, error) {
	bin := s.Config.Config.Envoy.Path
	if bin == "" {
		var err error
		if bin, err = envoy.Install(ctx, s.Config.Config.Envoy.Dir, s.Log); err != nil {
			return "", err
		}
	}
	version, err := envoy.Version(ctx, bin)
	if err != nil {
		return "", err
	}
	s.envoyVersion = version
	return bin, nil
}

// startRoles starts the processes, each when those that it needs are ready.
func (s *system) startRoles(ctx context.Context) error {
	c := s.Config.Config
	// The control plane is ready only when all others are; until then it is enough that it answers.
	specs := []supervise.Spec{s.spec("signer", "signer", "/ready")}
	if c.LoopbackModel.On() {
		specs = append(specs, s.spec("model", "model", "/ready"))
	}
	specs = append(specs, s.spec("xds", "xds", "/health"))
	for i := range c.ExtProc.Replicas {
		specs = append(specs, s.spec("extproc", role.ExtProcName(i), "/ready", "--index", fmt.Sprint(i)))
	}
	for _, sp := range specs {
		if err := s.sup.Start(ctx, sp); err != nil {
			return err
		}
	}
	return nil
}

func (s *system) spec(name, status, path string, args ...string) supervise.Spec {
	return supervise.Spec{
		Role: name, Path: s.Binary, Args: append(append([]string{name}, args...), s.RoleArgs...),
		Ready: control.PeerReady(role.StatusSocket(s.Config.Config, status), path), StopTimeout: roleStop,
	}
}

func (s *system) startEnvoy(ctx context.Context, bin string) error {
	c := s.Config.Config
	boot, err := envoy.Bootstrap(bootstrapConfig(c))
	if err != nil {
		return err
	}
	raw, err := envoy.JSON(boot)
	if err != nil {
		return err
	}
	path := filepath.Join(c.RunDir(), "envoy.json")
	if err := role.WriteFile(path, raw, 0o600); err != nil {
		return err
	}
	s.envoy, err = envoy.NewSupervisor(envoy.SupervisorConfig{
		Binary: bin, ConfigPath: path, AdminSocket: role.EnvoyAdminSocket(c), Drain: drain, Log: s.Log,
	})
	if err != nil {
		return err
	}
	// Envoy outlives ctx: it is stopped by stop, first of all.
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.envoyStop, s.envoyDone = cancel, make(chan error, 1)
	go func() { s.envoyDone <- s.envoy.Run(run) }()
	wait, stopWaiting := context.WithTimeout(ctx, envoyStart)
	defer stopWaiting()
	return s.envoy.WaitReady(wait)
}

func bootstrapConfig(c *config.Config) envoy.Config {
	conf := envoy.Config{AdminSocket: role.EnvoyAdminSocket(c), XDS: role.EnvoyEndpoint(c.XDS)}
	for _, sock := range c.ExtProcSockets() {
		conf.ExtProc = append(conf.ExtProc, envoy.Endpoint{Socket: sock})
	}
	return conf
}

// stop ends what runs: Envoy first, after the calls under way, then the roles in the reverse order of their start.
func (s *system) stop() {
	if s.envoyStop != nil {
		s.envoyStop()
		if err := <-s.envoyDone; err != nil {
			s.Log.Error("envoy", slog.Any("error", err))
		}
	}
	s.sup.StopAll()
	if s.ReadyFile != "" {
		_ = os.Remove(s.ReadyFile) // what it says is no longer so
	}
	s.Log.Info("everything has stopped")
}

func (s *system) pids() map[string][]int {
	out := s.sup.PIDs()
	out["up"] = []int{os.Getpid()}
	if s.envoy != nil {
		if pid := s.envoy.PID(); pid != 0 {
			out["envoy"] = []int{pid}
		}
	}
	return out
}
