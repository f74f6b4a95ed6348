package service

import (
	"github.com/prometheus/client_golang/prometheus"

	"sallyport/signer/record"
)

// metrics are the signer's numbers.
type metrics struct {
	receipts *prometheus.CounterVec
	done     prometheus.Counter // of receipts: completed
	cut      prometheus.Counter
	refusals prometheus.Counter
	failed   prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		receipts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sallyport_receipts_total", Help: "Receipts signed and recorded, by outcome."}, []string{"outcome"}),
		refusals: prometheus.NewCounter(prometheus.CounterOpts{Name: "sallyport_refusals_recorded_total", Help: "Refusals recorded in the evidence log."}),
		failed:   prometheus.NewCounter(prometheus.CounterOpts{Name: "sallyport_evidence_failures_total", Help: "Records that the evidence log did not take."}),
	}
	m.done, m.cut = m.receipts.WithLabelValues(string(record.Completed)), m.receipts.WithLabelValues(string(record.Cut))
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.receipts, m.refusals, m.failed} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// settled counts the calls that were settled so.
func (m *metrics) settled(o record.Outcome) prometheus.Counter {
	if o == record.Cut {
		return m.cut
	}
	return m.done
}
