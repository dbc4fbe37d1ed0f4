package agent

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb/typespb"
)

// services are the interfaces that the protocol's services became.
var services = map[string]reflect.Type{
	agentService:  reflect.TypeFor[pb.AgentServiceService](),
	healthService: reflect.TypeFor[pb.HealthService](),
}

// The table has exactly the protocol's RPCs, each with the endpoint that its
// message is called, and a class that exists.
func TestTableIsTheProtocol(t *testing.T) {
	var have, want []string
	for _, r := range rpcs {
		have = append(have, r.service+"/"+r.method)
		m, ok := services[r.service].MethodByName(r.method)
		if !ok {
			continue
		}
		message := reflect.New(m.Type.In(1).Elem()).Interface().(proto.Message)
		switch name := string(message.ProtoReflect().Descriptor().Name()); {
		case r.class == notGated && r.endpoint == "":
		case r.class != implemented && r.class != noDevice:
			t.Errorf("%s: class %q", r.method, r.class)
		case r.endpoint != name:
			t.Errorf("%s: endpoint %s, want its message's name, %s", r.method, r.endpoint, name)
		}
	}
	for name, service := range services {
		for i := range service.NumMethod() {
			want = append(want, name+"/"+service.Method(i).Name)
		}
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("table\n%s\nprotocol\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}

// README.md shows the table.
func TestReadmeHasTheTable(t *testing.T) {
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, begins := strings.Cut(string(b), "<!-- rpcs:begin -->\n")
	got, _, ends := strings.Cut(rest, "<!-- rpcs:end -->")
	if !begins || !ends {
		t.Fatal("README.md lacks <!-- rpcs:begin --> or <!-- rpcs:end -->")
	}
	if got != table() {
		t.Errorf("between the marks README.md has\n%s\nput there\n%s", got, table())
	}
}

// callRPC calls an RPC with an empty request.
func callRPC(t *testing.T, a *Agent, method string) error {
	t.Helper()
	m := reflect.ValueOf(a).MethodByName(method)
	out := m.Call([]reflect.Value{reflect.ValueOf(t.Context()), reflect.New(m.Type().In(1).Elem())})
	err, _ := out[1].Interface().(error)
	return err
}

// A policy that refuses everything is asked first, by the table's name. The
// streams are read first, and asked about then: suites/agent shows that.
func TestEveryRPCIsGated(t *testing.T) {
	rules := "package agent_policy\n"
	for _, r := range byMethod {
		rules += "default " + r.endpoint + " := false\n"
	}
	a, _ := newAgent(t, strings.Replace(rules, "default ReadStreamRequest := false\n", "", 1))
	for method, r := range byMethod {
		if r.endpoint == "ReadStreamRequest" {
			continue
		}
		err := callRPC(t, a, method)
		if s := status.Convert(err); s.Code() != codes.PermissionDenied || s.Message() != `"`+r.endpoint+` is blocked by policy: "` {
			t.Errorf("%s: %v", method, err)
		}
	}
}

// What passes the gate is answered in the agent's own words, in a guest that
// lacks the device or the thing (Kata src/agent/src/rpc.rs).
func TestAnswersOfAGuestThatLacksIt(t *testing.T) {
	rules := "package agent_policy\n"
	for _, r := range byMethod {
		if !strings.Contains(rules, " "+r.endpoint+" ") {
			rules += "default " + r.endpoint + " := true\n"
		}
	}
	a, _ := newAgent(t, rules)
	ctx := t.Context()
	answer := func(_ any, err error) error { return err }
	for _, c := range []struct {
		name    string
		err     error
		code    codes.Code
		message string
	}{
		{"more processors", answer(a.OnlineCPUMem(ctx, &pb.OnlineCPUMemRequest{NbCpus: 9999})), codes.Internal, "online cpus\n\nCaused by:\n    failed to online 9999 CPU(s) after 100 retries"},
		{"one processor", answer(a.OnlineCPUMem(ctx, &pb.OnlineCPUMemRequest{NbCpus: 1})), codes.OK, ""},
		{"memory", answer(a.MemHotplugByProbe(ctx, &pb.MemHotplugByProbeRequest{MemHotplugProbeAddr: []uint64{1}})), codes.Internal, "No such file or directory (os error 2)"},
		{"no memory", answer(a.MemHotplugByProbe(ctx, &pb.MemHotplugByProbeRequest{})), codes.OK, ""},
		{"clock", answer(a.SetGuestDateTime(ctx, &pb.SetGuestDateTimeRequest{Sec: 1})), codes.Internal, "EPERM: Operation not permitted"},
		{"swap file", answer(a.AddSwapPath(ctx, &pb.AddSwapPathRequest{Path: "/none"})), codes.Internal, "libc::swapon get error No such file or directory (os error 2)"},
		{"swap on what is no one's", answer(a.AddSwapPath(ctx, &pb.AddSwapPathRequest{Path: "/proc/self/exe"})), codes.Internal, "libc::swapon get error Operation not permitted (os error 1)"},
		{"mem-agent", answer(a.MemAgentMemcgSet(ctx, &pb.MemAgentMemcgConfig{})), codes.Internal, "mem-agent is disabled"},
		{"mem-agent's compaction", answer(a.MemAgentCompactSet(ctx, &pb.MemAgentCompactConfig{})), codes.Internal, "mem-agent is disabled"},
		{"volume", answer(a.GetVolumeStats(ctx, &pb.VolumeStatsRequest{VolumeGuestPath: "/none"})), codes.Internal, `Os { code: 2, kind: NotFound, message: "No such file or directory" }`},
		{"a volume's size", answer(a.ResizeVolume(ctx, &pb.ResizeVolumeRequest{})), codes.Unimplemented, `"resize_volume is not implemented in kata-agent"`},
		{"no interface", answer(a.UpdateInterface(ctx, &pb.UpdateInterfaceRequest{})), codes.InvalidArgument, `"empty update interface request"`},
		{"an interface", answer(a.UpdateInterface(ctx, &pb.UpdateInterfaceRequest{Interface: &typespb.Interface{HwAddr: "02:00:00:00:00:01"}})), codes.Internal, `"update interface: Link not found (Address: 02:00:00:00:00:01)"`},
		{"no routes", answer(a.UpdateRoutes(ctx, &pb.UpdateRoutesRequest{})), codes.InvalidArgument, `"empty update routes request"`},
		{"no neighbours", answer(a.AddARPNeighbors(ctx, &pb.AddARPNeighborsRequest{})), codes.InvalidArgument, `"empty add arp neighbours request"`},
		{
			"mounts", answer(a.UpdateEphemeralMounts(ctx, &pb.UpdateEphemeralMountsRequest{Storages: []*pb.Storage{{Driver: "blk"}}})), codes.Internal,
			`"Failed to update mounts: Unsupported storage type for syncing mounts blk. Only ephemeral storage update is supported"`,
		},
		{"diagnostics", answer(a.GetDiagnosticData(ctx, &pb.GetDiagnosticDataRequest{LogType: "kernel"})), codes.InvalidArgument, `"unsupported diagnostic log_type: kernel"`},
		{"a termination log", answer(a.GetDiagnosticData(ctx, &pb.GetDiagnosticDataRequest{LogType: "termination_log", ContainerId: "c1"})), codes.Internal, "Invalid container id: c1"},
		{"statistics", answer(a.StatsContainer(ctx, &pb.StatsContainerRequest{ContainerId: "c1"})), codes.InvalidArgument, `"invalid container id"`},
		{"update", answer(a.UpdateContainer(ctx, &pb.UpdateContainerRequest{ContainerId: "c1"})), codes.InvalidArgument, `"invalid container id"`},
		{"pause", answer(a.PauseContainer(ctx, &pb.PauseContainerRequest{ContainerId: "c1"})), codes.InvalidArgument, `"invalid container id"`},
		{"resume", answer(a.ResumeContainer(ctx, &pb.ResumeContainerRequest{ContainerId: "c1"})), codes.InvalidArgument, `"invalid container id"`},
		{"wait", answer(a.WaitProcess(ctx, &pb.WaitProcessRequest{ContainerId: "c1"})), codes.InvalidArgument, "InvalidContainerId"},
		{"signal", answer(a.SignalProcess(ctx, &pb.SignalProcessRequest{ContainerId: "c1", Signal: 15})), codes.InvalidArgument, "InvalidContainerId"},
		{"the end of all", answer(a.SignalProcess(ctx, &pb.SignalProcessRequest{ContainerId: "c1", Signal: 9})), codes.Internal, "Invalid container id c1"},
		{"read", answer(a.ReadStdout(ctx, &pb.ReadStreamRequest{ContainerId: "c1"})), codes.InvalidArgument, "InvalidContainerId"},
		{"write", answer(a.WriteStdin(ctx, &pb.WriteStreamRequest{ContainerId: "c1"})), codes.Internal, "Invalid container id"},
		{"exec of nothing", answer(a.ExecProcess(ctx, &pb.ExecProcessRequest{ContainerId: "c1"})), codes.Internal, "Unable to parse process from ExecProcessRequest"},
		{"exec", answer(a.ExecProcess(ctx, &pb.ExecProcessRequest{ContainerId: "c1", Process: &pb.Process{}})), codes.Internal, "Invalid container id"},
		{"start", answer(a.StartContainer(ctx, &pb.StartContainerRequest{ContainerId: "c1"})), codes.Internal, "Invalid container id"},
	} {
		if s := status.Convert(c.err); s.Code() != c.code || s.Message() != c.message {
			t.Errorf("%s: got %v %s\nwant %v %s", c.name, s.Code(), s.Message(), c.code, c.message)
		}
	}
}

// The clock stays where it was.
func TestTheClockIsTheMachines(t *testing.T) {
	a, _ := newAgent(t, "package agent_policy\ndefault SetGuestDateTimeRequest := true\n")
	before := time.Now().Round(0) // the wall clock
	if _, err := a.SetGuestDateTime(t.Context(), &pb.SetGuestDateTimeRequest{Sec: 1000}); err == nil {
		t.Error("the clock was set")
	}
	if moved := time.Now().Round(0).Sub(before); moved < 0 || moved > time.Minute {
		t.Errorf("the clock moved by %v", moved)
	}
}

func TestVolumeStats(t *testing.T) {
	a, _ := newAgent(t, "package agent_policy\ndefault VolumeStatsRequest := true\n")
	r, err := a.GetVolumeStats(t.Context(), &pb.VolumeStatsRequest{VolumeGuestPath: t.TempDir()})
	if err != nil || len(r.Usage) != 2 || r.VolumeCondition.GetAbnormal() || r.VolumeCondition.GetMessage() != "OK" {
		t.Fatalf("%v, %v", r, err)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(os.TempDir(), &s); err != nil {
		t.Fatal(err)
	}
	bytes, inodes := r.Usage[0], r.Usage[1]
	if bytes.Unit != pb.VolumeUsage_BYTES || bytes.Total != s.Blocks*uint64(s.Bsize) || bytes.Used+bytes.Available != bytes.Total {
		t.Errorf("bytes %v, want %d in all", bytes, s.Blocks*uint64(s.Bsize))
	}
	if inodes.Unit != pb.VolumeUsage_INODES || inodes.Total != s.Files || inodes.Used+inodes.Available != inodes.Total {
		t.Errorf("inodes %v, want %d in all", inodes, s.Files)
	}
}

func TestReseed(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	a, _ := newAgent(t, "package agent_policy\ndefault ReseedRandomDevRequest := true\n")
	for _, data := range []string{"", "0123456789abcdef"} {
		if _, err := a.ReseedRandomDev(t.Context(), &pb.ReseedRandomDevRequest{Data: []byte(data)}); err != nil {
			t.Errorf("%q: %v", data, err)
		}
	}
}

func TestListLength(t *testing.T) {
	for list, want := range map[string]int{"0": 1, "0-3": 4, "0-1,4,6-7": 5} {
		if n, err := listLength(list); n != want || err != nil {
			t.Errorf("%q: %d, %v, want %d", list, n, err, want)
		}
	}
	for _, list := range []string{"", "a", "3-1", "1-"} {
		if n, err := listLength(list); err == nil {
			t.Errorf("%q: %d", list, n)
		}
	}
}

// SIGTERM, 15, is the bit 0x4000.
func TestStatusHandles(t *testing.T) {
	for text, want := range map[string]bool{
		"SigPnd:\t0000000000004000\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n": false,
		"SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000004002\n":                            true,
		"SigBlk:\t0000000000000000\nSigIgn:\t0000000000004000\nSigCgt:\t0000000000000000\n":                            true,
		"SigBlk:\t0000000000004000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n":                            true,
		"SigBlk:\tffffffffffffbfff\n": false,
		"":                            false,
	} {
		if got := statusHandles(text, unix.SIGTERM); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}
