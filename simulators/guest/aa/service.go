package aa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coco-e2e/coco-e2e/simulators/guest/guestpb"
)

// Service is the attestation_agent.AttestationAgentService. The causes of its errors go to the log; the caller sees which
// call failed, as with attestation-agent.
type Service struct {
	// Config is aa.toml's.
	Config *Config
	// Attester is nil when the machine has no TEE: then everything about evidence fails.
	Attester Attester
	// Events is nil when no event log is kept.
	Events *EventLog
	// EventsEnabled says that one was asked for; without Events, the TEE has no registers for it.
	EventsEnabled bool
	// InitData was bound before the service began.
	InitData *InitData
	// Log must not get tokens or keys.
	Log *slog.Logger
}

var _ guestpb.AttestationAgentServiceService = (*Service)(nil)

// Register adds the service to a ttrpc server.
func (s *Service) Register(server *ttrpc.Server) {
	guestpb.RegisterAttestationAgentServiceService(server, s)
}

// GetEvidence gives evidence with the request's runtime data, unhashed, as report data.
func (s *Service) GetEvidence(ctx context.Context, request *guestpb.GetEvidenceRequest) (*guestpb.GetEvidenceResponse, error) {
	evidence, err := s.evidence(ctx, request.GetRuntimeData())
	if err != nil {
		return nil, s.fail("get evidence failed", err)
	}
	s.Log.Info("evidence given", "tee", s.Attester.Tee())
	return &guestpb.GetEvidenceResponse{Evidence: evidence}, nil
}

func (s *Service) evidence(ctx context.Context, reportData []byte) ([]byte, error) {
	if s.Attester == nil {
		return nil, ErrNoTEE
	}
	if s.Events == nil {
		return s.Attester.Evidence(ctx, reportData)
	}
	var evidence []byte
	err := s.Events.During(func() (err error) {
		evidence, err = s.Attester.Evidence(ctx, reportData)
		return err
	})
	return evidence, err
}

// GetAdditionalEvidence gives the evidence of further devices: none.
func (s *Service) GetAdditionalEvidence(context.Context, *guestpb.GetAdditionalEvidenceRequest) (*guestpb.GetEvidenceResponse, error) {
	return &guestpb.GetEvidenceResponse{Evidence: []byte(noDevices)}, nil
}

// GetToken performs a handshake with the KBS and gives {"token","tee_keypair"} as JSON. The only token type is "kbs".
func (s *Service) GetToken(ctx context.Context, request *guestpb.GetTokenRequest) (*guestpb.GetTokenResponse, error) {
	token, err := s.token(ctx, request.GetTokenType())
	if err != nil {
		return nil, s.fail("get token failed", err)
	}
	s.Log.Info("token given", "type", request.GetTokenType(), "kbs", s.Config.TokenConfigs.KBS.URL)
	return &guestpb.GetTokenResponse{Token: token}, nil
}

func (s *Service) token(ctx context.Context, kind string) ([]byte, error) {
	if kind != "kbs" {
		return nil, fmt.Errorf("token type %q: only \"kbs\" is supported", kind)
	}
	config := s.Config.TokenConfigs.KBS
	if config == nil {
		return nil, errors.New("kbs token config not configured: aa.toml has no [token_configs.kbs] with url")
	}
	if s.Attester == nil {
		return nil, ErrNoTEE
	}
	handshake, err := newHandshake(config, attesterOf{s}, s.InitData.Plaintext, s.Log)
	if err != nil {
		return nil, err
	}
	token, err := handshake.token(ctx)
	if err != nil {
		return nil, err
	}
	keyPair, err := handshake.key.pem()
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		Token   string `json:"token"`
		KeyPair string `json:"tee_keypair"`
	}{token, keyPair})
}

// attesterOf is the service's TEE, asked for evidence while its event log rests.
type attesterOf struct{ *Service }

// Tee implements [Attester].
func (a attesterOf) Tee() string { return a.Attester.Tee() }

// BindInitData implements [Attester].
func (a attesterOf) BindInitData(ctx context.Context, digest []byte) error {
	return a.Attester.BindInitData(ctx, digest)
}

// Evidence implements [Attester].
func (a attesterOf) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	return a.evidence(ctx, reportData)
}

// ExtendRuntimeMeasurement records an event in the event log and measures it.
func (s *Service) ExtendRuntimeMeasurement(ctx context.Context, request *guestpb.ExtendRuntimeMeasurementRequest) (*guestpb.ExtendRuntimeMeasurementResponse, error) {
	answer := func(result guestpb.RuntimeMeasurementResult) (*guestpb.ExtendRuntimeMeasurementResponse, error) {
		return &guestpb.ExtendRuntimeMeasurementResponse{Result: result}, nil
	}
	switch {
	case !s.EventsEnabled:
		return answer(guestpb.RuntimeMeasurementResult_NOT_ENABLED)
	case s.Events == nil:
		return answer(guestpb.RuntimeMeasurementResult_NOT_SUPPORTED)
	}
	var pcr *uint32
	if request.RegisterIndex != nil {
		index := uint32(min(request.GetRegisterIndex(), 1<<31))
		pcr = &index
	}
	if err := s.Events.Record(ctx, pcr, request.GetDomain(), request.GetOperation(), request.GetContent()); err != nil {
		return nil, s.fail("extend runtime measurement failed", err)
	}
	return answer(guestpb.RuntimeMeasurementResult_OK)
}

// BindInitData is declared in the protocol and not served, as by attestation-agent: init-data is bound once, at the start.
func (s *Service) BindInitData(context.Context, *guestpb.BindInitDataRequest) (*guestpb.BindInitDataResponse, error) {
	return nil, status.Error(codes.NotFound, "/attestation_agent.AttestationAgentService/BindInitData is not supported")
}

// GetTeeType gives the TEE's name in the KBS protocol.
func (s *Service) GetTeeType(context.Context, *guestpb.GetTeeTypeRequest) (*guestpb.GetTeeTypeResponse, error) {
	if s.Attester == nil {
		return nil, s.fail("get tee type failed", ErrNoTEE)
	}
	return &guestpb.GetTeeTypeResponse{Tee: s.Attester.Tee()}, nil
}

// GetAdditionalTees lists further devices' TEEs: none.
func (s *Service) GetAdditionalTees(context.Context, *guestpb.GetAdditionalTeesRequest) (*guestpb.GetAdditionalTeesResponse, error) {
	return &guestpb.GetAdditionalTeesResponse{}, nil
}

func (s *Service) fail(what string, cause error) error {
	s.Log.Error(what, "error", cause.Error())
	return status.Error(codes.Internal, "[ERROR:attestation-agent] AA-KBC "+what)
}
