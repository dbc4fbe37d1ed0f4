package agent_test

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc/codes"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
)

// failInternally matches an error that is neither the policy's nor a lookup's:
// the agent has no other code for it, and its words are those of what it is
// made with.
func failInternally() OmegaMatcher { return haveCode(codes.Internal) }

// noContainer is the agent's answer to the id of a container that there is not.
func noContainer() OmegaMatcher { return beInternal("Invalid container id") }

// unknownContainer is how each RPC that names a container says that there is
// none, and unknownProcess how each that names a process says that there is no
// such process of a container (Kata src/agent/src/rpc.rs).
func unknownContainer(rpc, id string) OmegaMatcher {
	switch rpc {
	case "StartContainer", "RemoveContainer", "ExecProcess":
		return noContainer()
	case "UpdateContainer", "StatsContainer", "PauseContainer", "ResumeContainer":
		return beStatus(codes.InvalidArgument, `"invalid container id"`)
	case "GetDiagnosticData":
		return beInternal("Invalid container id: " + id)
	case "WriteStdin":
		return noContainer()
	}
	return beStatus(codes.InvalidArgument, "InvalidContainerId")
}

func unknownProcess(rpc string) OmegaMatcher {
	if rpc == "WriteStdin" {
		return beInternal("Process not found: invalid exec id")
	}
	return beStatus(codes.NotFound, "InvalidExecId")
}

// witness is a process whose container nobody has touched as long as it answers.
type witness struct {
	*target
	container, exec string
}

func (t *target) witness(ctx context.Context) witness {
	GinkgoHelper()
	w := witness{target: t, container: t.idle(ctx)}
	w.exec = t.exec(ctx, w.container, "/bin/cat")
	return w
}

// testify checks that the process still answers.
func (w witness) testify(ctx context.Context) {
	GinkgoHelper()
	w.expectHealthy(ctx)
	word := newID()[:8]
	_, err := w.Agent.WriteStdin(ctx, &pb.WriteStreamRequest{ContainerId: w.container, ExecId: w.exec, Data: []byte(word)})
	Expect(err).NotTo(HaveOccurred())
	r, err := w.Agent.ReadStdout(ctx, &pb.ReadStreamRequest{ContainerId: w.container, ExecId: w.exec, Len: 100})
	Expect(err).NotTo(HaveOccurred())
	Expect(string(r.Data)).To(Equal(word))
}

// byContainer are the RPCs that name a container, and for a process "exec".
var byContainer = map[string]func(ctx context.Context, a pb.AgentServiceService, id, exec string) error{
	"StartContainer": func(ctx context.Context, a pb.AgentServiceService, id, _ string) error {
		_, err := a.StartContainer(ctx, &pb.StartContainerRequest{ContainerId: id})
		return err
	},
	"RemoveContainer": func(ctx context.Context, a pb.AgentServiceService, id, _ string) error {
		_, err := a.RemoveContainer(ctx, &pb.RemoveContainerRequest{ContainerId: id})
		return err
	},
	"ExecProcess": func(ctx context.Context, a pb.AgentServiceService, id, _ string) error {
		_, err := a.ExecProcess(ctx, execRequest(id, "/bin/echo"))
		return err
	},
	"UpdateContainer": func(ctx context.Context, a pb.AgentServiceService, id, _ string) error {
		_, err := a.UpdateContainer(ctx, &pb.UpdateContainerRequest{ContainerId: id, Resources: &pb.LinuxResources{}})
		return err
	},
	"StatsContainer": func(ctx context.Context, a pb.AgentServiceService, id, _ string) error {
		_, err := a.StatsContainer(ctx, &pb.StatsContainerRequest{ContainerId: id})
		return err
	},
	"PauseContainer": func(ctx context.Context, a pb.AgentServiceService, id, _ string) error {
		_, err := a.PauseContainer(ctx, &pb.PauseContainerRequest{ContainerId: id})
		return err
	},
	"ResumeContainer": func(ctx context.Context, a pb.AgentServiceService, id, _ string) error {
		_, err := a.ResumeContainer(ctx, &pb.ResumeContainerRequest{ContainerId: id})
		return err
	},
	"GetDiagnosticData": func(ctx context.Context, a pb.AgentServiceService, id, _ string) error {
		_, err := a.GetDiagnosticData(ctx, &pb.GetDiagnosticDataRequest{LogType: "termination_log", ContainerId: id})
		return err
	},
}

// byProcess are the RPCs that name a process of a container's.
var byProcess = map[string]func(ctx context.Context, a pb.AgentServiceService, id, exec string) error{
	"SignalProcess": func(ctx context.Context, a pb.AgentServiceService, id, exec string) error {
		_, err := a.SignalProcess(ctx, &pb.SignalProcessRequest{ContainerId: id, ExecId: exec, Signal: 9})
		return err
	},
	"WaitProcess": func(ctx context.Context, a pb.AgentServiceService, id, exec string) error {
		_, err := a.WaitProcess(ctx, &pb.WaitProcessRequest{ContainerId: id, ExecId: exec})
		return err
	},
	"WriteStdin": func(ctx context.Context, a pb.AgentServiceService, id, exec string) error {
		_, err := a.WriteStdin(ctx, &pb.WriteStreamRequest{ContainerId: id, ExecId: exec, Data: []byte("x")})
		return err
	},
	"ReadStdout": func(ctx context.Context, a pb.AgentServiceService, id, exec string) error {
		_, err := a.ReadStdout(ctx, &pb.ReadStreamRequest{ContainerId: id, ExecId: exec, Len: 1})
		return err
	},
	"ReadStderr": func(ctx context.Context, a pb.AgentServiceService, id, exec string) error {
		_, err := a.ReadStderr(ctx, &pb.ReadStreamRequest{ContainerId: id, ExecId: exec, Len: 1})
		return err
	},
	"CloseStdin": func(ctx context.Context, a pb.AgentServiceService, id, exec string) error {
		_, err := a.CloseStdin(ctx, &pb.CloseStdinRequest{ContainerId: id, ExecId: exec})
		return err
	},
	"TtyWinResize": func(ctx context.Context, a pb.AgentServiceService, id, exec string) error {
		_, err := a.TtyWinResize(ctx, &pb.TtyWinResizeRequest{ContainerId: id, ExecId: exec, Row: 1, Column: 1})
		return err
	},
}

// The order in which a shim asks is not the only one in which a host can (Kata
// src/agent/src/rpc.rs).
var _ = Describe("Out of order", func() {
	It("what is unknown is refused by every RPC that names it", proof.Of("AGENT-ORDER-001"), func(ctx SpecContext) {
		t := fresh(ctx, allowAll())
		w := t.witness(ctx)
		for rpc, call := range byContainer {
			for _, id := range []string{newID(), "", "../" + w.container} {
				Expect(call(ctx, t.Agent, id, "")).To(unknownContainer(rpc, id), "%s of container %q", rpc, id)
			}
		}
		for rpc, call := range byProcess {
			Expect(call(ctx, t.Agent, newID(), "x")).To(unknownContainer(rpc, ""), "%s in an unknown container", rpc)
			Expect(call(ctx, t.Agent, w.container, "no-such-exec")).To(unknownProcess(rpc), "%s of an unknown process", rpc)
		}
		// SIGKILL is for a whole container, which nobody has to be found in.
		id := newID()
		Expect(byProcess["SignalProcess"](ctx, t.Agent, id, "")).To(beInternal("Invalid container id " + id))
		w.testify(ctx)
	}, SpecTimeout(specTimeout))

	It("a container runs only after its creation, and once", proof.Of("AGENT-ORDER-002"), func(ctx SpecContext) {
		t := fresh(ctx, allowAll())
		w := t.witness(ctx)
		id := newID()
		for rpc, call := range byContainer {
			Expect(call(ctx, t.Agent, id, "")).To(unknownContainer(rpc, id), "%s before the creation", rpc)
		}
		for rpc, call := range byProcess {
			Expect(call(ctx, t.Agent, id, id)).To(unknownContainer(rpc, id), "%s before the creation", rpc)
		}
		t.createAs(ctx, containerRequest(id, t.image, "/bin/sleep", "1000000"))
		t.start(ctx, id)
		Expect(byContainer["StartContainer"](ctx, t.Agent, id, "")).To(failInternally(), "started already")
		Expect(t.output(ctx, id, "echo alive")).To(Equal("alive\n"), "the container runs on")
		w.testify(ctx)
	}, SpecTimeout(specTimeout))

	It("nothing is done in a container that was removed", proof.Of("AGENT-ORDER-003"), func(ctx SpecContext) {
		t := fresh(ctx, allowAll())
		w := t.witness(ctx)
		id := t.idle(ctx)
		t.remove(ctx, id)
		for rpc, call := range byContainer {
			Expect(call(ctx, t.Agent, id, "")).To(unknownContainer(rpc, id), rpc)
		}
		for rpc, call := range byProcess {
			Expect(call(ctx, t.Agent, id, id)).To(unknownContainer(rpc, id), rpc)
		}
		w.testify(ctx)
	}, SpecTimeout(specTimeout))

	It("a container's id is taken while the container is there", proof.Of("AGENT-ORDER-004"), func(ctx SpecContext) {
		t := fresh(ctx, allowAll())
		w := t.witness(ctx)
		_, err := t.Agent.CreateContainer(ctx, containerRequest(w.container, t.image, "/bin/false"))
		Expect(err).To(failInternally())
		w.testify(ctx)
		Expect(t.output(ctx, w.container, "echo alive")).To(Equal("alive\n"))

		id := t.idle(ctx)
		t.remove(ctx, id)
		By("using the id again")
		t.createAs(ctx, containerRequest(id, t.image, "/bin/sh", "-c", "echo again"))
		t.start(ctx, id)
		Expect(t.read(ctx, id, id)).To(Equal("again\n"))
	}, SpecTimeout(specTimeout))

	It("a process's id is taken while the process is there", proof.Of("AGENT-ORDER-005"), func(ctx SpecContext) {
		t := fresh(ctx, allowAll())
		w := t.witness(ctx)
		r := execRequest(w.container, "/bin/echo", "usurper")
		r.ExecId = w.exec
		_, err := t.Agent.ExecProcess(ctx, r)
		Expect(err).To(failInternally())
		w.testify(ctx)
	}, SpecTimeout(specTimeout))

	It("an exit code is told once", proof.Of("AGENT-ORDER-006"), func(ctx SpecContext) {
		t := fresh(ctx, allowAll())
		w := t.witness(ctx)
		e := t.exec(ctx, w.container, "/bin/sh", "-c", "exit 7")
		Expect(t.wait(ctx, w.container, e)).To(BeEquivalentTo(7))
		Expect(byProcess["WaitProcess"](ctx, t.Agent, w.container, e)).To(unknownProcess("WaitProcess"))
		Expect(byProcess["SignalProcess"](ctx, t.Agent, w.container, e)).To(unknownProcess("SignalProcess"))
		w.testify(ctx)
	}, SpecTimeout(specTimeout))

	It("an id that is a path, or nothing, is no container's", proof.Of("AGENT-ORDER-007"), func(ctx SpecContext) {
		t := fresh(ctx, allowAll())
		w := t.witness(ctx)
		for _, id := range []string{"", ".", "..", "../escape", "a/b", "/run", "-x", strings.Repeat("../", 8) + "tmp/x", "with space", "nul\x00"} {
			r := containerRequest(newID(), t.image, "/bin/true")
			r.ContainerId = id
			_, err := t.Agent.CreateContainer(ctx, r)
			Expect(err).To(failInternally(), "container %q", id)
		}
		w.testify(ctx)
	}, SpecTimeout(specTimeout))

	It("what lacks its principal part is refused", proof.Of("AGENT-ORDER-008"), func(ctx SpecContext) {
		t := fresh(ctx, allowAll())
		w := t.witness(ctx)
		_, err := t.Agent.ExecProcess(ctx, &pb.ExecProcessRequest{ContainerId: w.container, ExecId: "empty"})
		Expect(err).To(beInternal("Unable to parse process from ExecProcessRequest"))
		_, err = t.Agent.CreateContainer(ctx, &pb.CreateContainerRequest{ContainerId: newID()})
		Expect(err).To(beInternal("EINVAL: Invalid argument"))
		bare := newID()
		_, err = t.Agent.CreateContainer(ctx, &pb.CreateContainerRequest{ContainerId: bare, OCI: &pb.Spec{}})
		Expect(err).To(failInternally())
		Expect(byContainer["StartContainer"](ctx, t.Agent, bare, "")).To(noContainer())
		w.testify(ctx)
	}, SpecTimeout(specTimeout))
})
