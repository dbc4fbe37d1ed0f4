package agent_test

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc/codes"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
)

// What replaces a policy, and what does not come to be one (Kata
// src/agent/src/rpc.rs, do_set_policy; main.rs, start_sandbox).
var _ = Describe("SetPolicy", func() {
	DescribeTable("refuses text that is no policy, and nothing is allowed from then on", proof.Of("POLICY-SET-001"), func(ctx SpecContext, text string) {
		needsLone("no request would ever be allowed again")
		t := fresh(ctx, allowAll())
		Expect(t.details(ctx)).To(Succeed())
		_, err := t.Agent.SetPolicy(ctx, &pb.SetPolicyRequest{Policy: text})
		Expect(err).To(haveCode(codes.InvalidArgument))
		Expect(t.details(ctx)).To(beUndefined("GuestDetailsRequest"))
		_, err = t.Agent.SetPolicy(ctx, &pb.SetPolicyRequest{Policy: allowAll()})
		Expect(err).To(beUndefined("SetPolicyRequest"))
		t.expectHealthy(ctx)
	},
		entry("broken Rego", allowAll()+"GuestDetailsRequest if {"),
		entry("no Rego at all", "allow everything"),
		entry("nothing", ""),
		entry("Rego v0, whose rules have no if", allowAll()+"ExecProcessRequest { true }\n"),
		entry("a line longer than 65,536 characters", allowAll()+"# "+strings.Repeat("x", 66000)+"\n"),
	)

	It("is asked about with the new policy's text", proof.Of("POLICY-SET-002"), func(ctx SpecContext) {
		needsLone("the policy would stay for good")
		const guarded = header + "default SetPolicyRequest := false\nSetPolicyRequest if contains(input.policy, \"# signed\")\n"
		t := fresh(ctx, guarded+rules("true", "GuestDetailsRequest"))
		_, err := t.Agent.SetPolicy(ctx, &pb.SetPolicyRequest{Policy: allowAll()})
		Expect(err).To(beBlocked("SetPolicyRequest"))
		Expect(t.details(ctx)).To(Succeed(), "the policy is the old one")
		t.setPolicy(ctx, "# signed\n"+guarded)
		Expect(t.details(ctx)).To(beUndefined("GuestDetailsRequest"))
	}, SpecTimeout(specTimeout))
})

var _ = Describe("A guest", func() {
	It("without init-data allows everything, the image's own policy", proof.Of("POLICY-BOOT-001"), func(ctx SpecContext) {
		needsLone("it was started by somebody else")
		t := freshWith(ctx, "")
		Expect(t.details(ctx)).To(Succeed())
		t.setPolicy(ctx, allowAll())
	}, SpecTimeout(specTimeout))

	DescribeTable("with such a policy in its init-data does not come up", proof.Of("POLICY-BOOT-002"), func(ctx SpecContext, policy string) {
		needsLone("it was started by somebody else")
		g, err := host.Start(ctx, document(policy))
		if err == nil {
			DeferCleanup(g.Stop)
		}
		Expect(err).To(MatchError(ContainSubstring("Failed to set policy from initdata")))
		g, err = host.Start(ctx, document(allowAll()))
		Expect(err).NotTo(HaveOccurred())
		Expect(g.Stop()).To(Succeed())
	},
		entry("broken Rego", allowAll()+"GuestDetailsRequest if {"),
		entry("Rego v0", allowAll()+"ExecProcessRequest { true }\n"),
	)
})
