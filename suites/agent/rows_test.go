package agent_test

import (
	"context"
	"time"

	. "github.com/onsi/gomega"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb/typespb"
)

// passTheGate matches whatever the agent answers that is none of the policy's:
// for requests about a device that a guest may or may not have.
func passTheGate() OmegaMatcher {
	return Or(Not(HaveOccurred()), And(
		// A guest that is gone answers nothing: ttrpc's errors about connections are of unknown code.
		Not(haveCode(codes.PermissionDenied)), Not(haveCode(codes.Unknown)), Not(haveCode(codes.Unavailable)), Not(haveCode(codes.DeadlineExceeded)),
		WithTransform(func(err error) string { return status.Convert(err).Message() }, Not(ContainSubstring("policy"))),
	))
}

// lacking matches the answer of a guest without the device, exactly; a guest that was given may have it.
func lacking(code codes.Code, message string) OmegaMatcher {
	switch {
	case givenAddress != "":
		return passTheGate()
	case code == codes.OK:
		return Not(HaveOccurred())
	}
	return And(haveCode(code), WithTransform(func(err error) string { return status.Convert(err).Message() }, Equal(message)))
}

// inContainer has a container that runs; inProcess one with a process that copies its input.
func inContainer(ctx context.Context, s *scene) { s.container = s.idle(ctx) }

func inProcess(ctx context.Context, s *scene) {
	inContainer(ctx, s)
	s.exec = s.target.exec(ctx, s.container, "/bin/cat")
}

// lifecycle are the rows about containers and their processes.
var lifecycle = []row{
	{
		rpc: "CreateContainer", endpoint: "CreateContainerRequest",
		prepare: func(ctx context.Context, s *scene) { s.createSandbox(ctx); s.container = newID() },
		call: ask(service.CreateContainer,
			func(s *scene) *pb.CreateContainerRequest {
				return containerRequest(s.container, s.image, "/bin/sleep", "9")
			}),
	},
	{
		rpc: "StartContainer", endpoint: "StartContainerRequest",
		prepare: func(ctx context.Context, s *scene) { s.container = s.create(ctx, "/bin/sleep", "9") },
		call: ask(service.StartContainer,
			func(s *scene) *pb.StartContainerRequest { return &pb.StartContainerRequest{ContainerId: s.container} }),
	},
	{
		rpc: "RemoveContainer", endpoint: "RemoveContainerRequest", prepare: inContainer,
		call: ask(service.RemoveContainer,
			func(s *scene) *pb.RemoveContainerRequest { return &pb.RemoveContainerRequest{ContainerId: s.container} }),
	},
	{
		rpc: "ExecProcess", endpoint: "ExecProcessRequest", prepare: inContainer,
		call: ask(service.ExecProcess,
			func(s *scene) *pb.ExecProcessRequest { return execRequest(s.container, "/bin/echo", "hello") }),
	},
	{
		rpc: "SignalProcess", endpoint: "SignalProcessRequest", prepare: inProcess,
		call: ask(service.SignalProcess,
			func(s *scene) *pb.SignalProcessRequest {
				return &pb.SignalProcessRequest{ContainerId: s.container, ExecId: s.exec, Signal: 9}
			}),
	},
	{
		rpc: "WaitProcess", endpoint: "WaitProcessRequest",
		prepare: func(ctx context.Context, s *scene) {
			inContainer(ctx, s)
			s.exec = s.target.exec(ctx, s.container, "/bin/sh", "-c", "exit 5")
		},
		call: ask(service.WaitProcess,
			func(s *scene) *pb.WaitProcessRequest {
				return &pb.WaitProcessRequest{ContainerId: s.container, ExecId: s.exec}
			}),
		check: func(m proto.Message) { Expect(m.(*pb.WaitProcessResponse).Status).To(BeEquivalentTo(5)) },
	},
	{
		rpc: "UpdateContainer", endpoint: "UpdateContainerRequest", prepare: inContainer,
		call: ask(service.UpdateContainer,
			func(s *scene) *pb.UpdateContainerRequest {
				return &pb.UpdateContainerRequest{ContainerId: s.container, Resources: &pb.LinuxResources{CPU: &pb.LinuxCPU{Shares: 512}}}
			}),
	},
	{
		rpc: "StatsContainer", endpoint: "StatsContainerRequest", prepare: inContainer,
		call: ask(service.StatsContainer,
			func(s *scene) *pb.StatsContainerRequest { return &pb.StatsContainerRequest{ContainerId: s.container} }),
		check: func(m proto.Message) {
			Expect(m.(*pb.StatsContainerResponse).GetCgroupStats().GetMemoryStats().GetUsage().GetUsage()).NotTo(BeZero())
		},
	},
	{
		rpc: "PauseContainer", endpoint: "PauseContainerRequest", prepare: inContainer,
		call: ask(service.PauseContainer,
			func(s *scene) *pb.PauseContainerRequest { return &pb.PauseContainerRequest{ContainerId: s.container} }),
	},
	{
		rpc: "ResumeContainer", endpoint: "ResumeContainerRequest",
		prepare: func(ctx context.Context, s *scene) {
			inContainer(ctx, s)
			_, err := s.Agent.PauseContainer(ctx, &pb.PauseContainerRequest{ContainerId: s.container})
			Expect(err).NotTo(HaveOccurred())
		},
		call: ask(service.ResumeContainer,
			func(s *scene) *pb.ResumeContainerRequest { return &pb.ResumeContainerRequest{ContainerId: s.container} }),
	},
	{
		rpc: "WriteStdin", endpoint: "WriteStreamRequest", prepare: inProcess,
		call: ask(service.WriteStdin,
			func(s *scene) *pb.WriteStreamRequest {
				return &pb.WriteStreamRequest{ContainerId: s.container, ExecId: s.exec, Data: []byte("hello")}
			}),
		check: func(m proto.Message) { Expect(m.(*pb.WriteStreamResponse).Len).To(BeEquivalentTo(5)) },
	},
	{
		rpc: "CloseStdin", endpoint: "CloseStdinRequest", prepare: inProcess,
		call: ask(service.CloseStdin,
			func(s *scene) *pb.CloseStdinRequest {
				return &pb.CloseStdinRequest{ContainerId: s.container, ExecId: s.exec}
			}),
	},
	{
		rpc: "TtyWinResize", endpoint: "TtyWinResizeRequest", prepare: inProcess,
		call: ask(service.TtyWinResize,
			func(s *scene) *pb.TtyWinResizeRequest {
				return &pb.TtyWinResizeRequest{ContainerId: s.container, ExecId: s.exec, Row: 24, Column: 80}
			}),
		want: beStatus(codes.Unavailable, `"no tty"`),
	},
	{
		rpc: "GetDiagnosticData", endpoint: "GetDiagnosticDataRequest",
		call: ask(service.GetDiagnosticData,
			func(*scene) *pb.GetDiagnosticDataRequest { return &pb.GetDiagnosticDataRequest{LogType: "kernel"} }),
		want: beStatus(codes.InvalidArgument, `"unsupported diagnostic log_type: kernel"`),
	},
}

// guestWide are the rows about the guest as a whole.
var guestWide = []row{
	{
		rpc: "CreateSandbox", endpoint: "CreateSandboxRequest", lone: "CreateSandbox wipes the sandbox that there is",
		call: ask(service.CreateSandbox,
			func(*scene) *pb.CreateSandboxRequest { return sandboxRequest("sandbox") }),
	},
	{
		rpc: "DestroySandbox", endpoint: "DestroySandboxRequest", lone: "DestroySandbox ends the guest",
		call: ask(service.DestroySandbox,
			func(*scene) *pb.DestroySandboxRequest { return &pb.DestroySandboxRequest{} }),
	},
	{
		rpc: "CopyFile", endpoint: "CopyFileRequest",
		call: ask(service.CopyFile,
			func(*scene) *pb.CopyFileRequest { return fileRequest("table", "text") }),
	},
	{
		rpc: "GetGuestDetails", endpoint: "GuestDetailsRequest",
		call: ask(service.GetGuestDetails,
			func(*scene) *pb.GuestDetailsRequest {
				return &pb.GuestDetailsRequest{MemBlockSize: true, MemHotplugProbe: true}
			}),
		check: func(m proto.Message) {
			details := m.(*pb.GuestDetailsResponse).AgentDetails
			Expect(details.ExtraFeatures).To(ContainElement("agent-policy"))
			// On s390x there is one more.
			Expect(details.StorageHandlers).To(ContainElements("blk", "mmioblk", "scsi", "nvdimm", "ephemeral", "local", "overlayfs", "virtio-fs", "watchable-bind", "image_guest_pull", "erofs.multi-layer"))
			Expect(details.DeviceHandlers).To(BeEmpty())
		},
	},
	{
		rpc: "GetOOMEvent", endpoint: "GetOOMEventRequest",
		// Nothing runs out of memory: once allowed, it answers to nobody but who gives up.
		call: func(ctx context.Context, s *scene) (proto.Message, error) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			stop := time.AfterFunc(300*time.Millisecond, cancel)
			defer stop.Stop()
			return s.Agent.GetOOMEvent(ctx, &pb.GetOOMEventRequest{})
		},
		want: MatchError(context.Canceled),
	},
	{
		rpc: "GetMetrics", endpoint: "GetMetricsRequest",
		call: ask(service.GetMetrics,
			func(*scene) *pb.GetMetricsRequest { return &pb.GetMetricsRequest{} }),
	},
	{
		rpc: "RemoveStaleVirtiofsShareMounts", endpoint: "RemoveStaleVirtiofsShareMountsRequest",
		call: ask(service.RemoveStaleVirtiofsShareMounts, func(*scene) *pb.RemoveStaleVirtiofsShareMountsRequest {
			return &pb.RemoveStaleVirtiofsShareMountsRequest{}
		}),
	},
	{
		rpc: "UpdateEphemeralMounts", endpoint: "UpdateEphemeralMountsRequest",
		call: ask(service.UpdateEphemeralMounts,
			func(*scene) *pb.UpdateEphemeralMountsRequest { return &pb.UpdateEphemeralMountsRequest{} }),
	},
	{
		rpc: "ResizeVolume", endpoint: "ResizeVolumeRequest",
		call: ask(service.ResizeVolume,
			func(*scene) *pb.ResizeVolumeRequest { return &pb.ResizeVolumeRequest{VolumeGuestPath: "/", Size: 1} }),
		want: beStatus(codes.Unimplemented, `"resize_volume is not implemented in kata-agent"`),
	},
	{
		rpc: "SetPolicy", endpoint: "SetPolicyRequest", lone: "a policy that forbids SetPolicy stays for good",
		call: ask(service.SetPolicy,
			func(*scene) *pb.SetPolicyRequest {
				return &pb.SetPolicyRequest{Policy: header + rules("true", "SetPolicyRequest")}
			}),
	},
}

// devices are the rows whose answer, once allowed, depends on what the guest has.
var devices = []row{
	{
		rpc: "UpdateInterface", endpoint: "UpdateInterfaceRequest", want: lacking(codes.Internal, `"update interface: Link not found (Address: 02:00:00:00:00:01)"`),
		call: ask(service.UpdateInterface,
			func(*scene) *pb.UpdateInterfaceRequest {
				return &pb.UpdateInterfaceRequest{Interface: &typespb.Interface{Device: "none0", Name: "none0", HwAddr: "02:00:00:00:00:01"}}
			}),
	},
	{
		rpc: "UpdateRoutes", endpoint: "UpdateRoutesRequest", want: lacking(codes.OK, ""),
		call: ask(service.UpdateRoutes,
			func(*scene) *pb.UpdateRoutesRequest { return &pb.UpdateRoutesRequest{Routes: &pb.Routes{}} }),
	},
	{
		rpc: "ListInterfaces", endpoint: "ListInterfacesRequest", want: lacking(codes.OK, ""),
		call: ask(service.ListInterfaces,
			func(*scene) *pb.ListInterfacesRequest { return &pb.ListInterfacesRequest{} }),
	},
	{
		rpc: "ListRoutes", endpoint: "ListRoutesRequest", want: lacking(codes.OK, ""),
		call: ask(service.ListRoutes,
			func(*scene) *pb.ListRoutesRequest { return &pb.ListRoutesRequest{} }),
	},
	{
		rpc: "AddARPNeighbors", endpoint: "AddARPNeighborsRequest", want: lacking(codes.OK, ""),
		call: ask(service.AddARPNeighbors,
			func(*scene) *pb.AddARPNeighborsRequest {
				return &pb.AddARPNeighborsRequest{Neighbors: &pb.ARPNeighbors{}}
			}),
	},
	{
		rpc: "GetIPTables", endpoint: "GetIPTablesRequest", want: lacking(codes.Internal, `Os { code: 2, kind: NotFound, message: "No such file or directory" }`),
		call: ask(service.GetIPTables,
			func(*scene) *pb.GetIPTablesRequest { return &pb.GetIPTablesRequest{} }),
	},
	{
		rpc: "SetIPTables", endpoint: "SetIPTablesRequest", want: lacking(codes.Internal, `Os { code: 2, kind: NotFound, message: "No such file or directory" }`),
		call: ask(service.SetIPTables,
			func(*scene) *pb.SetIPTablesRequest { return &pb.SetIPTablesRequest{} }),
	},
	{
		rpc: "MemAgentMemcgSet", endpoint: "MemAgentMemcgConfig", want: lacking(codes.Internal, "mem-agent is disabled"),
		call: ask(service.MemAgentMemcgSet,
			func(*scene) *pb.MemAgentMemcgConfig { return &pb.MemAgentMemcgConfig{} }),
	},
	{
		rpc: "MemAgentCompactSet", endpoint: "MemAgentCompactConfig", want: lacking(codes.Internal, "mem-agent is disabled"),
		call: ask(service.MemAgentCompactSet,
			func(*scene) *pb.MemAgentCompactConfig { return &pb.MemAgentCompactConfig{} }),
	},
	{
		rpc: "OnlineCPUMem", endpoint: "OnlineCPUMemRequest", want: lacking(codes.OK, ""),
		call: ask(service.OnlineCPUMem,
			func(*scene) *pb.OnlineCPUMemRequest { return &pb.OnlineCPUMemRequest{} }),
	},
	{
		rpc: "ReseedRandomDev", endpoint: "ReseedRandomDevRequest", want: lacking(codes.OK, ""),
		call: ask(service.ReseedRandomDev,
			func(*scene) *pb.ReseedRandomDevRequest {
				return &pb.ReseedRandomDevRequest{Data: []byte("0123456789abcdef0123456789abcdef")}
			}),
	},
	{
		rpc: "MemHotplugByProbe", endpoint: "MemHotplugByProbeRequest", want: lacking(codes.OK, ""),
		call: ask(service.MemHotplugByProbe,
			func(*scene) *pb.MemHotplugByProbeRequest { return &pb.MemHotplugByProbeRequest{} }),
	},
	{
		rpc: "SetGuestDateTime", endpoint: "SetGuestDateTimeRequest", want: lacking(codes.Internal, "EPERM: Operation not permitted"),
		call: ask(service.SetGuestDateTime,
			func(*scene) *pb.SetGuestDateTimeRequest { return &pb.SetGuestDateTimeRequest{Sec: time.Now().Unix()} }),
	},
	{
		rpc: "AddSwap", endpoint: "AddSwapRequest", want: lacking(codes.Internal, "no block device at PCI path [1f]: this guest has no PCI bus"),
		call: ask(service.AddSwap,
			func(*scene) *pb.AddSwapRequest { return &pb.AddSwapRequest{PCIPath: []uint32{31}} }),
	},
	{
		rpc: "AddSwapPath", endpoint: "AddSwapPathRequest", want: lacking(codes.Internal, "libc::swapon get error No such file or directory (os error 2)"),
		call: ask(service.AddSwapPath,
			func(*scene) *pb.AddSwapPathRequest { return &pb.AddSwapPathRequest{Path: "/dev/none"} }),
	},
	{
		rpc: "GetVolumeStats", endpoint: "VolumeStatsRequest", want: lacking(codes.Internal, `Os { code: 2, kind: NotFound, message: "No such file or directory" }`),
		call: ask(service.GetVolumeStats,
			func(*scene) *pb.VolumeStatsRequest { return &pb.VolumeStatsRequest{VolumeGuestPath: "/none"} }),
	},
}
