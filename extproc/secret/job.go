package secret

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// Bounds of credentials that belong to one job.
const (
	// MaxJobs is how many jobs hold a credential of one class in this process.
	MaxJobs = 4096
	// lookEvery is how often it is looked whether jobs are over.
	lookEvery = 250 * time.Millisecond
)

var (
	errTooManyJobs = errors.New("too many jobs hold a credential of the class at the same time")
	errNoJob       = errors.New("the class gives each job its own, and the call is of none")
)

// Job is what a call is of, where a class gives each job a credential of its own.
type Job struct {
	ID string
	// Over says whether the job is over at a time: its token has expired or was withdrawn. It is asked again and again;
	// a later call of the job replaces it.
	Over func(now time.Time) bool
}

// jobs are the credentials of one class, each of one job.
type jobs struct {
	mu      sync.Mutex
	holders map[string]*holder
}

type holder struct {
	*held
	over func(time.Time) bool
}

// of is the job's own.
func (j *jobs) of(job Job, class Class, b *Broker) (*held, error) {
	if job.ID == "" || job.Over == nil {
		return nil, errNoJob
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if h := j.holders[job.ID]; h != nil {
		h.over = job.Over
		return h.held, nil
	}
	if len(j.holders) >= MaxJobs {
		return nil, errTooManyJobs
	}
	h := &held{Class: class, b: b}
	j.holders[job.ID] = &holder{h, job.Over}
	b.look()
	return h, nil
}

func (h *held) ofJob(ctx context.Context, job func() Job, maxTTL time.Duration) (Credential, error) {
	if job == nil {
		return Credential{}, errNoJob
	}
	own, err := h.jobs.of(job(), h.Class, h.b)
	if err != nil {
		return Credential{}, err
	}
	return own.credential(ctx, maxTTL)
}

// takeOver removes what is of jobs that are over, or of all.
func (j *jobs) takeOver(now time.Time, all bool) []*held {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []*held
	for id, h := range j.holders {
		if all || h.over(now) {
			out = append(out, h.held)
			delete(j.holders, id)
		}
	}
	return out
}

// look gives back what is of jobs that are over, from now on and as long as the broker lives.
func (b *Broker) look() {
	b.looking.Do(func() {
		if !b.begin() {
			return
		}
		go func() {
			defer b.flights.Done()
			tick := time.NewTicker(lookEvery)
			defer tick.Stop()
			for {
				select {
				case <-b.life.Done():
					return
				case <-tick.C:
					b.EndJobs(b.life)
				}
			}
		}()
	})
}

// EndJobs gives back at their sources the credentials of jobs that are over, and tries again what failed before. The
// broker does so by itself; it is here for those who do not want to wait for that.
func (b *Broker) EndJobs(ctx context.Context) {
	for _, h := range b.classes {
		h.endJobs(ctx)
	}
}

func (h *held) endJobs(ctx context.Context) {
	now := h.b.now()
	var all []replaced
	for _, job := range h.jobs.takeOver(now, false) {
		all = append(all, job.take()...)
	}
	if h.PerJob && !h.resting(now) {
		h.mu.Lock()
		all = append(all, h.takeReplaced(now)...)
		h.mu.Unlock()
	}
	if len(all) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, h.b.timeout)
	defer cancel()
	left, err := h.revokeAll(ctx, all)
	if err == nil {
		return
	}
	h.mu.Lock()
	h.replaced, h.restTill = append(h.replaced, left...), now.Add(longestRest)
	h.mu.Unlock()
	h.b.log.WarnContext(ctx, "credentials of jobs that are over could not be revoked; this is tried again until they end by themselves",
		slog.String("class", h.Name), slog.Int("count", len(left)), slog.Any("error", err))
}
