package server

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the control plane's. The label type has five values, one per xDS type served.
type metrics struct {
	connected   prometheus.Gauge
	resources   *prometheus.GaugeVec
	responses   *prometheus.CounterVec
	sent        *prometheus.CounterVec
	nacks       *prometheus.CounterVec
	rejected    prometheus.Counter
	leaves      prometheus.Gauge
	leafAnswers *prometheus.CounterVec // result: minted, refused, failed, evicted
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "sallyport", Subsystem: "xds", Name: name, Help: help}
	}
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), []string{"type"})
	}
	m := &metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts(opts("connected_envoys", "Envoys that hold an ADS stream open."))),
		resources: prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("resources", "Resources in force, by type.")), []string{"type"}),
		responses: counter("responses_total", "Delta responses sent, by type."),
		sent:      counter("sent_resources_total", "Resources sent in delta responses, by type."),
		nacks:     counter("nacks_total", "Responses that an Envoy refused, by type; it keeps what it had."),
		rejected:  prometheus.NewCounter(prometheus.CounterOpts(opts("rejected_contracts_total", "Contracts that did not compile and were not put in force."))),
		leaves:    prometheus.NewGauge(prometheus.GaugeOpts(opts("leaves", "Leaf certificates that are kept or being made."))),
		leafAnswers: prometheus.NewCounterVec(prometheus.CounterOpts(opts("leaf_answers_total",
			"Answers to Envoy's questions for a leaf certificate, by result: minted, refused, failed, evicted.")), []string{"result"}),
	}
	if r == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.connected, m.resources, m.responses, m.sent, m.nacks, m.rejected, m.leaves, m.leafAnswers} {
		if err := r.Register(c); err != nil {
			errs = append(errs, fmt.Errorf("xds server: metrics: %w", err))
		}
	}
	return m, errors.Join(errs...)
}
