package agent_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coco-e2e/coco-e2e/framework/agentapi"
	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/guest"
	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/framework/redact"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// Where Kata keeps things in a guest.
const (
	stateDir  = "/run/kata-containers/"
	sharedDir = "/run/kata-containers/shared/containers/"
)

// target is a guest, and a connection to its agent.
type target struct {
	*agentapi.Client
	address string
	image   string
	// sandbox is the id of the sandbox, once there is one.
	sandbox string
	// standing says that other specs have the guest too.
	standing bool
}

// standing is the guest that specs have one after the other: the given one, or
// one that is started for the first that asks.
var standing struct {
	*guest.Guest // of a given guest, nil
	sandbox      string
}

// shared returns the standing guest under the policy, which allows everything
// again after the spec.
func shared(ctx context.Context, policy string) *target {
	GinkgoHelper()
	t := &target{address: givenAddress, image: givenImage}
	if givenAddress == "" {
		if standing.Guest == nil || !alive(ctx, standing.Address) {
			g, err := host.Start(ctx, document(allowAll()))
			Expect(err).NotTo(HaveOccurred())
			standing.Guest, standing.sandbox = g, "" // ends with the host
		}
		t.address, t.image = standing.Address, guest.ShellImage
		DeferCleanup(evidence, standing.Guest, suite.Sizes(standing.Logs))
	}
	t.standing, t.sandbox = true, standing.sandbox
	t.Client = t.dial(ctx)
	t.setPolicy(ctx, policy)
	DeferCleanup(func(ctx SpecContext) { t.setPolicy(ctx, allowAll()) })
	return t
}

func alive(ctx context.Context, address string) bool {
	c, err := agentapi.Dial(ctx, address)
	if err != nil {
		return false
	}
	defer c.Close()
	_, err = c.Agent.SetPolicy(ctx, &pb.SetPolicyRequest{Policy: allowAll()})
	return err == nil
}

// fresh returns a guest of the spec's own under the policy, which is in its
// init-data; or the given one, there being no other, with its policy set.
func fresh(ctx context.Context, policy string) *target {
	GinkgoHelper()
	if givenAddress != "" {
		return shared(ctx, policy)
	}
	return freshWith(ctx, document(policy))
}

// freshWith starts a guest with the init-data.
func freshWith(ctx context.Context, document string) *target {
	GinkgoHelper()
	g, err := host.Start(ctx, document)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(g.Stop)
	DeferCleanup(evidence, g, map[string]int64{})
	t := &target{address: g.Address, image: guest.ShellImage}
	t.Client = t.dial(ctx)
	return t
}

// needsLone skips the spec at a guest that was given.
func needsLone(why string) {
	if givenAddress != "" {
		Skip("the guest at AGENT_ADDRESS is the only one: " + why)
	}
}

// document is init-data with the policy.
func document(policy string) string {
	GinkgoHelper()
	d, err := initdata.New("sha256", map[string]string{initdata.Policy: policy})
	Expect(err).NotTo(HaveOccurred())
	return string(d.Raw)
}

// evidence keeps what a guest said when its spec has failed: the end of it in the
// report, all since begun below the artefacts.
func evidence(g *guest.Guest, begun map[string]int64) {
	suite.KeepFiles("guest", g.Logs, begun)
	if !CurrentSpecReport().Failed() {
		return
	}
	for _, name := range []string{"console.log", "agent.jsonl"} {
		text, err := os.ReadFile(filepath.Join(g.Logs, name))
		if err != nil {
			text = []byte(err.Error())
		}
		AddReportEntry(name, redact.Text(string(text[max(0, len(text)-8000):])), ReportEntryVisibilityFailureOrVerbose)
	}
}

// dial opens another connection to the guest.
func (t *target) dial(ctx context.Context) *agentapi.Client {
	GinkgoHelper()
	c, err := agentapi.Dial(ctx, t.address)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { _ = c.Close() }) // specs close some themselves
	return c
}

func (t *target) setPolicy(ctx context.Context, text string) {
	GinkgoHelper()
	_, err := t.Agent.SetPolicy(ctx, &pb.SetPolicyRequest{Policy: text})
	Expect(err).NotTo(HaveOccurred())
}

// expectHealthy checks that the guest serves.
func (t *target) expectHealthy(ctx context.Context) {
	GinkgoHelper()
	r, err := t.Health.Check(ctx, &pb.CheckRequest{})
	Expect(err).NotTo(HaveOccurred())
	Expect(r.Status).To(Equal(pb.HealthCheckResponse_SERVING))
}

// createSandbox makes the pod's sandbox with its container, as a shim begins,
// if there is none: another would wipe the first.
func (t *target) createSandbox(ctx context.Context) {
	GinkgoHelper()
	if t.image == "" {
		Skip("no image to run: set AGENT_IMAGE to one that the guest can pull, with a busybox in /bin")
	}
	if t.sandbox != "" {
		return
	}
	id := newID()
	_, err := t.Agent.CreateSandbox(ctx, sandboxRequest(id))
	Expect(err).NotTo(HaveOccurred())
	t.sandbox = id
	if t.standing {
		standing.sandbox = id
	}
	_, err = t.Agent.CreateContainer(ctx, containerRequest(id, "pause", "/pause"))
	Expect(err).NotTo(HaveOccurred())
	t.start(ctx, id)
}

// newID is an identifier as containerd makes them: 64 hexadecimal digits.
func newID() string { return strings.ReplaceAll(uuid.NewString()+uuid.NewString(), "-", "") }

func sandboxRequest(id string) *pb.CreateSandboxRequest {
	return &pb.CreateSandboxRequest{
		Hostname: "lone", SandboxId: id, Dns: []string{""},
		Storages: []*pb.Storage{{
			Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: stateDir + "sandbox/shm",
			Options: []string{"noexec", "nosuid", "nodev", "mode=1777", "size=67108864"},
		}},
	}
}

// containerRequest asks for a container of the image, as the shim of a confidential pod does.
func containerRequest(id, image string, args ...string) *pb.CreateContainerRequest {
	root, kind := stateDir+id+"/rootfs", "container"
	if image == "pause" {
		kind = "sandbox"
	}
	capabilities := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL"}
	return &pb.CreateContainerRequest{
		ContainerId: id, ExecId: id,
		Storages: []*pb.Storage{{
			Driver: "image_guest_pull", Source: image, Fstype: "overlay", MountPoint: root,
			DriverOptions: []string{`image_guest_pull={"metadata":{"io.kubernetes.cri.container-type":"` + kind + `"}}`},
		}},
		OCI: &pb.Spec{
			Version: "1.3.0", Root: &pb.Root{Path: root},
			Process: &pb.Process{
				Args: args, Env: []string{"PATH=/bin"}, Cwd: "/", User: &pb.User{},
				Capabilities: &pb.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
			},
			Mounts: []*pb.Mount{
				{Destination: "/proc", Source: "proc", Type: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
				{Destination: "/dev", Source: "tmpfs", Type: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
				{Destination: "/dev/pts", Source: "devpts", Type: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
				{Destination: "/dev/shm", Source: stateDir + "sandbox/shm", Type: "bind", Options: []string{"rbind"}},
			},
			Annotations: map[string]string{"io.kubernetes.cri.container-type": kind},
			Linux: &pb.Linux{
				CgroupsPath: "/kubepods/lone/" + id, Namespaces: []*pb.LinuxNamespace{{Type: "ipc"}, {Type: "uts"}, {Type: "mount"}},
				Resources: &pb.LinuxResources{Memory: &pb.LinuxMemory{}, CPU: &pb.LinuxCPU{Shares: 2, Period: 100000}},
			},
		},
	}
}

// create makes a container of the shell's image that runs args once it is started.
func (t *target) create(ctx context.Context, args ...string) string {
	GinkgoHelper()
	t.createSandbox(ctx)
	id := newID()
	t.createAs(ctx, containerRequest(id, t.image, args...))
	return id
}

// createAs makes a container as requested. A guest that goes on is rid of it after the spec.
func (t *target) createAs(ctx context.Context, r *pb.CreateContainerRequest) {
	GinkgoHelper()
	_, err := t.Agent.CreateContainer(ctx, r)
	Expect(err).NotTo(HaveOccurred())
	if t.standing {
		DeferCleanup(func(ctx SpecContext) {
			t.setPolicy(ctx, allowAll())
			_, _ = t.Agent.RemoveContainer(ctx, &pb.RemoveContainerRequest{ContainerId: r.ContainerId}) // the spec may have done so
		})
	}
}

func (t *target) start(ctx context.Context, id string) {
	GinkgoHelper()
	_, err := t.Agent.StartContainer(ctx, &pb.StartContainerRequest{ContainerId: id})
	Expect(err).NotTo(HaveOccurred())
}

// idle runs a container that does nothing until it is killed.
func (t *target) idle(ctx context.Context) string {
	GinkgoHelper()
	id := t.create(ctx, "/bin/sleep", "1000000")
	t.start(ctx, id)
	return id
}

func execRequest(container string, args ...string) *pb.ExecProcessRequest {
	return &pb.ExecProcessRequest{ContainerId: container, ExecId: uuid.NewString(), Process: &pb.Process{
		Args: args, Env: []string{"PATH=/bin"}, Cwd: "/", User: &pb.User{},
	}}
}

// exec starts a process in the container and returns its id.
func (t *target) exec(ctx context.Context, container string, args ...string) string {
	GinkgoHelper()
	r := execRequest(container, args...)
	_, err := t.Agent.ExecProcess(ctx, r)
	Expect(err).NotTo(HaveOccurred())
	return r.ExecId
}

// read returns what a process writes to its standard output until the end.
func (t *target) read(ctx context.Context, container, exec string) string {
	GinkgoHelper()
	for all := ""; ; {
		r, err := t.Agent.ReadStdout(ctx, &pb.ReadStreamRequest{ContainerId: container, ExecId: exec, Len: 32768})
		Expect(err).NotTo(HaveOccurred())
		if len(r.Data) == 0 {
			return all
		}
		all += string(r.Data)
	}
}

// wait returns a process's exit code.
func (t *target) wait(ctx context.Context, container, exec string) int32 {
	GinkgoHelper()
	r, err := t.Agent.WaitProcess(ctx, &pb.WaitProcessRequest{ContainerId: container, ExecId: exec})
	Expect(err).NotTo(HaveOccurred())
	return r.Status
}

// output runs a script in the container and returns what it says; the script has to succeed.
func (t *target) output(ctx context.Context, container, script string) string {
	GinkgoHelper()
	id := t.exec(ctx, container, "/bin/sh", "-c", script)
	out := t.read(ctx, container, id)
	Expect(t.wait(ctx, container, id)).To(BeZero(), "%s says %s", script, out)
	return out
}

// remove ends a container and forgets it.
func (t *target) remove(ctx context.Context, id string) {
	GinkgoHelper()
	_, err := t.Agent.SignalProcess(ctx, &pb.SignalProcessRequest{ContainerId: id, Signal: 9})
	Expect(err).NotTo(HaveOccurred())
	t.wait(ctx, id, id)
	_, err = t.Agent.RemoveContainer(ctx, &pb.RemoveContainerRequest{ContainerId: id})
	Expect(err).NotTo(HaveOccurred())
}

// beBlocked matches the policy's refusal of an endpoint, word for word: the
// agent answers with a Rust string's Debug form, quotes included, and what the
// policy printed after the colon.
func beBlocked(endpoint string, prints ...string) OmegaMatcher {
	return beStatus(codes.PermissionDenied, fmt.Sprintf(`"%s is blocked by policy: %s"`, endpoint, strings.Join(prints, " ")))
}

// beUndefined matches the answer when the policy has no such rule.
func beUndefined(endpoint string) OmegaMatcher {
	return beStatus(codes.Internal, `"`+endpoint+`: internal error policy check: unexpected eval_query result len QueryResults { result: [] }"`)
}

// beStatus matches an error by its code and its whole text.
func beStatus(code codes.Code, text string) OmegaMatcher {
	return And(haveCode(code), WithTransform(func(err error) string { return status.Convert(err).Message() }, Equal(text)))
}

// beInternal matches an error of the agent's that it has as such, by the first
// line of its text: where it came from may follow.
func beInternal(line string) OmegaMatcher {
	return And(haveCode(codes.Internal), WithTransform(func(err error) string {
		first, _, _ := strings.Cut(status.Convert(err).Message(), "\n")
		return first
	}, Equal(line)))
}

// haveCode matches an error by its code.
func haveCode(code codes.Code) OmegaMatcher {
	return WithTransform(func(err error) string { return status.Code(err).String() }, Equal(code.String()))
}

// say matches an error whose text has the words, with a code.
func say(code codes.Code, words string) OmegaMatcher {
	return And(haveCode(code), WithTransform(func(err error) string { return status.Convert(err).Message() }, ContainSubstring(words)))
}

// fileRequest puts a file among those that the guest shares.
func fileRequest(name, text string) *pb.CopyFileRequest {
	return &pb.CopyFileRequest{Path: sharedDir + name, FileSize: int64(len(text)), FileMode: 0o100644, DirMode: 0o750, Data: []byte(text)}
}
