package cdh

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coco-e2e/coco-e2e/simulators/guest/channel"
	"github.com/coco-e2e/coco-e2e/simulators/guest/guestpb"
	"github.com/coco-e2e/coco-e2e/simulators/guest/image"
)

// Service is confidential-data-hub's ttrpc services. The causes of failed secrets go to the log alone, as with
// confidential-data-hub; those of failed pulls go to the caller too, since they end up in the pod's events.
type Service struct {
	Resources *Resources
	Images    *image.Puller
	// Agent is attestation-agent, which measures pulls; nil measures none.
	Agent *channel.Client
	// SkipVerification takes sealed secrets whoever signed them.
	SkipVerification bool
	// Base is [BaseDir] unless a test has another.
	Base string
	// Log must not get secrets.
	Log *slog.Logger
}

var (
	_ guestpb.GetResourceServiceService  = (*Service)(nil)
	_ guestpb.ImagePullServiceService    = (*Service)(nil)
	_ guestpb.SealedSecretServiceService = (*Service)(nil)
	_ guestpb.SecureMountServiceService  = (*Service)(nil)
)

// Register adds the services to a ttrpc server.
func (s *Service) Register(server *ttrpc.Server) {
	guestpb.RegisterGetResourceServiceService(server, s)
	guestpb.RegisterImagePullServiceService(server, s)
	guestpb.RegisterSealedSecretServiceService(server, s)
	guestpb.RegisterSecureMountServiceService(server, s)
}

// GetResource fetches the resource that a kbs:///repository/type/tag URI names.
func (s *Service) GetResource(ctx context.Context, request *guestpb.GetResourceRequest) (*guestpb.GetResourceResponse, error) {
	uri, err := ParseResourceURI(request.GetResourcePath())
	var resource []byte
	if err == nil {
		resource, err = s.Resources.Get(ctx, uri)
	}
	if err != nil {
		s.Log.Error("get resource failed", "resource", fmt.Sprintf("%.256s", request.GetResourcePath()), "error", err.Error())
		return nil, status.Error(codes.Internal, "[CDH] [ERROR]: Get Resource failed")
	}
	s.Log.Info("resource given", "resource", uri.Path())
	return &guestpb.GetResourceResponse{Resource: resource}, nil
}

// PullImage pulls an image into a bundle.
func (s *Service) PullImage(ctx context.Context, request *guestpb.ImagePullRequest) (*guestpb.ImagePullResponse, error) {
	start := time.Now()
	digest, err := s.Images.Pull(ctx, request.GetImageUrl(), request.GetBundlePath())
	if err != nil {
		s.Log.Error("image pull failed", "image", request.GetImageUrl(), "error", err.Error())
		return nil, status.Error(codes.Internal, "[CDH] [ERROR]: Pull Image failed: "+err.Error())
	}
	if err := s.measurePull(ctx, request.GetImageUrl(), digest); err != nil {
		s.Log.Error("image pull was not measured", "image", request.GetImageUrl(), "error", err.Error())
		return nil, status.Error(codes.Internal, "[CDH] [ERROR]: Pull Image failed: "+err.Error())
	}
	s.Log.Info("image pulled", "image", request.GetImageUrl(), "digest", digest, "duration_ms", time.Since(start).Milliseconds())
	return &guestpb.ImagePullResponse{ManifestDigest: digest}, nil
}

// measurePull has attestation-agent measure which image was pulled. Where no event log is kept there is nothing to do.
func (s *Service) measurePull(ctx context.Context, image, digest string) error {
	if s.Agent == nil {
		return nil
	}
	content, err := json.Marshal(map[string]string{"digest": digest, "image": image})
	if err != nil {
		return err
	}
	return s.Agent.Call(ctx, func(client *ttrpc.Client) error {
		_, err := guestpb.NewAttestationAgentServiceClient(client).ExtendRuntimeMeasurement(ctx, &guestpb.ExtendRuntimeMeasurementRequest{
			Domain: "github.com/confidential-containers", Operation: "PullImage", Content: string(content),
		})
		return err
	})
}

// SecureMount is not implemented.
func (s *Service) SecureMount(context.Context, *guestpb.SecureMountRequest) (*guestpb.SecureMountResponse, error) {
	return nil, s.unimplemented("secure mount", "secure mounts")
}

func (s *Service) unimplemented(call, what string) error {
	text := fmt.Sprintf("[CDH] [ERROR]: %s failed: the simulated confidential-data-hub does not implement %s", call, what)
	s.Log.Error(text)
	return status.Error(codes.Unimplemented, text)
}
