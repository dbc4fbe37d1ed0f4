package pod_test

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/pod"
)

// probe is one that is tried every second and believed at once.
func probe(handler corev1.ProbeHandler) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: handler, PeriodSeconds: 1, FailureThreshold: 1}
}

func command(argv ...string) corev1.ProbeHandler {
	return corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: argv}}
}

func httpGet(path string) corev1.ProbeHandler {
	return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(80)}}
}

func tcp(port int32) corev1.ProbeHandler {
	return corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(port)}}
}

// event waits for an event about the pod that begins with prefix and contains
// text.
func event(ctx context.Context, ns, name, prefix, text string) {
	GinkgoHelper()
	_, err := bed.Pods.WaitEvent(ctx, ns, name, func(e string) bool {
		return strings.HasPrefix(e, prefix) && strings.Contains(e, text)
	})
	Expect(err).NotTo(HaveOccurred())
}

// state waits until cond holds for the pod's first container.
func state(ctx context.Context, ns, name, what string, cond func(corev1.ContainerStatus) bool) corev1.ContainerStatus {
	GinkgoHelper()
	p := bed.WaitPod(ctx, ns, name, what, func(p *corev1.Pod) (bool, error) {
		return len(p.Status.ContainerStatuses) > 0 && cond(p.Status.ContainerStatuses[0]), nil
	})
	return p.Status.ContainerStatuses[0]
}

func restarted(s corev1.ContainerStatus) bool { return s.RestartCount > 0 }

// isRunning says that a container runs that has not been started before.
func isRunning(s corev1.ContainerStatus) bool { return s.State.Running != nil && s.RestartCount == 0 }

var _ = Describe("probes", Label("pod"), func() {
	It("readiness comes and goes with the exec probe", proof.Of("POD-PROBE-001"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "probes")
		bed.Create(ctx, bed.Pod(ns, "ready", func(p *corev1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = probe(command("grep", "-q", "yes", "/tmp/ready"))
		}))
		event(ctx, ns, "ready", "Unhealthy: Readiness probe failed", "/tmp/ready")
		state(ctx, ns, "ready", "running and not ready", func(s corev1.ContainerStatus) bool { return isRunning(s) && !s.Ready })
		shell(ctx, ns, "ready", "echo yes >/tmp/ready")
		bed.Ready(ctx, ns, "ready")
		shell(ctx, ns, "ready", "echo no >/tmp/ready")
		s := state(ctx, ns, "ready", "not ready again", func(s corev1.ContainerStatus) bool { return !s.Ready })
		Expect(s.RestartCount).To(BeZero(), "a container that is not ready is not restarted")
	})

	It("a container whose liveness probe fails is restarted", proof.Of("POD-PROBE-002"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "alive", script("touch /tmp/alive; sleep infinity"), func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe = probe(command("test", "-e", "/tmp/alive"))
		})
		shell(ctx, ns, "alive", "rm /tmp/alive")
		s := state(ctx, ns, "alive", "restarted and running", func(s corev1.ContainerStatus) bool { return restarted(s) && s.State.Running != nil })
		Expect(s.RestartCount).To(Equal(int32(1)))
		Expect(s.LastTerminationState.Terminated).To(HaveField("ExitCode", int32(137)))
		event(ctx, ns, "alive", "Unhealthy: Liveness probe failed", "")
		event(ctx, ns, "alive", "Killing: Container main failed liveness probe", "")
	})

	It("the startup probe holds back the others, and kills who never starts", proof.Of("POD-PROBE-003"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "probes")
		patient := probe(command("test", "-e", "/tmp/started"))
		patient.FailureThreshold = 100
		bed.Create(ctx, bed.Pod(ns, "slow", func(p *corev1.Pod) {
			c := &p.Spec.Containers[0]
			c.StartupProbe, c.LivenessProbe = patient, probe(command("test", "-e", "/tmp/started"))
		}))
		impatient := probe(command("false"))
		impatient.FailureThreshold = 2
		bed.Create(ctx, bed.Pod(ns, "never", once, func(p *corev1.Pod) { p.Spec.Containers[0].StartupProbe = impatient }))
		event(ctx, ns, "slow", "Unhealthy: Startup probe failed", "")
		s := state(ctx, ns, "slow", "running", isRunning)
		Expect(s).To(And(HaveField("Started", HaveValue(BeFalse())), HaveField("Ready", BeFalse())))
		shell(ctx, ns, "slow", "touch /tmp/started")
		p := bed.Ready(ctx, ns, "slow")
		Expect(p.Status.ContainerStatuses[0]).To(And(HaveField("Started", HaveValue(BeTrue())), HaveField("RestartCount", BeZero())))
		By("one that never starts")
		p = ended(ctx, ns, "never", corev1.PodFailed)
		Expect(p.Status.ContainerStatuses[0].State.Terminated).To(HaveField("ExitCode", int32(137)))
		event(ctx, ns, "never", "Unhealthy: Startup probe failed", "")
	})

	It("http and tcp probes reach the pod", proof.Of("POD-PROBE-004"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "probes")
		for name, probes := range map[string][2]corev1.ProbeHandler{
			"http":   {httpGet("/"), tcp(80)},
			"absent": {httpGet("/absent"), tcp(80)},
			"closed": {tcp(81), tcp(80)},
		} {
			bed.Create(ctx, bed.Pod(ns, name, server, func(p *corev1.Pod) {
				c := &p.Spec.Containers[0]
				c.ReadinessProbe, c.LivenessProbe = probe(probes[0]), probe(probes[1])
				c.LivenessProbe.FailureThreshold = 10
			}))
		}
		bed.Ready(ctx, ns, "http")
		event(ctx, ns, "absent", "Unhealthy: Readiness probe failed", "statuscode: 404")
		event(ctx, ns, "closed", "Unhealthy: Readiness probe failed", "connection refused")
		for _, name := range []string{"absent", "closed"} {
			Expect(state(ctx, ns, name, "running", isRunning).Ready).To(BeFalse())
		}
	})

	It("a probe that takes too long fails, and leaves no process behind", proof.Of("POD-PROBE-005"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "probes")
		bed.Create(ctx, bed.Pod(ns, "slow", func(p *corev1.Pod) {
			c := &p.Spec.Containers[0]
			c.ReadinessProbe = probe(command("sh", "-c", "[ -e /tmp/quick ] || exec sleep 1003"))
			c.ReadinessProbe.TimeoutSeconds = 1
		}))
		event(ctx, ns, "slow", "Unhealthy: Readiness probe failed", "timed out")
		shell(ctx, ns, "slow", "touch /tmp/quick")
		p := bed.Ready(ctx, ns, "slow")
		Expect(p).To(Satisfy(pod.IsReady))
		Eventually(ctx, func() string { return commands(ctx, ns, "slow") }).ShouldNot(ContainSubstring("sleep 1003"))
	})
})
