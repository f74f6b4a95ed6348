package mainlib

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"sallyport/signer/code"
)

func (a *app) codes() *cobra.Command {
	return &cobra.Command{
		Use: "codes", Short: "List every code that a refusal can carry, with its HTTP status and what it means", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			for _, c := range code.All() {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", c.Code, c.Status, c.Class, c.Help)
			}
			return w.Flush()
		},
	}
}
