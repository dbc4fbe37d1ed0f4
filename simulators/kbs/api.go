package kbs

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
)

// exchange is one request to the API, and what the log will say of it.
type exchange struct {
	*http.Request
	plugin string   // first segment of the path
	path   []string // the rest
	query  map[string]string
	body   []byte

	session, token string // fingerprints
	tee            string // of the session, when one was found
	judged         bool   // it came to a verdict on evidence, or to the resource policy
	notes          []any  // more for the log: names and values
}

// reply is a request granted.
type reply struct {
	decision    string // for the log
	contentType string // empty for none
	body        []byte
	cookie      *http.Cookie
}

// api handles a request to path below /kbs/v0/, and accounts for it with one line in the log.
func (s *Server) api(w http.ResponseWriter, r *http.Request, path string) {
	start := time.Now()
	query, err := queryOf(r)
	if err != nil {
		http.Error(w, "Query deserialize error", http.StatusBadRequest)
		return
	}
	limit := s.config.HTTP.PayloadLimit << 20
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			http.Error(w, "Payload reached size limit.", http.StatusRequestEntityTooLarge)
		} else {
			http.Error(w, "Payload is incomplete.", http.StatusBadRequest)
		}
		return
	}
	segments := strings.Split(path, "/")
	x := &exchange{Request: r, plugin: segments[0], path: segments[1:], query: query, body: body}
	granted, failed := s.dispatch(x)
	status, decision, size := http.StatusOK, "", 0
	if failed != nil {
		status, decision, size = failed.status(), failed.variant, len(failed.body())
	} else {
		decision, size = granted.decision, len(granted.body)
	}
	s.account(x, start, status, size, decision, failed)
	respond(w, granted, failed)
}

// dispatch finds who handles a request. Other methods than those named here fall through to the plugins, as in Trustee.
func (s *Server) dispatch(x *exchange) (*reply, *failure) {
	switch x.Method + " " + x.plugin {
	case "POST auth":
		return s.auth(x)
	case "POST attest":
		return s.attest(x)
	case "POST attestation-policy":
		return s.administer(x, s.setAttestationPolicy)
	case "POST resource-policy":
		return s.administer(x, s.setResourcePolicy)
	case "GET resource-policy":
		return s.administer(x, s.listResourcePolicies)
	case "POST reference-value":
		return s.administer(x, s.setReferenceValues)
	case "GET reference-value":
		return s.administer(x, s.getReferenceValue)
	}
	if x.plugin == "resource" && len(s.config.Plugins) > 0 { // config knows no other plugin
		return s.resource(x)
	}
	return nil, pluginNotFound(x.plugin)
}

// event is the request's kind, from a closed set: metrics must not grow with what clients invent.
func (x *exchange) event() string {
	switch x.plugin {
	case "auth", "attest", "attestation-policy", "resource-policy", "reference-value", "resource":
		return x.plugin
	}
	return "other"
}

func (s *Server) account(x *exchange, start time.Time, status, size int, decision string, failed *failure) {
	took := time.Since(start)
	s.metrics.account(x, took, size, decision, failed)
	line := []any{
		"event", x.event(), "decision", decision, "method", x.Method, "path", clip(x.URL.Path), "status", status,
		"session", x.session, "token", x.token, "remote", x.RemoteAddr, "duration_us", took.Microseconds(),
	}
	line = append(line, x.notes...)
	if failed != nil && failed.cause != nil {
		line = append(line, "cause", failed.cause.Error())
	}
	s.journal.Info("request", line...)
}

func respond(w http.ResponseWriter, granted *reply, failed *failure) {
	if failed != nil {
		w.Header()["Content-Type"] = nil // errors have none
		w.WriteHeader(failed.status())
		_, _ = w.Write(failed.body())
		return
	}
	if granted.cookie != nil {
		http.SetCookie(w, granted.cookie)
	}
	w.Header()["Content-Type"] = nil
	if granted.contentType != "" {
		w.Header().Set("Content-Type", granted.contentType)
	}
	_, _ = w.Write(granted.body)
}
