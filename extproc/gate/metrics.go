package gate

import (
	"github.com/prometheus/client_golang/prometheus"

	"sallyport/signer/record"
)

// metrics are the gate's numbers. Labels are bounded: codes come from the closed list, providers from the configuration.
type metrics struct {
	decisions *prometheus.CounterVec
	allowed   prometheus.Counter // of decisions
	settled   *prometheus.CounterVec
	tokens    *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	cut       prometheus.Counter
	abandoned prometheus.Counter
	panics    prometheus.Counter
	echoes    *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sallyport_decisions_total", Help: "Calls decided, by verdict and code."}, []string{"verdict", "code"}),
		settled:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sallyport_calls_settled_total", Help: "Calls whose receipt is recorded, by provider and outcome."}, []string{"provider", "outcome"}),
		tokens:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sallyport_model_tokens_total", Help: "Model tokens as upstreams reported them, by provider and direction."}, []string{"provider", "direction"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sallyport_call_seconds", Help: "Time from the recorded intent to the last byte of the answer, in seconds.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 14),
		}, []string{"provider"}),
		cut:       prometheus.NewCounter(prometheus.CounterOpts{Name: "sallyport_calls_cut_total", Help: "Allowed calls that ended before the whole answer was released."}),
		abandoned: prometheus.NewCounter(prometheus.CounterOpts{Name: "sallyport_calls_abandoned_total", Help: "Calls that the client gave up before a verdict."}),
		panics:    prometheus.NewCounter(prometheus.CounterOpts{Name: "sallyport_panics_total", Help: "Internal faults that ended an exchange; each was refused."}),
		echoes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sallyport_credential_echoes_total", Help: "Echoes of credentials in answers, masked, by class."}, []string{"class"}),
	}
	m.allowed = m.decisions.WithLabelValues("allow", "")
	for _, c := range []prometheus.Collector{m.decisions, m.settled, m.tokens, m.seconds, m.cut, m.abandoned, m.panics, m.echoes} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// observed are a provider's numbers, looked up once and not on every call.
type observed struct {
	completed, cut, input, output prometheus.Counter
	seconds                       prometheus.Observer
}

func (m *metrics) of(provider string) observed {
	return observed{
		completed: m.settled.WithLabelValues(provider, string(record.Completed)), cut: m.settled.WithLabelValues(provider, string(record.Cut)),
		input: m.tokens.WithLabelValues(provider, "input"), output: m.tokens.WithLabelValues(provider, "output"),
		seconds: m.seconds.WithLabelValues(provider),
	}
}

func (o *observed) settled(c *record.Completion) {
	if c.Outcome == record.Completed {
		o.completed.Inc()
	} else {
		o.cut.Inc()
	}
	o.input.Add(float64(c.TokensInput))
	o.output.Add(float64(c.TokensOutput))
	o.seconds.Observe(float64(c.LatencyMS) / 1000)
}
