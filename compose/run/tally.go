package run

import (
	"net/http"
	"slices"
	"sync"
)

const (
	maxHosts    = 4096  // hosts that are counted by name; further ones count together
	maxRefused  = 1000  // refused names that are kept
	maxReceipts = 10000 // receipt ids that are kept
	otherHosts  = "(further hosts)"

	decisionHeader = "X-Sallyport-Decision"
	receiptHeader  = "X-Sallyport-Receipt"
)

// Host counts what was asked of one host. Allowed tunnels are counted as one each: what went on in them is in the
// gate's receipts.
type Host struct {
	Allowed int `json:"allowed"`
	Refused int `json:"refused"`
	Failed  int `json:"failed"` // the gate did not answer
}

// Summary is what the owner saw of a run.
type Summary struct {
	Allowed      int             `json:"allowed"`
	Refused      int             `json:"refused"`
	Failed       int             `json:"failed"`
	Cut          int             `json:"cut"`           // answers that broke off
	Codes        map[string]int  `json:"codes"`         // refusals by code, or by status where no code was seen
	Hosts        map[string]Host `json:"hosts"`         // by host:port, or gateway.sallyport.internal for base URLs
	RefusedNames []string        `json:"refused_names"` // names that were asked for and are not in the contract
	Receipts     []string        `json:"receipts"`      // ids seen, in order, the first 10,000
	ReceiptCount int             `json:"receipt_count"`
}

// tally counts for the summary. Its memory is bounded: a hostile program chooses hosts and names.
type tally struct {
	mu      sync.Mutex
	s       Summary
	refused map[string]bool
}

func newTally() *tally {
	return &tally{s: Summary{Codes: map[string]int{}, Hosts: map[string]Host{}}, refused: map[string]bool{}}
}

func (t *tally) count(host string, add func(*Host, *Summary)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.s.Hosts[host]; !ok && len(t.s.Hosts) >= maxHosts {
		host = otherHosts
	}
	h := t.s.Hosts[host]
	add(&h, &t.s)
	t.s.Hosts[host] = h
}

// answer counts an answer of the gate's. A refusal carries a decision id; code is its reason where it is known.
func (t *tally) answer(host string, h http.Header, refused bool, code string) {
	t.count(host, func(n *Host, s *Summary) {
		id := h.Get(receiptHeader)
		if refused {
			n.Refused++
			s.Refused++
			if _, known := s.Codes[code]; known || len(s.Codes) < maxHosts {
				s.Codes[code]++
			}
			id = h.Get(decisionHeader)
		} else {
			n.Allowed++
			s.Allowed++
		}
		if id == "" {
			return
		}
		s.ReceiptCount++
		if len(s.Receipts) < maxReceipts {
			s.Receipts = append(s.Receipts, id)
		}
	})
}

func (t *tally) fail(host string) {
	t.count(host, func(n *Host, s *Summary) { n.Failed++; s.Failed++ })
}

func (t *tally) cut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.s.Cut++
}

func (t *tally) refuseName(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.refused) < maxRefused {
		t.refused[name] = true
	}
}

func (t *tally) summary() Summary {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.s
	s.Codes, s.Hosts = map[string]int{}, map[string]Host{}
	for k, v := range t.s.Codes {
		s.Codes[k] = v
	}
	for k, v := range t.s.Hosts {
		s.Hosts[k] = v
	}
	s.Receipts = slices.Clone(t.s.Receipts)
	for name := range t.refused {
		s.RefusedNames = append(s.RefusedNames, name)
	}
	slices.Sort(s.RefusedNames)
	return s
}
