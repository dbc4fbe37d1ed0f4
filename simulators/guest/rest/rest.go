// Package rest is the guest's api-server-rest: what containers ask the attestation-agent and the data hub for, over HTTP on
// the pod's loopback interface (guest-components api-server-rest).
//
// Statuses, bodies and content types are api-server-rest's, also where they say little: containers rely on them. The
// package must not know tokens or secrets from other bytes.
package rest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/coco-e2e/coco-e2e/simulators/guest/channel"
	"github.com/coco-e2e/coco-e2e/simulators/guest/guestpb"
)

// Features that api-server-rest can be started with.
const (
	Resource    = "resource"
	Attestation = "attestation"
	All         = "all"
)

// version is what /info says.
const version = "0.1.0"

const (
	requestTime = 50 * time.Second // of one ttrpc request
	maxBody     = 1 << 20          // of a request, bytes
)

// Handler answers containers' requests.
type Handler struct {
	feature string
	aa, cdh *channel.Client // nil when the feature is off
	log     *slog.Logger
}

// New makes a handler with a feature, one of the constants. A nil client switches nothing off: the feature decides.
func New(feature string, aa, cdh *channel.Client, log *slog.Logger) (*Handler, error) {
	handler := &Handler{feature: feature, log: log}
	switch feature {
	case Resource:
		handler.cdh = cdh
	case Attestation:
		handler.aa = aa
	case All:
		handler.aa, handler.cdh = aa, cdh
	default:
		return nil, fmt.Errorf("--features %q: want resource, attestation or all", feature)
	}
	return handler, nil
}

// answer is a response. An empty content type is none at all.
type answer struct {
	status      int
	contentType string
	body        []byte
}

func text(status int, body string) answer { return answer{status: status, body: []byte(body)} }

func octets(body []byte) answer { return answer{http.StatusOK, "application/octet-stream", body} }

func document(body []byte) answer { return answer{http.StatusOK, "application/json", body} }

var (
	badRequest = text(http.StatusBadRequest, "BAD REQUEST")
	notFound   = text(http.StatusNotFound, "URL NOT FOUND")
)

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	answer := h.route(ctx, w, r)
	if answer.contentType == "" {
		w.Header()["Content-Type"] = nil // else net/http would guess
	} else {
		w.Header().Set("Content-Type", answer.contentType)
	}
	w.WriteHeader(answer.status)
	_, _ = w.Write(answer.body)
	// Not the query: runtime data is the container's own business.
	h.log.Info("request", "method", r.Method, "path", fmt.Sprintf("%.256s", r.URL.EscapedPath()), "status", answer.status,
		"duration_us", time.Since(start).Microseconds())
}

func (h *Handler) route(ctx context.Context, w http.ResponseWriter, r *http.Request) answer {
	if !fromLoopback(r.RemoteAddr) {
		return text(http.StatusForbidden, "Forbidden")
	}
	path := r.URL.EscapedPath()
	if path == "/info" {
		if r.Method != http.MethodGet {
			return text(http.StatusMethodNotAllowed, "Method Not Allowed")
		}
		return h.info(ctx)
	}
	root, rest := split(path)
	switch root {
	case "/aa":
		if h.aa == nil {
			return text(http.StatusNotFound, "Attestation Feature Not Enabled")
		}
		return h.attestation(ctx, w, r, rest)
	case "/cdh":
		if h.cdh == nil {
			return text(http.StatusNotFound, "Resource Feature Not Enabled")
		}
		if service, resource := split(rest); service == "/resource" {
			return h.resource(ctx, resource)
		}
	}
	return notFound
}

func fromLoopback(remote string) bool {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// split divides a path before its second slash. A path with fewer slashes has no first part.
func split(path string) (first, rest string) {
	slash := strings.IndexByte(path, '/')
	if slash < 0 {
		return "", ""
	}
	second := strings.IndexByte(path[slash+1:], '/')
	if second < 0 {
		return "", ""
	}
	return path[:slash+1+second], path[slash+1+second:]
}

// parameters are the query's, the last of each name as in api-server-rest.
func parameters(r *http.Request) map[string]string {
	values, _ := url.ParseQuery(r.URL.RawQuery) // what cannot be parsed is not there
	last := make(map[string]string, len(values))
	for name, given := range values {
		last[name] = given[len(given)-1]
	}
	return last
}

func (h *Handler) attestation(ctx context.Context, w http.ResponseWriter, r *http.Request, path string) answer {
	parameters := parameters(r)
	switch r.Method + " " + path {
	case "GET /token":
		kind, ok := parameters["token_type"]
		if !ok {
			return badRequest
		}
		return h.token(ctx, kind)
	case "GET /evidence", "GET /additional-evidence":
		runtimeData, err := decodeRuntimeData(parameters)
		if err != nil {
			return badRequest
		}
		if path == "/evidence" {
			return h.evidence(ctx, runtimeData)
		}
		return h.additionalEvidence(ctx, runtimeData)
	case "POST /aael":
		return h.extend(ctx, http.MaxBytesReader(w, r.Body, maxBody))
	}
	return notFound
}

// decodeRuntimeData gives the bytes of the parameter runtime_data: as they are, or with encoding=base64 from URL-safe
// base64 without padding.
func decodeRuntimeData(parameters map[string]string) ([]byte, error) {
	data, ok := parameters["runtime_data"]
	if !ok {
		return nil, errors.New("no runtime_data")
	}
	switch encoding, ok := parameters["encoding"]; {
	case !ok:
		return []byte(data), nil
	case encoding == "base64":
		return base64.RawURLEncoding.Strict().DecodeString(data)
	default:
		return nil, fmt.Errorf("encoding %q", encoding)
	}
}

func (h *Handler) info(ctx context.Context) answer {
	information := struct {
		Version        string   `json:"version"`
		TEE            string   `json:"tee,omitempty"`
		AdditionalTEEs []string `json:"additional_tees,omitempty"`
		Feature        string   `json:"feature"`
	}{Version: version, Feature: h.feature}
	if h.aa != nil {
		err := h.aa.Call(ctx, func(client *ttrpc.Client) error {
			agent := guestpb.NewAttestationAgentServiceClient(client)
			tee, err := agent.GetTeeType(ctx, &guestpb.GetTeeTypeRequest{})
			if err != nil {
				return err
			}
			others, err := agent.GetAdditionalTees(ctx, &guestpb.GetAdditionalTeesRequest{})
			information.TEE, information.AdditionalTEEs = tee.GetTee(), others.GetAdditionalTees()
			return err
		})
		if err != nil {
			return h.failed("get TEE type", err)
		}
	}
	body, err := json.Marshal(information)
	if err != nil {
		return h.failed("info", err)
	}
	return document(body)
}
