package service

import (
	"sync"

	"sallyport/signer/chain"
	"sallyport/signer/record"
)

// chains keeps where the chain of each run ends. Links are made by the log's writer, in the order in which intents stand in
// the log, so that a chain has no gap whatever fails.
type chains struct {
	mu    sync.Mutex
	heads map[run]chain.Head
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

// link gives a call its place. before is what take back needs.
func (c *chains) link(r run, call *chain.Call) (l *chain.Link, before chain.Head) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before = c.heads[r]
	l, c.heads[r] = before.Next(call)
	return l, before
}

// takeBack undoes a link whose record could not be written, and with it those behind it, whose records were in the same
// write.
func (c *chains) takeBack(r run, before chain.Head) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.heads[r]
	if before.Part > now.Part || before.Part == now.Part && before.Events >= now.Events {
		return // a link before this one was taken back already
	}
	before.Refused = now.Refused
	c.heads[r] = before
}

// refused counts a refusal of a run.
func (c *chains) refused(r run) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.heads[r]
	h.Refused++
	c.heads[r] = h
	return h.Refused
}

// read takes up a link, or the number of a refusal, that stands in the log.
func (c *chains) read(r run, l *chain.Link, timeMS int64) { c.heads[r] = c.heads[r].After(l, timeMS) }

func (c *chains) readRefusal(r run, sequence uint64) {
	h := c.heads[r]
	h.Refused = max(h.Refused, sequence)
	c.heads[r] = h
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
