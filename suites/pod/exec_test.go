package pod_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// limit bounds a spec: each takes seconds, and an idle machine a few.
const limit = 90 * time.Second

// script makes a pod's container run text in a shell. The shell is the
// container's first process, and so gets its signals.
func script(text string) func(*corev1.Pod) {
	text = strings.ReplaceAll(text, "$$", "$$$$") // of which Kubernetes takes half
	return func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"sh", "-c", text} }
}

// running makes a pod and waits until it is Ready; it returns its namespace.
func running(ctx context.Context, name string, edits ...func(*corev1.Pod)) string {
	GinkgoHelper()
	return runningIn(ctx, bed.Namespace(ctx, "pod"), name, edits...)
}

// privileged is running for a pod that asks for something of the node, or for
// more than containers have.
func privileged(ctx context.Context, name string, edits ...func(*corev1.Pod)) string {
	GinkgoHelper()
	return runningIn(ctx, bed.PrivilegedNamespace(ctx, "pod"), name, edits...)
}

func runningIn(ctx context.Context, ns, name string, edits ...func(*corev1.Pod)) string {
	GinkgoHelper()
	bed.Create(ctx, bed.Pod(ns, name, edits...))
	bed.Ready(ctx, ns, name)
	return ns
}

// shell runs text in the shell of a pod's first container and returns what it
// printed; it must succeed.
func shell(ctx context.Context, ns, name, text string) string {
	GinkgoHelper()
	r, err := bed.Pods.Exec(ctx, ns, name, suite.Container, "sh", "-c", text)
	Expect(err).NotTo(HaveOccurred())
	Expect(r.ExitCode).To(BeZero(), "%s\n%+v", text, r)
	return r.Stdout
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func sum(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

var _ = Describe("exec", Label("pod"), func() {
	It("gives back the command's exit code, and its output stream by stream", proof.Of("POD-EXEC-001"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "exec", func(p *corev1.Pod) { p.Spec.Containers[0].WorkingDir = "/usr/share" })
		var results [256]pod.Result
		var errs [256]error
		var all errgroup.Group
		all.SetLimit(8)
		for code := range results {
			all.Go(func() error {
				results[code], errs[code] = bed.Pods.Exec(ctx, ns, "exec", "", "sh", "-c", "exit "+strconv.Itoa(code))
				return nil
			})
		}
		Expect(all.Wait()).To(Succeed())
		for code, r := range results {
			Expect(errs[code]).NotTo(HaveOccurred())
			Expect(r).To(Equal(pod.Result{ExitCode: code}))
		}
		By("a process that dies of a signal has 128 and the signal's number")
		for signal, code := range map[string]int{"KILL": 137, "TERM": 143, "INT": 130} {
			r, err := bed.Pods.Exec(ctx, ns, "exec", "", "sh", "-c", "kill -"+signal+" $$")
			Expect(err).NotTo(HaveOccurred())
			Expect(r.ExitCode).To(Equal(code), signal)
		}
		By("what goes to stdout and stderr stays apart")
		r, err := bed.Pods.Exec(ctx, ns, "exec", "", "sh", "-c", "echo out; echo err >&2; pwd; exit 3")
		Expect(err).NotTo(HaveOccurred())
		Expect(r).To(Equal(pod.Result{Stdout: "out\n/usr/share\n", Stderr: "err\n", ExitCode: 3}))
		By("a command that is not there is an error that is not the policy's")
		r, err = bed.Pods.Exec(ctx, ns, "exec", "", "/no/such/command")
		Expect(err).To(MatchError(ContainSubstring("/no/such/command")))
		Expect(pod.Classify(r, err)).To(HaveField("Outcome", pod.Inconclusive))
	})

	It("carries megabytes both ways intact", proof.Of("POD-EXEC-002"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "exec")
		data := random(3 << 20)
		By("through stdin and stdout of one command")
		var out, stderr bytes.Buffer
		code, err := bed.Pods.ExecIO(ctx, pod.IO{Stdin: bytes.NewReader(data), Stdout: &out, Stderr: &stderr}, ns, "exec", "", "tee", "/tmp/data")
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(BeZero(), stderr.String())
		Expect(sum(out.Bytes())).To(Equal(sum(data)), "%d bytes of %d came back", out.Len(), len(data))
		Expect(shell(ctx, ns, "exec", "sha256sum </tmp/data")).To(HavePrefix(sum(data)))
		By("the end of stdin reaches a command, with nothing in it as well")
		r, err := bed.Pods.ExecStdin(ctx, strings.NewReader(""), ns, "exec", "", "wc", "-c")
		Expect(err).NotTo(HaveOccurred())
		Expect(r).To(Equal(pod.Result{Stdout: "0\n"}))
		By("a command that does not read its stdin ends all the same")
		r, err = bed.Pods.ExecStdin(ctx, bytes.NewReader(data), ns, "exec", "", "sh", "-c", "exit 7")
		Expect(err).NotTo(HaveOccurred())
		Expect(r.ExitCode).To(Equal(7))
	})

	It("runs many sessions at a time, each with its own streams", proof.Of("POD-EXEC-003"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "exec")
		results, errs := make([]pod.Result, 12), make([]error, 12)
		var all sync.WaitGroup
		for i := range results {
			all.Go(func() {
				results[i], errs[i] = bed.Pods.ExecStdin(ctx, strings.NewReader(fmt.Sprintf("session %d\n", i)), ns, "exec", "",
					"sh", "-c", fmt.Sprintf("cat; echo %d >&2; exit %d", i, i))
			})
		}
		all.Wait()
		for i, r := range results {
			Expect(errs[i]).NotTo(HaveOccurred())
			Expect(r).To(Equal(pod.Result{Stdout: fmt.Sprintf("session %d\n", i), Stderr: fmt.Sprintf("%d\n", i), ExitCode: i}))
		}
	})

	It("has a terminal when asked, whose size follows the user's", proof.Of("POD-EXEC-004"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "exec")
		By("without -t there is none")
		r, err := bed.Pods.Exec(ctx, ns, "exec", "", "sh", "-c", "test -t 0 || test -t 1 || echo none")
		Expect(err).NotTo(HaveOccurred())
		Expect(r.Stdout).To(Equal("none\n"))

		t := openTerminal(ctx, ns, "exec", 33, 101)
		t.types("echo TERM is $TERM\n")
		Eventually(t.screen).WithContext(ctx).Should(gbytes.Say("TERM is xterm\r\n"))
		t.waitSize(ctx, "33 101")
		By("resizing")
		t.sizes <- remotecommand.TerminalSize{Height: 40, Width: 132}
		t.waitSize(ctx, "40 132")
		By("what is typed is a terminal's: ^C interrupts, ^D ends")
		t.types("sleep 1000\n")
		Eventually(t.screen).WithContext(ctx).Should(gbytes.Say("sleep 1000\r\n"))
		eventuallyRuns(ctx, ns, "exec", "sleep 1000")
		t.types("\x03")
		t.types("echo code $?\n")
		Eventually(t.screen).WithContext(ctx).Should(gbytes.Say("code 130\r\n"))
		t.types("(exit 5)\n\x04")
		Eventually(t.done).WithContext(ctx).Should(Receive(Equal(5)))
	})

	It("leaves its process behind when the user goes away", proof.Of("POD-EXEC-005"), SpecTimeout(limit), func(ctx SpecContext) {
		// Nothing tells the guest: Kata's shim sends no signal then.
		ns := running(ctx, "exec")
		session, leave := context.WithCancel(ctx)
		left := make(chan error, 1)
		go func() {
			_, err := bed.Pods.Exec(session, ns, "exec", "", "sh", "-c", "while :; do printf . >>/tmp/beats; sleep 0.1; done")
			left <- err
		}()
		beats := func() int { return len(shell(ctx, ns, "exec", "cat /tmp/beats || true")) }
		Eventually(ctx, beats).Should(BeNumerically(">", 0))
		leave()
		Eventually(left).WithContext(ctx).Should(Receive(MatchError(context.Canceled)))
		Eventually(ctx, beats).WithPolling(100 * time.Millisecond).Should(BeNumerically(">", beats()+20))
	})

	It("ends when the container does", proof.Of("POD-EXEC-006"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "exec", script("trap 'exit 0' USR1; while :; do sleep 0.1; done"), func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
		})
		ended := make(chan struct{})
		go func() {
			defer GinkgoRecover()
			defer close(ended)
			r, err := bed.Pods.Exec(ctx, ns, "exec", "", "sleep", "1001")
			// Killed with the container, or its exit code went with it.
			Expect(err).NotTo(HaveOccurred())
			Expect(r.ExitCode).To(BeElementOf(137, 255))
		}()
		eventuallyRuns(ctx, ns, "exec", "sleep 1001")
		// The container may end before this exec's own end is known.
		_, _ = bed.Pods.Exec(ctx, ns, "exec", "", "sh", "-c", "kill -USR1 1")
		Eventually(ended).WithContext(ctx).Should(BeClosed())
		bed.WaitPod(ctx, ns, "exec", "Succeeded", func(p *corev1.Pod) (bool, error) { return p.Status.Phase == corev1.PodSucceeded, nil })
	})
})

// commands lists the container's processes.
func commands(ctx context.Context, ns, name string) string {
	GinkgoHelper()
	return shell(ctx, ns, name, "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\000' ' '")
}

// eventuallyRuns waits until one of the container's processes is command.
func eventuallyRuns(ctx context.Context, ns, name, command string) {
	GinkgoHelper()
	Eventually(ctx, func() string { return commands(ctx, ns, name) }).WithPolling(100 * time.Millisecond).Should(ContainSubstring(command))
}

// terminal is a person's at `kubectl exec -it … sh`.
type terminal struct {
	screen *gbytes.Buffer
	sizes  chan remotecommand.TerminalSize
	done   chan int // the exit code
	keys   io.Writer
}

func openTerminal(ctx context.Context, ns, name string, height, width uint16) *terminal {
	r, w := io.Pipe()
	t := &terminal{screen: gbytes.NewBuffer(), sizes: make(chan remotecommand.TerminalSize, 1), done: make(chan int, 1), keys: w}
	t.sizes <- remotecommand.TerminalSize{Height: height, Width: width}
	DeferCleanup(w.Close)
	go func() {
		defer GinkgoRecover()
		code, err := bed.Pods.ExecIO(ctx, pod.IO{Stdin: r, Stdout: t.screen, TTY: true, Sizes: t.sizes}, ns, name, "", "sh")
		Expect(err).NotTo(HaveOccurred())
		t.done <- code
	}()
	return t
}

// waitSize waits until the terminal has a size: sizes and what is typed take
// different ways to the guest.
func (t *terminal) waitSize(ctx context.Context, size string) {
	GinkgoHelper()
	t.types("until [ \"$(stty size)\" = '" + size + "' ]; do sleep 0.1; done; echo it is $(stty size)\n")
	Eventually(t.screen).WithContext(ctx).Should(gbytes.Say("it is " + size + "\r\n"))
}

func (t *terminal) types(keys string) {
	GinkgoHelper()
	_, err := io.WriteString(t.keys, keys)
	Expect(err).NotTo(HaveOccurred())
}
