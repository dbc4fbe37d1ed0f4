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

// on is a policy that lets itself be replaced, and says more.
func on(more string) string { return header + rules("true", "SetPolicyRequest") + more }

// details asks for the guest's details: the request of which the specs below
// change nothing but what the policy says of it.
func (t *target) details(ctx context.Context) error {
	_, err := t.Agent.GetGuestDetails(ctx, &pb.GuestDetailsRequest{MemBlockSize: true})
	return err
}

// What a policy's text means (Kata src/agent/policy/src/policy.rs).
var _ = Describe("A policy", func() {
	It("that lacks the rule is an internal error", proof.Of("POLICY-RULE-001"), func(ctx SpecContext) {
		t := shared(ctx, on(rules("true", "ListRoutesRequest")))
		Expect(t.details(ctx)).To(beUndefined("GuestDetailsRequest"))
		t.setPolicy(ctx, on(rules("true", "GuestDetailsRequest")))
		Expect(t.details(ctx)).To(Succeed())
	}, SpecTimeout(specTimeout))

	It("that lacks the package is an internal error", proof.Of("POLICY-RULE-002"), func(ctx SpecContext) {
		needsLone("no request would ever be allowed again")
		t := fresh(ctx, strings.Replace(allowAll(), "agent_policy", "other_policy", 1))
		Expect(t.details(ctx)).To(beUndefined("GuestDetailsRequest"))
	}, SpecTimeout(specTimeout))

	It("whose rules contradict each other is an internal error", proof.Of("POLICY-RULE-003"), func(ctx SpecContext) {
		const one, other = "GuestDetailsRequest := true if input.mem_block_size\n", "GuestDetailsRequest := false if input.mem_block_size\n"
		t := shared(ctx, on(one+other))
		Expect(t.details(ctx)).To(say(codes.Internal, `"GuestDetailsRequest: internal error `))
		t.setPolicy(ctx, on(one))
		Expect(t.details(ctx)).To(Succeed())
		t.setPolicy(ctx, on(other))
		Expect(t.details(ctx)).To(beBlocked("GuestDetailsRequest"))
	}, SpecTimeout(specTimeout))

	DescribeTable("whose rule is", func(ctx SpecContext, value string, want OmegaMatcher) {
		t := shared(ctx, on("GuestDetailsRequest := "+value+"\n"))
		Expect(t.details(ctx)).To(want)
	},
		entry("true: allowed", proof.Of("POLICY-RULE-004"), "true", Succeed()),
		entry("false: refused", proof.Of("POLICY-RULE-004"), "false", beBlocked("GuestDetailsRequest")),
		entry("an object that allows: allowed", proof.Of("POLICY-RULE-005"), `{"allowed": true}`, Succeed()),
		entry("an object that allows, with no operations: allowed", proof.Of("POLICY-RULE-005"), `{"allowed": true, "ops": []}`, Succeed()),
		entry("an object that refuses: refused", proof.Of("POLICY-RULE-005"), `{"allowed": false}`, beBlocked("GuestDetailsRequest")),
		entry("an object that does not say: internal error", proof.Of("POLICY-RULE-005"), `{"ops": []}`, say(codes.Internal, "GuestDetailsRequest: internal error ")),
		entry("an object that says something else: internal error", proof.Of("POLICY-RULE-005"), `{"allowed": "true"}`, say(codes.Internal, "GuestDetailsRequest: internal error ")),
		entry("a string: internal error", proof.Of("POLICY-RULE-006"), `"true"`, say(codes.Internal, "unexpected eval_query result type")),
		entry("a number: internal error", proof.Of("POLICY-RULE-006"), "1", say(codes.Internal, "unexpected eval_query result type")),
		entry("an array: internal error", proof.Of("POLICY-RULE-006"), "[true]", say(codes.Internal, "unexpected eval_query result type")),
		entry("null: internal error", proof.Of("POLICY-RULE-006"), "null", say(codes.Internal, "unexpected eval_query result type")),
	)

	It("has what it prints in the text of the refusal", proof.Of("POLICY-PRINT-001"), func(ctx SpecContext) {
		const text = "package agent_policy\n" +
			"default SetPolicyRequest := true\n" +
			"default GuestDetailsRequest := false\n" +
			"GuestDetailsRequest if {\n" +
			"print(\"size\", input.mem_block_size, [1, \"a\"], \"a \\\"quoted\\\" word\")\n" +
			"input.mem_hotplug_probe\n}\n"
		t := shared(ctx, text)
		Expect(t.details(ctx)).To(beBlocked("GuestDetailsRequest", `agent_policy:5: size true [1, \"a\"] a \"quoted\" word`))
		_, err := t.Agent.GetGuestDetails(ctx, &pb.GuestDetailsRequest{MemBlockSize: true, MemHotplugProbe: true})
		Expect(err).NotTo(HaveOccurred())
	}, SpecTimeout(specTimeout))

	It("sees a request as the agent's own JSON", proof.Of("POLICY-INPUT-001"), func(ctx SpecContext) {
		const input = `{
			"container_id": "none", "exec_id": "e-1", "string_user": null, "stdin_port": 0, "stdout_port": 0, "stderr_port": 0,
			"process": {
				"Terminal": false, "ConsoleSize": null, "User": {"UID": 1000, "GID": 0, "AdditionalGids": [0, 10], "Username": ""},
				"Args": ["test1"], "Env": ["PATH=/bin"], "Cwd": "/", "Capabilities": null, "Rlimits": [], "NoNewPrivileges": false,
				"ApparmorProfile": "", "OOMScoreAdj": -998, "SelinuxLabel": ""
			}
		}`
		t := shared(ctx, on(rules("false", "ExecProcessRequest")+"ExecProcessRequest if input == "+input+"\n"))
		request := &pb.ExecProcessRequest{ContainerId: "none", ExecId: "e-1", Process: &pb.Process{
			User: &pb.User{UID: 1000, AdditionalGids: []uint32{0, 10}}, Args: []string{"test1"}, Env: []string{"PATH=/bin"}, Cwd: "/", OOMScoreAdj: -998,
		}}
		_, err := t.Agent.ExecProcess(ctx, request)
		Expect(err).To(say(codes.Internal, "Invalid container id"), "allowed, and there is no container")
		request.Process.Cwd = "/tmp"
		_, err = t.Agent.ExecProcess(ctx, request)
		Expect(err).To(beBlocked("ExecProcessRequest"))
	}, SpecTimeout(specTimeout))

	It("that allows failing requests lets pass what has no rule or is refused, for good", proof.Of("POLICY-FAILING-001"), func(ctx SpecContext) {
		needsLone("a guest that allows failing requests does so until it ends")
		t := fresh(ctx, on(rules("false", "GuestDetailsRequest")))
		Expect(t.details(ctx)).To(beBlocked("GuestDetailsRequest"))
		_, err := t.Agent.GetMetrics(ctx, &pb.GetMetricsRequest{})
		Expect(err).To(beUndefined("GetMetricsRequest"))

		t.setPolicy(ctx, on(rules("true", "AllowRequestsFailingPolicy")+rules("false", "GuestDetailsRequest")+`ListRoutesRequest := "true"`+"\n"))
		Expect(t.details(ctx)).To(Succeed())
		_, err = t.Agent.GetMetrics(ctx, &pb.GetMetricsRequest{})
		Expect(err).NotTo(HaveOccurred())
		_, err = t.Agent.ListRoutes(ctx, &pb.ListRoutesRequest{})
		Expect(err).To(say(codes.Internal, "unexpected eval_query result type"), "an error is not a refusal")

		// The switch is evaluated through the gate that it opens, so it cannot be turned off.
		t.setPolicy(ctx, on(rules("false", "AllowRequestsFailingPolicy", "GuestDetailsRequest")))
		Expect(t.details(ctx)).To(Succeed())
	}, SpecTimeout(specTimeout))
})

// once allows the guest's details once, until the state is lost.
const once = `GuestDetailsRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/asked", "value": true}]} if not data.pstate.asked
GuestDetailsRequest := {"allowed": false, "ops": [{"op": "add", "path": "/pstate/refused", "value": true}]} if data.pstate.asked
`

var _ = Describe("A policy's state", func() {
	It("is kept from request to request, and lost with the policy", proof.Of("POLICY-STATE-001"), func(ctx SpecContext) {
		t := shared(ctx, on(once))
		Expect(t.details(ctx)).To(Succeed())
		for range 3 {
			Expect(t.details(ctx)).To(beBlocked("GuestDetailsRequest"))
		}
		t.setPolicy(ctx, on(once))
		Expect(t.details(ctx)).To(Succeed())
		Expect(t.details(ctx)).To(beBlocked("GuestDetailsRequest"))
	}, SpecTimeout(specTimeout))

	It("is one for all endpoints and all connections", proof.Of("POLICY-STATE-002"), func(ctx SpecContext) {
		t := shared(ctx, on(once+rules("false", "GetMetricsRequest")+"GetMetricsRequest if data.pstate.asked\n"))
		other := t.dial(ctx)
		_, err := other.Agent.GetMetrics(ctx, &pb.GetMetricsRequest{})
		Expect(err).To(beBlocked("GetMetricsRequest"))
		Expect(t.details(ctx)).To(Succeed())
		_, err = other.Agent.GetMetrics(ctx, &pb.GetMetricsRequest{})
		Expect(err).NotTo(HaveOccurred())
	}, SpecTimeout(specTimeout))

	It("is not changed by a refused request", proof.Of("POLICY-STATE-003"), func(ctx SpecContext) {
		t := shared(ctx, on(once+rules("false", "GetMetricsRequest", "ListRoutesRequest")+
			"GetMetricsRequest if not data.pstate.refused\nListRoutesRequest if data.pstate.asked\n"))
		Expect(t.details(ctx)).To(Succeed())
		Expect(t.details(ctx)).To(beBlocked("GuestDetailsRequest"))
		_, err := t.Agent.GetMetrics(ctx, &pb.GetMetricsRequest{})
		Expect(err).NotTo(HaveOccurred(), "the refused request's operations were not applied")
		_, err = t.Agent.ListRoutes(ctx, &pb.ListRoutesRequest{})
		Expect(err).NotTo(HaveOccurred(), "the allowed request's were")
	}, SpecTimeout(specTimeout))

	It("that an operation does not fit is an internal error, and stays as it was", proof.Of("POLICY-STATE-004"), func(ctx SpecContext) {
		t := shared(ctx, on(`GuestDetailsRequest := {"allowed": true, "ops": [
	{"op": "add", "path": "/pstate/half", "value": true}, {"op": "remove", "path": "/pstate/absent"}]}
`+rules("false", "GetMetricsRequest")+"GetMetricsRequest if not data.pstate.half\n"))
		Expect(t.details(ctx)).To(say(codes.Internal, "GuestDetailsRequest: internal error "))
		_, err := t.Agent.GetMetrics(ctx, &pb.GetMetricsRequest{})
		Expect(err).NotTo(HaveOccurred())
	}, SpecTimeout(specTimeout))
})
