package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/policy"
)

type empty = emptypb.Empty

var (
	_ pb.AgentServiceService = (*Agent)(nil)
	_ pb.HealthService       = (*health)(nil)
)

// health is not before the policy, as in the agent.
type health struct{}

func (health) Check(context.Context, *pb.CheckRequest) (*pb.HealthCheckResponse, error) {
	return &pb.HealthCheckResponse{Status: pb.HealthCheckResponse_SERVING}, nil
}

func (health) Version(context.Context, *pb.CheckRequest) (*pb.VersionCheckResponse, error) {
	return &pb.VersionCheckResponse{GrpcVersion: "0.0.1", AgentVersion: Version}, nil
}

// locked makes a handler of f that holds the lifecycle.
func locked[Q any](a *Agent, f func(context.Context, Q) error) func(context.Context, Q) (*empty, error) {
	return func(ctx context.Context, r Q) (*empty, error) {
		a.lifecycle.Lock()
		defer a.lifecycle.Unlock()
		return done(f(ctx, r))
	}
}

// plain makes a handler of f that holds nothing.
func plain[Q any](f func(context.Context, Q) error) func(context.Context, Q) (*empty, error) {
	return func(ctx context.Context, r Q) (*empty, error) { return done(f(ctx, r)) }
}

func done(err error) (*empty, error) {
	if err != nil {
		return nil, internal(err)
	}
	return &empty{}, nil
}

// CreateSandbox implements grpc.AgentService.
func (a *Agent) CreateSandbox(ctx context.Context, r *pb.CreateSandboxRequest) (*empty, error) {
	return gate(ctx, a, "CreateSandbox", r, locked(a, func(ctx context.Context, r *pb.CreateSandboxRequest) error {
		a.wipe()
		if err := os.MkdirAll(sharedDir, 0o755); err != nil {
			return err
		}
		a.sandboxID = r.SandboxId
		if r.Hostname != "" {
			if err := unix.Sethostname([]byte(r.Hostname)); err != nil {
				return fmt.Errorf("hostname: %w", err)
			}
		}
		if len(r.KernelModules) > 0 {
			return noModule(r.KernelModules[0].Name)
		}
		if err := a.addStorages(ctx, r.Storages, r.SandboxId); err != nil {
			return err
		}
		if len(r.Dns) > 0 {
			return os.WriteFile("/etc/resolv.conf", []byte(strings.Join(r.Dns, "\n")), 0o644)
		}
		return nil
	}))
}

// noModule is the answer of a guest without modprobe.
func noModule(name string) error {
	if name == "" {
		return errors.New("Kernel module name is empty")
	}
	return errors.New(ioText(unix.ENOENT))
}

// DestroySandbox ends the agent, and with it the guest.
func (a *Agent) DestroySandbox(ctx context.Context, r *pb.DestroySandboxRequest) (*empty, error) {
	return gate(ctx, a, "DestroySandbox", r, locked(a, func(ctx context.Context, _ *pb.DestroySandboxRequest) error {
		var errs []error
		a.mu.Lock()
		all := slices.Collect(maps.Values(a.containers))
		a.mu.Unlock()
		for _, c := range all {
			errs = append(errs, a.remove(ctx, c))
		}
		a.doneOnce.Do(func() { close(a.done) })
		return errors.Join(errs...)
	}))
}

// CreateContainer implements grpc.AgentService.
func (a *Agent) CreateContainer(ctx context.Context, r *pb.CreateContainerRequest) (*empty, error) {
	return gate(ctx, a, "CreateContainer", r, locked(a, a.createContainer))
}

// StartContainer implements grpc.AgentService.
func (a *Agent) StartContainer(ctx context.Context, r *pb.StartContainerRequest) (*empty, error) {
	return gate(ctx, a, "StartContainer", r, locked(a, func(ctx context.Context, r *pb.StartContainerRequest) error {
		c := a.find(r.ContainerId)
		if c == nil {
			return errNoContainer()
		}
		if err := a.watchMemory(c); err != nil {
			slog.Warn("out of memory will not be noticed", "error", err)
		}
		return newRunc(r.ContainerId).Start(ctx, r.ContainerId)
	}))
}

// RemoveContainer implements grpc.AgentService. A timeout, in seconds, ends the wait and not the removal; 0 is none.
func (a *Agent) RemoveContainer(ctx context.Context, r *pb.RemoveContainerRequest) (*empty, error) {
	remove := locked(a, func(ctx context.Context, r *pb.RemoveContainerRequest) error {
		c := a.find(r.ContainerId)
		if c == nil {
			return errNoContainer()
		}
		return a.remove(ctx, c)
	})
	return gate(ctx, a, "RemoveContainer", r, func(ctx context.Context, r *pb.RemoveContainerRequest) (*empty, error) {
		if r.Timeout == 0 {
			return remove(ctx, r)
		}
		removed := make(chan error, 1)
		go func() {
			_, err := remove(context.WithoutCancel(ctx), r)
			removed <- err
		}()
		select {
		case err := <-removed:
			return done(err)
		case <-time.After(time.Duration(r.Timeout) * time.Second):
			return done(errors.New(errnoText(unix.ETIME)))
		}
	})
}

// ExecProcess implements grpc.AgentService.
func (a *Agent) ExecProcess(ctx context.Context, r *pb.ExecProcessRequest) (*empty, error) {
	return gate(ctx, a, "ExecProcess", r, plain(func(ctx context.Context, r *pb.ExecProcessRequest) error {
		if r.Process == nil {
			return errors.New("Unable to parse process from ExecProcessRequest")
		}
		c := a.find(r.ContainerId)
		if c == nil {
			return errNoContainer()
		}
		return a.exec(ctx, c, r)
	}))
}

// SignalProcess implements grpc.AgentService.
func (a *Agent) SignalProcess(ctx context.Context, r *pb.SignalProcessRequest) (*empty, error) {
	return gate(ctx, a, "SignalProcess", r, plain(func(ctx context.Context, r *pb.SignalProcessRequest) error {
		if r.ExecId == "" && syscall.Signal(r.Signal) == unix.SIGKILL {
			return a.killAll(ctx, r.ContainerId)
		}
		c, p, err := a.process(r.ContainerId, r.ExecId)
		if err != nil {
			return err
		}
		return a.signal(ctx, c, p, r.Signal)
	}))
}

// WaitProcess returns the exit code once; the process is then forgotten.
func (a *Agent) WaitProcess(ctx context.Context, r *pb.WaitProcessRequest) (*pb.WaitProcessResponse, error) {
	return gate(ctx, a, "WaitProcess", r, func(ctx context.Context, r *pb.WaitProcessRequest) (*pb.WaitProcessResponse, error) {
		c, p, err := a.process(r.ContainerId, r.ExecId)
		if err != nil {
			return nil, err
		}
		select {
		case <-p.exited:
		case <-ctx.Done():
			return nil, internal(ctx.Err())
		}
		a.reap(c, p, r.ExecId)
		return &pb.WaitProcessResponse{Status: int32(p.code)}, nil
	})
}

// readStream reads first and asks then: a refusal only empties the answer
// (Kata src/agent/src/rpc.rs, read_stdout).
func (a *Agent) readStream(ctx context.Context, method string, r *pb.ReadStreamRequest, of func(*process) *output) (*pb.ReadStreamResponse, error) {
	_, p, err := a.process(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, internal(err)
	}
	data, err := of(p).read(r.Len)
	if err != nil {
		return nil, internal(err)
	}
	endpoint := byMethod[method].endpoint
	line := a.log.begin(method, endpoint, r)
	input := policy.Input(r)
	d := a.policy.Eval(ctx, endpoint, input)
	line.explain(ctx, a.policy, d, input)
	line.end(d, nil)
	if d.Outcome != policy.Allowed {
		data = nil
	}
	return &pb.ReadStreamResponse{Data: data}, nil
}

// ReadStdout implements grpc.AgentService.
func (a *Agent) ReadStdout(ctx context.Context, r *pb.ReadStreamRequest) (*pb.ReadStreamResponse, error) {
	return a.readStream(ctx, "ReadStdout", r, func(p *process) *output { return p.stdout })
}

// ReadStderr implements grpc.AgentService.
func (a *Agent) ReadStderr(ctx context.Context, r *pb.ReadStreamRequest) (*pb.ReadStreamResponse, error) {
	return a.readStream(ctx, "ReadStderr", r, func(p *process) *output { return p.stderr })
}

// WriteStdin implements grpc.AgentService.
func (a *Agent) WriteStdin(ctx context.Context, r *pb.WriteStreamRequest) (*pb.WriteStreamResponse, error) {
	return gate(ctx, a, "WriteStdin", r, func(_ context.Context, r *pb.WriteStreamRequest) (*pb.WriteStreamResponse, error) {
		_, p, err := a.process(r.ContainerId, r.ExecId)
		if err != nil {
			return nil, internal(displayed(err))
		}
		if err := p.write(r.Data); err != nil {
			return nil, internal(err)
		}
		return &pb.WriteStreamResponse{Len: uint32(len(r.Data))}, nil
	})
}

// CloseStdin implements grpc.AgentService.
func (a *Agent) CloseStdin(ctx context.Context, r *pb.CloseStdinRequest) (*empty, error) {
	return gate(ctx, a, "CloseStdin", r, plain(func(_ context.Context, r *pb.CloseStdinRequest) error {
		_, p, err := a.process(r.ContainerId, r.ExecId)
		if err == nil {
			p.closeStdin()
		}
		return err
	}))
}

// TtyWinResize implements grpc.AgentService.
func (a *Agent) TtyWinResize(ctx context.Context, r *pb.TtyWinResizeRequest) (*empty, error) {
	return gate(ctx, a, "TtyWinResize", r, plain(func(_ context.Context, r *pb.TtyWinResizeRequest) error {
		_, p, err := a.process(r.ContainerId, r.ExecId)
		if err != nil {
			return err
		}
		return p.resize(r.Row, r.Column)
	}))
}

// UpdateContainer implements grpc.AgentService.
func (a *Agent) UpdateContainer(ctx context.Context, r *pb.UpdateContainerRequest) (*empty, error) {
	return gate(ctx, a, "UpdateContainer", r, locked(a, func(ctx context.Context, r *pb.UpdateContainerRequest) error {
		if a.find(r.ContainerId) == nil {
			return errNoContainerOf()
		}
		if r.Resources == nil {
			return nil
		}
		res := a.runtimeResources(r.Resources)
		res.Devices = nil
		return newRunc(r.ContainerId).Update(ctx, r.ContainerId, res)
	}))
}

// PauseContainer implements grpc.AgentService.
func (a *Agent) PauseContainer(ctx context.Context, r *pb.PauseContainerRequest) (*empty, error) {
	return gate(ctx, a, "PauseContainer", r, locked(a, func(ctx context.Context, r *pb.PauseContainerRequest) error {
		return a.known(r.ContainerId, func(rc *runc.Runc) error { return rc.Pause(ctx, r.ContainerId) })
	}))
}

// ResumeContainer implements grpc.AgentService.
func (a *Agent) ResumeContainer(ctx context.Context, r *pb.ResumeContainerRequest) (*empty, error) {
	return gate(ctx, a, "ResumeContainer", r, locked(a, func(ctx context.Context, r *pb.ResumeContainerRequest) error {
		return a.known(r.ContainerId, func(rc *runc.Runc) error { return rc.Resume(ctx, r.ContainerId) })
	}))
}

func (a *Agent) known(id string, f func(*runc.Runc) error) error {
	if a.find(id) == nil {
		return errNoContainerOf()
	}
	return f(newRunc(id))
}

// SetPolicy replaces the policy if the one in force allows it. One is served at a time, so that none is allowed by a policy
// that another replaces meanwhile.
func (a *Agent) SetPolicy(ctx context.Context, r *pb.SetPolicyRequest) (*empty, error) {
	a.replacing.Lock()
	defer a.replacing.Unlock()
	return gate(ctx, a, "SetPolicy", r, func(ctx context.Context, r *pb.SetPolicyRequest) (*empty, error) {
		if err := a.policy.SetPolicy(ctx, r.Policy); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		return &empty{}, nil
	})
}

// RemoveStaleVirtiofsShareMounts has nothing to remove: this guest shares no file system.
func (a *Agent) RemoveStaleVirtiofsShareMounts(ctx context.Context, r *pb.RemoveStaleVirtiofsShareMountsRequest) (*empty, error) {
	return gate(ctx, a, "RemoveStaleVirtiofsShareMounts", r, nothing)
}

// nothing is the answer where there is nothing to do.
func nothing[Q any](context.Context, Q) (*empty, error) { return &empty{}, nil }
