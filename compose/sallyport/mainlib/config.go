package mainlib

import (
	"fmt"

	"github.com/spf13/cobra"

	"sallyport/compose/config"
	"sallyport/compose/role"
)

func (a *app) config() *cobra.Command {
	schema := &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of the configuration file, for editors", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := a.out.Write(config.Schema())
			return err
		},
	}
	check := &cobra.Command{
		Use: "check [FILE]", Short: "Say everything that is wrong with a configuration file", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path := a.configPath
			if len(args) == 1 {
				path = args[0]
			}
			c, err := config.Load(path)
			if err != nil {
				return err
			}
			if err := role.Check(c); err != nil {
				return usageError{err}
			}
			name := path
			if name == "" {
				name = "the built-in configuration"
			}
			fmt.Fprintf(a.out, "%s is valid: %d upstreams, %d secret classes\n", name, len(c.Upstreams), len(c.SecretClasses))
			return nil
		},
	}
	return group("config", "The configuration file", schema, check)
}
