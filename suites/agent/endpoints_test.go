package agent_test

import (
	"context"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/protobuf/proto"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
)

// scene is what a row of the table works on.
type scene struct {
	*target
	container string // runs, of this row's own
	exec      string // runs in it, if the row says so
}

// row is an RPC, the rule that decides on it, and what it answers when allowed.
type row struct {
	rpc, endpoint string
	// lone says why the row needs a guest to itself, when it does.
	lone string
	// prepare is done under a policy that allows everything.
	prepare func(context.Context, *scene)
	call    call
	// want is the error's, when the policy allows the request; nil wants none.
	want OmegaMatcher
	// check looks at the answer.
	check func(proto.Message)
}

type (
	service = pb.AgentServiceService
	call    func(context.Context, *scene) (proto.Message, error)
)

// ask makes a call of an RPC's method and of its request.
func ask[Q any, A proto.Message](rpc func(service, context.Context, Q) (A, error), request func(*scene) Q) call {
	return func(ctx context.Context, s *scene) (proto.Message, error) { return rpc(s.Agent, ctx, request(s)) }
}

// Every request of the agent's protocol that its policy decides on, refused and
// allowed: first a policy whose one rule for it is false, then, as the control,
// the same policy with that rule true. Nothing else but SetPolicy is defined.
var _ = Describe("Every endpoint", func() {
	for _, r := range slices.Concat(lifecycle, guestWide, devices) {
		It(r.rpc+" asks "+r.endpoint, proof.Of("AGENT-"+strings.ToUpper(r.rpc)+"-001"), func(ctx SpecContext) {
			s := &scene{}
			if r.lone == "" {
				s.target = shared(ctx, allowAll())
			} else {
				needsLone(r.lone)
				s.target = fresh(ctx, allowAll())
			}
			if r.prepare != nil {
				r.prepare(ctx, s)
			}
			if r.endpoint == "SetPolicyRequest" {
				s.setPolicy(ctx, header+rules("false", r.endpoint))
			} else {
				s.setPolicy(ctx, header+rules("true", "SetPolicyRequest")+rules("false", r.endpoint))
			}
			_, err := r.call(ctx, s)
			Expect(err).To(beBlocked(r.endpoint))
			s.expectHealthy(ctx)

			if r.endpoint == "SetPolicyRequest" {
				s = &scene{target: fresh(ctx, header+rules("true", r.endpoint))}
			} else {
				s.setPolicy(ctx, header+rules("true", "SetPolicyRequest", r.endpoint))
			}
			answer, err := r.call(ctx, s)
			if r.want == nil {
				Expect(err).NotTo(HaveOccurred())
			} else {
				Expect(err).To(r.want)
			}
			if r.check != nil {
				r.check(answer)
			}
			if r.rpc != "DestroySandbox" { // the guest ends with it
				s.expectHealthy(ctx)
			}
		}, SpecTimeout(specTimeout))
	}

	// A refused read is no error: what there was to read is lost, and no data
	// means the end.
	for rpc, script := range map[string]string{"ReadStdout": "echo first; read x; echo second", "ReadStderr": "echo first >&2; read x; echo second >&2"} {
		It(rpc+" asks ReadStreamRequest and answers without data when refused", proof.Of("AGENT-"+strings.ToUpper(rpc)+"-001", "POLICY-STREAM-001"), func(ctx SpecContext) {
			t := shared(ctx, allowAll())
			c := t.idle(ctx)
			e := t.exec(ctx, c, "/bin/sh", "-c", script)
			read := t.Agent.ReadStdout
			if rpc == "ReadStderr" {
				read = t.Agent.ReadStderr
			}
			request := &pb.ReadStreamRequest{ContainerId: c, ExecId: e, Len: 100}
			t.setPolicy(ctx, except(rules("false", "ReadStreamRequest"), "ReadStreamRequest"))
			r, err := read(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			Expect(r.Data).To(BeEmpty())

			t.setPolicy(ctx, allowAll())
			_, err = t.Agent.WriteStdin(ctx, &pb.WriteStreamRequest{ContainerId: c, ExecId: e, Data: []byte("\n")})
			Expect(err).NotTo(HaveOccurred())
			r, err = read(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			Expect(string(r.Data)).To(Equal("second\n"), "the first line was read when it was refused")
		}, SpecTimeout(specTimeout))
	}

	It("Health asks nobody", proof.Of("AGENT-HEALTH-001"), func(ctx SpecContext) {
		needsLone("its policy would have to forbid everything")
		t := fresh(ctx, header)
		_, err := t.Agent.GetGuestDetails(ctx, &pb.GuestDetailsRequest{})
		Expect(err).To(beUndefined("GuestDetailsRequest"), "the policy forbids everything")
		t.expectHealthy(ctx)
		v, err := t.Health.Version(ctx, &pb.CheckRequest{})
		Expect(err).NotTo(HaveOccurred())
		Expect(v.AgentVersion).NotTo(BeEmpty())
	}, SpecTimeout(specTimeout))

	It("has each RPC of the protocol in this table", proof.Of("AGENT-PROTOCOL-001"), func(SpecContext) {
		known := []string{"ReadStdout", "ReadStderr"}
		for _, r := range slices.Concat(lifecycle, guestWide, devices) {
			known = append(known, r.rpc)
			Expect(endpoints).To(ContainElement(r.endpoint))
		}
		methods := pb.File_framework_agentapi_agentpb_agent_proto.Services().ByName("AgentService").Methods()
		var all []string
		for i := range methods.Len() {
			all = append(all, string(methods.Get(i).Name()))
		}
		Expect(known).To(ConsistOf(all))
	}, SpecTimeout(specTimeout))
})
