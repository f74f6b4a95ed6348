package mainlib

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"sallyport/signer/contract"
	"sallyport/signer/decision"
	"sallyport/signer/evlog"
	"sallyport/signer/record"
)

const (
	// settleWait bounds the wait for records that are still on their way when the program has ended.
	settleWait  = 3 * time.Second
	settleCheck = 25 * time.Millisecond
	maxListed   = 10000 // receipt ids in the summary's file
)

// recorded is what the evidence says of one job. The owner of a run sees tunnels; this is what went through them.
type recorded struct {
	Allowed       int            `json:"allowed"` // calls that reached an upstream and whose answer came back whole
	Cut           int            `json:"cut"`
	Open          int            `json:"open"` // not settled yet
	Refused       int            `json:"refused"`
	Codes         map[string]int `json:"codes"`          // refusals by code
	Models        map[string]int `json:"models"`         // calls by provider/model
	Hosts         map[string]int `json:"hosts"`          // calls to other hosts
	SecretClasses map[string]int `json:"secret_classes"` // calls by the class of the credential that they got
	TokensInput   int64          `json:"tokens_input"`
	TokensOutput  int64          `json:"tokens_output"`
	Receipts      []string       `json:"receipts"` // in order, the first 10,000
	ReceiptCount  int            `json:"receipt_count"`
}

// readRecorded reads a job's records, and waits a moment for those that are still coming. It is nil where the evidence is
// not on this machine, or not to be read by this user.
func readRecorded(dir, mission string, since time.Time) *recorded {
	var last *recorded
	for end := time.Now().Add(settleWait); ; time.Sleep(settleCheck) {
		r, err := recordedOf(dir, mission, since)
		if err != nil {
			return last
		}
		// A refusal is recorded without anybody waiting for it, so what was read once is read again.
		if last != nil && r.Open == 0 && r.Refused == last.Refused || time.Now().After(end) {
			return r
		}
		last = r
	}
}

func recordedOf(dir, mission string, since time.Time) (*recorded, error) {
	r := &recorded{Codes: map[string]int{}, Models: map[string]int{}, Hosts: map[string]int{}, SecretClasses: map[string]int{}}
	mine := map[string]bool{}
	err := evlog.ReadSince(dir, since, func(e evlog.Entry) error {
		switch e.Kind {
		case evlog.KindIntent:
			return r.intent(e.Payload, mission, mine)
		case evlog.KindReceipt:
			return r.receipt(e.Payload, mine)
		case evlog.KindRefusal:
			return r.refusal(e.Payload, mission)
		case evlog.KindControl, evlog.KindTombstone, evlog.KindSealed:
		}
		return nil
	})
	r.Open = len(mine)
	if errors.Is(err, evlog.ErrTorn) { // the owner is in the middle of a write
		err = nil
	}
	return r, err
}

func (r *recorded) intent(payload []byte, mission string, mine map[string]bool) error {
	var i record.Intent
	if err := json.Unmarshal(payload, &i); err != nil || i.MissionID != mission {
		return err
	}
	mine[i.ID] = true
	if i.Action == contract.NetworkEgress {
		r.Hosts[i.Host]++
	} else {
		r.Models[i.Resource]++
	}
	if i.SecretClass != "" {
		r.SecretClasses[i.SecretClass]++
	}
	return nil
}

func (r *recorded) receipt(payload []byte, mine map[string]bool) error {
	id, err := evlog.ReceiptID(payload)
	if err != nil || !mine[id] {
		return err
	}
	delete(mine, id)
	var stored struct {
		Payload struct {
			TokensInput  int64 `json:"tokens_input"`
			TokensOutput int64 `json:"tokens_output"`
			Metadata     struct {
				Sallyport struct {
					Outcome record.Outcome `json:"outcome"`
				} `json:"sallyport"`
			} `json:"metadata"`
		} `json:"payload"`
	}
	if err := json.Unmarshal(payload, &stored); err != nil {
		return err
	}
	p := stored.Payload
	if p.Metadata.Sallyport.Outcome == record.Cut {
		r.Cut++
	} else {
		r.Allowed++
	}
	r.TokensInput += p.TokensInput
	r.TokensOutput += p.TokensOutput
	if r.ReceiptCount++; len(r.Receipts) < maxListed {
		r.Receipts = append(r.Receipts, id)
	}
	return nil
}

func (r *recorded) refusal(payload []byte, mission string) error {
	f, _, err := decision.Read(payload)
	if err != nil || f.MissionID != mission {
		return err
	}
	r.Refused++
	r.Codes[f.Code]++
	return nil
}

func (r *recorded) print(w io.Writer, s runSummary) {
	fmt.Fprintf(w, "sallyport: %d calls allowed, %d refused, %d cut", r.Allowed, r.Refused, r.Cut)
	if r.Open > 0 {
		fmt.Fprintf(w, ", %d not settled yet", r.Open)
	}
	fmt.Fprintln(w)
	for _, part := range []struct {
		title  string
		counts map[string]int
	}{{"models", r.Models}, {"hosts", r.Hosts}, {"secret classes", r.SecretClasses}, {"refused with", r.Codes}} {
		if len(part.counts) > 0 {
			fmt.Fprintf(w, "  %-15s %s\n", part.title, counted(part.counts))
		}
	}
	if r.TokensInput+r.TokensOutput > 0 {
		fmt.Fprintf(w, "  %-15s %d in, %d out\n", "model tokens", r.TokensInput, r.TokensOutput)
	}
	if len(s.RefusedNames) > 0 {
		fmt.Fprintf(w, "  %-15s %s\n", "names refused", strings.Join(s.RefusedNames, " "))
	}
	if r.ReceiptCount > 0 {
		fmt.Fprintf(w, "  %-15s %d, the first %s\n", "receipts", r.ReceiptCount, strings.Join(r.Receipts[:min(shownReceipts, len(r.Receipts))], " "))
	}
	fmt.Fprintf(w, "  %-15s job %s under contract %s, in %s\n", "evidence", s.Mission, s.PolicyHash, s.Evidence)
	for _, path := range s.Archives {
		fmt.Fprintf(w, "  %-15s %s\n", "for the auditor", path)
	}
	if len(s.Archives) > 0 {
		fmt.Fprintf(w, "  %-15s sallyport evidence verify %s --trust-file %s\n", "which checks it", s.Archives[0], s.trustFile)
	}
	if s.NoArchive != "" {
		fmt.Fprintf(w, "  %-15s none was written: %s\n", "for the auditor", s.NoArchive)
	}
}

// counted lists names with their counts, the most first.
func counted(counts map[string]int) string {
	names := slices.Sorted(maps.Keys(counts))
	slices.SortStableFunc(names, func(a, b string) int { return counts[b] - counts[a] })
	out := make([]string, 0, len(names))
	for _, n := range names {
		out = append(out, fmt.Sprintf("%s %d", n, counts[n]))
	}
	const most = 8
	if len(out) > most {
		out = append(out[:most], fmt.Sprintf("and %d more", len(out)-most))
	}
	return strings.Join(out, ", ")
}
