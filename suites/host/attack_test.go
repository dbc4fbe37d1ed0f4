package host_test

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/framework/leak"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/suite"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// sharedDir is where a guest keeps what CopyFile brings.
const sharedDir = "/run/kata-containers/shared/containers/"

var _ = Describe("A host that speaks to the agent", Label("host"), func() {
	It("finds it by what the node has of a container", proof.Of("HOST-AGENT-001"), SpecTimeout(limit), func(ctx SpecContext) {
		_, probe := victim(ctx, policy())
		Expect(probe.URL(ctx)).To(MatchRegexp(`^(unix|remote|vsock|hvsock)://`))
		answers(ctx, probe.Agent())
	})

	It("cannot execute a command that the policy does not allow", proof.Of("HOST-EXEC-001"), SpecTimeout(limit), func(ctx SpecContext) {
		p, probe := victim(ctx, policy("ReadStreamRequest"))
		agent := probe.Agent()
		answers(ctx, agent)
		for _, args := range [][]string{{"ls"}, {"whoami", "-x"}, {"sh", "-c", "whoami"}, {"/usr/bin/whoami"}, {}} {
			_, err := agent.Agent.ExecProcess(ctx, exec(probe.ContainerID(), args...))
			blocked(err, "ExecProcessRequest")
		}
		stays(ctx, p)
		By("control: whoami is executed on the same way")
		allowed := exec(probe.ContainerID(), "whoami")
		_, err := agent.Agent.ExecProcess(ctx, allowed)
		Expect(err).NotTo(HaveOccurred())
		text, code := output(ctx, agent, probe.ContainerID(), allowed.ExecId)
		Expect(code).To(BeZero())
		Expect(text).To(Equal("root\n"))
	})

	It("cannot create a container of an image that the policy does not list", proof.Of("HOST-CREATE-001"), SpecTimeout(limit), func(ctx SpecContext) {
		p, probe := victim(ctx, policy())
		agent := probe.Agent()
		answers(ctx, agent)
		create := func(image string) error {
			_, err := agent.Agent.CreateContainer(ctx, container(newID(), image))
			return err
		}
		blocked(create(bed.UnlistedImage), "CreateContainerRequest")
		blocked(create("docker.io/library/evil:latest"), "CreateContainerRequest")
		stays(ctx, p)
		By("control: one of the listed image is created")
		Expect(create(bed.Nginx)).To(Succeed())
	})

	It("cannot copy a file to where the policy does not allow", proof.Of("HOST-COPYFILE-001"), SpecTimeout(limit), func(ctx SpecContext) {
		p, probe := victim(ctx, policy())
		agent := probe.Agent()
		answers(ctx, agent)
		file := func(path string) *pb.CopyFileRequest {
			return &pb.CopyFileRequest{Path: path, FileSize: 1, FileMode: 0o100644, DirMode: 0o750, Data: []byte("x")}
		}
		_, err := agent.Agent.CopyFile(ctx, file(sharedDir+"stolen"))
		blocked(err, "CopyFileRequest")
		By("nor out of the shared directory, which no policy allows")
		for _, path := range []string{"/etc/passwd", sharedDir + "../../../../etc/passwd"} {
			_, err = agent.Agent.CopyFile(ctx, file(path))
			Expect(status.Code(err)).To(Equal(codes.Internal), "%s: %v", path, err)
		}
		stays(ctx, p)
		By("control: another file is copied")
		_, err = agent.Agent.CopyFile(ctx, file(sharedDir+"given"))
		Expect(err).NotTo(HaveOccurred())
	})

	It("cannot set another policy", proof.Of("HOST-SETPOLICY-001"), SpecTimeout(limit), func(ctx SpecContext) {
		_, probe := victim(ctx, policy("ReadStreamRequest"))
		agent := probe.Agent()
		answers(ctx, agent)
		open := &pb.SetPolicyRequest{Policy: "package agent_policy\ndefault AllowRequestsFailingPolicy := true\n"}
		_, err := agent.Agent.SetPolicy(ctx, open)
		blocked(err, "SetPolicyRequest")
		_, err = agent.Agent.ExecProcess(ctx, exec(probe.ContainerID(), "ls"))
		blocked(err, "ExecProcessRequest")

		By("control: where the policy allows it, it does")
		_, other := victim(ctx, policy("SetPolicyRequest"))
		loose := other.Agent()
		_, err = loose.Agent.SetPolicy(ctx, open)
		Expect(err).NotTo(HaveOccurred())
		_, err = loose.Agent.ExecProcess(ctx, exec(other.ContainerID(), "ls"))
		Expect(err).NotTo(HaveOccurred())
	})

	It("reads nothing of what a container writes when the policy does not allow", proof.Of("HOST-READSTREAM-001"), SpecTimeout(limit), func(ctx SpecContext) {
		says := func(p *corev1.Pod) {
			p.Spec.Containers[0].Command = []string{"sh", "-c", "while true; do echo what the container says; sleep 0.2; done"}
		}
		_, probe := victim(ctx, policy(), says)
		agent := probe.Agent()
		answers(ctx, agent)
		read := &pb.ReadStreamRequest{ContainerId: probe.ContainerID(), ExecId: probe.ContainerID(), Len: 4096}
		r, err := agent.Agent.ReadStdout(ctx, read)
		Expect(err).NotTo(HaveOccurred(), pod.InconclusiveMark)
		Expect(r.Data).To(BeEmpty())
		By("control: under a policy that allows it, it does")
		_, other := victim(ctx, policy("ReadStreamRequest"), says)
		loose := other.Agent()
		Eventually(ctx, func() (string, error) {
			r, err := loose.Agent.ReadStdout(ctx, &pb.ReadStreamRequest{ContainerId: other.ContainerID(), ExecId: other.ContainerID(), Len: 4096})
			return string(r.GetData()), err
		}).WithTimeout(30 * time.Second).WithPolling(100 * time.Millisecond).Should(ContainSubstring("what the container says"))
	})

	It("cannot signal or remove a container when the policy does not allow", proof.Of("HOST-SIGNAL-001", "HOST-REMOVE-001"), SpecTimeout(limit), func(ctx SpecContext) {
		p, probe := victim(ctx, policy())
		agent := probe.Agent()
		answers(ctx, agent)
		id := probe.ContainerID()
		for _, signal := range []uint32{1, 10, 19} {
			_, err := agent.Agent.SignalProcess(ctx, &pb.SignalProcessRequest{ContainerId: id, Signal: signal})
			blocked(err, "SignalProcessRequest")
		}
		_, err := agent.Agent.RemoveContainer(ctx, &pb.RemoveContainerRequest{ContainerId: id})
		blocked(err, "RemoveContainerRequest")
		stays(ctx, p)
		By("control: the signal that the policy allows ends the container")
		_, err = agent.Agent.SignalProcess(ctx, &pb.SignalProcessRequest{ContainerId: id, Signal: 9})
		Expect(err).NotTo(HaveOccurred())
		bed.WaitPod(ctx, p.Namespace, p.Name, "restarted", func(now *corev1.Pod) (bool, error) {
			return len(now.Status.ContainerStatuses) > 0 && now.Status.ContainerStatuses[0].RestartCount > 0, nil
		})
	})

	It("is told apart from who knows no container", proof.Of("HOST-UNKNOWN-001"), SpecTimeout(limit), func(ctx SpecContext) {
		_, probe := victim(ctx, policy())
		agent := probe.Agent()
		answers(ctx, agent)
		_, err := agent.Agent.ExecProcess(ctx, exec(newID(), "whoami"))
		Expect(status.Code(err)).To(Equal(codes.Internal), "%v", err)
		Expect(status.Convert(err).Message()).To(ContainSubstring("Invalid container id"))
		By("control: the pod's own container is known")
		_, err = agent.Agent.ExecProcess(ctx, exec(probe.ContainerID(), "whoami"))
		Expect(err).NotTo(HaveOccurred())
	})

	It("kills no guest with what is no message", proof.Of("HOST-MALFORMED-001"), SpecTimeout(limit), func(ctx SpecContext) {
		p, probe := victim(ctx, policy())
		for _, noise := range []string{strings.Repeat("\xff", 65536), "\x00\x00\x00\x05\x00\x00\x00\x01\x01\x00garb", strings.Repeat("\x00", 4096), "GET / HTTP/1.1\r\n\r\n"} {
			conn := probe.Conn()
			Expect(conn.SetWriteDeadline(time.Now().Add(30 * time.Second))).To(Succeed())
			// The agent may end the connection before it has read all, but has to have been given some.
			sent, err := conn.Write([]byte(noise))
			Expect(sent).NotTo(BeZero(), "%s: nothing reached the agent: %v", pod.InconclusiveMark, err)
			Expect(conn.Close()).To(Succeed())
		}
		answers(ctx, probe.Agent())
		stays(ctx, p)
	})

	It("gets no secret that is released to the pod", proof.Of("HOST-SECRET-001"), SpecTimeout(limit), suite.OneKBS, func(ctx SpecContext) {
		k, secret := bed.KBS(ctx), leak.Secret()
		path := suite.ResourcePath(bed.Namespace(ctx, "host"), "of-the-pod")
		Expect(k.SetResourcePolicy(ctx, string(manifests.Read("kbs/policies/allow-all.rego")))).To(Succeed())
		Expect(k.SetResource(ctx, path, []byte(secret))).To(Succeed())
		files := map[string]string{initdata.Policy: policy("ReadStreamRequest")}
		for _, name := range []string{"aa.toml", "cdh.toml"} {
			text, err := manifests.Fill("walkthrough/"+name, map[string]string{"KBS": k.URL})
			Expect(err).NotTo(HaveOccurred())
			files[name] = string(text)
		}
		get := "curl -s http://127.0.0.1:8006/cdh/resource/" + path
		p, probe := victimWith(ctx, files, func(p *corev1.Pod) {
			p.Spec.Containers[0].Command = []string{"sh", "-c", `[ "$(` + get + ` | sha256sum | cut -d" " -f1)" = ` + fingerprint(secret) + ` ] && touch /dev/shm/released; exec sleep infinity`}
		})
		By("control: the container got it")
		Eventually(ctx, func() (int, error) {
			r, err := bed.Pods.Exec(ctx, p.Namespace, p.Name, suite.Container, "test", "-e", "/dev/shm/released")
			return r.ExitCode, err
		}).WithTimeout(30*time.Second).WithPolling(200*time.Millisecond).Should(BeZero(), "%s: the container itself got no secret", pod.InconclusiveMark)

		agent := probe.Agent()
		answers(ctx, agent)
		for _, args := range [][]string{strings.Fields(get), {"sh", "-c", get}} {
			_, err := agent.Agent.ExecProcess(ctx, exec(probe.ContainerID(), args...))
			blocked(err, "ExecProcessRequest")
		}
		stays(ctx, p)
		By("control: on the same connection what the policy allows is executed")
		allowed := exec(probe.ContainerID(), "test", "-e", "/dev/shm/released")
		_, err := agent.Agent.ExecProcess(ctx, allowed)
		Expect(err).NotTo(HaveOccurred())
		_, code := output(ctx, agent, probe.ContainerID(), allowed.ExecId)
		Expect(code).To(BeZero())
	})
})

// stays asserts that a pod's container is the one that it was.
func stays(ctx context.Context, p *corev1.Pod) {
	GinkgoHelper()
	now, err := bed.Pods.Kube.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
	Expect(err).NotTo(HaveOccurred())
	Expect(now.Status.ContainerStatuses).To(HaveLen(1))
	Expect(now.Status.ContainerStatuses[0].ContainerID).To(Equal(p.Status.ContainerStatuses[0].ContainerID))
	Expect(now.Status.ContainerStatuses[0].RestartCount).To(BeZero())
	Expect(now.Status.ContainerStatuses[0]).To(HaveField("Ready", BeTrue()))
}
