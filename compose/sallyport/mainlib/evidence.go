package mainlib

import "github.com/spf13/cobra"

func (a *app) evidence() *cobra.Command {
	return group("evidence", "What runs leave for an auditor", a.evidenceRuns(), a.evidenceBundle(), a.evidenceVerify(), a.evidenceLog(),
		a.evidenceAuditorKey(), a.evidenceOpen(), a.evidenceRedactionHash())
}
