package mainlib

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"sallyport/compose/role"
)

// roles are the commands that run one part each. `up` starts them; so may an init system or a cluster.
func (a *app) roles() []*cobra.Command {
	index := 0
	extproc := a.role("extproc", "Run one deciding process (Envoy's external processor)",
		func() string { return role.ExtProcName(index) },
		func(ctx context.Context, p *role.Process) error { return p.ExtProc(ctx, index) })
	extproc.Flags().IntVar(&index, "index", 0, "which of the replicas this is")
	named := func(name, short string, run func(context.Context, *role.Process) error) *cobra.Command {
		return a.role(name, short, func() string { return name }, run)
	}
	return []*cobra.Command{
		named("signer", "Run the signer: keys, receipts, tokens", func(ctx context.Context, p *role.Process) error { return p.Signer(ctx) }),
		named("xds", "Run the control plane: contract registry, Envoy configuration, control API", func(ctx context.Context, p *role.Process) error { return p.XDS(ctx) }),
		extproc,
		named("model", "Run the built-in model", func(ctx context.Context, p *role.Process) error { return p.Model(ctx) }),
	}
}

func (a *app) role(use, short string, name func() string, run func(context.Context, *role.Process) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load()
			if err != nil {
				return err
			}
			log, err := role.Logger(c, a.err, name())
			if err != nil {
				return err
			}
			if err := run(cmd.Context(), role.NewProcess(c, log, name(), Version())); err != nil {
				log.Error("the process ends", slog.Any("error", err))
				return fmt.Errorf("%s: %w", name(), err)
			}
			return nil
		},
	}
}
