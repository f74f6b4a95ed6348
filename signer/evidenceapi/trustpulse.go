package evidenceapi

import (
	"errors"
	"io"
	"net/http"
	"time"

	"sallyport/signer/trustpulse"
)

// takePulse keeps what an agent reports of itself about a run (WIRE 11). It stays apart from the evidence.
func (s *server) takePulse(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(io.LimitReader(r.Body, trustpulse.MaxBytes+1))
	if err != nil {
		fail(w, http.StatusBadRequest, "INVALID_REQUEST", "the body could not be read")
		return
	}
	d, err := trustpulse.Parse(raw)
	switch {
	case errors.Is(err, trustpulse.ErrTooLarge):
		fail(w, http.StatusBadRequest, "TRUST_PULSE_TOO_LARGE", err.Error())
		return
	case err != nil:
		fail(w, http.StatusBadRequest, "TRUST_PULSE_INVALID", err.Error())
		return
	}
	run := s.find(w, r)
	if run == nil {
		return
	}
	if d.RunID != run.Run || d.AgentDID != run.AgentDID && d.AgentDID != run.Subject {
		fail(w, http.StatusBadRequest, "TRUST_PULSE_BINDING_MISMATCH", "run_id must be the run's, and agent_did its agent's or its job key's")
		return
	}
	kept, err := s.Pulses.Put(run.ID, raw, d, time.Now())
	if err != nil {
		s.broken(w, err)
		return
	}
	answer(w, http.StatusCreated, kept)
}

func (s *server) givePulse(w http.ResponseWriter, r *http.Request) {
	run := s.find(w, r)
	if run == nil {
		return
	}
	kept, err := s.Pulses.Newest(run.ID)
	switch {
	case errors.Is(err, trustpulse.ErrNotFound):
		fail(w, http.StatusNotFound, "TRUST_PULSE_NOT_FOUND", "the agent has reported nothing of itself about this run")
	case errors.Is(err, trustpulse.ErrCorrupt):
		s.Log.Error("a stored trust pulse is damaged", "run", run.ID, "error", err)
		fail(w, http.StatusInternalServerError, "TRUST_PULSE_CORRUPT", err.Error())
	case err != nil:
		s.broken(w, err)
	default:
		answer(w, http.StatusOK, kept)
	}
}

// summary is a run without its calls, for readers who need no more.
func (s *server) summary(w http.ResponseWriter, r *http.Request) {
	if run := s.find(w, r); run != nil {
		answer(w, http.StatusOK, map[string]any{"ok": true, "run": run})
	}
}

// trust names the public keys of this installation. Whoever wants to check the gateway too gets them by another way.
func (s *server) trust(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{"ok": true, "trust": s.Maker.Trust})
}
