package tlog

import "github.com/prometheus/client_golang/prometheus"

// metrics are the log's numbers.
type metrics struct {
	size     prometheus.Gauge
	signed   prometheus.Gauge
	failures prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		size:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "sallyport_tlog_entries", Help: "Entries integrated into the transparency log."}),
		signed:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "sallyport_tlog_checkpoint_entries", Help: "Entries under the newest checkpoint of the transparency log."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "sallyport_tlog_failures_total", Help: "Faults that kept the transparency log from going on."}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.size, m.signed, m.failures} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
