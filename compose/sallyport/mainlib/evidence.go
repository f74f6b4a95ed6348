package mainlib

import "github.com/spf13/cobra"

func (a *app) evidence() *cobra.Command {
	return group("evidence", "What the evidence holds, for an auditor", a.evidenceAuditorKey(), a.evidenceOpen(), a.evidenceRedactionHash())
}
