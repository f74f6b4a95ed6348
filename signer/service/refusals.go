package service

import (
	"encoding/json"
	"time"

	"sallyport/signer/decision"
	"sallyport/signer/envelope"
	"sallyport/signer/evlog"
	"sallyport/signer/record"
)

// refuse records a refusal. One whose run is known, which is one whose token was believed, is signed and numbered within its
// run; a stranger's is written as it came, so that whoever sends rubbish does not make the signer sign.
func (s *Service) refuse(raw []byte) {
	if env := s.decide(raw); env != nil {
		raw = env
	}
	s.cfg.Log.Append(evlog.KindRefusal, raw, evlog.Written, func(err error) {
		if err != nil {
			s.metrics.failed.Inc()
			s.cfg.Slog.Error("refusal not recorded", "refusal", string(raw), "error", err)
			return
		}
		s.metrics.refusals.Inc()
	})
}

// decide is the signed form of a refusal, or nil if it has none.
func (s *Service) decide(raw []byte) []byte {
	var r record.Refusal
	if err := json.Unmarshal(raw, &r); err != nil {
		s.cfg.Slog.Error("a refusal is not as this build writes it; recorded as it came", "error", err)
		return nil
	}
	if r.RunID == "" || r.TokenHash == "" {
		return nil
	}
	number, err := s.chains.refused(runOf(r.MissionID, r.TokenHash, r.RunID))
	if err != nil {
		s.cfg.Slog.Error("refusal not numbered; recorded as it came", "refusal", r.ID, "error", err)
		return nil
	}
	p := decision.Build(&r, s.cfg.GatewayID, number)
	env, err := decision.Sign(p, s.cfg.Gateway, notBefore(s.cfg.Now(), p.Timestamp))
	if err == nil {
		raw, err = env.Encode()
	}
	if err != nil {
		// Its number is missing from the run's sequence then, which says so to whoever verifies.
		s.cfg.Slog.Error("refusal not signed; recorded as it came", "refusal", r.ID, "error", err)
		return nil
	}
	return raw
}

// notBefore is now, or the record's own time where the clock was set back since: nothing is issued before it happened.
func notBefore(now time.Time, timestamp string) time.Time {
	if envelope.FormatTime(now) >= timestamp {
		return now
	}
	t, err := time.Parse(time.RFC3339Nano, timestamp)
	if err != nil {
		return now
	}
	return t
}
