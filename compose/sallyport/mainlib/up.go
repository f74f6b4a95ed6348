package mainlib

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"sallyport/compose/config"
	"sallyport/compose/role"
	"sallyport/compose/up"
)

func (a *app) up() *cobra.Command {
	readyFile := ""
	cmd := &cobra.Command{
		Use: "up", Short: "Start everything on this machine, check it, and say what to paste; Ctrl-C ends it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load()
			if err != nil {
				return err
			}
			log, err := role.Logger(c, a.err, "up")
			if err != nil {
				return err
			}
			binary, err := os.Executable()
			if err != nil {
				return fmt.Errorf("this program's own path: %w", err)
			}
			if readyFile != "" {
				if readyFile, err = filepath.Abs(readyFile); err != nil {
					return err
				}
			}
			return up.Run(cmd.Context(), up.Config{
				Config: c, RoleArgs: roleArgs(c), Binary: binary, Log: log, Out: a.out, ChildOut: a.err, ReadyFile: readyFile,
			})
		},
	}
	cmd.Flags().StringVar(&readyFile, "ready-file", "", "file for a JSON object with the addresses, once everything answers")
	return cmd
}

// roleArgs make the roles read the configuration that `up` read.
func roleArgs(c *config.Config) []string {
	if c.File != "" {
		return []string{"--config", c.File}
	}
	return []string{"--data-dir", c.DataDir}
}
