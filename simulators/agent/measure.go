package agent

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coco-e2e/coco-e2e/simulators/guest/channel"
	"github.com/coco-e2e/coco-e2e/simulators/guest/guestpb"
)

// eventDomain is the domain of the agent's events.
const eventDomain = "github.com/kata-containers"

// maxEventDetail bounds what an event says in clear, in bytes; the digest covers the whole request.
const maxEventDetail = 1024

// newEvents is attestation-agent, where the guest image has events measured.
func newEvents(register string) *channel.Client {
	if register == "" {
		return nil
	}
	return &channel.Client{Peer: "AA", Address: "unix://" + aaSocket}
}

// measure has attestation-agent measure a request that changes the sandbox, after the policy allowed it and before
// anything is done: whoever replays the log and compares the register knows all that was done since the guest's boot. A
// request that cannot be measured is refused. Those that the policy refused change nothing and are not measured, so that
// the log grows with what happened and not with what was tried.
func (a *Agent) measure(ctx context.Context, r *rpc, line *rpcLine, input []byte) error {
	if a.events == nil || !r.changes {
		return nil
	}
	content := fmt.Sprintf("%s sha256:%x", line.eventDetail(), sha256.Sum256(input))
	var result guestpb.RuntimeMeasurementResult
	err := a.events.Call(ctx, func(client *ttrpc.Client) error {
		response, err := guestpb.NewAttestationAgentServiceClient(client).ExtendRuntimeMeasurement(ctx, &guestpb.ExtendRuntimeMeasurementRequest{
			Domain: eventDomain, Operation: r.endpoint, Content: content,
		})
		result = response.GetResult()
		return err
	})
	if err == nil && result != guestpb.RuntimeMeasurementResult_OK {
		err = fmt.Errorf("attestation-agent answered %s", result)
	}
	if err != nil {
		return status.Errorf(codes.Internal, "%s was not measured: %v", r.endpoint, err)
	}
	return nil
}

// eventDetail is what an event says in clear: ids, and what the agent's log says of the request too. Environments and
// data are in the digest alone.
func (r *rpcLine) eventDetail() string {
	parts := []string{}
	for _, part := range []string{r.ContainerID, r.ExecID, r.Detail} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	text := strings.NewReplacer("\n", `\n`, "\r", `\r`).Replace(strings.Join(parts, " "))
	if len(text) > maxEventDetail {
		text = strings.ToValidUTF8(text[:maxEventDetail], "") + "…"
	}
	return text
}
