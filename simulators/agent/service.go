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

	"github.com/containerd/go-runc"
	"github.com/opencontainers/runtime-spec/specs-go"
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
			return errors.New("load kernel module: this guest has no modules")
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
		return newRunc().Start(ctx, r.ContainerId)
	}))
}

// RemoveContainer implements grpc.AgentService.
func (a *Agent) RemoveContainer(ctx context.Context, r *pb.RemoveContainerRequest) (*empty, error) {
	return gate(ctx, a, "RemoveContainer", r, locked(a, func(ctx context.Context, r *pb.RemoveContainerRequest) error {
		c := a.find(r.ContainerId)
		if c == nil {
			return errNoContainer()
		}
		return a.remove(ctx, c)
	}))
}

// ExecProcess implements grpc.AgentService.
func (a *Agent) ExecProcess(ctx context.Context, r *pb.ExecProcessRequest) (*empty, error) {
	return gate(ctx, a, "ExecProcess", r, plain(func(ctx context.Context, r *pb.ExecProcessRequest) error {
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
		if p != c.init {
			a.forget(c, r.ExecId)
			p.close()
		}
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
	line := a.log.begin(method, "ReadStreamRequest", r)
	d := a.policy.Eval(ctx, "ReadStreamRequest", policy.Input(r))
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
			return nil, internal(err)
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
			return errNoContainer()
		}
		res := runtimeResources(r.Resources)
		res.Devices = nil
		return newRunc().Update(ctx, r.ContainerId, res)
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
		return errNoContainer()
	}
	return f(newRunc())
}

// GetGuestDetails implements grpc.AgentService.
func (a *Agent) GetGuestDetails(ctx context.Context, r *pb.GuestDetailsRequest) (*pb.GuestDetailsResponse, error) {
	return gate(ctx, a, "GetGuestDetails", r, func(context.Context, *pb.GuestDetailsRequest) (*pb.GuestDetailsResponse, error) {
		return &pb.GuestDetailsResponse{AgentDetails: &pb.AgentDetails{
			Version: Version, StorageHandlers: []string{"ephemeral", "local", "image_guest_pull"}, ExtraFeatures: []string{"agent-policy"},
		}}, nil
	})
}

// SetPolicy replaces the policy if the one in force allows it.
func (a *Agent) SetPolicy(ctx context.Context, r *pb.SetPolicyRequest) (*empty, error) {
	return gate(ctx, a, "SetPolicy", r, func(ctx context.Context, r *pb.SetPolicyRequest) (*empty, error) {
		if err := a.policy.SetPolicy(ctx, r.Policy); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		return &empty{}, nil
	})
}

// UpdateEphemeralMounts implements grpc.AgentService.
func (a *Agent) UpdateEphemeralMounts(ctx context.Context, r *pb.UpdateEphemeralMountsRequest) (*empty, error) {
	return gate(ctx, a, "UpdateEphemeralMounts", r, locked(a, func(ctx context.Context, r *pb.UpdateEphemeralMountsRequest) error {
		for _, s := range r.Storages {
			if s.Driver != "ephemeral" {
				return fmt.Errorf("unsupported storage driver %q", s.Driver)
			}
			if err := unix.Mount("", s.MountPoint, "", unix.MS_REMOUNT, strings.Join(s.Options, ",")); err != nil {
				return fmt.Errorf("remount %s: %w", s.MountPoint, err)
			}
		}
		return nil
	}))
}

// GetDiagnosticData implements grpc.AgentService.
func (a *Agent) GetDiagnosticData(ctx context.Context, r *pb.GetDiagnosticDataRequest) (*pb.GetDiagnosticDataResponse, error) {
	return gate(ctx, a, "GetDiagnosticData", r, func(_ context.Context, r *pb.GetDiagnosticDataRequest) (*pb.GetDiagnosticDataResponse, error) {
		if r.LogType != "termination_log" {
			return nil, status.Errorf(codes.InvalidArgument, "unsupported diagnostic log_type: %s", r.LogType)
		}
		c := a.find(r.ContainerId)
		if c == nil {
			return nil, errNoContainer()
		}
		var spec specs.Spec
		if err := readJSON(c.bundle+"/config.json", &spec); err != nil {
			return nil, internal(err)
		}
		for _, m := range spec.Mounts {
			if m.Destination == "/dev/termination-log" {
				b, err := os.ReadFile(m.Source)
				return &pb.GetDiagnosticDataResponse{Data: string(b)}, internal(err)
			}
		}
		return &pb.GetDiagnosticDataResponse{}, nil
	})
}

// RemoveStaleVirtiofsShareMounts has nothing to remove: this guest shares no file system.
func (a *Agent) RemoveStaleVirtiofsShareMounts(ctx context.Context, r *pb.RemoveStaleVirtiofsShareMountsRequest) (*empty, error) {
	return gate(ctx, a, "RemoveStaleVirtiofsShareMounts", r, nothing)
}

// nothing is the answer where there is nothing to do.
func nothing[Q any](context.Context, Q) (*empty, error) { return &empty{}, nil }

// lacks is the answer of a guest without what a request is about.
func lacks[Q, A any](what string) func(context.Context, Q) (A, error) {
	return func(context.Context, Q) (a A, err error) {
		return a, status.Error(codes.Internal, "this guest has no "+what)
	}
}

// What follows makes no sense without a virtual machine, or is not there yet:
// it passes the policy and is then answered as a guest without the device does.

func (a *Agent) OnlineCPUMem(ctx context.Context, r *pb.OnlineCPUMemRequest) (*empty, error) {
	return gate(ctx, a, "OnlineCPUMem", r, nothing)
}

func (a *Agent) ReseedRandomDev(ctx context.Context, r *pb.ReseedRandomDevRequest) (*empty, error) {
	return gate(ctx, a, "ReseedRandomDev", r, lacks[*pb.ReseedRandomDevRequest, *empty]("random device of its own"))
}

func (a *Agent) MemHotplugByProbe(ctx context.Context, r *pb.MemHotplugByProbeRequest) (*empty, error) {
	return gate(ctx, a, "MemHotplugByProbe", r, lacks[*pb.MemHotplugByProbeRequest, *empty]("memory hotplug"))
}

func (a *Agent) SetGuestDateTime(ctx context.Context, r *pb.SetGuestDateTimeRequest) (*empty, error) {
	return gate(ctx, a, "SetGuestDateTime", r, lacks[*pb.SetGuestDateTimeRequest, *empty]("clock of its own"))
}

func (a *Agent) AddSwap(ctx context.Context, r *pb.AddSwapRequest) (*empty, error) {
	return gate(ctx, a, "AddSwap", r, lacks[*pb.AddSwapRequest, *empty]("swap device"))
}

func (a *Agent) AddSwapPath(ctx context.Context, r *pb.AddSwapPathRequest) (*empty, error) {
	return gate(ctx, a, "AddSwapPath", r, lacks[*pb.AddSwapPathRequest, *empty]("swap device"))
}

func (a *Agent) MemAgentMemcgSet(ctx context.Context, r *pb.MemAgentMemcgConfig) (*empty, error) {
	return gate(ctx, a, "MemAgentMemcgSet", r, lacks[*pb.MemAgentMemcgConfig, *empty]("mem-agent"))
}

func (a *Agent) MemAgentCompactSet(ctx context.Context, r *pb.MemAgentCompactConfig) (*empty, error) {
	return gate(ctx, a, "MemAgentCompactSet", r, lacks[*pb.MemAgentCompactConfig, *empty]("mem-agent"))
}

func (a *Agent) GetIPTables(ctx context.Context, r *pb.GetIPTablesRequest) (*pb.GetIPTablesResponse, error) {
	return gate(ctx, a, "GetIPTables", r, lacks[*pb.GetIPTablesRequest, *pb.GetIPTablesResponse]("iptables"))
}

func (a *Agent) SetIPTables(ctx context.Context, r *pb.SetIPTablesRequest) (*pb.SetIPTablesResponse, error) {
	return gate(ctx, a, "SetIPTables", r, lacks[*pb.SetIPTablesRequest, *pb.SetIPTablesResponse]("iptables"))
}

func (a *Agent) GetVolumeStats(ctx context.Context, r *pb.VolumeStatsRequest) (*pb.VolumeStatsResponse, error) {
	return gate(ctx, a, "GetVolumeStats", r, lacks[*pb.VolumeStatsRequest, *pb.VolumeStatsResponse]("such volume"))
}

func (a *Agent) ResizeVolume(ctx context.Context, r *pb.ResizeVolumeRequest) (*empty, error) {
	return gate(ctx, a, "ResizeVolume", r, func(context.Context, *pb.ResizeVolumeRequest) (*empty, error) {
		return nil, status.Error(codes.Unimplemented, "")
	})
}
