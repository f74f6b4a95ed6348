package mainlib

import (
	"fmt"

	"github.com/spf13/cobra"

	"sallyport/compose/role"
)

// evidenceRedactionHash confirms a guessed value: it prints what a contract's hash rule puts in its place.
func (a *app) evidenceRedactionHash() *cobra.Command {
	var job, file string
	cmd := &cobra.Command{
		Use:   "redaction-hash VALUE",
		Short: "Print what a contract's hash rule puts in place of a JSON value in a job's requests; a text stands in quotes",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if file == "" {
				c, err := a.load()
				if err != nil {
					return err
				}
				file = c.ExtProc.RedactionSecretFile
			}
			secret, err := role.ReadRedactionSecret(file)
			if err != nil {
				return err
			}
			text, err := secret.For(job).Text([]byte(args[0]))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.out, text)
			return err
		},
	}
	cmd.Flags().StringVar(&job, "job", "", "the token's mission_id, or its hash where it has none")
	cmd.Flags().StringVar(&file, "secret", "", "file of the redaction secret (default: from the configuration)")
	_ = cmd.MarkFlagRequired("job")
	return cmd
}
