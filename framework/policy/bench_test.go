package policy

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// generated is a policy of the size and shape that a generator of policies
// makes for a pod: data of each container, with its environment as text and as
// patterns, and rules that match a request against each of them.
func generated(containers int) string {
	var b strings.Builder
	b.WriteString(generatedRules)
	b.WriteString("\npolicy_data := {\"common\": {\"cpath\": \"/run/kata-containers/shared/containers\", \"ports\": \"[0-9]{1,5}\"}, \"containers\": [\n")
	for c := range containers {
		fmt.Fprintf(&b, "  {\"name\": \"c%d\", \"args\": [\"/bin/server\", \"--name\", \"c%d\"], \"cwd\": \"/\", \"exec\": [\"echo c%d\", \"cat /etc/hostname\"],\n   \"env\": [\n", c, c, c)
		for i := range 75 {
			fmt.Fprintf(&b, "    \"^SERVICE_%d_%d_PORT_[A-Z]+=tcp://[0-9]{1,3}(\\\\.[0-9]{1,3}){3}:[0-9]{1,5}$\",\n", c, i)
		}
		for i := range 75 {
			fmt.Fprintf(&b, "    \"VARIABLE_OF_CONTAINER_%d_%d=the value that it has, which is a little longer\",\n", c, i)
		}
		fmt.Fprintf(&b, "   ],\n   \"mounts\": [\n")
		for i := range 12 {
			fmt.Fprintf(&b, "    {\"destination\": \"/mnt/%d\", \"source\": \"^/run/kata-containers/shared/containers/[a-z0-9]{64}-[a-z0-9]{16}-volume%d$\", \"type_\": \"bind\", \"options\": [\"rbind\", \"rprivate\", \"ro\"]},\n", i, i)
		}
		b.WriteString("   ]},\n")
	}
	return b.String() + "]}\n"
}

const generatedRules = `package agent_policy

default ExecProcessRequest := false
default CreateContainerRequest := false
default StopRequest := false

CreateContainerRequest := {"allowed": true, "ops": [{"op": "add", "path": sprintf("/pstate/%s", [input.container_id]), "value": found}]} if {
	not data.pstate[input.container_id]
	some found, container in policy_data.containers
	container.args == input.OCI.Process.Args
	all_environment_fits(container, input.OCI.Process.Env)
	all_mounts_fit(container, input.OCI.Mounts)
}

RemoveContainerRequest := {"allowed": true, "ops": [{"op": "remove", "path": sprintf("/pstate/%s", [input.container_id])}]}

ExecProcessRequest if {
	print("exec: of", input.container_id)
	container := policy_data.containers[data.pstate[input.container_id]]
	line := concat(" ", input.process.Args)
	some allowed in container.exec
	allowed == line
	container.cwd == input.process.Cwd
	all_environment_fits(container, input.process.Env)
}

all_environment_fits(container, env) if {
	every variable in env { environment_fits(container, variable) }
}

environment_fits(container, variable) if {
	variable in container.env
} else if {
	some pattern in container.env
	startswith(pattern, "^")
	regex.match(pattern, variable)
}

all_mounts_fit(container, mounts) if {
	every mount in mounts { mount_fits(container, mount) }
}

mount_fits(container, mount) if {
	some known in container.mounts
	known.destination == mount.destination
	known.type_ == mount.type_
	known.options == mount.options
	regex.match(known.source, mount.source)
}
`

// generatedEngine has a policy of about 60 kB and one container of it.
func generatedEngine(b *testing.B) (*Engine, *pb.ExecProcessRequest) {
	b.Helper()
	text := generated(4)
	if n := len(text); n < 55000 || n > 70000 {
		b.Fatalf("the policy has %d bytes", n)
	}
	e := New()
	if err := e.SetPolicy(context.Background(), text); err != nil {
		b.Fatal(err)
	}
	createContainer(b, e, "the-container")
	return e, &pb.ExecProcessRequest{ContainerId: "the-container", ExecId: "6f1e", Process: &pb.Process{
		Args: []string{"echo", "c2"}, Cwd: "/", Env: environment30(), User: &pb.User{},
	}}
}

// environment30 is a container's environment in a namespace of a few services:
// 30 variables that the kubelet sets for them, and 8 of the pod's own.
func environment30() (env []string) {
	for i := range 8 {
		env = append(env, fmt.Sprintf("VARIABLE_OF_CONTAINER_2_%d=the value that it has, which is a little longer", 9*i))
	}
	for i := range 30 {
		env = append(env, fmt.Sprintf("SERVICE_2_%d_PORT_TCP=tcp://10.0.0.%d:8080", i, i))
	}
	return env
}

// containerRequest is the request for a container with that environment and 12
// volumes, in the form that a shim sends it in.
func containerRequest(id string) *pb.CreateContainerRequest {
	capabilities := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
	r := &pb.CreateContainerRequest{
		ContainerId: id, ExecId: id,
		Storages: []*pb.Storage{{
			Driver: "image_guest_pull", Source: "docker.io/library/server:1", Fstype: "overlay", MountPoint: "/run/kata-containers/" + id + "/rootfs",
			DriverOptions: []string{`image_guest_pull={"metadata":{"io.kubernetes.cri.container-type":"container"}}`},
		}},
		OCI: &pb.Spec{
			Version: "1.3.0", Root: &pb.Root{Path: "/run/kata-containers/" + id + "/rootfs"},
			Process: &pb.Process{
				Args: []string{"/bin/server", "--name", "c2"}, Env: environment30(), Cwd: "/", User: &pb.User{AdditionalGids: []uint32{0}},
				Capabilities: &pb.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
			},
			Annotations: map[string]string{"io.kubernetes.cri.container-name": "c2", "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-name": "pod"},
			Linux: &pb.Linux{
				CgroupsPath: "/kubepods/pod/" + id, Namespaces: []*pb.LinuxNamespace{{Type: "ipc"}, {Type: "uts"}, {Type: "mount"}},
				Resources: &pb.LinuxResources{Memory: &pb.LinuxMemory{}, CPU: &pb.LinuxCPU{Shares: 2, Period: 100000}},
			},
		},
	}
	for i := range 12 {
		r.OCI.Mounts = append(r.OCI.Mounts, &pb.Mount{
			Destination: fmt.Sprint("/mnt/", i), Type: "bind", Options: []string{"rbind", "rprivate", "ro"},
			Source: fmt.Sprintf("/run/kata-containers/shared/containers/%s-%s-volume%d", strings.Repeat("5f", 32), strings.Repeat("0a", 8), i),
		})
	}
	return r
}

func createContainer(b *testing.B, e *Engine, id string) {
	b.Helper()
	decide(b, e, "CreateContainerRequest", Input(containerRequest(id)))
}

func decide(b *testing.B, e *Engine, endpoint string, input []byte) {
	b.Helper()
	if d := e.Eval(context.Background(), endpoint, input); d.Outcome != Allowed {
		b.Fatal(d.Message)
	}
}

// loop measures f, also in processor time, which other programs of the machine
// disturb less than the clock's.
func loop(b *testing.B, f func()) {
	b.Helper()
	start := processorTime(b)
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64(processorTime(b)-start)/float64(b.N), "cpu-ns/op")
}

func processorTime(b *testing.B) int64 {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkExec is one decision on an exec, with the request's serialisation.
func BenchmarkExec(b *testing.B) {
	small := func(b *testing.B) *Engine {
		e := New()
		if err := e.SetPolicy(context.Background(), article(b)); err != nil {
			b.Fatal(err)
		}
		return e
	}
	whoami := &pb.ExecProcessRequest{Process: &pb.Process{Args: []string{"whoami"}}}
	b.Run("small", func(b *testing.B) {
		e := small(b)
		loop(b, func() { decide(b, e, "ExecProcessRequest", Input(whoami)) })
	})
	b.Run("small, after 10000 requests", func(b *testing.B) {
		e := small(b)
		for range 10000 {
			decide(b, e, "ExecProcessRequest", Input(whoami))
		}
		loop(b, func() { decide(b, e, "ExecProcessRequest", Input(whoami)) })
	})
	b.Run("generated", func(b *testing.B) {
		e, r := generatedEngine(b)
		loop(b, func() { decide(b, e, "ExecProcessRequest", Input(r)) })
	})
	b.Run("generated, after 10000 requests", func(b *testing.B) {
		e, r := generatedEngine(b)
		for range 10000 {
			decide(b, e, "ExecProcessRequest", Input(r))
		}
		loop(b, func() { decide(b, e, "ExecProcessRequest", Input(r)) })
	})
	b.Run("generated, after 10000 containers", func(b *testing.B) {
		e, r := generatedEngine(b)
		for i := range 10000 {
			createContainer(b, e, fmt.Sprint("c", i))
		}
		loop(b, func() { decide(b, e, "ExecProcessRequest", Input(r)) })
	})
}

// BenchmarkCreateContainer is one decision on a container, with the request's
// serialisation, and one on its end, which undoes what it does to the state.
func BenchmarkCreateContainer(b *testing.B) {
	e, _ := generatedEngine(b)
	r := containerRequest("another")
	remove := &pb.RemoveContainerRequest{ContainerId: "another"}
	loop(b, func() {
		decide(b, e, "CreateContainerRequest", Input(r))
		decide(b, e, "RemoveContainerRequest", Input(remove))
	})
}

// BenchmarkState is a decision that changes the state twice, with few and with
// many containers in it.
func BenchmarkState(b *testing.B) {
	for _, containers := range []int{1, 10000} {
		b.Run(fmt.Sprint(containers), func(b *testing.B) {
			e, _ := generatedEngine(b)
			for i := range containers {
				createContainer(b, e, fmt.Sprint("c", i))
			}
			remove := Input(&pb.RemoveContainerRequest{ContainerId: "another"})
			loop(b, func() {
				createContainer(b, e, "another")
				decide(b, e, "RemoveContainerRequest", remove)
			})
		})
	}
}

func BenchmarkSetPolicy(b *testing.B) {
	text := generated(4)
	for b.Loop() {
		if err := New().SetPolicy(context.Background(), text); err != nil {
			b.Fatal(err)
		}
	}
}
