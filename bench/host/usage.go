package host

import (
	"errors"
	"fmt"
	"time"
)

// Memory is what a group of processes held, in bytes. The peaks of several processes need not have been at one moment, so
// their sum is an upper bound.
type Memory struct {
	Begin  int64 `json:"begin_bytes"`
	End    int64 `json:"end_bytes"`
	Peak   int64 `json:"peak_bytes"`
	Growth int64 `json:"growth_bytes"` // from Begin to Peak
}

// Machine is what the whole machine did, in cores: 1.5 is one core busy all the time and another half of it.
type Machine struct {
	Cores int     `json:"cores"`
	Busy  float64 `json:"busy_cores"`
	Other float64 `json:"other_cores"` // of Busy, what none of the measured groups used
}

// Usage is what groups of processes used between Begin and End.
type Usage struct {
	Groups map[string][]int // PIDs

	CPU     map[string]time.Duration
	Memory  map[string]Memory
	Machine Machine

	began time.Time
	busy  time.Duration
}

// Begin notes where everything stands, and has the kernel forget the peaks.
func (u *Usage) Begin() error {
	u.Memory = map[string]Memory{}
	var errs []error
	for g, pids := range u.Groups {
		for _, pid := range pids {
			if err := resetPeak(pid); err != nil {
				errs = append(errs, fmt.Errorf("%s: reset the peak of memory: %w", g, err))
			}
		}
		m, err := sum(pids)
		errs = append(errs, err)
		u.Memory[g] = Memory{Begin: m.now}
	}
	var err error
	u.CPU, err = u.cpu()
	errs = append(errs, err)
	u.busy, err = busyTime()
	u.began = time.Now()
	return errors.Join(append(errs, err)...)
}

// End turns what Begin noted into differences.
func (u *Usage) End() error {
	length := time.Since(u.began)
	busy, err := busyTime()
	errs := []error{err}
	now, err := u.cpu()
	errs = append(errs, err)
	var known time.Duration
	for g := range now {
		u.CPU[g] = now[g] - u.CPU[g]
		known += u.CPU[g]
	}
	u.Machine = Machine{Cores: Cores(), Busy: (busy - u.busy).Seconds() / length.Seconds()}
	// Ticks are coarse and are not read at one moment, so a short window may come out a little below nothing.
	u.Machine.Other = max(0, u.Machine.Busy-known.Seconds()/length.Seconds())
	for g, pids := range u.Groups {
		r, err := sum(pids)
		errs = append(errs, err)
		m := u.Memory[g]
		m.End, m.Peak = r.now, r.peak
		m.Growth = max(0, m.Peak-m.Begin)
		u.Memory[g] = m
	}
	return errors.Join(errs...)
}

// Resident is what each group holds now, in bytes.
func (u *Usage) Resident() (map[string]int64, error) {
	out := map[string]int64{}
	var errs []error
	for g, pids := range u.Groups {
		r, err := sum(pids)
		errs = append(errs, err)
		out[g] = r.now
	}
	return out, errors.Join(errs...)
}

func sum(pids []int) (resident, error) {
	var out resident
	var errs []error
	for _, pid := range pids {
		r, err := memoryOf(pid)
		errs = append(errs, err)
		out.now += r.now
		out.peak += r.peak
	}
	return out, errors.Join(errs...)
}

func (u *Usage) cpu() (map[string]time.Duration, error) {
	out := map[string]time.Duration{}
	var errs []error
	for g, pids := range u.Groups {
		t, err := CPUTime(pids)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", g, err))
		}
		out[g] = t
	}
	return out, errors.Join(errs...)
}
