package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/framework/policy"
)

// newAgent has a policy and no guest around it.
func newAgent(t *testing.T, text string) (*Agent, *bytes.Buffer) {
	t.Helper()
	e := policy.New()
	if err := e.SetPolicy(context.Background(), text); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	return &Agent{policy: e, log: &rpcLog{w: &log}, containers: map[string]*container{}, done: make(chan struct{}), cgroupParent: "/coco-sim/vm"}, &log
}

// A removal that takes longer than it may is not given up: only its caller is (Kata src/agent/src/rpc.rs, do_remove_container).
func TestRemoveContainerTimeout(t *testing.T) {
	a, _ := newAgent(t, "package agent_policy\ndefault RemoveContainerRequest := true\n")
	remove := func(seconds uint32) *status.Status {
		_, err := a.RemoveContainer(t.Context(), &pb.RemoveContainerRequest{ContainerId: "c1", Timeout: seconds})
		return status.Convert(err)
	}
	a.lifecycle.Lock()
	s := remove(1)
	a.lifecycle.Unlock()
	if s.Code() != codes.Internal || s.Message() != "ETIME: Timer expired" {
		t.Errorf("too slow: %v", s)
	}
	if s := remove(3600); s.Code() != codes.Internal || s.Message() != "Invalid container id" {
		t.Errorf("in time: %v", s)
	}
}

func TestGateComesFirst(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name, policy string
		code         codes.Code
		message      string
		decision     string
	}{
		{"denied", "package agent_policy\ndefault RemoveContainerRequest := false\n", codes.PermissionDenied, `"RemoveContainerRequest is blocked by policy: "`, "denied"},
		{
			"undefined", "package agent_policy\n", codes.Internal,
			`"RemoveContainerRequest: internal error policy check: unexpected eval_query result len QueryResults { result: [] }"`, "error",
		},
		{"allowed, and then unknown", "package agent_policy\ndefault RemoveContainerRequest := true\n", codes.Internal, "Invalid container id", "allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, log := newAgent(t, c.policy)
			_, err := a.RemoveContainer(ctx, &pb.RemoveContainerRequest{ContainerId: "c1"})
			if s := status.Convert(err); s.Code() != c.code || s.Message() != c.message {
				t.Errorf("got %v %s, want %v %s", s.Code(), s.Message(), c.code, c.message)
			}
			var line map[string]any
			if err := json.Unmarshal(log.Bytes(), &line); err != nil {
				t.Fatalf("log %q: %v", log, err)
			}
			if line["method"] != "RemoveContainer" || line["endpoint"] != "RemoveContainerRequest" || line["decision"] != c.decision || line["container_id"] != "c1" {
				t.Errorf("log %v", line)
			}
		})
	}
}

func TestHealthIsNotGated(t *testing.T) {
	r, err := health{}.Check(context.Background(), &pb.CheckRequest{})
	if err != nil || r.Status != pb.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", r, err)
	}
}

func TestSetPolicy(t *testing.T) {
	ctx := context.Background()
	a, _ := newAgent(t, "package agent_policy\ndefault SetPolicyRequest := true\ndefault RemoveContainerRequest := true\n")
	_, err := a.SetPolicy(ctx, &pb.SetPolicyRequest{Policy: "package agent_policy\nnonsense"})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a policy that does not parse: %v, want InvalidArgument", err)
	}
	// The old policy is gone all the same, as in the agent.
	if _, err := a.SetPolicy(ctx, &pb.SetPolicyRequest{}); status.Code(err) != codes.Internal {
		t.Errorf("afterwards: %v, want Internal: every rule is undefined", err)
	}
}

func TestIsSandbox(t *testing.T) {
	for option, want := range map[string]bool{
		`image_guest_pull={"metadata":{"io.kubernetes.cri.container-type":"sandbox"}}`:   true,
		`image_guest_pull={"metadata":{"io.kubernetes.cri.container-type":"container"}}`: false,
		`image_guest_pull={"metadata":{"io.kubernetes.cri-o.ContainerType":"sandbox"}}`:  true,
		`image_guest_pull={"Metadata":{"io.kubernetes.cri.container-type":"sandbox"}}`:   false,
		`something=else`: false,
	} {
		if got, err := isSandbox([]string{option}); err != nil || got != want {
			t.Errorf("%s: %t, %v, want %t", option, got, err, want)
		}
	}
	if _, err := isSandbox([]string{"image_guest_pull={"}); err == nil {
		t.Error("broken metadata was accepted")
	}
}

func TestRuntimeSpec(t *testing.T) {
	a, _ := newAgent(t, "package agent_policy\n")
	s, err := a.runtimeSpec(&pb.CreateContainerRequest{ContainerId: "c1", OCI: &pb.Spec{
		Version: "1.3.0",
		Process: &pb.Process{Args: []string{"x"}, Cwd: "/", User: &pb.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{2000}}, Capabilities: &pb.LinuxCapabilities{Bounding: []string{"CAP_NO_SUCH"}}, OOMScoreAdj: 1000},
		Root:    &pb.Root{Path: "/run/kata-containers/c1/rootfs", Readonly: true},
		Mounts:  []*pb.Mount{{Destination: "/d", Source: "/s", Type: "local", Options: []string{"rbind", "rw"}}, {Destination: "/proc", Source: "proc", Type: "proc"}},
		Linux: &pb.Linux{
			CgroupsPath: "/kubepods/podx/c1", Namespaces: []*pb.LinuxNamespace{{Type: "ipc"}, {Type: "uts"}, {Type: "mount"}},
			Resources: &pb.LinuxResources{Memory: &pb.LinuxMemory{Limit: 1 << 27}, CPU: &pb.LinuxCPU{Shares: 2}},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"ociVersion":"1.0.2","process":{"user":{"uid":1000,"gid":1001,"additionalGids":[2000]},"args":["x"],"cwd":"/","capabilities":{},"oomScoreAdj":1000},` +
		`"root":{"path":"/run/kata-containers/c1/rootfs","readonly":true},"mounts":[{"destination":"/d","type":"bind","source":"/s","options":["rbind","rw"]},{"destination":"/proc","type":"proc","source":"proc"}],` +
		`"linux":{"resources":{"devices":[{"allow":false,"access":"rwm"}],"memory":{"limit":134217728},"cpu":{"shares":2}},"cgroupsPath":"/coco-sim/vm/kubepods/podx/c1",` +
		`"namespaces":[{"type":"cgroup"},{"type":"ipc","path":"/proc/1/ns/ipc"},{"type":"uts","path":"/proc/1/ns/uts"},{"type":"mount"},{"type":"pid"}]}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if _, err := a.runtimeSpec(&pb.CreateContainerRequest{OCI: &pb.Spec{}}); err == nil {
		t.Error("an OCI without process was accepted")
	}
}

func TestReadInitData(t *testing.T) {
	dev := t.TempDir()
	if doc, err := readInitData(dev); doc != nil || err != nil {
		t.Errorf("no device: %v, %v", doc, err)
	}
	write := func(raw string) {
		f, err := os.Create(filepath.Join(dev, "vda"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := initdata.WriteImage(f, []byte(raw)); err != nil {
			t.Fatal(err)
		}
	}
	for raw, want := range map[string]string{
		"version = \"9.9.9\"\nalgorithm = \"sha256\"\n[data]\n": "unsupported version: 9.9.9, expected: 0.1.0",
		"version = \"0.1.0\"\nalgorithm = \"md5\"\n[data]\n":    "md5",
		"version = ": "parse initdata failed",
	} {
		write(raw)
		if _, err := readInitData(dev); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", raw, err, want)
		}
	}
	// The agent takes the first device with the magic, whatever is behind it.
	if err := os.WriteFile(filepath.Join(dev, "vda"), []byte("initdata\xff\x00\x00\x00\x00\x00\x00\x00 too short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readInitData(dev); err == nil || !strings.Contains(err.Error(), "read initdata failed: "+filepath.Join(dev, "vda")) ||
		!strings.Contains(err.Error(), "the device ends after 10 bytes where the length field says 255") {
		t.Errorf("a device that ends early: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dev, "vda"), []byte("some other disk, of no interest to the agent"), 0o600); err != nil {
		t.Fatal(err)
	}
	if doc, err := readInitData(dev); doc != nil || err != nil {
		t.Errorf("another disk: %v, %v", doc, err)
	}
}

// A policy.rego without content is a policy that does not parse, and not the absence of one: the guest's own, which
// allows everything, must not take its place.
func TestEmptyPolicyIsAPolicy(t *testing.T) {
	for name, c := range map[string]struct {
		doc  *initdata.InitData
		want bool
	}{
		"no init-data": {nil, false},
		"no policy":    {&initdata.InitData{Data: map[string]string{"aa.toml": ""}}, false},
		"empty policy": {&initdata.InitData{Data: map[string]string{"policy.rego": ""}}, true},
	} {
		if text, brought := initDataPolicy(c.doc); text != "" || brought != c.want {
			t.Errorf("%s: %q, %v", name, text, brought)
		}
	}
	if err := policy.New().SetPolicy(t.Context(), ""); err == nil {
		t.Error("the engine took an empty policy")
	}
}

// The log has the policy that refused, once for each that was in force.
func TestPolicyInTheLog(t *testing.T) {
	first := "package agent_policy\ndefault SetPolicyRequest := true\ndefault RemoveContainerRequest := false\n"
	second := "package agent_policy\ndefault RemoveContainerRequest := false\n"
	a, log := newAgent(t, first)
	ctx := t.Context()
	refused := func(id string) {
		if _, err := a.RemoveContainer(ctx, &pb.RemoveContainerRequest{ContainerId: id}); status.Code(err) != codes.PermissionDenied {
			t.Fatal(err)
		}
	}
	refused("a")
	refused("b")
	if _, err := a.SetPolicy(ctx, &pb.SetPolicyRequest{Policy: second}); err != nil {
		t.Fatal(err)
	}
	refused("a2")
	var texts, digests []string
	for line := range strings.Lines(log.String()) {
		var r rpcLine
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r.Why != nil {
			texts, digests = append(texts, r.PolicyText), append(digests, r.Policy)
		}
	}
	if !slices.Equal(texts, []string{first, "", second}) || digests[0] != digests[1] || digests[1] == digests[2] || len(digests[0]) != 64 {
		t.Errorf("policies %q, digests %q", texts, digests)
	}
}
