package pod_test

import (
	"context"
	"io"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/pod"
)

// attached runs an attachment until it ends by itself or by detach.
func attached(ctx context.Context, s pod.IO, ns, name string) (detach func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer GinkgoRecover()
		defer close(done)
		if err := bed.Pods.Attach(ctx, s, ns, name, ""); ctx.Err() == nil {
			Expect(err).NotTo(HaveOccurred())
		}
	}()
	detach = func() {
		cancel()
		<-done
	}
	DeferCleanup(detach)
	return detach
}

var _ = Describe("attach", Label("pod"), func() {
	It("connects to the container's own process, more than once", proof.Of("POD-ATTACH-001"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "attach", once, script(`while read -r line; do echo "got $line"; echo "saw $line" >&2; done; echo end of input`),
			func(p *corev1.Pod) { p.Spec.Containers[0].Stdin = true })
		for _, line := range []string{"first", "second"} {
			keys, typed := io.Pipe()
			out, stderr := gbytes.NewBuffer(), gbytes.NewBuffer()
			detach := attached(ctx, pod.IO{Stdin: keys, Stdout: out, Stderr: stderr}, ns, "attach")
			_, err := io.WriteString(typed, line+"\n")
			Expect(err).NotTo(HaveOccurred())
			Eventually(out).WithContext(ctx).Should(gbytes.Say("got " + line + "\n"))
			Eventually(stderr).WithContext(ctx).Should(gbytes.Say("saw " + line + "\n"))
			detach()
			typed.Close()
		}
		By("which runs on when the user goes, and logged it all")
		p := bed.Ready(ctx, ns, "attach")
		Expect(p.Status.ContainerStatuses[0].RestartCount).To(BeZero())
		Expect(lines(logs(ctx, ns, "attach", corev1.PodLogOptions{}), "got ")).To(Equal([]string{"got first", "got second"}))
	})

	It("with stdinOnce, the first user's leaving ends the input", proof.Of("POD-ATTACH-002"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "attach", once, script(`cat; echo end of input`), func(p *corev1.Pod) {
			p.Spec.Containers[0].Stdin, p.Spec.Containers[0].StdinOnce = true, true
		})
		keys, typed := io.Pipe()
		out := gbytes.NewBuffer()
		attached(ctx, pod.IO{Stdin: keys, Stdout: out}, ns, "attach")
		_, err := io.WriteString(typed, "some input\n")
		Expect(err).NotTo(HaveOccurred())
		Eventually(out).WithContext(ctx).Should(gbytes.Say("some input\n"))
		Expect(typed.Close()).To(Succeed())
		ended(ctx, ns, "attach", corev1.PodSucceeded)
		Expect(logs(ctx, ns, "attach", corev1.PodLogOptions{})).To(Equal("some input\nend of input\n"))
	})

	It("reaches the container's terminal", proof.Of("POD-ATTACH-003"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "attach", func(p *corev1.Pod) {
			c := &p.Spec.Containers[0]
			c.Command, c.Stdin, c.TTY = []string{"sh"}, true, true
		})
		keys, typed := io.Pipe()
		defer typed.Close()
		out := gbytes.NewBuffer()
		sizes := make(chan remotecommand.TerminalSize, 1)
		sizes <- remotecommand.TerminalSize{Height: 22, Width: 99}
		attached(ctx, pod.IO{Stdin: keys, Stdout: out, TTY: true, Sizes: sizes}, ns, "attach")
		types := func(text string) {
			_, err := io.WriteString(typed, text)
			Expect(err).NotTo(HaveOccurred())
		}
		// The terminal echoes what is typed before or after the shell prints its prompt, so an answer may follow a prompt.
		types("echo $$ $(tty) $((6*7))\n")
		Eventually(out).WithContext(ctx).Should(gbytes.Say(`\b1 /dev/(pts/0|console) 42\r\n`))
		types("until [ \"$(stty size)\" = '22 99' ]; do sleep 0.1; done; stty size\n")
		Eventually(out).WithContext(ctx).Should(gbytes.Say(`\b22 99\r\n`))
		By("whose exit ends the container's process")
		types("exit 3\n")
		p := bed.WaitPod(ctx, ns, "attach", "restarted", func(p *corev1.Pod) (bool, error) {
			return p.Status.ContainerStatuses[0].LastTerminationState.Terminated != nil || p.Status.ContainerStatuses[0].State.Terminated != nil, nil
		})
		status := p.Status.ContainerStatuses[0]
		last := status.LastTerminationState.Terminated
		if last == nil {
			last = status.State.Terminated
		}
		Expect(last.ExitCode).To(Equal(int32(3)))
		Expect(last.FinishedAt.Time).To(BeTemporally("~", time.Now(), time.Minute))
	})
})
