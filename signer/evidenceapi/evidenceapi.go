// Package evidenceapi serves what the evidence holds of each run over HTTP: lists, one run's calls, its proof bundles and its
// archive. All of it is for administrators; what is asked for is in the signer's own log.
package evidenceapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sallyport/signer/bundle"
	"sallyport/signer/runs"
	"sallyport/signer/trustpulse"
)

const (
	// maxWait bounds how long a request may wait for open calls.
	maxWait = 30 * time.Second
	// look is how often it looks meanwhile.
	look = 50 * time.Millisecond
)

// Config of the API.
type Config struct {
	Index *runs.Index
	Maker *bundle.Maker
	// Reader says who may read. Admin says who may also add what an agent reports of itself.
	Reader, Admin func(*http.Request) (who string, ok bool)
	Pulses        trustpulse.Store
	Log           *slog.Logger
}

// Handler serves GET /v1/runs, /v1/runs/RUN, /v1/runs/RUN/summary, /v1/runs/RUN/bundle?part=, /v1/runs/RUN/archive and /v1/trust,
// and GET and POST /v1/runs/RUN/trust-pulse. RUN is a run's id or its short name; job= tells runs of one id apart, wait=2s waits
// for calls that are open, and sealed=no leaves sealed bodies out of an archive.
func Handler(c Config) http.Handler {
	mux := http.NewServeMux()
	s := &server{c, make(chan struct{}, maxArchives)}
	mux.HandleFunc("GET /v1/runs", s.known(c.Reader, s.list))
	mux.HandleFunc("GET /v1/runs/{run}", s.known(c.Reader, s.run))
	mux.HandleFunc("GET /v1/runs/{run}/summary", s.known(c.Reader, s.summary))
	mux.HandleFunc("GET /v1/runs/{run}/bundle", s.known(c.Reader, s.bundle))
	mux.HandleFunc("GET /v1/runs/{run}/archive", s.known(c.Reader, s.archive))
	mux.HandleFunc("GET /v1/runs/{run}/trust-pulse", s.known(c.Reader, s.givePulse))
	mux.HandleFunc("POST /v1/runs/{run}/trust-pulse", s.known(c.Admin, s.takePulse))
	mux.HandleFunc("GET /v1/trust", s.known(c.Reader, s.trust))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, "NOT_FOUND", "no such path in the evidence API: "+r.URL.Path)
	})
	return mux
}

type server struct {
	Config
	turn chan struct{} // archives under way, since each is made in memory
}

// maxArchives is how many are made at a time.
const maxArchives = 2

// known lets through whom the check knows.
func (s *server) known(check func(*http.Request) (string, bool), next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, ok := check(r)
		if !ok {
			w.Header().Set("WWW-Authenticate", "Bearer")
			fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "a key that may do this is needed as Authorization: Bearer; the viewer's may read, the administrator's may do all")
			return
		}
		s.Log.Info("evidence asked for", "path", r.URL.Path, "by", who)
		w.Header().Set("Cache-Control", "no-store")
		if err := s.Index.CatchUp(r.Context()); err != nil {
			s.broken(w, err)
			return
		}
		next(w, r)
	}
}

func (s *server) list(w http.ResponseWriter, r *http.Request) {
	q := runs.Query{Text: r.URL.Query().Get("q")}
	var err error
	if text := r.URL.Query().Get("limit"); text != "" {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 {
			fail(w, http.StatusBadRequest, "INVALID_REQUEST", "limit must be a number from 1 on")
			return
		}
	}
	if text := r.URL.Query().Get("before"); text != "" {
		at, id, _ := strings.Cut(text, " ")
		q.ID = id
		if q.Before, err = time.Parse(time.RFC3339Nano, at); err != nil {
			fail(w, http.StatusBadRequest, "INVALID_REQUEST", "before must be an RFC 3339 time, as a run's started, or the next of an earlier answer")
			return
		}
	}
	list, err := s.Index.List(q)
	if err != nil {
		s.broken(w, err)
		return
	}
	for i := range list {
		list[i].AgentDID = s.Maker.Job(list[i].Job).DID()
	}
	out := map[string]any{"ok": true, "runs": list}
	if n := len(list); n > 0 {
		out["next"] = list[n-1].Started.Format(time.RFC3339Nano) + " " + list[n-1].ID // before= for what follows
	}
	answer(w, http.StatusOK, out)
}

// find is the one run that a request names; nil where the answer is given already.
func (s *server) find(w http.ResponseWriter, r *http.Request) *runs.Summary {
	name, job := r.PathValue("run"), r.URL.Query().Get("job")
	found, err := s.Index.Find(name, job)
	switch {
	case err != nil:
		s.broken(w, err)
	case len(found) == 0:
		fail(w, http.StatusNotFound, "RUN_NOT_FOUND", "the evidence holds no run "+strconv.Quote(name))
	case len(found) > 1:
		jobs := []string{}
		for _, f := range found {
			jobs = append(jobs, f.Job)
		}
		answer(w, http.StatusConflict, map[string]any{"ok": false, "error": map[string]any{
			"code": "RUN_AMBIGUOUS", "message": "several jobs have a run of that id; name one with job=", "jobs": jobs,
		}})
	default:
		found[0].AgentDID = s.Maker.Job(found[0].Job).DID()
		return &found[0]
	}
	return nil
}

// load reads a run, and waits for its open calls as long as the request says.
func (s *server) load(w http.ResponseWriter, r *http.Request) *runs.Run {
	wait := time.Duration(0)
	if text := r.URL.Query().Get("wait"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			fail(w, http.StatusBadRequest, "INVALID_REQUEST", "wait must be a duration such as 2s")
			return nil
		}
		wait = min(d, maxWait)
	}
	found := s.find(w, r)
	if found == nil {
		return nil
	}
	for end := time.Now().Add(wait); found.Open > 0 && time.Now().Before(end); {
		select {
		case <-r.Context().Done():
			return nil
		case <-time.After(look):
		}
		if err := s.Index.CatchUp(r.Context()); err != nil {
			s.broken(w, err)
			return nil
		}
		again, err := s.Index.Find(found.ID, "")
		if err != nil || len(again) != 1 {
			s.broken(w, errors.Join(err, runs.ErrNoRun))
			return nil
		}
		again[0].AgentDID = found.AgentDID
		found = &again[0]
	}
	out, err := s.Index.Load(found.ID)
	if err != nil {
		s.broken(w, err)
		return nil
	}
	out.AgentDID = found.AgentDID
	return out
}

func (s *server) run(w http.ResponseWriter, r *http.Request) {
	if out := s.load(w, r); out != nil {
		answer(w, http.StatusOK, map[string]any{"ok": true, "run": out})
	}
}

func (s *server) bundle(w http.ResponseWriter, r *http.Request) {
	part := 1
	if text := r.URL.Query().Get("part"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			fail(w, http.StatusBadRequest, "INVALID_REQUEST", "part must be a number from 1 on")
			return
		}
		part = n
	}
	run := s.load(w, r)
	if run == nil {
		return
	}
	env, err := s.Maker.Bundle(run, part)
	if err != nil {
		s.refuse(w, err)
		return
	}
	raw, err := env.Encode()
	if err != nil {
		s.broken(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(raw) // the reader left; nothing to do about it
}

func (s *server) archive(w http.ResponseWriter, r *http.Request) {
	run := s.load(w, r)
	if run == nil {
		return
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-r.Context().Done():
		return
	}
	var out bytes.Buffer
	if err := s.Maker.Archive(&out, run, r.URL.Query().Get("sealed") != "no"); err != nil {
		s.refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/zip")
	w.Header().Set("Content-Disposition", `attachment; filename="`+run.ID+`.zip"`)
	w.Header().Set("Content-Length", strconv.Itoa(out.Len()))
	_, _ = w.Write(out.Bytes())
}

// refuse says why there is no bundle.
func (s *server) refuse(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, bundle.ErrTooLarge):
		fail(w, http.StatusConflict, "ARCHIVE_TOO_LARGE", err.Error())
	case errors.Is(err, bundle.ErrOpen):
		fail(w, http.StatusConflict, "RUN_OPEN", err.Error())
	case errors.Is(err, bundle.ErrNoCalls), errors.Is(err, bundle.ErrPart):
		fail(w, http.StatusNotFound, "BUNDLE_NOT_FOUND", err.Error())
	default:
		s.broken(w, err)
	}
}

func (s *server) broken(w http.ResponseWriter, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	s.Log.Error("evidence cannot be given", "error", err)
	fail(w, http.StatusInternalServerError, "EVIDENCE_UNREADABLE", strings.TrimSpace(err.Error()))
}

func fail(w http.ResponseWriter, status int, code, message string) {
	answer(w, status, map[string]any{"ok": false, "error": map[string]string{"code": code, "message": message}})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false) // envelopes stay as they were signed
	_ = enc.Encode(v)        // the reader left; nothing to do about it
}
