package agent_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc/codes"

	"github.com/coco-e2e/coco-e2e/framework/agentapi"
	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
)

// counting decides on each request by what is in it, so that a decision that
// went to another's request shows, and counts the details that it allows.
const counting = `
count := object.get(data.pstate, "count", 0)
GuestDetailsRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/count", "value": count + 1}]} if input.mem_block_size
GuestDetailsRequest := {"allowed": false} if not input.mem_block_size
OnlineCPUMemRequest := {"allowed": input.nb_cpus == count}
CopyFileRequest := endswith(input.path, "-good")
ExecProcessRequest := input.process.Args[2] != "forbidden"
WriteStreamRequest := input.data == [49]
GetMetricsRequest := false
`

// mixed are requests with what each is answered; n makes each its own.
var mixed = []func(ctx context.Context, c *agentapi.Client, w witness, n int) error{
	func(ctx context.Context, c *agentapi.Client, _ witness, _ int) error {
		r, err := c.Health.Check(ctx, &pb.CheckRequest{})
		return expect(err == nil && r.Status == pb.HealthCheckResponse_SERVING, "health", r, err)
	},
	func(ctx context.Context, c *agentapi.Client, _ witness, _ int) error {
		r, err := c.Agent.GetGuestDetails(ctx, &pb.GuestDetailsRequest{MemBlockSize: true})
		return expect(err == nil && r.AgentDetails != nil, "allowed details", r, err)
	},
	func(ctx context.Context, c *agentapi.Client, _ witness, _ int) error {
		_, err := c.Agent.GetGuestDetails(ctx, &pb.GuestDetailsRequest{MemHotplugProbe: true})
		return answered(err, beBlocked("GuestDetailsRequest"))
	},
	func(ctx context.Context, c *agentapi.Client, _ witness, _ int) error {
		_, err := c.Agent.GetMetrics(ctx, &pb.GetMetricsRequest{})
		return answered(err, beBlocked("GetMetricsRequest"))
	},
	func(ctx context.Context, c *agentapi.Client, _ witness, _ int) error {
		_, err := c.Agent.ListRoutes(ctx, &pb.ListRoutesRequest{})
		return answered(err, beUndefined("ListRoutesRequest"))
	},
	func(ctx context.Context, c *agentapi.Client, _ witness, n int) error {
		_, err := c.Agent.CopyFile(ctx, fileRequest(fmt.Sprintf("load-%d-good", n), "text"))
		return answered(err, Succeed())
	},
	func(ctx context.Context, c *agentapi.Client, _ witness, n int) error {
		_, err := c.Agent.CopyFile(ctx, fileRequest(fmt.Sprintf("load-%d-bad", n), "text"))
		return answered(err, beBlocked("CopyFileRequest"))
	},
	func(ctx context.Context, c *agentapi.Client, w witness, _ int) error {
		_, err := c.Agent.ExecProcess(ctx, execRequest(w.container, "/bin/sh", "-c", "forbidden"))
		return answered(err, beBlocked("ExecProcessRequest"))
	},
	func(ctx context.Context, c *agentapi.Client, w witness, _ int) error {
		r, err := c.Agent.WriteStdin(ctx, &pb.WriteStreamRequest{ContainerId: w.container, ExecId: w.exec, Data: []byte("1")})
		return expect(err == nil && r.Len == 1, "allowed input", r, err)
	},
	func(ctx context.Context, c *agentapi.Client, w witness, _ int) error {
		_, err := c.Agent.WriteStdin(ctx, &pb.WriteStreamRequest{ContainerId: w.container, ExecId: w.exec, Data: []byte("2")})
		return answered(err, beBlocked("WriteStreamRequest"))
	},
	func(ctx context.Context, c *agentapi.Client, w witness, _ int) error {
		r, err := c.Agent.StatsContainer(ctx, &pb.StatsContainerRequest{ContainerId: w.container})
		return expect(err == nil && r.GetCgroupStats().GetMemoryStats().GetUsage().GetUsage() > 0, "stats", r, err)
	},
	func(ctx context.Context, c *agentapi.Client, w witness, _ int) error {
		_, err := c.Agent.SignalProcess(ctx, &pb.SignalProcessRequest{ContainerId: w.container, ExecId: "none", Signal: 9})
		return answered(err, haveCode(codes.NotFound))
	},
}

// execEvery is how many requests there are to one that starts a process: they
// take long enough to overlap with the others'.
const execEvery = 25

// execution runs a process to its end: five requests that belong together.
func execution(ctx context.Context, c *agentapi.Client, w witness, n int) error {
	r := execRequest(w.container, "/bin/sh", "-c", fmt.Sprintf("echo %d; exit %d", n, n%256))
	if _, err := c.Agent.ExecProcess(ctx, r); err != nil {
		return err
	}
	out, err := c.Agent.ReadStdout(ctx, &pb.ReadStreamRequest{ContainerId: w.container, ExecId: r.ExecId, Len: 100})
	if err := expect(err == nil && string(out.Data) == fmt.Sprintln(n), "output", out, err); err != nil {
		return err
	}
	code, err := c.Agent.WaitProcess(ctx, &pb.WaitProcessRequest{ContainerId: w.container, ExecId: r.ExecId})
	return expect(err == nil && int(code.Status) == n%256, "exit code", code, err)
}

func expect(ok bool, what string, answer any, err error) error {
	if ok {
		return nil
	}
	return fmt.Errorf("%s: %v, %w", what, answer, err)
}

// answered is nil when the error is the one that is wanted.
func answered(err error, want OmegaMatcher) error {
	ok, problem := want.Match(err)
	if ok && problem == nil {
		return nil
	}
	return fmt.Errorf("%s (%w)", want.FailureMessage(err), problem)
}

var _ = Describe("A guest that is asked much at once", func() {
	It("answers 1,000 mixed requests of 16 connections, each as its policy says", proof.Of("POLICY-LOAD-001"), func(ctx SpecContext) {
		const requests, connections = 1000, 16
		t := fresh(ctx, allowAll())
		w := t.witness(ctx)
		t.setPolicy(ctx, on(rules("true", "StatsContainerRequest", "SignalProcessRequest", "ReadStreamRequest", "WaitProcessRequest")+counting))
		var next, allowedDetails, written, failed atomic.Int64
		errs := make(chan error, requests)
		var all sync.WaitGroup
		for range connections {
			c := t.dial(ctx)
			all.Go(func() {
				for n := int(next.Add(1)); n <= requests; n = int(next.Add(1)) {
					kind := n % len(mixed)
					call := mixed[kind]
					switch {
					case n%execEvery == 0:
						call = execution
					case kind == 1:
						allowedDetails.Add(1)
					case kind == 8:
						written.Add(1)
					}
					if err := call(ctx, c, w, n); err != nil {
						failed.Add(1)
						errs <- fmt.Errorf("request %d: %w", n, err)
					}
				}
			})
		}
		all.Wait()
		close(errs)
		for err := range errs {
			AddReportEntry("failed request", err.Error())
		}
		Expect(failed.Load()).To(BeZero())
		t.expectHealthy(ctx)

		By("counting what was allowed: no evaluation was lost or made twice")
		_, err := t.Agent.OnlineCPUMem(ctx, &pb.OnlineCPUMemRequest{NbCpus: uint32(allowedDetails.Load()) + 1})
		Expect(err).To(beBlocked("OnlineCPUMemRequest"))
		_, err = t.Agent.OnlineCPUMem(ctx, &pb.OnlineCPUMemRequest{NbCpus: uint32(allowedDetails.Load())})
		Expect(err).To(passTheGate())

		By("counting what the witness was given: nothing refused, everything allowed")
		t.setPolicy(ctx, allowAll())
		_, err = t.Agent.CloseStdin(ctx, &pb.CloseStdinRequest{ContainerId: w.container, ExecId: w.exec})
		Expect(err).NotTo(HaveOccurred())
		text := t.read(ctx, w.container, w.exec)
		Expect(text).To(HaveLen(int(written.Load())))
		Expect(text).NotTo(ContainSubstring("2"))
	}, SpecTimeout(2*specTimeout))
})
