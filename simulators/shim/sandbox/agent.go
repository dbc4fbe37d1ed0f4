package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// Timeouts of agent calls (Kata virtcontainers/kata_agent.go).
const (
	checkTimeout         = 30 * time.Second
	createSandboxTimeout = 300 * time.Second
	defaultTimeout       = 60 * time.Second
	// noTimeout is for calls that wait on the guest's processes.
	noTimeout = time.Duration(0)
)

// redialInterval is the pause between attempts to dial the agent. Kata makes none and floods the log.
const redialInterval = 20 * time.Millisecond

// agent is the one connection to a guest's agent.
type agent struct {
	client  *ttrpc.Client
	service agentpb.AgentServiceService
	health  agentpb.HealthService
}

// dialAgent dials the socket until it answers or timeout has passed.
func dialAgent(ctx context.Context, socket string, timeout time.Duration) (*agent, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ticker := time.NewTicker(redialInterval)
	defer ticker.Stop()
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unix", socket)
		if err == nil {
			client := ttrpc.NewClient(conn)
			return &agent{client, agentpb.NewAgentServiceClient(client), agentpb.NewHealthClient(client)}, nil
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, context.DeadlineExceeded) {
				return nil, fmt.Errorf("dial agent at %s: %w", socket, cause)
			}
			//lint:ignore ST1005 Kata's text
			return nil, fmt.Errorf("Failed to Check if grpc server is working: %s",
				status.Errorf(codes.DeadlineExceeded, "timed out connecting to remote sock: %s", socket))
		case <-ticker.C:
		}
	}
}

// call makes one agent call bounded by timeout, if that is not [noTimeout]. The agent's errors pass as they are: a
// policy's refusal reaches containerd with its code and its text.
func call[Request, Response proto.Message](ctx context.Context, timeout time.Duration,
	method func(context.Context, Request) (Response, error), request Request,
) (Response, error) {
	if timeout != noTimeout {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	response, err := method(ctx, request)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = status.Errorf(codes.DeadlineExceeded, "%s timed out: %s",
			request.ProtoReflect().Descriptor().Name(), context.DeadlineExceeded)
	}
	return response, err
}

func (a *agent) check(ctx context.Context) error {
	_, err := call(ctx, checkTimeout, a.health.Check, &agentpb.CheckRequest{})
	return err
}

func (a *agent) signal(ctx context.Context, container, exec string, signal uint32) error {
	_, err := call(ctx, defaultTimeout, a.service.SignalProcess,
		&agentpb.SignalProcessRequest{ContainerId: container, ExecId: exec, Signal: signal})
	return err
}
