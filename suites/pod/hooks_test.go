package pod_test

import (
	"bufio"
	"context"
	"io"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
)

func hook(text string) *corev1.LifecycleHandler {
	return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", text}}}
}

func hooks(postStart, preStop *corev1.LifecycleHandler) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: postStart, PreStop: preStop}
	}
}

func grace(seconds int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = &seconds }
}

// farewell deletes a pod whose container is untilTold, once it is ready to be
// told, and tells what the container said from then to its end, how it ended,
// and how long that took. A container runs, and its pod is Ready, before its
// shell has set the first trap.
func farewell(ctx context.Context, ns, name string) (said string, end *corev1.ContainerStateTerminated, took time.Duration) {
	GinkgoHelper()
	stream, err := bed.Pods.LogStream(ctx, ns, name, corev1.PodLogOptions{Follow: true})
	Expect(err).NotTo(HaveOccurred())
	defer stream.Close()
	lines := bufio.NewReader(stream)
	first, err := lines.ReadString('\n')
	Expect(err).NotTo(HaveOccurred(), "the container ended before it was ready, and said %q", first)
	Expect(first).To(Equal("ready\n"))
	log := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(lines)
		log <- string(b)
	}()
	terminated := make(chan *corev1.ContainerStateTerminated, 1)
	go func() {
		defer GinkgoRecover()
		terminated <- state(ctx, ns, name, "terminated", func(s corev1.ContainerStatus) bool { return s.State.Terminated != nil }).State.Terminated
	}()
	start := time.Now()
	Expect(bed.Pods.Kube.CoreV1().Pods(ns).Delete(ctx, name, metav1.DeleteOptions{})).To(Succeed())
	Eventually(log).WithContext(ctx).Should(Receive(&said))
	took = time.Since(start)
	Eventually(terminated).WithContext(ctx).Should(Receive(&end))
	return said, end, took
}

// untilTold names the signal that it gets, and then does what is in then.
func untilTold(then string) func(*corev1.Pod) {
	return script("trap 'echo TERM; " + then + "' TERM; trap 'echo QUIT; " + then + "' QUIT; echo ready; while :; do sleep 0.1; done")
}

// stopSignal is what nginx's image wants to be stopped with, and so what a
// container gets unless the pod has another wish.
const stopSignal = "QUIT"

var _ = Describe("lifecycle hooks", Label("pod"), func() {
	It("postStart runs in the container before it counts as running, preStop before its signal to stop", proof.Of("POD-HOOK-001"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "hooks", once, grace(30), untilTold("exit 3"),
			hooks(hook("sleep 0.5; echo $$ >/tmp/post"), hook("sleep 0.5; echo preStop >/proc/1/fd/1")))
		Expect(shell(ctx, ns, "hooks", "cat /tmp/post")).NotTo(BeEmpty())
		said, end, _ := farewell(ctx, ns, "hooks")
		Expect(said).To(Equal("preStop\n" + stopSignal + "\n"))
		Expect(end.ExitCode).To(Equal(int32(3)))
	})

	It("a postStart that fails kills the container", proof.Of("POD-HOOK-002"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "hooks")
		bed.Create(ctx, bed.Pod(ns, "hooks", hooks(hook("exit 4"), nil)))
		event(ctx, ns, "hooks", "FailedPostStartHook: ", "PostStartHook failed")
		s := state(ctx, ns, "hooks", "restarted", restarted)
		Expect(s.LastTerminationState.Terminated).To(HaveField("ExitCode", int32(137)))
		event(ctx, ns, "hooks", "Killing: ", "FailedPostStartHook")
	})

	It("a preStop that fails, or that takes too long, does not keep the pod", proof.Of("POD-HOOK-003"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "hooks")
		bed.Create(ctx, bed.Pod(ns, "fails", once, grace(30), untilTold("exit 0"), hooks(nil, hook("exit 5"))))
		bed.Create(ctx, bed.Pod(ns, "hangs", once, grace(2), untilTold("exit 0"), hooks(nil, hook("sleep 1004"))))
		bed.Ready(ctx, ns, "fails")
		bed.Ready(ctx, ns, "hangs")
		said, end, took := farewell(ctx, ns, "fails")
		Expect(said).To(Equal(stopSignal + "\n"))
		Expect(end.ExitCode).To(BeZero())
		Expect(took).To(BeNumerically("<", 15*time.Second), "it had 30 s, and needed none")
		event(ctx, ns, "fails", "FailedPreStopHook: ", "PreStopHook failed")
		By("the grace period covers preStop too; then the container is told to end at last")
		said, _, took = farewell(ctx, ns, "hangs")
		Expect(took).To(BeNumerically(">=", 2*time.Second))
		Expect(took).To(BeNumerically("<", 20*time.Second))
		Expect(strings.TrimSpace(said)).To(BeElementOf(stopSignal, ""))
	})
})
