package pod_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

func limits(cpu, memory string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
		}
	}
}

func container(name, text string) corev1.Container {
	return corev1.Container{Name: name, Image: bed.Nginx, Command: []string{"sh", "-c", text}}
}

// second gives the pod one more container.
func second(name, text string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, container(name, text)) }
}

// before gives the pod one more init container.
func before(name, text string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.InitContainers = append(p.Spec.InitContainers, container(name, text)) }
}

func restart(policy corev1.RestartPolicy) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.RestartPolicy = policy }
}

// gone waits until there is no such pod.
func gone(ctx context.Context, ns, name string) {
	GinkgoHelper()
	Eventually(ctx, func() bool {
		_, err := bed.Pods.Kube.CoreV1().Pods(ns).Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	}).WithPolling(100 * time.Millisecond).Should(BeTrue())
}

// terminated is how the pod's first container ended.
func terminated(p *corev1.Pod) *corev1.ContainerStateTerminated {
	GinkgoHelper()
	Expect(p.Status.ContainerStatuses).NotTo(BeEmpty())
	Expect(p.Status.ContainerStatuses[0].State.Terminated).NotTo(BeNil())
	return p.Status.ContainerStatuses[0].State.Terminated
}

var _ = Describe("containers of a pod", Label("pod"), func() {
	It("init containers run one after the other, then all containers at once", proof.Of("POD-CONTAINER-001"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "init", script("echo main >>/kept/order; until grep -q second /kept/order; do sleep 0.1; done; sleep infinity"),
			second("second", "until grep -q main /kept/order; do sleep 0.1; done; echo second >>/kept/order; sleep infinity"),
			before("one", "sleep 0.5; echo one >>/kept/order"), before("two", "echo two >>/kept/order; echo two says"), emptyDir("/kept"))
		Eventually(ctx, func() string { return shell(ctx, ns, "init", "cat /kept/order") }).Should(Equal("one\ntwo\nmain\nsecond\n"))
		p := bed.Ready(ctx, ns, "init")
		for _, s := range p.Status.InitContainerStatuses {
			Expect(s.State.Terminated).To(HaveField("Reason", "Completed"), s.Name)
		}
		Expect(logs(ctx, ns, "init", corev1.PodLogOptions{Container: "two"})).To(Equal("two says\n"))
		r, err := bed.Pods.Exec(ctx, ns, "init", "second", "sh", "-c", "cat /proc/1/cmdline")
		Expect(err).NotTo(HaveOccurred())
		Expect(r.Stdout).To(ContainSubstring("echo second"), "exec reaches the container that it names")
	})

	It("an init container that fails keeps the others from running", proof.Of("POD-CONTAINER-002"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "init")
		bed.Create(ctx, bed.Pod(ns, "init", once, before("bad", "exit 6"), before("next", "true")))
		p := ended(ctx, ns, "init", corev1.PodFailed)
		Expect(p.Status.InitContainerStatuses[0].State.Terminated).To(HaveField("ExitCode", int32(6)))
		Expect(p.Status.InitContainerStatuses[1].State.Terminated).To(BeNil())
		bed.NeverRan(ctx, ns, "init")
	})

	It("a sidecar runs before the containers and ends after them", proof.Of("POD-CONTAINER-003"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "sidecar")
		always := corev1.ContainerRestartPolicyAlways
		bed.Create(ctx, bed.Pod(ns, "sidecar", once, script("until [ -e /kept/up ]; do sleep 0.1; done; exit 0"),
			before("helper", "touch /kept/up; trap 'exit 0' QUIT TERM; while :; do sleep 0.1; done"), emptyDir("/kept"),
			func(p *corev1.Pod) { p.Spec.InitContainers[0].RestartPolicy = &always }))
		p := ended(ctx, ns, "sidecar", corev1.PodSucceeded)
		helper := p.Status.InitContainerStatuses[0].State.Terminated
		Expect(helper).To(HaveField("ExitCode", BeZero()))
		Expect(helper.FinishedAt.Time).NotTo(BeTemporally("<", terminated(p).FinishedAt.Time))
	})

	It("an ephemeral container joins a running pod, as kubectl debug has it", proof.Of("POD-CONTAINER-004"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "debug", server)
		debug(ctx, ns, "debug", corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: "debugger", Command: []string{"sh", "-c", "curl -s http://127.0.0.1/; exec sleep infinity"},
		}})
		Eventually(ctx, func() string { return logs(ctx, ns, "debug", corev1.PodLogOptions{Container: "debugger"}) }).
			WithPolling(100 * time.Millisecond).Should(ContainSubstring("Welcome to nginx"))
		r, err := bed.Pods.Exec(ctx, ns, "debug", "debugger", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\000' ' '")
		Expect(err).NotTo(HaveOccurred())
		Expect(r.Stdout).To(And(ContainSubstring("sleep infinity"), Not(ContainSubstring("nginx: "))))
		By("with a target it joins the sandbox's processes, not the target's: Kata knows no other namespace (kata_agent.go, handlePidNamespace)")
		debug(ctx, ns, "debug", corev1.EphemeralContainer{TargetContainerName: suite.Container, EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: "targeted", Command: []string{"sleep", "infinity"},
		}})
		r, err = bed.Pods.Exec(ctx, ns, "debug", "targeted", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\000' ' '")
		Expect(err).NotTo(HaveOccurred())
		Expect(r.Stdout).To(And(HavePrefix("/pause"), ContainSubstring("sleep infinity"), Not(ContainSubstring("nginx: "))))
		Expect(bed.Ready(ctx, ns, "debug").Status.ContainerStatuses[0].RestartCount).To(BeZero())
	})
})

// debug adds an ephemeral container to a pod and waits until it runs.
func debug(ctx context.Context, ns, name string, c corev1.EphemeralContainer) {
	GinkgoHelper()
	c.Image = bed.Nginx
	p := bed.Ready(ctx, ns, name)
	p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, c)
	_, err := bed.Pods.Kube.CoreV1().Pods(ns).UpdateEphemeralContainers(ctx, name, p, metav1.UpdateOptions{})
	Expect(err).NotTo(HaveOccurred())
	bed.WaitPod(ctx, ns, name, "debugged by "+c.Name, func(p *corev1.Pod) (bool, error) {
		for _, s := range p.Status.EphemeralContainerStatuses {
			if s.Name == c.Name && s.State.Terminated != nil {
				return false, fmt.Errorf("the debugger ended: %+v", s.State.Terminated)
			}
			if s.Name == c.Name && s.State.Running != nil {
				return true, nil
			}
		}
		return false, nil
	})
}

var _ = Describe("the end of a container", Label("pod"), func() {
	DescribeTable("is followed by what the restart policy says", proof.Of("POD-CONTAINER-005"), func(ctx SpecContext, policy corev1.RestartPolicy, code int32, want corev1.PodPhase) {
		ns := bed.Namespace(ctx, "restart")
		bed.Create(ctx, bed.Pod(ns, "restart", restart(policy), script(fmt.Sprintf("exit %d", code))))
		reason := map[bool]string{true: "Completed", false: "Error"}[code == 0]
		if want == corev1.PodRunning {
			s := state(ctx, ns, "restart", "restarted", func(s corev1.ContainerStatus) bool { return s.RestartCount >= 1 })
			Expect(s.LastTerminationState.Terminated).To(And(HaveField("ExitCode", code), HaveField("Reason", reason)))
			return
		}
		p := ended(ctx, ns, "restart", want)
		Expect(terminated(p)).To(And(HaveField("ExitCode", code), HaveField("Reason", reason)))
		Expect(p.Status.ContainerStatuses[0].RestartCount).To(BeZero())
	},
		Entry("Always, after success", SpecTimeout(limit), corev1.RestartPolicyAlways, int32(0), corev1.PodRunning),
		Entry("Always, after failure", SpecTimeout(limit), corev1.RestartPolicyAlways, int32(3), corev1.PodRunning),
		Entry("OnFailure, after success", SpecTimeout(limit), corev1.RestartPolicyOnFailure, int32(0), corev1.PodSucceeded),
		Entry("OnFailure, after failure", SpecTimeout(limit), corev1.RestartPolicyOnFailure, int32(255), corev1.PodRunning),
		Entry("Never, after success", SpecTimeout(limit), corev1.RestartPolicyNever, int32(0), corev1.PodSucceeded),
		Entry("Never, after failure", SpecTimeout(limit), corev1.RestartPolicyNever, int32(42), corev1.PodFailed),
	)

	It("by a signal is told by its exit code", proof.Of("POD-CONTAINER-006"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "signal")
		// The first process of a container does not die of a signal that it
		// sends itself: a child does, and its parent says so.
		bed.Create(ctx, bed.Pod(ns, "term", once, script("sh -c 'kill -TERM $$'; exit $?")))
		bed.Create(ctx, bed.Pod(ns, "kill", once, script("sh -c 'kill -KILL $$'; exit $?")))
		Expect(terminated(ended(ctx, ns, "term", corev1.PodFailed)).ExitCode).To(Equal(int32(143)))
		Expect(terminated(ended(ctx, ns, "kill", corev1.PodFailed)).ExitCode).To(Equal(int32(137)))
	})

	It("for want of memory is told as such", proof.Of("POD-CONTAINER-007"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "oom")
		bed.Create(ctx, bed.Pod(ns, "oom", once, limits("1", "64Mi"), func(p *corev1.Pod) {
			p.Spec.Containers[0].Command = []string{"tail", "/dev/zero"}
		}))
		Expect(terminated(ended(ctx, ns, "oom", corev1.PodFailed))).To(And(HaveField("Reason", "OOMKilled"), HaveField("ExitCode", int32(137))))
	})

	It("has a message from its log, and none from its file, which stays in the guest", proof.Of("POD-CONTAINER-008"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "message")
		for name, policy := range map[string]corev1.TerminationMessagePolicy{
			"file": corev1.TerminationMessageReadFile, "log": corev1.TerminationMessageFallbackToLogsOnError,
		} {
			bed.Create(ctx, bed.Pod(ns, name, once, script("echo in the file >/dev/termination-log; cat /dev/termination-log; echo in the log; exit 1"),
				func(p *corev1.Pod) { p.Spec.Containers[0].TerminationMessagePolicy = policy }))
		}
		Expect(terminated(ended(ctx, ns, "log", corev1.PodFailed)).Message).To(Equal("in the file\nin the log\n"))
		// Nothing brings it back to the node in guest pull without a shared file
		// system: cloud-api-adaptor issue 2220, kata-containers issue 10758.
		Expect(terminated(ended(ctx, ns, "file", corev1.PodFailed)).Message).To(BeEmpty())
	})
})

var _ = Describe("the deletion of a pod", Label("pod"), func() {
	It("gives its process the time that it needs, within the grace period", proof.Of("POD-CONTAINER-009"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "grace", once, grace(30), untilTold("sleep 1; echo done; exit 7"))
		said, end, took := farewell(ctx, ns, "grace")
		Expect(said).To(Equal(stopSignal + "\ndone\n"))
		Expect(end).To(And(HaveField("ExitCode", int32(7)), HaveField("Reason", "Error")))
		Expect(took).To(BeNumerically("<", 15*time.Second))
		gone(ctx, ns, "grace")
	})

	It("kills a process that does not end in time", proof.Of("POD-CONTAINER-010"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "grace", once, grace(2), untilTold("echo not now"))
		said, end, took := farewell(ctx, ns, "grace")
		Expect(said).To(Equal(stopSignal + "\nnot now\n"))
		Expect(end.ExitCode).To(Equal(int32(137)))
		Expect(took).To(And(BeNumerically(">=", 2*time.Second), BeNumerically("<", 20*time.Second)))
		gone(ctx, ns, "grace")
	})

	It("with no grace takes the pod away at once", proof.Of("POD-CONTAINER-011"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "now", grace(30), untilTold("echo not now"))
		now := int64(0)
		Expect(bed.Pods.Kube.CoreV1().Pods(ns).Delete(ctx, "now", metav1.DeleteOptions{GracePeriodSeconds: &now})).To(Succeed())
		gone(ctx, ns, "now")
	})
})

var _ = Describe("limits", Label("pod"), func() {
	It("are those of the container's cgroup in the guest", proof.Of("POD-CONTAINER-012"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "limits", limits("250m", "96Mi"), second("free", "sleep infinity"))
		const read = `if [ -e /sys/fs/cgroup/memory.max ]; then cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max
			else cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes; echo $(cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us); fi`
		Expect(shell(ctx, ns, "limits", read)).To(Equal("100663296\n25000 100000\n"))
		r, err := bed.Pods.Exec(ctx, ns, "limits", "free", "sh", "-c", read)
		Expect(err).NotTo(HaveOccurred())
		f := strings.Fields(r.Stdout)
		Expect(f).To(HaveLen(3))
		Expect(f[1]).To(BeElementOf("max", "-1", "0"), "a container without limits has none")
		By("the quota holds")
		Expect(shell(ctx, ns, "limits", `timeout 2 sh -c 'while :; do :; done'
			if [ -e /sys/fs/cgroup/cpu.stat ]; then f=/sys/fs/cgroup/cpu.stat; else f=/sys/fs/cgroup/cpu/cpu.stat; fi
			sed -n 's/^nr_throttled //p' $f`)).NotTo(Equal("0\n"))
	})
})
