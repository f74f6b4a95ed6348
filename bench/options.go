package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/bench/scenario"
	"sallyport/bench/workload"
)

// options are what the command line says.
type options struct {
	scenario  *scenario.Scenario
	out       string // directory for the results
	sallyport string // binary to measure, "" to build the checkout's
	profile   bool
	target    *deployment // nil to start the peers here
}

// deployment is a gateway that already runs.
type deployment struct {
	url     *url.URL
	control control
	pids    map[string][]int // of its processes where they run on this machine
}

// defaultScenario is what is measured without any flag, in about five minutes.
func defaultScenario() *scenario.Scenario {
	return &scenario.Scenario{
		Title: "What a gate costs",
		Parts: []scenario.Part{
			{Workload: workload.Chat, Connections: []int{1, 16, 64}},
			{Workload: "stream-50", Connections: []int{16}, Rounds: 2},
			{Workload: workload.Refusals, Connections: []int{16}, Rounds: 2},
		},
	}
}

// flags are the command line as text.
type flags struct {
	scenario, workloads, connections, peers, evidence, out, sallyport string
	rounds, startups                                                  int
	seconds, rate                                                     float64
	profile                                                           bool
	target, control, adminToken, contract, audience, ready            string
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var in flags
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&in.scenario, "scenario", "", "measure what this YAML file says; see bench/scenarios")
	f.StringVar(&in.workloads, "workloads", "", "instead of a scenario: workloads, comma separated ("+workload.Names+")")
	f.StringVar(&in.connections, "connections", "", "with --workloads or instead of the default's: numbers of connections, comma separated")
	f.Float64Var(&in.rate, "rate", 0, "with --workloads: calls a second in an open loop; 0 for a closed loop")
	f.IntVar(&in.rounds, "rounds", 0, "how often each peer is measured in each setting")
	f.Float64Var(&in.seconds, "seconds", 0, "measured time of each, in seconds")
	f.StringVar(&in.peers, "peers", "", "what to measure, comma separated, of "+strings.Join(allPeers(), ",")+" (default: "+strings.Join(peerNames, ",")+")")
	f.IntVar(&in.startups, "startups", 0, "also measure how long `sallyport run -- true` takes, this often; needs "+forwardName+" among the peers")
	f.StringVar(&in.evidence, "evidence", "", "Sallyport's evidence mode: strict, sealed or async")
	f.StringVar(&in.out, "out", "", "directory for report.json, report.svg, table.md and profiles (default: bench-results/TIME)")
	f.StringVar(&in.sallyport, "sallyport", "", "measure this binary instead of building the checkout's")
	f.BoolVar(&in.profile, "profile", false, "keep profiles of our processes and Envoy's statistics beside the results")
	f.StringVar(&in.target, "target", "", "load this deployment instead: the base URL of its OpenAI door, as http://127.0.0.1:8080/openai")
	f.StringVar(&in.control, "control", "", "with --target: its control API, as http://127.0.0.1:8081")
	f.StringVar(&in.adminToken, "admin-token-file", "", "with --target: the file that holds its administrator's key")
	f.StringVar(&in.contract, "contract", "", "with --target: hash of the contract that the tokens are pinned to")
	f.StringVar(&in.audience, "audience", defaultAudience, "with --target: the gateway's name in tokens")
	f.StringVar(&in.ready, "ready-file", "", "instead of --target and what goes with it: the file that `sallyport up --ready-file` wrote, on this machine")
	if err := f.Parse(args); err != nil {
		return options{}, err
	}
	if f.NArg() > 0 {
		return options{}, fmt.Errorf("unexpected argument %q; everything is said by flags", f.Arg(0))
	}
	return in.options()
}

// options turns the text into what it means; the error has everything that is wrong, joined.
func (in flags) options() (options, error) {
	o := options{out: in.out, sallyport: in.sallyport, profile: in.profile}
	if o.out == "" {
		o.out = filepath.Join("bench-results", time.Now().UTC().Format("20060102T150405Z"))
	}
	var err error
	if o.target, err = in.deployment(); err != nil {
		return o, err
	}
	known, usual := allPeers(), peerNames
	if o.target != nil && o.profile {
		return o, errors.New("--profile: only processes that are started here can be profiled; remove it, or --target")
	}
	if o.target != nil {
		known, usual = []string{targetName}, []string{targetName}
	}
	if in.scenario == "" {
		o.scenario = defaultScenario()
		if o.target != nil {
			o.scenario.Title = "Load of " + o.target.url.Host
		}
	} else if o.scenario, err = scenario.Load(in.scenario, allPeers(), peerNames); err != nil {
		return o, err
	}
	if o.target != nil {
		o.scenario.Only(targetName)
	}
	if err := in.override(o.scenario); err != nil {
		return o, err
	}
	o.scenario.ApplyDefaults(usual)
	return o, errors.Join(o.scenario.Validate(known), startable(o.scenario))
}

// startable wants the gateway that programs are started at.
func startable(s *scenario.Scenario) error {
	if s.Startups > 0 && !slices.ContainsFunc(s.Parts, func(p scenario.Part) bool { return slices.Contains(p.Peers, forwardName) }) {
		return fmt.Errorf("startups: programs are started at %s; name it among the peers, or do without", forwardName)
	}
	return nil
}

// override has flags count more than the scenario.
func (in flags) override(s *scenario.Scenario) error {
	var numbers []int
	var errs []error
	for text := range list(in.connections) {
		n, err := strconv.Atoi(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("--connections: %q is no number", text))
		}
		numbers = append(numbers, n)
	}
	if in.scenario != "" && (in.workloads != "" || in.connections != "" || in.rate != 0) {
		errs = append(errs, errors.New("--scenario says workloads, connections and rates itself; remove these flags, or edit the file"))
	}
	if in.rate != 0 && in.workloads == "" {
		errs = append(errs, errors.New("--rate: say of which calls with --workloads"))
	}
	if in.workloads != "" {
		s.Title, s.Parts = "", nil
		for name := range list(in.workloads) {
			s.Parts = append(s.Parts, scenario.Part{Workload: name, Rate: in.rate})
		}
	}
	for i := range s.Parts {
		p := &s.Parts[i]
		if numbers != nil {
			p.Connections = numbers
		}
		if in.rounds != 0 {
			p.Rounds = in.rounds
		}
		if in.seconds != 0 && p.Soak == 0 {
			p.Seconds = in.seconds
		}
		if in.peers != "" {
			p.Peers = nil
		}
	}
	in.overrideAll(s)
	return errors.Join(errs...)
}

func (in flags) overrideAll(s *scenario.Scenario) {
	if in.rounds != 0 {
		s.Rounds = in.rounds
	}
	if in.seconds != 0 {
		s.Seconds = in.seconds
	}
	if in.startups != 0 {
		s.Startups = in.startups
	}
	if in.evidence != "" {
		s.Evidence = in.evidence
	}
	if in.peers != "" {
		s.Peers = nil
		if !strings.Contains(","+in.peers+",", ","+s.Baseline+",") {
			s.Baseline = ""
		}
		for name := range list(in.peers) {
			s.Peers = append(s.Peers, name)
		}
	}
}

// list gives the parts of a comma separated flag, none of an empty one.
func list(text string) func(func(string) bool) {
	return func(yield func(string) bool) {
		if text == "" {
			return
		}
		for part := range strings.SplitSeq(text, ",") {
			if !yield(strings.TrimSpace(part)) {
				return
			}
		}
	}
}

// deployment is what --target or --ready-file names, nil for neither.
func (in flags) deployment() (*deployment, error) {
	if in.ready != "" {
		if in.target != "" || in.control != "" {
			return nil, errors.New("--ready-file names the deployment itself; remove --target and --control")
		}
		r, err := readReady(in.ready)
		if err != nil {
			return nil, err
		}
		in.target, in.control, in.adminToken, in.contract = r.GatewayURL+sallyportPrefix, r.ControlURL, r.AdminTokenFile, r.ContractHash
		d, err := in.named()
		if err == nil {
			d.pids = r.PIDs
		}
		return d, err
	}
	if in.target == "" {
		if in.control != "" || in.adminToken != "" || in.contract != "" {
			return nil, errors.New("--control, --admin-token-file and --contract go with --target; give it too")
		}
		return nil, nil
	}
	return in.named()
}

func (in flags) named() (*deployment, error) {
	var errs []error
	for name, value := range map[string]string{"--control": in.control, "--admin-token-file": in.adminToken, "--contract": in.contract} {
		if value == "" {
			errs = append(errs, fmt.Errorf("%s: it is missing; tokens for --target are issued by its control API", name))
		}
	}
	u, err := url.Parse(in.target)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.RawQuery != "" || u.User != nil {
		errs = append(errs, fmt.Errorf("--target: %q is no base URL; give one as http://127.0.0.1:8080/openai", in.target))
	}
	c := control{URL: strings.TrimSuffix(in.control, "/"), AdminTokenFile: in.adminToken, ContractHash: in.contract, Audience: in.audience}
	return &deployment{url: u, control: c}, errors.Join(errs...)
}
