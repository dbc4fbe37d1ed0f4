package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/hypervisorpb"
)

// hypervisor calls the pod VM daemon. As Kata's virtcontainers/remote.go, it makes a new connection for every call.
type hypervisor struct {
	socket  string
	timeout time.Duration
}

func (h hypervisor) call(ctx context.Context, do func(context.Context, hypervisorpb.HypervisorService) error) error {
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", h.socket)
	if err != nil {
		// %s, not %w: the ttrpc server would make a code of its own of a wrapped "no such file".
		return fmt.Errorf("failed to connect to remote hypervisor socket: %s", err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	if err := do(ctx, hypervisorpb.NewHypervisorClient(client)); err != nil {
		return fmt.Errorf("remote hypervisor call failed: %w", err)
	}
	return nil
}

// create makes the VM and returns the path of its agent's socket.
func (h hypervisor) create(ctx context.Context, request *hypervisorpb.CreateVMRequest) (agentSocket string, err error) {
	err = h.call(ctx, func(ctx context.Context, service hypervisorpb.HypervisorService) error {
		response, err := service.CreateVM(ctx, request)
		agentSocket = response.GetAgentSocketPath()
		return err
	})
	if err != nil {
		return "", err
	}
	if agentSocket == "" {
		return "", errors.New("remote hypervisor does not return tunnel socket path")
	}
	return agentSocket, nil
}

func (h hypervisor) start(ctx context.Context, id string) error {
	return h.call(ctx, func(ctx context.Context, service hypervisorpb.HypervisorService) error {
		_, err := service.StartVM(ctx, &hypervisorpb.StartVMRequest{Id: id})
		return err
	})
}

func (h hypervisor) stop(ctx context.Context, id string) error {
	return h.call(ctx, func(ctx context.Context, service hypervisorpb.HypervisorService) error {
		_, err := service.StopVM(ctx, &hypervisorpb.StopVMRequest{Id: id})
		return err
	})
}

// StopVM stops the VM id through the daemon at socket, for a shim that died without doing so.
func StopVM(ctx context.Context, socket, id string) error {
	// containerd gives a shim 5 s to clean up after a dead one; this is only a bound for callers without any.
	return hypervisor{socket: socket, timeout: time.Minute}.stop(ctx, id)
}
