package mainlib

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"sallyport/compose/role"
	"sallyport/signer/decision"
	"sallyport/signer/envelope"
	"sallyport/signer/evlog"
	"sallyport/signer/receipt"
	"sallyport/signer/record"
)

// receiptFlags are where the evidence is and whom to believe.
type receiptFlags struct {
	evidence string
	trust    []string
}

func (a *app) receipts() *cobra.Command {
	f := &receiptFlags{}
	g := group("receipts", "The evidence of what went through; needs no network and no running gateway",
		a.receiptsList(f), a.receiptsShow(f), a.receiptsVerify(f))
	g.PersistentFlags().StringVar(&f.evidence, "evidence", "", "evidence directory (default: from the configuration)")
	g.PersistentFlags().StringSliceVar(&f.trust, "trust", nil, "DIDs of gateways whose receipts are believed (default: this installation's)")
	return g
}

func (a *app) evidenceDir(f *receiptFlags) (string, error) {
	if f.evidence != "" {
		return f.evidence, nil
	}
	c, err := a.load()
	if err != nil {
		return "", err
	}
	return c.Evidence.Dir, nil
}

// trusted are the gateways to believe: the flag's, else those that this installation's trust file names.
func (a *app) trusted(f *receiptFlags) ([]string, error) {
	if len(f.trust) > 0 {
		return f.trust, nil
	}
	c, err := a.load()
	if err != nil {
		return nil, err
	}
	t, err := role.ReadTrust(c.TrustFile())
	if err != nil {
		return nil, fmt.Errorf("whom to believe is not known; name the gateway's DID with --trust: %w", err)
	}
	return t.GatewaySigners, nil
}

// event is one line of the list: a receipt, a refusal, or an intent that is not settled yet.
type event struct {
	Seq      uint64          `json:"seq"`
	Kind     string          `json:"kind"`
	ID       string          `json:"id"`
	Time     time.Time       `json:"time"`
	Outcome  string          `json:"outcome"`
	What     string          `json:"what"`
	Envelope json.RawMessage `json:"envelope,omitempty"`
}

// read visits the evidence in order. A torn tail or a damaged record is an error after everything readable was visited.
func read(dir string, visit func(event) error) error {
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	return evlog.Read(dir, func(e evlog.Entry) error {
		ev, err := toEvent(e)
		if err != nil {
			return fmt.Errorf("%s at %d: %w", e.Segment, e.Offset, err)
		}
		if ev.ID == "" {
			return nil
		}
		return visit(ev)
	})
}

func toEvent(e evlog.Entry) (event, error) {
	ev := event{Seq: e.Seq, Kind: e.Kind.String()}
	switch e.Kind {
	case evlog.KindIntent:
		var i record.Intent
		if err := json.Unmarshal(e.Payload, &i); err != nil {
			return ev, err
		}
		ev.ID, ev.Time, ev.Outcome, ev.What = i.ID, time.UnixMilli(i.TimeMS), "open", i.Resource
	case evlog.KindRefusal:
		r, sequence, err := decision.Read(e.Payload)
		if err != nil {
			return ev, err
		}
		if sequence > 0 {
			ev.Envelope = append(json.RawMessage(nil), e.Payload...)
		}
		ev.ID, ev.Time, ev.Outcome = r.ID, time.UnixMilli(r.TimeMS), "refused "+r.Code
		ev.What = strings.Trim(r.Provider+"/"+r.Model, "/")
		if ev.What == "" {
			ev.What = r.Method + " " + r.Path
		}
	case evlog.KindReceipt:
		return receiptEvent(ev, e.Payload)
	case evlog.KindControl, evlog.KindTombstone, evlog.KindSealed:
	}
	return ev, nil
}

// receiptEvent reads a receipt for showing it; verifying is another matter.
func receiptEvent(ev event, raw []byte) (event, error) {
	var env struct {
		Payload struct {
			ID        string    `json:"receipt_id"`
			Provider  string    `json:"provider"`
			Model     string    `json:"model"`
			Timestamp time.Time `json:"timestamp"`
			Metadata  struct {
				Sallyport struct {
					Outcome string `json:"outcome"`
					Status  int    `json:"status"`
					Reason  string `json:"reason"`
				} `json:"sallyport"`
			} `json:"metadata"`
		} `json:"payload"`
	}
	if err := json.Unmarshal(raw, &env); err != nil {
		return ev, err
	}
	p, s := env.Payload, env.Payload.Metadata.Sallyport
	ev.ID, ev.Time, ev.What = p.ID, p.Timestamp, p.Provider+"/"+p.Model
	ev.Outcome = s.Outcome
	if s.Status != 0 {
		ev.Outcome += fmt.Sprintf(" %d", s.Status)
	}
	if s.Reason != "" {
		ev.Outcome += " (" + s.Reason + ")"
	}
	ev.Envelope = append(json.RawMessage(nil), raw...)
	return ev, nil
}

func (a *app) receiptsList(f *receiptFlags) *cobra.Command {
	asJSON, refusals := false, true
	limit := 0
	cmd := &cobra.Command{
		Use: "list", Short: "List receipts and refusals, oldest first", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, err := a.evidenceDir(f)
			if err != nil {
				return err
			}
			events, readErr := collect(dir, refusals)
			if limit > 0 && len(events) > limit {
				events = events[len(events)-limit:]
			}
			if err := a.printEvents(events, asJSON); err != nil {
				return err
			}
			return readErr
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	cmd.Flags().BoolVar(&refusals, "refusals", true, "show refusals too")
	cmd.Flags().IntVarP(&limit, "last", "n", 0, "only the last N (0 for all)")
	return cmd
}

// collect gathers what the list shows; an intent is shown only as long as no receipt settles it.
func collect(dir string, refusals bool) ([]event, error) {
	var events []event
	open := map[string]int{}
	err := read(dir, func(ev event) error {
		switch ev.Kind {
		case evlog.KindIntent.String():
			open[ev.ID] = len(events)
		case evlog.KindReceipt.String():
			if i, ok := open[ev.ID]; ok {
				events[i].ID = ""
				delete(open, ev.ID)
			}
		case evlog.KindRefusal.String():
			if !refusals {
				return nil
			}
		}
		events = append(events, ev)
		return nil
	})
	out := events[:0]
	for _, ev := range events {
		if ev.ID != "" {
			out = append(out, ev)
		}
	}
	return out, err
}

func (a *app) printEvents(events []event, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(a.out)
		enc.SetEscapeHTML(false)
		for _, ev := range events {
			if err := enc.Encode(ev); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	for _, ev := range events {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", ev.Time.UTC().Format("2006-01-02T15:04:05.000Z"), ev.ID, ev.What, ev.Outcome)
	}
	return w.Flush()
}

// errFound ends the reading when what was looked for is there.
var errFound = errors.New("found")

// find looks up one receipt; "last" is the newest.
func find(dir, id string) (event, error) {
	var hit event
	err := read(dir, func(ev event) error {
		switch {
		case id == "last" && ev.Kind == evlog.KindReceipt.String():
			hit = ev
		case ev.ID == id && ev.Kind != evlog.KindIntent.String():
			hit = ev
			return errFound
		case ev.ID == id:
			hit = ev // keep looking: the receipt comes later
		}
		return nil
	})
	switch {
	case hit.ID != "":
		return hit, nil // damage elsewhere is for `receipts list` to tell
	case err != nil && !errors.Is(err, errFound):
		return hit, err
	}
	return hit, fmt.Errorf("there is no record %q in %s", id, dir)
}

func (a *app) receiptsShow(f *receiptFlags) *cobra.Command {
	return &cobra.Command{
		Use: "show ID|last", Short: "Show a receipt as it was signed, or a refusal", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := a.evidenceDir(f)
			if err != nil {
				return err
			}
			ev, err := find(dir, args[0])
			if err != nil {
				return err
			}
			if ev.Envelope != nil {
				return a.printJSON(ev.Envelope)
			}
			return a.printJSON(ev)
		},
	}
}

func (a *app) receiptsVerify(f *receiptFlags) *cobra.Command {
	show := false
	cmd := &cobra.Command{
		Use: "verify ID|FILE|last|all", Short: "Verify receipts offline: form, hash, signature, and that the signer is trusted", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			trusted, err := a.trusted(f)
			if err != nil {
				return err
			}
			if args[0] == "all" {
				return a.verifyAll(f, trusted)
			}
			raw, err := a.receiptBytes(f, args[0])
			if err != nil {
				return err
			}
			if show {
				if err := a.printJSON(raw); err != nil {
					return err
				}
			}
			what, err := verify(raw, trusted)
			if err != nil {
				fmt.Fprintf(a.out, "NOT VERIFIED: %v\n", err)
				return errSilent
			}
			fmt.Fprintf(a.out, "verified: %s, which is trusted here\n", what)
			return nil
		},
	}
	cmd.Flags().BoolVar(&show, "show", false, "print the receipt too")
	return cmd
}

// verify verifies a receipt, or a signed refusal, and says what it is and who signed it.
func verify(raw []byte, trusted []string) (string, error) {
	var e struct {
		Type string `json:"envelope_type"`
	}
	if err := json.Unmarshal(raw, &e); err == nil && e.Type == envelope.TypeDecision {
		d, err := decision.Verify(raw, trusted)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("refusal %s, signed by %s", d.DecisionID, d.Signer), nil
	}
	r, err := receipt.Verify(raw, trusted)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("receipt %s, signed by %s", r.ReceiptID, r.Signer), nil
}

func (a *app) verifyAll(f *receiptFlags, trusted []string) error {
	dir, err := a.evidenceDir(f)
	if err != nil {
		return err
	}
	good, refusals, bad := 0, 0, 0
	err = read(dir, func(ev event) error {
		if ev.Envelope == nil {
			return nil
		}
		if _, err := verify(ev.Envelope, trusted); err != nil {
			bad++
			fmt.Fprintf(a.out, "%s NOT VERIFIED: %v\n", ev.ID, err)
			return nil
		}
		if ev.Kind == evlog.KindRefusal.String() {
			refusals++
		} else {
			good++
		}
		return nil
	})
	fmt.Fprintf(a.out, "%d receipts verified, %d not; %d signed refusals\n", good, bad, refusals)
	if err == nil && bad > 0 {
		return errSilent
	}
	return err
}

// receiptBytes takes a receipt from a file of that name, else from the evidence.
func (a *app) receiptBytes(f *receiptFlags, arg string) (json.RawMessage, error) {
	if _, err := os.Stat(arg); err == nil || arg == "-" {
		raw, err := a.readInput(arg)
		return raw, err
	}
	dir, err := a.evidenceDir(f)
	if err != nil {
		return nil, err
	}
	ev, err := find(dir, arg)
	if err != nil {
		return nil, err
	}
	if ev.Envelope == nil {
		return nil, fmt.Errorf("%s is not a receipt but: %s", ev.ID, ev.Outcome)
	}
	return ev.Envelope, nil
}
