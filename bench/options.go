package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// options are what the command line says.
type options struct {
	Rounds      int
	Seconds     float64 // measured time of one cell, after its warm-up
	Connections []int
	Evidence    string // evidence mode of Sallyport
	Peers       []string
	JSON        string // file for the report, "" for none
	Sallyport   string // binary to measure, "" to build the checkout's
}

// Defaults: with four peers one run takes about four minutes.
const (
	defaultRounds      = 5
	defaultSeconds     = 3.0
	defaultConnections = "1,16,64"
	defaultEvidence    = "sealed" // Sallyport's own default
	maxConnections     = 1000     // Envoy's default circuit breaker opens at 1,024
)

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&o.Rounds, "rounds", defaultRounds, "how often each peer is measured at each number of connections")
	f.Float64Var(&o.Seconds, "seconds", defaultSeconds, "measured time of each, in seconds")
	f.StringVar(&o.Evidence, "evidence", defaultEvidence, "Sallyport's evidence mode: strict, sealed or async")
	f.StringVar(&o.JSON, "json", "", "also write the report to this file")
	f.StringVar(&o.Sallyport, "sallyport", "", "measure this binary instead of building the checkout's")
	connections := f.String("connections", defaultConnections, "numbers of connections, comma separated")
	peers := f.String("peers", strings.Join(peerNames, ","), "what to measure, comma separated")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	var errs []error
	if f.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q", f.Arg(0)))
	}
	for s := range strings.SplitSeq(*connections, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil {
			errs = append(errs, fmt.Errorf("--connections: %q is no number", s))
			continue
		}
		o.Connections = append(o.Connections, n)
	}
	for s := range strings.SplitSeq(*peers, ",") {
		o.Peers = append(o.Peers, strings.TrimSpace(s))
	}
	return o, errors.Join(append(errs, o.Validate())...)
}

// Validate reports everything that is wrong with o, joined.
func (o options) Validate() error {
	var errs []error
	if o.Rounds < 1 {
		errs = append(errs, errors.New("--rounds: at least 1"))
	}
	if o.Seconds <= 0 {
		errs = append(errs, errors.New("--seconds: more than 0"))
	}
	if !slices.Contains([]string{"strict", "sealed", "async"}, o.Evidence) {
		errs = append(errs, fmt.Errorf("--evidence: %q is not strict, sealed or async", o.Evidence))
	}
	for _, n := range o.Connections {
		if n < 1 || n > maxConnections {
			errs = append(errs, fmt.Errorf("--connections: %d is not between 1 and %d", n, maxConnections))
		}
	}
	seen := map[string]bool{}
	for _, p := range o.Peers {
		if registry[p] == nil {
			errs = append(errs, fmt.Errorf("--peers: %q is not one of %s", p, strings.Join(peerNames, ", ")))
		}
		if seen[p] {
			errs = append(errs, fmt.Errorf("--peers: %q stands there twice", p))
		}
		seen[p] = true
	}
	return errors.Join(errs...)
}

// window is the measured time of one cell; warmUp goes before it and is long enough for connections, caches and
// just-started goroutines to settle, as the figures no longer change with a longer one.
func (o options) window() time.Duration { return time.Duration(o.Seconds * float64(time.Second)) }

func (o options) warmUp() time.Duration { return min(o.window()/4, time.Second) }
