package resolver

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the resolver's. The label reason has the five values that stand in resolver.go.
type metrics struct {
	questions prometheus.Counter
	names     *prometheus.CounterVec
	dropped   prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "sallyport", Subsystem: "resolver", Name: name, Help: help}
	}
	m := &metrics{
		questions: prometheus.NewCounter(prometheus.CounterOpts(opts("questions_total", "DNS questions of Envoy that were read."))),
		names:     prometheus.NewCounterVec(prometheus.CounterOpts(opts("refused_names_total", "Questions whose name got no address, by reason.")), []string{"reason"}),
		dropped:   prometheus.NewCounter(prometheus.CounterOpts(opts("dropped_addresses_total", "Special addresses left out of answers, since no contract in force names them for that host."))),
	}
	for _, reason := range []string{refusedName, refusedSpecial, refusedAbsent, refusedFailed, refusedBusy} {
		m.names.WithLabelValues(reason)
	}
	if r == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.questions, m.names, m.dropped} {
		if err := r.Register(c); err != nil {
			errs = append(errs, fmt.Errorf("resolver: metrics: %w", err))
		}
	}
	return m, errors.Join(errs...)
}

func (m *metrics) refused(reason string) { m.names.WithLabelValues(reason).Inc() }
