package loopback

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// keepRecords is how many requests are remembered; older ones are in the file alone.
const keepRecords = 10_000

// Record is one request as it reached the model. It holds no credential, only its hash.
type Record struct {
	N                int64    `json:"n"` // from 1, in the order of arrival
	TimeMS           int64    `json:"time_ms"`
	Method           string   `json:"method"`
	Path             string   `json:"path"`                  // without query
	QueryNames       []string `json:"query_names,omitempty"` // sorted
	Host             string   `json:"host"`
	CredentialHeader string   `json:"credential_header"` // "" where none came, "?key=" for the query
	CredentialSHA256 string   `json:"credential_sha256"` // hex, over the value without its scheme
	Model            string   `json:"model,omitempty"`
	BodyBytes        int      `json:"body_bytes"`
	BodyHash         string   `json:"body_hash_b64u"` // base64url SHA-256, as request_hash_b64u of a receipt
	Headers          []string `json:"headers"`        // names in lower case, sorted

	bodyHash []byte
}

func newRecord(now time.Time, r *http.Request, body []byte, header, value string) *Record {
	sum := sha256.Sum256(body)
	rec := &Record{
		TimeMS: now.UnixMilli(), Method: r.Method, Path: r.URL.Path, Host: r.Host, CredentialHeader: strings.ToLower(header),
		QueryNames: slices.Sorted(maps.Keys(r.URL.Query())),
		BodyBytes:  len(body), BodyHash: base64.RawURLEncoding.EncodeToString(sum[:]), bodyHash: sum[:],
	}
	if value != "" {
		rec.CredentialSHA256 = sha256Hex(value)
	}
	for name := range r.Header {
		rec.Headers = append(rec.Headers, strings.ToLower(name))
	}
	slices.Sort(rec.Headers)
	return rec
}

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// echoed lists a request's headers as text, keys as their hash.
func echoed(r *http.Request) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		for _, v := range r.Header[name] {
			switch strings.ToLower(name) {
			case "authorization", "x-api-key", "x-goog-api-key", "api-key", "proxy-authorization", "cookie":
				v = "sha256:" + sha256Hex(strings.TrimPrefix(v, "Bearer "))
			}
			b.WriteString(strings.ToLower(name) + ": " + v + "\n")
		}
	}
	return b.String()
}

// records remembers requests, and writes them to a file.
type records struct {
	mu    sync.Mutex
	file  *os.File // nil without one
	total int64
	last  []*Record // at most keepRecords, oldest first
}

func openRecords(path string) (*records, error) {
	r := &records{}
	if path == "" {
		return r, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	r.file = f
	return r, nil
}

func (r *records) close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

func (r *records) add(rec *Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total++
	rec.N = r.total
	if len(r.last) >= 2*keepRecords {
		r.last = append(r.last[:0], r.last[len(r.last)-keepRecords:]...)
	}
	r.last = append(r.last, rec)
	if r.file == nil {
		return nil
	}
	line, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	_, err = r.file.Write(append(line, '\n'))
	return err
}

// serve answers GET /__requests with what has reached the model; ?since=N leaves out the first N.
func (r *records) serve(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet {
		http.Error(w, "use GET", http.StatusMethodNotAllowed)
		return
	}
	since, err := strconv.ParseInt(req.URL.Query().Get("since"), 10, 64)
	if err != nil {
		since = 0
	}
	r.mu.Lock()
	out := struct {
		Total    int64     `json:"total"`
		Requests []*Record `json:"requests"`
	}{r.total, []*Record{}}
	for _, rec := range r.last[max(0, len(r.last)-keepRecords):] {
		if rec.N > since {
			out.Requests = append(out.Requests, rec)
		}
	}
	r.mu.Unlock()
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(out); err != nil {
		http.Error(w, "internal fault", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b.Bytes())
}
