package policy

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb/typespb"
	"github.com/coco-e2e/coco-e2e/manifests"
)

func article(t testing.TB) string {
	t.Helper()
	b, err := manifests.Fill("walkthrough/policy.rego", map[string]any{
		"Image": "docker.io/library/nginx@sha256:e56797eab4a5300158cc015296229e13a390f82bfc88803f45b08912fd5e3348", "Commands": []string{"whoami", "false"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func execRequest(args ...string) []byte {
	return Input(&pb.ExecProcessRequest{ContainerId: "c", Process: &pb.Process{Args: args}})
}

func TestDecisions(t *testing.T) {
	ctx := context.Background()
	storage := func(source string) []byte {
		return Input(&pb.CreateContainerRequest{Storages: []*pb.Storage{{Source: source}}})
	}
	for _, c := range []struct {
		name, policy, endpoint string
		input                  []byte
		outcome                Outcome
		message                string
	}{
		{"listed command", article(t), "ExecProcessRequest", execRequest("whoami"), Allowed, ""},
		{"unlisted command", article(t), "ExecProcessRequest", execRequest("ls"), Denied, `"ExecProcessRequest is blocked by policy: "`},
		{"listed image", article(t), "CreateContainerRequest", storage("docker.io/library/nginx@sha256:e56797eab4a5300158cc015296229e13a390f82bfc88803f45b08912fd5e3348"), Allowed, ""},
		{"pause", article(t), "CreateContainerRequest", storage("pause"), Allowed, ""},
		{"unlisted image", article(t), "CreateContainerRequest", storage("docker.io/library/nginx:1"), Denied, `"CreateContainerRequest is blocked by policy: "`},
		{"no rule", article(t), "SetPolicyRequest", []byte("{}"), Error, `"SetPolicyRequest: internal error policy check: unexpected eval_query result len QueryResults { result: [] }"`},
		{"failing policy is allowed where it says so", "package agent_policy\ndefault AllowRequestsFailingPolicy := true\n", "ExecProcessRequest", execRequest("ls"), Allowed, ""},
		{"print", "package agent_policy\nExecProcessRequest if { print(\"no\", input.container_id); false }\ndefault ExecProcessRequest := false\n", "ExecProcessRequest", execRequest("ls"), Denied, `"ExecProcessRequest is blocked by policy: agent_policy:2: no c"`},
		{"object", "package agent_policy\nExecProcessRequest := {\"allowed\": false}\n", "ExecProcessRequest", execRequest("ls"), Denied, `"ExecProcessRequest is blocked by policy: "`},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := New()
			if err := e.SetPolicy(ctx, c.policy); err != nil {
				t.Fatal(err)
			}
			if d := e.Eval(ctx, c.endpoint, c.input); d.Outcome != c.outcome || d.Message != c.message {
				t.Errorf("got %v %s\nwant %v %s", d.Outcome, d.Message, c.outcome, c.message)
			}
		})
	}
}

func TestRefusedPolicies(t *testing.T) {
	for name, text := range map[string]string{
		"Rego v0":           "package agent_policy\nExecProcessRequest { true }\n",
		"Rego v2":           "package agent_policy\nimport rego.v2\ndefault ExecProcessRequest := true\n",
		"a template string": "package agent_policy\nExecProcessRequest if $\"a{input.x}\" == \"ab\"\n",
		"input shadowed":    "package agent_policy\nimport data.x as input\ndefault ExecProcessRequest := true\n",
		"no sense":          "package agent_policy\ndefault ExecProcessRequest := \n",
		"a long line":       "package agent_policy\n# " + strings.Repeat("x", maxColumn) + "\n",
	} {
		if err := New().SetPolicy(context.Background(), text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What an import brings it brings once, also the keywords that rego.v1 brings
// (regorus src/parser.rs); a policy in Rego v1 may import them all the same.
func TestImports(t *testing.T) {
	for _, c := range []struct{ imports, message string }{
		{"import rego.v1", ""},
		{"import future.keywords", ""},
		{"import future.keywords.in\nimport future.keywords.if\nimport future.keywords.every", ""},
		{"import data.a as x\nimport data.a as y", ""},
		{
			"import rego.v1\nimport future.keywords.in",
			"\n--> agent_policy:3:24\n  |\n3 | import future.keywords.in\n  |                        ^\nerror: this import shadows previous import of `in` defined at:" +
				"\n--> agent_policy:2:1\n  |\n2 | import rego.v1\n  | ^\n: this import is shadowed.",
		},
		{
			"import future.keywords.in\nimport rego.v1",
			"\n--> agent_policy:3:1\n  |\n3 | import rego.v1\n  | ^\nerror: this import shadows previous import of `in` defined at:" +
				"\n--> agent_policy:2:24\n  |\n2 | import future.keywords.in\n  |                        ^\n: this import is shadowed.",
		},
		{
			"import rego.v1\nimport rego.v1",
			"\n--> agent_policy:3:1\n  |\n3 | import rego.v1\n  | ^\nerror: this import shadows previous import of `contains` defined at:" +
				"\n--> agent_policy:2:1\n  |\n2 | import rego.v1\n  | ^\n: this import is shadowed.",
		},
		{
			"import future.keywords.in\nimport future.keywords.in",
			"\n--> agent_policy:3:24\n  |\n3 | import future.keywords.in\n  |                        ^\nerror: this import shadows previous import of `in` defined at:" +
				"\n--> agent_policy:2:24\n  |\n2 | import future.keywords.in\n  |                        ^\n: this import is shadowed.",
		},
		{
			"import future.keywords\nimport future.keywords.if",
			"\n--> agent_policy:3:24\n  |\n3 | import future.keywords.if\n  |                        ^\nerror: this import shadows previous import of `if` defined at:" +
				"\n--> agent_policy:2:15\n  |\n2 | import future.keywords\n  |               ^\n: this import is shadowed.",
		},
		{
			"import data.a\nimport data.a",
			"\n--> agent_policy:3:1\n  |\n3 | import data.a\n  | ^\nerror: import shadows following import defined earlier:" +
				"\n--> agent_policy:2:1\n  |\n2 | import data.a\n  | ^\n: this import is shadowed",
		},
		{
			"import data.a as x\nimport data.b as x",
			"\n--> agent_policy:3:1\n  |\n3 | import data.b as x\n  | ^\nerror: import shadows following import defined earlier:" +
				"\n--> agent_policy:2:1\n  |\n2 | import data.a as x\n  | ^\n: this import is shadowed",
		},
	} {
		got := ""
		if err := New().SetPolicy(t.Context(), "package agent_policy\n"+c.imports+"\ndefault ExecProcessRequest := true\n"); err != nil {
			got = err.Error()
		}
		if got != c.message {
			t.Errorf("%s: got %s\nwant %s", c.imports, got, c.message)
		}
	}
}

// A rule keeps state by operations on pstate (RFC 6902).
func TestState(t *testing.T) {
	const rego = `package agent_policy
CreateContainerRequest := {"allowed": true, "ops": [{"op": "add", "path": sprintf("/pstate/%s", [input.container_id]), "value": 1}]} if not data.pstate[input.container_id]
default CreateContainerRequest := false
RemoveContainerRequest := {"allowed": true, "ops": [{"op": "remove", "path": sprintf("/pstate/%s", [input.container_id])}]}
`
	e, ctx := New(), context.Background()
	if err := e.SetPolicy(ctx, rego); err != nil {
		t.Fatal(err)
	}
	create := Input(&pb.CreateContainerRequest{ContainerId: "c"})
	remove := Input(&pb.RemoveContainerRequest{ContainerId: "c"})
	for i, want := range []struct {
		endpoint string
		input    []byte
		outcome  Outcome
	}{
		{"CreateContainerRequest", create, Allowed},
		{"CreateContainerRequest", create, Denied},
		{"RemoveContainerRequest", remove, Allowed},
		{"RemoveContainerRequest", remove, Error},
		{"CreateContainerRequest", create, Allowed},
	} {
		if d := e.Eval(ctx, want.endpoint, want.input); d.Outcome != want.outcome {
			t.Errorf("step %d, %s: %v %s, want %v", i, want.endpoint, d.Outcome, d.Message, want.outcome)
		}
	}
}

// The agent's JSON, from the agent's own test data (Kata genpolicy,
// state/execprocess) and the rules of its serialiser.
func TestInput(t *testing.T) {
	got := string(Input(&pb.ExecProcessRequest{ContainerId: "c1", ExecId: "e1", Process: &pb.Process{
		User: &pb.User{AdditionalGids: []uint32{0, 10}}, Args: []string{"test1"}, Env: []string{"PATH=/bin"}, Cwd: "/",
	}}))
	const want = `{"container_id":"c1","exec_id":"e1","string_user":null,"process":{"Terminal":false,"ConsoleSize":null,"User":{"UID":0,"GID":0,"AdditionalGids":[0,10],"Username":""},"Args":["test1"],"Env":["PATH=/bin"],"Cwd":"/","Capabilities":null,"Rlimits":[],"NoNewPrivileges":false,"ApparmorProfile":"","OOMScoreAdj":0,"SelinuxLabel":""},"stdin_port":0,"stdout_port":0,"stderr_port":0}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// One literal for each of the serialiser's rules, and the requests of the
// agent's test data (kata.md, 2.6).
func TestInputRules(t *testing.T) {
	for _, c := range []struct {
		name string
		m    proto.Message
		want string
	}{
		{"bytes", &pb.WriteStreamRequest{Data: []byte("hi")}, `{"container_id":"","exec_id":"","data":[104,105]}`},
		{"type", &pb.Mount{Type: "bind"}, `{"destination":"","source":"","type_":"bind","options":[]}`},
		{"Type", &pb.LinuxNamespace{Type: "ipc"}, `{"Type":"ipc","Path":""}`},
		{"a oneof", &pb.LinuxSyscall{ErrnoRet: &pb.LinuxSyscall_Errnoret{Errnoret: 1}}, `{"Names":[],"Action":"","Args":[],"ErrnoRet":{"errnoret":1}}`},
		{"a oneof that is zero", &pb.LinuxSyscall{ErrnoRet: &pb.LinuxSyscall_Errnoret{}}, `{"Names":[],"Action":"","Args":[],"ErrnoRet":{"errnoret":0}}`},
		{"a oneof without", &pb.LinuxSyscall{}, `{"Names":[],"Action":"","Args":[],"ErrnoRet":null}`},
		{
			"optionals without", &pb.MemAgentMemcgConfig{},
			`{"disabled":null,"swap":null,"swappiness_max":null,"period_secs":null,"period_psi_percent_limit":null,"eviction_psi_percent_limit":null,"eviction_run_aging_count_min":null}`,
		},
		{
			"optionals", &pb.MemAgentMemcgConfig{Disabled: proto.Bool(true), Swap: proto.Bool(false), SwappinessMax: proto.Uint32(0), PeriodSecs: proto.Uint64(18446744073709551615)},
			`{"disabled":true,"swap":false,"swappiness_max":0,"period_secs":18446744073709551615,"period_psi_percent_limit":null,"eviction_psi_percent_limit":null,"eviction_run_aging_count_min":null}`,
		},
		{"enums", &pb.FSGroup{GroupId: 2000, GroupChangePolicy: typespb.FSGroupChangePolicy_OnRootMismatch}, `{"group_id":2000,"group_change_policy":1}`},
		{"an enum that is zero", &typespb.IPAddress{Address: "10.0.0.1"}, `{"family":0,"address":"10.0.0.1","mask":""}`},
		{"an enum of a later protocol", &typespb.IPAddress{Family: 7}, `{"family":7,"address":"","mask":""}`},
		{
			"a map", &pb.Linux{Sysctl: map[string]string{"net.\"x\"": "<1>"}},
			`{"UIDMappings":[],"GIDMappings":[],"Sysctl":{"net.\"x\"":"<1>"},"Resources":null,"CgroupsPath":"","Namespaces":[],"Devices":[],"Seccomp":null,"RootfsPropagation":"","MaskedPaths":[],"ReadonlyPaths":[],"MountLabel":"","IntelRdt":null}`,
		},
		{"a large integer", &pb.ResizeVolumeRequest{Size: 18446744073709551615}, `{"volume_guest_path":"","size":18446744073709551615}`},
		{"a small integer", &pb.SetGuestDateTimeRequest{Sec: -9223372036854775808, Usec: 9007199254740993}, `{"Sec":-9223372036854775808,"Usec":9007199254740993}`},
		{"names of their own", &pb.AddSwapRequest{PCIPath: []uint32{1, 31}}, `{"PCIPath":[1,31]}`},
		{
			"UpdateInterface", &pb.UpdateInterfaceRequest{Interface: &typespb.Interface{
				Device: "eth0", Name: "eth0", IPAddresses: []*typespb.IPAddress{{Address: "10.244.0.5", Mask: "24"}}, Mtu: 1500, HwAddr: "02:00:00:00:00:01",
			}},
			`{"interface":{"device":"eth0","name":"eth0","IPAddresses":[{"family":0,"address":"10.244.0.5","mask":"24"}],"mtu":1500,"hwAddr":"02:00:00:00:00:01","devicePath":"","type_":"","raw_flags":0}}`,
		},
		{
			"UpdateRoutes", &pb.UpdateRoutesRequest{Routes: &pb.Routes{Routes: []*typespb.Route{{Gateway: "10.244.0.1", Device: "eth0"}}}},
			`{"routes":{"Routes":[{"dest":"","gateway":"10.244.0.1","device":"eth0","source":"","scope":0,"family":0,"flags":0,"mtu":0}]}}`,
		},
		{
			"AddARPNeighbors", &pb.AddARPNeighborsRequest{Neighbors: &pb.ARPNeighbors{ARPNeighbors: []*typespb.ARPNeighbor{
				{ToIPAddress: &typespb.IPAddress{Address: "10.244.0.1"}, Device: "eth0", Lladdr: "02:00:00:00:00:02", State: 128},
			}}},
			`{"neighbors":{"ARPNeighbors":[{"toIPAddress":{"family":0,"address":"10.244.0.1","mask":""},"device":"eth0","lladdr":"02:00:00:00:00:02","state":128,"flags":0}]}}`,
		},
		{
			"CreateContainer", &pb.CreateContainerRequest{ContainerId: "88941c", ExecId: "88941c", OCI: &pb.Spec{
				Version: "1.1.0",
				Process: &pb.Process{
					User: &pb.User{AdditionalGids: []uint32{0, 10}}, Args: []string{"sleep", "3600"}, Env: []string{"PATH=/bin"}, Cwd: "/", OOMScoreAdj: -998,
					Capabilities: &pb.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}, Effective: []string{"CAP_CHOWN"}, Permitted: []string{"CAP_CHOWN"}},
				},
				Root: &pb.Root{Path: "/run/kata-containers/88941c/rootfs"}, Hostname: "busybox",
				Mounts: []*pb.Mount{
					{Destination: "/proc", Source: "proc", Type: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
					{Destination: "/dev/shm", Source: "/run/kata-containers/sandbox/shm", Type: "bind", Options: []string{"rbind"}},
				},
				Annotations: map[string]string{"io.kubernetes.cri.container-type": "container"},
				Linux: &pb.Linux{
					Resources:   &pb.LinuxResources{CPU: &pb.LinuxCPU{Shares: 2}},
					CgroupsPath: "/kubepods/besteffort/podeb14/4878", Namespaces: []*pb.LinuxNamespace{{Type: "ipc"}, {Type: "uts"}, {Type: "mount"}},
					MaskedPaths: []string{"/proc/acpi"}, ReadonlyPaths: []string{"/proc/bus"},
				},
			}},
			`{"container_id":"88941c","exec_id":"88941c","string_user":null,"devices":[],"storages":[],` +
				`"OCI":{"Version":"1.1.0",` +
				`"Process":{"Terminal":false,"ConsoleSize":null,"User":{"UID":0,"GID":0,"AdditionalGids":[0,10],"Username":""},` +
				`"Args":["sleep","3600"],"Env":["PATH=/bin"],"Cwd":"/",` +
				`"Capabilities":{"Bounding":["CAP_CHOWN"],"Effective":["CAP_CHOWN"],"Inheritable":[],"Permitted":["CAP_CHOWN"],"Ambient":[]},` +
				`"Rlimits":[],"NoNewPrivileges":false,"ApparmorProfile":"","OOMScoreAdj":-998,"SelinuxLabel":""},` +
				`"Root":{"Path":"/run/kata-containers/88941c/rootfs","Readonly":false},"Hostname":"busybox",` +
				`"Mounts":[{"destination":"/proc","source":"proc","type_":"proc","options":["nosuid","noexec","nodev"]},` +
				`{"destination":"/dev/shm","source":"/run/kata-containers/sandbox/shm","type_":"bind","options":["rbind"]}],` +
				`"Hooks":null,"Annotations":{"io.kubernetes.cri.container-type":"container"},` +
				`"Linux":{"UIDMappings":[],"GIDMappings":[],"Sysctl":{},` +
				`"Resources":{"Devices":[],"Memory":null,"CPU":{"Shares":2,"Quota":0,"Period":0,"RealtimeRuntime":0,"RealtimePeriod":0,"Cpus":"","Mems":""},"Pids":null,"BlockIO":null,"HugepageLimits":[],"Network":null},` +
				`"CgroupsPath":"/kubepods/besteffort/podeb14/4878","Namespaces":[{"Type":"ipc","Path":""},{"Type":"uts","Path":""},{"Type":"mount","Path":""}],` +
				`"Devices":[],"Seccomp":null,"RootfsPropagation":"","MaskedPaths":["/proc/acpi"],"ReadonlyPaths":["/proc/bus"],"MountLabel":"","IntelRdt":null},` +
				`"Solaris":null,"Windows":null},` +
				`"sandbox_pidns":false,"shared_mounts":[],"stdin_port":0,"stdout_port":0,"stderr_port":0}`,
		},
	} {
		if got := string(Input(c.m)); got != c.want {
			t.Errorf("%s: got  %s\nwant %s", c.name, got, c.want)
		}
	}
}

// A policy tells integers apart that a float cannot.
func TestIntegersInAPolicy(t *testing.T) {
	for value, others := range map[uint64][]uint64{
		18446744073709551615: {18446744073709551614, 0},
		9007199254740993:     {9007199254740992, 9007199254740994},
	} {
		e := engine(t, fmt.Sprintf("default ResizeVolumeRequest := false\nResizeVolumeRequest if input.size == %d\n", value))
		ask := func(size uint64, want Outcome) {
			if d := e.Eval(t.Context(), "ResizeVolumeRequest", Input(&pb.ResizeVolumeRequest{Size: size})); d.Outcome != want {
				t.Errorf("%d where %d is allowed: %v %s, want %v", size, value, d.Outcome, d.Message, want)
			}
		}
		ask(value, Allowed)
		for _, other := range others {
			ask(other, Denied)
		}
	}
	e := engine(t, "default SetGuestDateTimeRequest := false\nSetGuestDateTimeRequest if input.Sec == -9223372036854775808\n")
	for sec, want := range map[int64]Outcome{-9223372036854775808: Allowed, -9223372036854775807: Denied, 9223372036854775807: Denied} {
		if d := e.Eval(t.Context(), "SetGuestDateTimeRequest", Input(&pb.SetGuestDateTimeRequest{Sec: sec})); d.Outcome != want {
			t.Errorf("%d: %v %s, want %v", sec, d.Outcome, d.Message, want)
		}
	}
}
