package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/containerd/ttrpc"

	"github.com/coco-e2e/coco-e2e/simulators/guest/channel"
	"github.com/coco-e2e/coco-e2e/simulators/guest/guestpb"
)

// failed says that a service did not give what was asked. The container learns no more than api-server-rest tells it; the
// cause is in the log.
func (h *Handler) failed(what string, cause error) answer {
	h.log.Error("request failed", "request", what, "error", cause.Error())
	var connect *channel.ConnectError
	if errors.As(cause, &connect) {
		return text(http.StatusInternalServerError, fmt.Sprintf("ttrpc connect to %s addr: %s failed", connect.Peer, connect.Address))
	}
	return text(http.StatusInternalServerError, "ttrpc request error")
}

func (h *Handler) token(ctx context.Context, kind string) answer {
	var token []byte
	err := h.aa.Call(ctx, func(client *ttrpc.Client) error {
		response, err := guestpb.NewAttestationAgentServiceClient(client).GetToken(ctx, &guestpb.GetTokenRequest{TokenType: kind})
		token = response.GetToken()
		return err
	})
	if err != nil {
		return h.failed("get token", err)
	}
	return octets(token)
}

func (h *Handler) evidence(ctx context.Context, runtimeData []byte) answer {
	var evidence []byte
	err := h.aa.Call(ctx, func(client *ttrpc.Client) error {
		response, err := guestpb.NewAttestationAgentServiceClient(client).GetEvidence(ctx, &guestpb.GetEvidenceRequest{RuntimeData: runtimeData})
		evidence = response.GetEvidence()
		return err
	})
	if err != nil {
		return h.failed("get evidence", err)
	}
	return octets(evidence)
}

func (h *Handler) additionalEvidence(ctx context.Context, runtimeData []byte) answer {
	var evidence []byte
	err := h.aa.Call(ctx, func(client *ttrpc.Client) error {
		response, err := guestpb.NewAttestationAgentServiceClient(client).GetAdditionalEvidence(ctx,
			&guestpb.GetAdditionalEvidenceRequest{RuntimeData: runtimeData})
		evidence = response.GetEvidence()
		return err
	})
	if err != nil {
		return h.failed("get additional evidence", err)
	}
	return octets(evidence)
}

// measured are the bodies for the outcomes of a runtime measurement. Its booleans are strings, as in api-server-rest.
var measured = map[guestpb.RuntimeMeasurementResult]string{
	guestpb.RuntimeMeasurementResult_OK:            `{"success":"true"}`,
	guestpb.RuntimeMeasurementResult_NOT_SUPPORTED: `{"success":"false","message":"The platform does not support runtime measurement"}`,
	guestpb.RuntimeMeasurementResult_NOT_ENABLED:   `{"success":"false","message":"Attestation Agent does not enable eventlog recording"}`,
}

const measuredUnknown = `{"success":"false","message":"Unknown runtime measurement result"}`

func (h *Handler) extend(ctx context.Context, body io.Reader) answer {
	request, err := readEvent(body)
	if err != nil {
		// The trailing text is a parser's and differs from parser to parser.
		return text(http.StatusInternalServerError, "Illegal AAEL eventry format: "+err.Error())
	}
	var result guestpb.RuntimeMeasurementResult
	err = h.aa.Call(ctx, func(client *ttrpc.Client) error {
		response, err := guestpb.NewAttestationAgentServiceClient(client).ExtendRuntimeMeasurement(ctx, request)
		result = response.GetResult()
		return err
	})
	if err != nil {
		return h.failed("extend runtime measurement", err)
	}
	if body, ok := measured[result]; ok {
		return document([]byte(body))
	}
	return document([]byte(measuredUnknown))
}

func readEvent(body io.Reader) (*guestpb.ExtendRuntimeMeasurementRequest, error) {
	raw, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	var event struct {
		Domain    *string `json:"domain"`
		Operation *string `json:"operation"`
		Content   *string `json:"content"`
	}
	if err := json.Unmarshal(raw, &event); err != nil {
		return nil, err
	}
	for _, field := range []struct {
		name  string
		value *string
	}{{"domain", event.Domain}, {"operation", event.Operation}, {"content", event.Content}} {
		if field.value == nil {
			return nil, fmt.Errorf("missing field `%s`", field.name)
		}
	}
	return &guestpb.ExtendRuntimeMeasurementRequest{Domain: *event.Domain, Operation: *event.Operation, Content: *event.Content}, nil
}

func (h *Handler) resource(ctx context.Context, path string) answer {
	var resource []byte
	err := h.cdh.Call(ctx, func(client *ttrpc.Client) error {
		response, err := guestpb.NewGetResourceServiceClient(client).GetResource(ctx, &guestpb.GetResourceRequest{ResourcePath: "kbs://" + path})
		resource = response.GetResource()
		return err
	})
	if err != nil {
		return h.failed("get resource", err)
	}
	return octets(resource)
}
