package agent_test

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc/codes"

	"github.com/coco-e2e/coco-e2e/framework/agentapi"
	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
)

func (t *target) signal(ctx context.Context, container, exec string, signal uint32) {
	GinkgoHelper()
	_, err := t.Agent.SignalProcess(ctx, &pb.SignalProcessRequest{ContainerId: container, ExecId: exec, Signal: signal})
	Expect(err).NotTo(HaveOccurred())
}

func (t *target) write(ctx context.Context, container, exec, text string) {
	GinkgoHelper()
	r, err := t.Agent.WriteStdin(ctx, &pb.WriteStreamRequest{ContainerId: container, ExecId: exec, Data: []byte(text)})
	Expect(err).NotTo(HaveOccurred())
	Expect(r.Len).To(BeEquivalentTo(len(text)))
}

// What the agent does once the policy has let it (Kata src/agent/src/rpc.rs).
var _ = Describe("A process", func() {
	It("ends with its exit code, or 128 and the signal", proof.Of("AGENT-PROCESS-001"), func(ctx SpecContext) {
		t := shared(ctx, allowAll())
		c := t.idle(ctx)
		for _, code := range []int32{0, 1, 42, 127, 128, 255} {
			Expect(t.wait(ctx, c, t.exec(ctx, c, "/bin/sh", "-c", fmt.Sprint("exit ", code)))).To(Equal(code))
		}
		for _, signal := range []uint32{1, 9, 15} {
			e := t.exec(ctx, c, "/bin/cat")
			t.signal(ctx, c, e, signal)
			Expect(t.wait(ctx, c, e)).To(BeEquivalentTo(128 + signal))
		}
	}, SpecTimeout(specTimeout))

	It("that is a container's first and does not handle SIGTERM is killed by it", proof.Of("AGENT-PROCESS-002"), func(ctx SpecContext) {
		t := shared(ctx, allowAll())
		c := t.idle(ctx)
		// Until it is the program that was asked for, it is the runtime, which handles all signals.
		Eventually(ctx, func() string { return t.output(ctx, c, "cat /proc/1/comm") }).Should(Equal("sleep\n"))
		t.signal(ctx, c, "", 15)
		Expect(t.wait(ctx, c, c)).To(BeEquivalentTo(128 + 9))
	}, SpecTimeout(specTimeout))

	It("that is a container's first and handles SIGTERM gets it", proof.Of("AGENT-PROCESS-003"), func(ctx SpecContext) {
		t := shared(ctx, allowAll())
		c := t.create(ctx, "/bin/sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do read x; done")
		t.start(ctx, c)
		r, err := t.Agent.ReadStdout(ctx, &pb.ReadStreamRequest{ContainerId: c, ExecId: c, Len: 100})
		Expect(err).NotTo(HaveOccurred())
		Expect(string(r.Data)).To(Equal("ready\n"))
		t.signal(ctx, c, "", 15)
		Expect(t.wait(ctx, c, c)).To(BeEquivalentTo(7))
	}, SpecTimeout(specTimeout))

	It("is killed with all of its container by a SIGKILL that names none", proof.Of("AGENT-PROCESS-004"), func(ctx SpecContext) {
		t := shared(ctx, allowAll())
		c := t.idle(ctx)
		e := t.exec(ctx, c, "/bin/cat")
		t.signal(ctx, c, "", 9)
		Expect(t.wait(ctx, c, e)).To(BeEquivalentTo(128 + 9))
		Expect(t.wait(ctx, c, c)).To(BeEquivalentTo(128 + 9))
	}, SpecTimeout(specTimeout))

	It("that several wait for tells each of them its code", proof.Of("AGENT-PROCESS-005"), func(ctx SpecContext) {
		t := shared(ctx, allowAll())
		c := t.idle(ctx)
		e := t.exec(ctx, c, "/bin/sh", "-c", "read x; exit 5")
		const waiters = 3
		codes, errs := make(chan int32, waiters), make(chan error, waiters)
		for range waiters {
			go func(other *agentapi.Client) {
				r, err := other.Agent.WaitProcess(ctx, &pb.WaitProcessRequest{ContainerId: c, ExecId: e})
				errs <- err
				codes <- r.GetStatus()
			}(t.dial(ctx))
		}
		Consistently(ctx, errs).WithTimeout(300*time.Millisecond).ShouldNot(Receive(), "the process waits for input")
		t.write(ctx, c, e, "\n")
		for range waiters {
			Eventually(ctx, errs).Should(Receive(BeNil()))
			Eventually(ctx, codes).Should(Receive(BeEquivalentTo(5)))
		}
	}, SpecTimeout(specTimeout))

	It("finds the end of its input when that is closed, or when no data is written", proof.Of("AGENT-PROCESS-006"), func(ctx SpecContext) {
		t := shared(ctx, allowAll())
		c := t.idle(ctx)
		for _, end := range []func(exec string) error{
			func(exec string) error {
				_, err := t.Agent.CloseStdin(ctx, &pb.CloseStdinRequest{ContainerId: c, ExecId: exec})
				return err
			},
			func(exec string) error {
				_, err := t.Agent.WriteStdin(ctx, &pb.WriteStreamRequest{ContainerId: c, ExecId: exec})
				return err
			},
		} {
			e := t.exec(ctx, c, "/bin/cat")
			t.write(ctx, c, e, "some text")
			Expect(end(e)).To(Succeed())
			Expect(t.read(ctx, c, e)).To(Equal("some text"))
			Expect(t.wait(ctx, c, e)).To(BeZero())
		}
	}, SpecTimeout(specTimeout))

	It("has its output read in pieces, also after its end", proof.Of("AGENT-PROCESS-007"), func(ctx SpecContext) {
		t := shared(ctx, allowAll())
		c := t.idle(ctx)
		e := t.exec(ctx, c, "/bin/sh", "-c", "echo -n abcdefgh; echo -n 12345 >&2")
		r, err := t.Agent.ReadStdout(ctx, &pb.ReadStreamRequest{ContainerId: c, ExecId: e, Len: 3})
		Expect(err).NotTo(HaveOccurred())
		Expect(string(r.Data)).To(Equal("abc"))
		Expect(t.read(ctx, c, e)).To(Equal("defgh"))
		r, err = t.Agent.ReadStderr(ctx, &pb.ReadStreamRequest{ContainerId: c, ExecId: e, Len: 100})
		Expect(err).NotTo(HaveOccurred())
		Expect(string(r.Data)).To(Equal("12345"))
	}, SpecTimeout(specTimeout))

	It("that takes more memory than its container has is killed, and the host is told", proof.Of("AGENT-PROCESS-008"), func(ctx SpecContext) {
		t := fresh(ctx, allowAll())
		w := t.witness(ctx)
		id := newID()
		// The script doubles a text until it does not fit any more.
		r := containerRequest(id, t.image, "/bin/sh", "-c", "read x; a=0123456789abcdef; while :; do a=$a$a; done")
		r.OCI.Linux.Resources.Memory = &pb.LinuxMemory{Limit: 32 << 20, Swap: 32 << 20}
		t.createAs(ctx, r)
		t.start(ctx, id)
		t.write(ctx, id, id, "\n")
		event, err := t.Agent.GetOOMEvent(ctx, &pb.GetOOMEventRequest{})
		Expect(err).NotTo(HaveOccurred())
		Expect(event.ContainerId).To(Equal(id))
		Expect(t.wait(ctx, id, id)).To(BeEquivalentTo(128 + 9))
		w.testify(ctx)
	}, SpecTimeout(specTimeout))

	It("with a terminal knows the size of its window", proof.Of("AGENT-PROCESS-009"), func(ctx SpecContext) {
		t := shared(ctx, allowAll())
		c := t.idle(ctx)
		r := execRequest(c, "/bin/sh", "-c", "read x; stty size")
		r.Process.Terminal = true
		_, err := t.Agent.ExecProcess(ctx, r)
		Expect(err).NotTo(HaveOccurred())
		_, err = t.Agent.TtyWinResize(ctx, &pb.TtyWinResizeRequest{ContainerId: c, ExecId: r.ExecId, Row: 33, Column: 121})
		Expect(err).NotTo(HaveOccurred())
		t.write(ctx, c, r.ExecId, "\n")
		Expect(t.read(ctx, c, r.ExecId)).To(HaveSuffix("33 121\r\n"))
		Expect(t.wait(ctx, c, r.ExecId)).To(BeZero())
	}, SpecTimeout(specTimeout))

	It("that cannot be started is an error of the request", proof.Of("AGENT-PROCESS-010"), func(ctx SpecContext) {
		t := shared(ctx, allowAll())
		w := t.witness(ctx)
		_, err := t.Agent.ExecProcess(ctx, execRequest(w.container, "/bin/no-such-program"))
		Expect(err).To(haveCode(codes.Internal))
		w.testify(ctx)
	}, SpecTimeout(specTimeout))
})

var _ = Describe("A sandbox", func() {
	It("gives the guest its name", proof.Of("AGENT-SANDBOX-001"), func(ctx SpecContext) {
		t := shared(ctx, allowAll())
		c := t.idle(ctx)
		Expect(t.output(ctx, c, "hostname")).To(Equal("lone\n"))
	}, SpecTimeout(specTimeout))

	It("that is destroyed ends the guest", proof.Of("AGENT-SANDBOX-002"), func(ctx SpecContext) {
		needsLone("it would be gone")
		t := fresh(ctx, allowAll())
		t.idle(ctx)
		_, err := t.Agent.DestroySandbox(ctx, &pb.DestroySandboxRequest{})
		Expect(err).NotTo(HaveOccurred())
		Eventually(ctx, func() error {
			c, err := agentapi.Dial(ctx, t.address)
			if err == nil {
				_, err = c.Health.Check(ctx, &pb.CheckRequest{})
				_ = c.Close()
			}
			return err
		}).Should(HaveOccurred())
	}, SpecTimeout(specTimeout))
})
