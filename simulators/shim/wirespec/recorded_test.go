package wirespec

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// TestRecorded holds what a guest is told against what Kata 4.1's Go shim was recorded to tell it: the OCI specification
// as containerd's CRI writes it for a setting of the pod, and the part of CreateContainerRequest.OCI that follows.
func TestRecorded(t *testing.T) {
	for name, test := range map[string]struct{ in, want string }{
		"runAsUser, runAsGroup, fsGroup, supplementalGroups": {
			`{"process":{"user":{"uid":1000,"gid":1001,"additionalGids":[1001,2000,3000]},"args":["x"],"cwd":"/w"},"linux":{}}`,
			`{"Process":{"User":{"UID":1000,"GID":1001,"AdditionalGids":[1001,2000,3000]},"Args":["x"],"Cwd":"/w"},"Linux":{"Resources":{}}}`,
		},
		"root with groups": {
			`{"process":{"user":{"uid":0,"gid":0,"additionalGids":[0,2000,3000]},"cwd":"/"},"linux":{}}`,
			`{"Process":{"User":{"AdditionalGids":[0,2000,3000]},"Cwd":"/"},"Linux":{"Resources":{}}}`,
		},
		"capabilities: neither inheritable nor ambient": {
			`{"process":{"user":{"uid":0,"gid":0},"cwd":"/","capabilities":{"bounding":["CAP_CHOWN","CAP_NET_ADMIN"],"effective":["CAP_CHOWN","CAP_NET_ADMIN"],"permitted":["CAP_CHOWN","CAP_NET_ADMIN"]}},"linux":{}}`,
			`{"Process":{"User":{},"Cwd":"/","Capabilities":{"Bounding":["CAP_CHOWN","CAP_NET_ADMIN"],"Effective":["CAP_CHOWN","CAP_NET_ADMIN"],"Permitted":["CAP_CHOWN","CAP_NET_ADMIN"]}},"Linux":{"Resources":{}}}`,
		},
		"drop ALL": {
			`{"process":{"user":{"uid":0,"gid":0},"cwd":"/","capabilities":{}},"linux":{}}`,
			`{"Process":{"User":{},"Cwd":"/","Capabilities":{}},"Linux":{"Resources":{}}}`,
		},
		"allowPrivilegeEscalation: false, seccomp profile": {
			`{"process":{"user":{"uid":0,"gid":0},"cwd":"/","noNewPrivileges":true,"apparmorProfile":""},"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO"}}}`,
			`{"Process":{"User":{},"Cwd":"/","NoNewPrivileges":true},"Linux":{"Resources":{}}}`,
		},
		"tty: TERM after PATH": {
			`{"process":{"terminal":true,"user":{"uid":0,"gid":0},"cwd":"/","env":["PATH=/bin","TERM=xterm","HOSTNAME=p"]},"linux":{}}`,
			`{"Process":{"Terminal":true,"User":{},"Cwd":"/","Env":["PATH=/bin","TERM=xterm","HOSTNAME=p"]},"Linux":{"Resources":{}}}`,
		},
		"limits: swap is the memory's, device rules and pids stay behind": {
			`{"process":{"user":{"uid":0,"gid":0},"cwd":"/","oomScoreAdj":998},"linux":{"cgroupsPath":"/kubepods/burstable/podu/c","resources":{"devices":[{"allow":false,"access":"rwm"}],"pids":{"limit":100},
			  "memory":{"limit":134217728,"swap":134217728},"cpu":{"shares":256,"quota":50000,"period":100000,"cpus":"0-1","mems":"0"},"unified":{"memory.high":"1"}}}}`,
			`{"Process":{"User":{},"Cwd":"/","OOMScoreAdj":"998"},"Linux":{"CgroupsPath":"/kubepods/burstable/podu/c","Resources":{"Memory":{"Limit":"134217728","Swap":"134217728"},"CPU":{"Shares":"256","Quota":"50000","Period":"100000"}}}}`,
		},
		"no limits: a memory of zeros": {
			`{"process":{"user":{"uid":0,"gid":0},"cwd":"/"},"linux":{"resources":{"memory":{},"cpu":{"shares":2,"quota":0,"period":100000}}}}`,
			`{"Process":{"User":{},"Cwd":"/"},"Linux":{"Resources":{"Memory":{},"CPU":{"Shares":"2","Period":"100000"}}}}`,
		},
		"pause: no memory at all": {
			`{"hostname":"p","process":{"user":{"uid":65535,"gid":65535},"cwd":"/","noNewPrivileges":true},"linux":{"resources":{"cpu":{"shares":2}}}}`,
			`{"Hostname":"p","Process":{"User":{"UID":65535,"GID":65535},"Cwd":"/","NoNewPrivileges":true},"Linux":{"Resources":{"CPU":{"Shares":"2"}}}}`,
		},
		"namespaces: the VM is those of network, pid and cgroup; paths are the host's": {
			`{"process":{"user":{"uid":0,"gid":0},"cwd":"/"},"linux":{"namespaces":[{"type":"pid"},{"type":"ipc","path":"/proc/9/ns/ipc"},{"type":"uts","path":"/proc/9/ns/uts"},{"type":"mount"},{"type":"network","path":"/proc/9/ns/net"},{"type":"cgroup"}]}}`,
			`{"Process":{"User":{},"Cwd":"/"},"Linux":{"Resources":{},"Namespaces":[{"Type":"ipc"},{"Type":"uts"},{"Type":"mount"}]}}`,
		},
		"hostIPC: no namespace of it": {
			`{"process":{"user":{"uid":0,"gid":0},"cwd":"/"},"linux":{"namespaces":[{"type":"uts"},{"type":"mount"}]}}`,
			`{"Process":{"User":{},"Cwd":"/"},"Linux":{"Resources":{},"Namespaces":[{"Type":"uts"},{"Type":"mount"}]}}`,
		},
		"sysctls and masked paths": {
			`{"process":{"user":{"uid":0,"gid":0},"cwd":"/"},"linux":{"sysctl":{"net.core.somaxconn":"1024"},"maskedPaths":["/proc/asound","/proc/interrupts"],"readonlyPaths":["/proc/bus"]}}`,
			`{"Process":{"User":{},"Cwd":"/"},"Linux":{"Resources":{},"Sysctl":{"net.core.somaxconn":"1024"},"MaskedPaths":["/proc/asound","/proc/interrupts"],"ReadonlyPaths":["/proc/bus"]}}`,
		},
		"readOnlyRootFilesystem, and mounts with their options in order": {
			`{"root":{"path":"/host","readonly":true},"process":{"user":{"uid":0,"gid":0},"cwd":"/"},"mounts":[{"destination":"/etc/hostname","type":"bind","source":"/h","options":["rbind","rprivate","ro"]}],"linux":{}}`,
			`{"Root":{"Path":"ROOT","Readonly":true},"Process":{"User":{},"Cwd":"/"},"Mounts":[{"destination":"/etc/hostname","type":"bind","source":"/h","options":["rbind","rprivate","ro"]}],"Linux":{"Resources":{}}}`,
		},
		"hooks and labels are the host's": {
			`{"hooks":{"createRuntime":[{"path":"/bin/true"}]},"process":{"user":{"uid":0,"gid":0},"cwd":"/","selinuxLabel":"s"},"linux":{"mountLabel":"m"}}`,
			`{"Process":{"User":{},"Cwd":"/"},"Linux":{"Resources":{}}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var in specs.Spec
			if err := json.Unmarshal([]byte(test.in), &in); err != nil {
				t.Fatal(err)
			}
			want := &agentpb.Spec{}
			if err := protojson.Unmarshal([]byte(test.want), want); err != nil {
				t.Fatal(err)
			}
			if want.Root == nil {
				want.Root = &agentpb.Root{Path: "ROOT"}
			}
			got, _ := Constrained(&in, Constraints{RootPath: "ROOT"})
			if diff := cmp.Diff(proto.Message(want), proto.Message(got), protocmp.Transform()); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

// TestRecordedExec: an exec's process has the container's user and environment, and nothing of what restrains it.
func TestRecordedExec(t *testing.T) {
	minus := 998
	got := ExecProcess(&specs.Process{
		Terminal: true, User: specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{1001, 2000}}, Args: []string{"sh"}, Env: []string{"PATH=/bin", "TERM=xterm"}, Cwd: "/w",
		NoNewPrivileges: true, OOMScoreAdj: &minus, ApparmorProfile: "a", ConsoleSize: &specs.Box{Height: 24, Width: 80},
		Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}}, Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1, Soft: 1}},
	}, true)
	want := &agentpb.Process{
		Terminal: true, User: &agentpb.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{1001, 2000}}, Args: []string{"sh"}, Env: []string{"PATH=/bin", "TERM=xterm"}, Cwd: "/w",
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}
