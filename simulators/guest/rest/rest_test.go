package rest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coco-e2e/coco-e2e/simulators/guest/channel"
	"github.com/coco-e2e/coco-e2e/simulators/guest/guestpb"
)

// stubs are an attestation-agent and a data hub that echo what they are asked.
type stubs struct {
	guestpb.AttestationAgentServiceService // nil: other calls panic
	result                                 guestpb.RuntimeMeasurementResult
	noTEE                                  bool
}

func (s *stubs) GetToken(_ context.Context, r *guestpb.GetTokenRequest) (*guestpb.GetTokenResponse, error) {
	if r.GetTokenType() != "kbs" {
		return nil, status.Error(codes.Internal, "[ERROR:attestation-agent] AA-KBC get token failed")
	}
	return &guestpb.GetTokenResponse{Token: []byte(`{"token":"t","tee_keypair":"k"}`)}, nil
}

func (s *stubs) GetEvidence(_ context.Context, r *guestpb.GetEvidenceRequest) (*guestpb.GetEvidenceResponse, error) {
	return &guestpb.GetEvidenceResponse{Evidence: fmt.Appendf(nil, "evidence %x", r.GetRuntimeData())}, nil
}

func (s *stubs) GetAdditionalEvidence(_ context.Context, r *guestpb.GetAdditionalEvidenceRequest) (*guestpb.GetEvidenceResponse, error) {
	return &guestpb.GetEvidenceResponse{Evidence: fmt.Appendf(nil, "additional %x", r.GetRuntimeData())}, nil
}

func (s *stubs) ExtendRuntimeMeasurement(_ context.Context, r *guestpb.ExtendRuntimeMeasurementRequest) (*guestpb.ExtendRuntimeMeasurementResponse, error) {
	if got := r.GetDomain() + " " + r.GetOperation() + " " + r.GetContent(); got != "d o c" || r.RegisterIndex != nil {
		return nil, errors.New(got)
	}
	return &guestpb.ExtendRuntimeMeasurementResponse{Result: s.result}, nil
}

func (s *stubs) GetTeeType(context.Context, *guestpb.GetTeeTypeRequest) (*guestpb.GetTeeTypeResponse, error) {
	if s.noTEE {
		return nil, status.Error(codes.Internal, "[ERROR:attestation-agent] AA-KBC get tee type failed")
	}
	return &guestpb.GetTeeTypeResponse{Tee: "tpm"}, nil
}

func (s *stubs) GetAdditionalTees(context.Context, *guestpb.GetAdditionalTeesRequest) (*guestpb.GetAdditionalTeesResponse, error) {
	return &guestpb.GetAdditionalTeesResponse{}, nil
}

func (s *stubs) GetResource(_ context.Context, r *guestpb.GetResourceRequest) (*guestpb.GetResourceResponse, error) {
	if strings.HasSuffix(r.GetResourcePath(), "/denied") {
		return nil, status.Error(codes.Internal, "[CDH] [ERROR]: Get Resource failed")
	}
	return &guestpb.GetResourceResponse{Resource: []byte("\x00secret of " + r.GetResourcePath())}, nil
}

func serve(t *testing.T, stubs *stubs) *channel.Client {
	t.Helper()
	address := "unix://" + filepath.Join(t.TempDir(), "sock")
	listener, err := channel.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- channel.Serve(ctx, listener, func(server *ttrpc.Server) {
			guestpb.RegisterAttestationAgentServiceService(server, stubs)
			guestpb.RegisterGetResourceServiceService(server, stubs)
		})
	}()
	client := &channel.Client{Peer: "AA", Address: address}
	t.Cleanup(func() {
		_ = client.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return client
}

const (
	octet = "application/octet-stream"
	jason = "application/json"
	none  = ""
)

type exchange struct {
	request     string // method and path
	body        string
	status      int
	contentType string
	want        string
}

func check(t *testing.T, address string, exchanges []exchange) {
	t.Helper()
	for _, e := range exchanges {
		method, path, _ := strings.Cut(e.request, " ")
		request, err := http.NewRequestWithContext(t.Context(), method, address+path, strings.NewReader(e.body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		got := exchange{e.request, e.body, response.StatusCode, response.Header.Get("Content-Type"), string(body)}
		if got != e {
			t.Errorf("got  %+v\nwant %+v", got, e)
		}
	}
}

// lockedBuffer is a log that servers write while the test reads.
type lockedBuffer struct {
	mutex  sync.Mutex
	buffer bytes.Buffer
}

func (l *lockedBuffer) Write(line []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.buffer.Write(line)
}

func (l *lockedBuffer) String() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.buffer.String()
}

func start(t *testing.T, feature string, aa, cdh *channel.Client, log io.Writer) string {
	t.Helper()
	handler, err := New(feature, aa, cdh, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// TestRoutes is the table of api-server-rest's router.
func TestRoutes(t *testing.T) {
	services := serve(t, &stubs{result: guestpb.RuntimeMeasurementResult_NOT_ENABLED})
	var log lockedBuffer
	check(t, start(t, All, services, services, &log), []exchange{
		{"GET /info", "", 200, jason, `{"version":"0.1.0","tee":"tpm","feature":"all"}`},
		{"POST /info", "", 405, none, "Method Not Allowed"},
		{"GET /aa/token?token_type=kbs", "", 200, octet, `{"token":"t","tee_keypair":"k"}`},
		{"GET /aa/token?token_type=coco_as&token_type=kbs", "", 200, octet, `{"token":"t","tee_keypair":"k"}`},
		{"GET /aa/token", "", 400, none, "BAD REQUEST"},
		{"GET /aa/token?token_type=", "", 500, none, "ttrpc request error"},
		{"GET /aa/token?token_type=other", "", 500, none, "ttrpc request error"},
		{"POST /aa/token?token_type=kbs", "", 404, none, "URL NOT FOUND"},
		{"GET /aa/token/?token_type=kbs", "", 404, none, "URL NOT FOUND"},
		{"GET /aa/evidence?runtime_data=test", "", 200, octet, "evidence 74657374"},
		{"GET /aa/evidence?runtime_data=", "", 200, octet, "evidence "},
		{"GET /aa/evidence?runtime_data=a%20b%2B+", "", 200, octet, "evidence 6120622b20"},
		{"GET /aa/evidence?runtime_data=cmVwb3J0&encoding=base64", "", 200, octet, "evidence 7265706f7274"},
		{"GET /aa/evidence?runtime_data=-_8&encoding=base64", "", 200, octet, "evidence fbff"},
		{"GET /aa/evidence?runtime_data=%2B%2F8&encoding=base64", "", 400, none, "BAD REQUEST"},
		{"GET /aa/evidence?runtime_data=YQ%3D%3D&encoding=base64", "", 400, none, "BAD REQUEST"},
		{"GET /aa/evidence?runtime_data=data&encoding=hex", "", 400, none, "BAD REQUEST"},
		{"GET /aa/evidence", "", 400, none, "BAD REQUEST"},
		{"GET /aa/additional-evidence?runtime_data=test", "", 200, octet, "additional 74657374"},
		{"GET /aa/additional-evidence", "", 400, none, "BAD REQUEST"},
		{"POST /aa/aael", `{"domain":"d","operation":"o","content":"c"}`, 200, jason, `{"success":"false","message":"Attestation Agent does not enable eventlog recording"}`},
		{"POST /aa/aael", `{"domain":"d","operation":"o"}`, 500, none, "Illegal AAEL eventry format: missing field `content`"},
		{"GET /aa/aael", "", 404, none, "URL NOT FOUND"},
		{"GET /cdh/resource/default/secret/1", "", 200, octet, "\x00secret of kbs:///default/secret/1"},
		{"GET /cdh/resource/default/secret/1?x=y", "", 200, octet, "\x00secret of kbs:///default/secret/1"},
		{"POST /cdh/resource/default/secret/1", "", 200, octet, "\x00secret of kbs:///default/secret/1"},
		{"GET /cdh/resource/a%2fb/c", "", 200, octet, "\x00secret of kbs:///a%2fb/c"},
		{"GET /cdh/resource/default/secret/denied", "", 500, none, "ttrpc request error"},
		{"GET /cdh/resource", "", 404, none, "URL NOT FOUND"},
		{"GET /cdh/other/a", "", 404, none, "URL NOT FOUND"},
		{"GET /cdh", "", 404, none, "URL NOT FOUND"},
		{"GET /aa", "", 404, none, "URL NOT FOUND"},
		{"GET /", "", 404, none, "URL NOT FOUND"},
		{"GET /other/a/b", "", 404, none, "URL NOT FOUND"},
		{"GET //aa/token?token_type=kbs", "", 404, none, "URL NOT FOUND"},
	})
	for _, text := range []string{"secret of", "tee_keypair", "74657374", "runtime_data"} {
		if strings.Contains(log.String(), text) {
			t.Errorf("log has %q", text)
		}
	}
}

func TestMeasurementResults(t *testing.T) {
	for result, want := range map[guestpb.RuntimeMeasurementResult]string{
		guestpb.RuntimeMeasurementResult_OK:            `{"success":"true"}`,
		guestpb.RuntimeMeasurementResult_NOT_SUPPORTED: `{"success":"false","message":"The platform does not support runtime measurement"}`,
		7: `{"success":"false","message":"Unknown runtime measurement result"}`,
	} {
		services := serve(t, &stubs{result: result})
		check(t, start(t, Attestation, services, nil, io.Discard), []exchange{
			{"POST /aa/aael", `{"domain":"d","operation":"o","content":"c"}`, 200, jason, want},
		})
	}
}

func TestFeatures(t *testing.T) {
	services := serve(t, &stubs{})
	check(t, start(t, Resource, services, services, io.Discard), []exchange{
		{"GET /info", "", 200, jason, `{"version":"0.1.0","feature":"resource"}`},
		{"GET /aa/token?token_type=kbs", "", 404, none, "Attestation Feature Not Enabled"},
		{"GET /aa/", "", 404, none, "Attestation Feature Not Enabled"},
		{"GET /cdh/resource/a/b/c", "", 200, octet, "\x00secret of kbs:///a/b/c"},
	})
	check(t, start(t, Attestation, services, services, io.Discard), []exchange{
		{"GET /info", "", 200, jason, `{"version":"0.1.0","tee":"tpm","feature":"attestation"}`},
		{"GET /cdh/resource/a/b/c", "", 404, none, "Resource Feature Not Enabled"},
	})
	if _, err := New("both", nil, nil, nil); err == nil || !strings.Contains(err.Error(), `--features "both"`) {
		t.Errorf("error %v", err)
	}
}

func TestNobodyBehind(t *testing.T) {
	aa := &channel.Client{Peer: "AA", Address: "unix:///nonexistent/aa"}
	cdh := &channel.Client{Peer: "CDH", Address: "unix:///nonexistent/cdh"}
	check(t, start(t, All, aa, cdh, io.Discard), []exchange{
		{"GET /aa/token?token_type=kbs", "", 500, none, "ttrpc connect to AA addr: unix:///nonexistent/aa failed"},
		{"GET /cdh/resource/a/b/c", "", 500, none, "ttrpc connect to CDH addr: unix:///nonexistent/cdh failed"},
	})
	services := serve(t, &stubs{noTEE: true})
	check(t, start(t, All, services, services, io.Discard), []exchange{{"GET /info", "", 500, none, "ttrpc request error"}})
}

// TestOthersAreForbidden asks as a peer that is not on the loopback interface would.
func TestOthersAreForbidden(t *testing.T) {
	services := serve(t, &stubs{})
	handler, err := New(All, services, services, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for remote, want := range map[string]int{
		"127.0.0.1:1": 200, "127.9.9.9:1": 200, "[::1]:1": 200,
		"10.0.0.1:1": 403, "[fe80::1%eth0]:1": 403, "0.0.0.0:1": 403, "localhost:1": 403, "": 403, "@": 403,
	} {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/cdh/resource/a/b/c", nil)
		request.RemoteAddr = remote
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		if recorder.Code != want || (want == 403 && recorder.Body.String() != "Forbidden") {
			t.Errorf("%s: %d %s", remote, recorder.Code, recorder.Body)
		}
	}
}
