// Package host_test attacks confidential pods from the node that they run on:
// past Kubernetes and containerd, straight at the agent in the guest. What its
// user has is root on the node; what holds against it is the policy.
package host_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/coco-e2e/coco-e2e/framework/agentapi"
	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// bed is what this process's specs run against.
var bed = suite.Testbed()

func TestHost(t *testing.T) { suite.Run(t, "host") }

// limit bounds a spec.
const limit = 2 * time.Minute

// guarded is a policy under which a pod starts and ends, and runs whoami; all
// else that a host can ask for is refused, and so is the removal of a container
// that nobody has ended.
const guarded = `package agent_policy

default CreateSandboxRequest := true
default DestroySandboxRequest := true
default GuestDetailsRequest := true
default StartContainerRequest := true
default StatsContainerRequest := true
default WaitProcessRequest := true
default GetOOMEventRequest := true
default UpdateContainerRequest := true
default ReadStreamRequest := false
default SetPolicyRequest := false
default SignalProcessRequest := false
default RemoveContainerRequest := false
default CreateContainerRequest := false
default ExecProcessRequest := false
default CopyFileRequest := false

CreateContainerRequest if {
	every storage in input.storages {
		storage.source in {"pause", %q}
	}
}

# What ends a pod is allowed: without it Kubernetes could not delete it.
SignalProcessRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/ended", "value": true}]} if input.signal in {9, 15}

RemoveContainerRequest if data.pstate.ended

ExecProcessRequest if input.process.Args in [["whoami"], ["test", "-e", "/dev/shm/released"]]

CopyFileRequest if not contains(input.path, "stolen")
`

// lenient is guarded with what ends a pod allowed, as a user would have it.
func lenient(text string, rules ...string) string {
	for _, r := range rules {
		text = strings.Replace(text, "default "+r+" := false", "default "+r+" := true", 1)
	}
	return text
}

// policy is guarded for the workload's image, with rules made true.
func policy(rules ...string) string { return lenient(fmt.Sprintf(guarded, bed.Nginx), rules...) }

// victim runs a pod under a policy, and returns it with a way to its agent from
// the node.
func victim(ctx context.Context, text string, edits ...func(*corev1.Pod)) (*corev1.Pod, *suite.Probe) {
	GinkgoHelper()
	return victimWith(ctx, map[string]string{initdata.Policy: text}, edits...)
}

// victimWith is victim with files of init-data.
func victimWith(ctx context.Context, files map[string]string, edits ...func(*corev1.Pod)) (*corev1.Pod, *suite.Probe) {
	GinkgoHelper()
	if bed.ProbeImage == "" {
		Skip("attacks from a node are not asked for: PROBE_IMAGE names the probe's image")
	}
	ns := bed.Namespace(ctx, "host")
	doc, err := initdata.New("sha256", files)
	Expect(err).NotTo(HaveOccurred())
	raw, err := doc.Marshal()
	Expect(err).NotTo(HaveOccurred())
	value, err := initdata.EncodeAnnotation(raw)
	Expect(err).NotTo(HaveOccurred())
	bed.Create(ctx, bed.Pod(ns, "victim", append([]func(*corev1.Pod){func(p *corev1.Pod) {
		p.Annotations = map[string]string{initdata.AnnotationKey: value}
	}}, edits...)...))
	p := bed.Ready(ctx, ns, "victim")
	return p, bed.Probe(ctx, p)
}

// blocked asserts that the policy refused an endpoint, and nothing else.
func blocked(err error, endpoint string) {
	GinkgoHelper()
	s := status.Convert(err)
	Expect(s.Code()).To(Equal(codes.PermissionDenied), "%s", s.Message())
	Expect(s.Message()).To(HavePrefix(`"` + endpoint + ` is blocked by policy: `))
}

// answers asserts that the agent is there: without that nothing refused is shown.
func answers(ctx context.Context, c *agentapi.Client) {
	GinkgoHelper()
	r, err := c.Health.Check(ctx, &pb.CheckRequest{})
	Expect(err).NotTo(HaveOccurred(), "%s: the agent does not answer on the node", pod.InconclusiveMark)
	Expect(r.Status).To(Equal(pb.HealthCheckResponse_SERVING))
}

// searchPath is the environment of processes.
var searchPath = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// exec asks for a process in a container.
func exec(container string, args ...string) *pb.ExecProcessRequest {
	return &pb.ExecProcessRequest{ContainerId: container, ExecId: newID(), Process: &pb.Process{
		Args: args, Env: searchPath, Cwd: "/", User: &pb.User{},
	}}
}

// container asks for a container of an image that is pulled in the guest.
func container(id, image string) *pb.CreateContainerRequest {
	root := "/run/kata-containers/" + id + "/rootfs"
	return &pb.CreateContainerRequest{
		ContainerId: id, ExecId: id,
		Storages: []*pb.Storage{{
			Driver: "image_guest_pull", Source: image, Fstype: "overlay", MountPoint: root,
			DriverOptions: []string{`image_guest_pull={"metadata":{"io.kubernetes.cri.container-type":"container"}}`},
		}},
		OCI: &pb.Spec{
			Version: "1.3.0", Root: &pb.Root{Path: root},
			Process: &pb.Process{Args: []string{"sh"}, Env: searchPath, Cwd: "/", User: &pb.User{}},
			Mounts: []*pb.Mount{
				{Destination: "/proc", Source: "proc", Type: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
				{Destination: "/dev", Source: "tmpfs", Type: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			},
			Annotations: map[string]string{"io.kubernetes.cri.container-type": "container"},
			Linux: &pb.Linux{
				CgroupsPath: "/kubepods/" + id, Namespaces: []*pb.LinuxNamespace{{Type: "ipc"}, {Type: "uts"}, {Type: "mount"}},
				Resources: &pb.LinuxResources{Memory: &pb.LinuxMemory{}, CPU: &pb.LinuxCPU{Shares: 2, Period: 100000}},
			},
		},
	}
}

func newID() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// output reads what a process writes until it ends.
func output(ctx context.Context, c *agentapi.Client, container, execID string) (text string, code int32) {
	GinkgoHelper()
	var b bytes.Buffer
	for {
		r, err := c.Agent.ReadStdout(ctx, &pb.ReadStreamRequest{ContainerId: container, ExecId: execID, Len: 4096})
		if err != nil || len(r.Data) == 0 {
			break
		}
		b.Write(r.Data)
	}
	w, err := c.Agent.WaitProcess(ctx, &pb.WaitProcessRequest{ContainerId: container, ExecId: execID})
	Expect(err).NotTo(HaveOccurred())
	return b.String(), w.Status
}

// fingerprint stands for a secret, which must not reach a report.
func fingerprint(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
