package mainlib

import "github.com/spf13/cobra"

func (a *app) evidence() *cobra.Command {
	return group("evidence", "What a run leaves for an auditor", a.evidenceVerify())
}
