package service

import (
	"fmt"
	"sync"

	"sallyport/signer/chain"
	"sallyport/signer/record"
)

// Heads knows where chains end that have not been heard of for a while: the index of the log. What it says may be behind the
// log.
type Heads interface {
	// Head is the zero value for a run that it does not know.
	Head(job, runID string) (chain.Head, error)
}

// maxHeads is how many chains' ends are kept in memory; an entry is some 300 bytes.
const maxHeads = 1 << 16

// chains keeps where the chain of each run ends. Links are made by the log's writer, in the order in which intents stand in
// the log, so that a chain has no gap whatever fails.
type chains struct {
	cold Heads // nil: all heads stay in memory
	most int   // heads in memory

	mu    sync.Mutex
	heads map[run]*tip
}

// tip is the end of a chain, and how many intents are on their way behind it.
type tip struct {
	chain.Head
	pending int
}

// run is a run of a job. Two jobs may use the same run id; their chains have nothing to do with each other.
type run struct{ job, id string }

// runOf is the run that a call belongs to. A token without a job is its own job.
func runOf(mission, tokenHash, id string) run {
	if mission == "" {
		mission = tokenHash
	}
	return run{mission, id}
}

// recordsItself says that a call's client keeps a chain of its own, which the receipt is bound to.
func recordsItself(i *record.Intent) bool { return i.EventHash != "" }

// expect makes a chain's end ready for a call whose intent is about to be written; settled must follow.
func (c *chains) expect(r run) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, err := c.tip(r)
	if err == nil {
		t.pending++
	}
	return err
}

func (c *chains) settled(r run) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heads[r].pending--
}

// tip is the end of a run's chain, which may be one that begins.
func (c *chains) tip(r run) (*tip, error) {
	if t := c.heads[r]; t != nil {
		return t, nil
	}
	t := &tip{}
	if c.cold != nil {
		h, err := c.cold.Head(r.job, r.id)
		if err != nil {
			return nil, fmt.Errorf("where the chain of run %q ends: %w", r.id, err)
		}
		t.Head = h
	}
	c.heads[r] = t
	return t, nil
}

// link gives a call that is expected its place. before is what takeBack needs.
func (c *chains) link(r run, call *chain.Call) (l *chain.Link, before chain.Head) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.heads[r]
	before = t.Head
	l, t.Head = before.Next(call)
	t.Refused = before.Refused
	return l, before
}

// takeBack undoes a link whose record could not be written, and with it those behind it, whose records were in the same
// write.
func (c *chains) takeBack(r run, before chain.Head) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.heads[r]
	if before.Part > t.Part || before.Part == t.Part && before.Events >= t.Events {
		return // a link before this one was taken back already
	}
	before.Refused = t.Refused
	t.Head = before
}

// refused counts a refusal of a run.
func (c *chains) refused(r run) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, err := c.tip(r)
	if err != nil {
		return 0, err
	}
	t.Refused++
	return t.Refused, nil
}

// forget lets go of ends above the bound that the index knows just as they are here. One that it is behind with stays.
func (c *chains) forget() {
	if c.cold == nil {
		return
	}
	for _, r := range c.surplus() {
		known, err := c.cold.Head(r.job, r.id)
		if err != nil {
			return
		}
		c.mu.Lock()
		if t := c.heads[r]; t != nil && t.pending == 0 && t.Head == known {
			delete(c.heads, r)
		}
		c.mu.Unlock()
	}
}

// surplus names as many runs as there are above the bound, whichever.
func (c *chains) surplus() []run {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []run
	for r := range c.heads {
		if len(out) >= len(c.heads)-c.most {
			break
		}
		out = append(out, r)
	}
	return out
}

// read takes up a link that stands in the log.
func (c *chains) read(r run, l *chain.Link, timeMS int64) error {
	t, err := c.tip(r)
	if err == nil {
		t.Head = t.After(l, timeMS)
	}
	return err
}

// readRefusal takes up the number of a refusal that stands in the log.
func (c *chains) readRefusal(r run, sequence uint64) error {
	t, err := c.tip(r)
	if err == nil {
		t.Refused = max(t.Refused, sequence)
	}
	return err
}

// eventOf describes a call to its chain, given its intent's JSON.
func eventOf(i *record.Intent, json []byte) *chain.Call {
	c := &chain.Call{ID: i.ID, RunID: i.RunID, Type: chain.ToolCall, TimeMS: i.TimeMS, PayloadHash: chain.PayloadHash(json, "")}
	if i.Action == "model:invoke" {
		c.Type = chain.ModelCall
	}
	c.Continued = func(continues string) string { return chain.PayloadHash(i.AppendJSON(nil), continues) }
	return c
}
