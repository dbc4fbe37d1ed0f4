package release_test

import (
	"context"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/framework/kbs"
	"github.com/coco-e2e/coco-e2e/framework/leak"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// binding is how a kind of TEE binds init-data, and what its guests do with a
// digest that the register has no room for.
type binding struct {
	suite.Binding
	// refusesLong is what a guest says of a digest of more than 32 bytes, when
	// it refuses it; "" where the digest is cut.
	refusesLong string
}

// proves are the requirements about the register of the kind.
func (b binding) proves() []string {
	if b.Proves == "" {
		return nil
	}
	return []string{b.Proves}
}

// refusesLong are the kinds whose guests refuse a digest of more than 32 bytes,
// with what they say.
var refusesLong = map[string]string{
	evidence.KindTPM:       "Event digest length is not 32 bytes",
	evidence.KindAzSNPVTPM: "expected sha256 digest",
	evidence.KindAzTDXVTPM: "expected sha256 digest",
}

// pcr8 is what a TPM has of a digest.
func pcr8(digest []byte) string {
	GinkgoHelper()
	return suite.BindingOf(evidence.KindTPM).Register(digest)
}

// Each kind has one pod with the right document and one with a byte of it
// changed; every cell is a handshake of its own with them.
var _ = Describe("release", suite.OneKBS, func() {
	for _, common := range suite.Bindings {
		b := binding{common, refusesLong[common.TEE]}
		Describe("to "+b.TEE, Ordered, ContinueOnFailure, Label("tee:"+b.TEE), func() {
			var (
				k                *suite.KBS
				ns, class        string
				raw, other       []byte
				right, changed   guest
				path, secret     string
				register, askFor string
			)
			BeforeAll(func(ctx SpecContext) {
				c, ok := bed.Class(b.TEE, false)
				if !ok {
					Skip("no RuntimeClass of this platform gives evidence of kind " + b.TEE)
				}
				knowsRoots(b.TEE)
				class, k = c.Name, bed.KBS(ctx)
				ns = bed.Namespace(ctx, "release")
				raw, other = document("sha256", k.URL, b.TEE), document("sha256", k.URL, b.TEE+", another honest one")
				right, changed = guest{ns, "right", b.TEE}, guest{ns, "changed", b.TEE}
				confidential(ctx, ns, right.name, class, raw)
				confidential(ctx, ns, changed.name, class, oneByteChanged(raw))
				path, secret = suite.ResourcePath(ns, "secret"), leak.Secret()
				Expect(k.SetResource(ctx, path, []byte(secret))).To(Succeed())
				register = b.Register(digest(raw))
				askFor = forRegister(register)
				if b.Unbound() {
					askFor = allowAll
				}
				bed.Ready(ctx, ns, right.name)
				bed.Ready(ctx, ns, changed.name)
			}, NodeTimeout(limit))

			BeforeEach(func(ctx SpecContext) {
				Expect(k.SetResourcePolicy(ctx, askFor)).To(Succeed())
			}, NodeTimeout(limit))

			control := func(ctx context.Context) {
				GinkgoHelper()
				By("control: the right pod with the right init-data gets the secret")
				releases(ctx, k, right, text(raw), path, secret)
			}

			// Evidence that anybody can write binds nothing: whatever is presented with
			// it is taken, in these cells' stead.
			itBound := It
			if b.Unbound() {
				itBound = func(string, ...any) bool { return false }
				for name, presented := range map[string]func() []byte{
					"one byte of the init-data changed on the way":   func() []byte { return oneByteChanged(raw) },
					"another honest init-data":                       func() []byte { return other },
					"the same files under another algorithm, sha384": func() []byte { return document("sha384", k.URL, b.TEE) },
					"the same files under another algorithm, sha512": func() []byte { return document("sha512", k.URL, b.TEE) },
				} {
					It("with "+name+": released, and the claim is what was presented", proof.Of("ATTEST-SAMPLE-002"), func(ctx SpecContext) {
						releases(ctx, k, right, text(presented()), path, secret)
						token, _ := attested(ctx, k, right, text(presented()))
						Expect(appraisal(token).InitData()).To(Equal(b.Register(digest(presented()))))
						Expect(appraisal(token).InitData()).NotTo(Equal(register))
						By("control: the default policy releases nothing to such evidence")
						Expect(k.SetResourcePolicy(ctx, notSample)).To(Succeed())
						deniesResource(ctx, k, right, text(presented()), path)
					}, SpecTimeout(limit))
				}
				It("to a pod with one byte changed: released as to any", proof.Of("ATTEST-SAMPLE-002"), func(ctx SpecContext) {
					releases(ctx, k, changed, text(oneByteChanged(raw)), path, secret)
					releases(ctx, k, changed, text(raw), path, secret)
					By("control: the default policy releases nothing to such evidence")
					Expect(k.SetResourcePolicy(ctx, notSample)).To(Succeed())
					deniesResource(ctx, k, changed, text(raw), path)
				}, SpecTimeout(limit))
			}

			It("with the right init-data: released, over the wire and inside the pod, and the claim is the expected register", proof.Of(append(b.proves(), "RELEASE-RIGHT-001")...), func(ctx SpecContext) {
				control(ctx)
				token, _ := attested(ctx, k, right, text(raw))
				Expect(appraisal(token).InitData()).To(Equal(register))
				Expect(appraisal(token).InitDataClaims()).To(HaveKey("policy.rego"))
				status, content := right.resource(ctx, path)
				Expect(status).To(Equal("200"))
				Expect(fingerprint(content)).To(Equal(fingerprint(secret)), "the guest got something else than the secret")
			}, SpecTimeout(limit))

			itBound("with one byte of the init-data changed on the way: attestation refused", proof.Of("ATTEST-INITDATA-001"), func(ctx SpecContext) {
				refusesEvidence(ctx, k, right, text(oneByteChanged(raw)))
				control(ctx)
			}, SpecTimeout(limit))

			itBound("with another honest init-data: attestation refused", proof.Of("ATTEST-INITDATA-002"), func(ctx SpecContext) {
				refusesEvidence(ctx, k, right, text(other))
				control(ctx)
			}, SpecTimeout(limit))

			It("with none presented: released where the register is asked for, denied where the document is", proof.Of("ATTEST-INITDATA-003"), func(ctx SpecContext) {
				token, _ := attested(ctx, k, right, nil)
				Expect(appraisal(token).InitDataClaims()).To(BeEmpty())
				if !b.Unbound() {
					Expect(appraisal(token).InitData()).To(Equal(register))
				}
				releases(ctx, k, right, nil, path, secret)
				Expect(k.SetResourcePolicy(ctx, forDocument)).To(Succeed())
				deniesResource(ctx, k, right, nil, path)
				control(ctx)
			}, SpecTimeout(limit))

			itBound("with the same files under another algorithm: attestation refused", proof.Of("ATTEST-INITDATA-004"), func(ctx SpecContext) {
				for _, algorithm := range []string{"sha384", "sha512"} {
					By(algorithm)
					refusesEvidence(ctx, k, right, text(document(algorithm, k.URL, b.TEE)))
				}
				control(ctx)
			}, SpecTimeout(limit))

			It("with an algorithm that nobody knows: attestation refused", proof.Of("ATTEST-INITDATA-005"), func(ctx SpecContext) {
				for _, wrong := range []string{"sha-256", "md5"} {
					By(wrong)
					refusesEvidence(ctx, k, right, text(renamedAlgorithm(raw, wrong)))
				}
				control(ctx)
			}, SpecTimeout(limit))

			itBound("to a pod with one byte changed: denied by the policy, over the wire and inside the pod", proof.Of("RELEASE-WRONG-001"), func(ctx SpecContext) {
				deniesResource(ctx, k, changed, text(oneByteChanged(raw)), path)
				Expect(refusedInside(ctx, k, changed, path, suite.PolicyViolations)).NotTo(ContainSubstring(secret))
				refusedToken(ctx, k, changed, path, kbs.TypePolicyDeny, map[string]int{suite.PolicyViolations: 1})
				By("and it cannot present the right one")
				refusesEvidence(ctx, k, changed, text(raw))
				control(ctx)
			}, SpecTimeout(limit))

			It("under Trustee's default resource policy: any TEE but sample", proof.Of("ATTEST-SAMPLE-001"), func(ctx SpecContext) {
				Expect(k.SetResourcePolicy(ctx, notSample)).To(Succeed())
				if b.Unbound() {
					deniesResource(ctx, k, right, text(raw), path)
					By("control: under a policy that asks for nothing it is released")
					Expect(k.SetResourcePolicy(ctx, allowAll)).To(Succeed())
				}
				releases(ctx, k, right, text(raw), path, secret)
			}, SpecTimeout(limit))

			It("for evidence that was replayed, or for another challenge: attestation refused", proof.Of("ATTEST-NONCE-001"), func(ctx SpecContext) {
				replays(ctx, k, right, text(raw))
			}, SpecTimeout(limit))

			It("for evidence that was changed or put together: attestation refused", proof.Of("ATTEST-SPLICE-001"), func(ctx SpecContext) {
				cheated(ctx, k, right, changed, text(raw), control)
			}, SpecTimeout(limit))

			It("with a token, to no other key than the token's", proof.Of("RELEASE-KEY-001"), func(ctx SpecContext) {
				token, key := attested(ctx, k, right, text(raw))
				other := session(k)
				_, err := other.Attest(ctx, changed, text(oneByteChanged(raw)))
				Expect(err).NotTo(HaveOccurred())
				counted := k.Count(ctx)
				got, err := k.GetResource(ctx, path, token, other.Key())
				Expect(err).To(MatchError(kbs.ErrDecrypt), "the KBS encrypts to the key that it attested")
				Expect(got).To(BeEmpty())
				counted.Grew(ctx, map[string]int{suite.PolicyApprovals: 1})
				By("control: with its own key it is read")
				got, err = k.GetResource(ctx, path, token, key)
				Expect(err).NotTo(HaveOccurred())
				Expect(fingerprint(string(got))).To(Equal(fingerprint(secret)))
			}, SpecTimeout(limit))

			It("evidence verifies under the test roots, for this nonce only, and under no vendor's", proof.Of("ATTEST-VERIFY-001"), func(ctx SpecContext) {
				verifies(ctx, right, raw, register)
			}, SpecTimeout(limit))

			for _, algorithm := range []string{"sha384", "sha512"} {
				It("with a digest of "+algorithm+": "+longDigest(b), proof.Of("ATTEST-DIGEST-001"), func(ctx SpecContext) {
					long := document(algorithm, k.URL, b.TEE)
					g := guest{ns, "long-" + algorithm, b.TEE}
					confidential(ctx, ns, g.name, class, long)
					if b.refusesLong != "" {
						// One that starts will not be refused any more.
						event, err := bed.Pods.WaitEvent(ctx, ns, g.name, func(e string) bool {
							return strings.HasPrefix(e, "FailedCreatePodSandBox: ") || strings.HasPrefix(e, "Started: ")
						})
						Expect(err).NotTo(HaveOccurred(), pod.InconclusiveMark)
						Expect(event).To(ContainSubstring(b.refusesLong))
						bed.NeverRan(ctx, ns, g.name)
						control(ctx)
						return
					}
					bed.Ready(ctx, ns, g.name)
					if !b.Unbound() {
						deniesResource(ctx, k, g, text(long), path)
						Expect(k.SetResourcePolicy(ctx, forRegister(b.Register(digest(long))))).To(Succeed())
					}
					releases(ctx, k, g, text(long), path, secret)
				}, SpecTimeout(limit))
			}
		})
	}
})

// knowsRoots skips what a KBS that was given must refuse: evidence of simulated
// hardware.
func knowsRoots(tee string) {
	GinkgoHelper()
	if bed.ExternalKBS.URL != "" && bed.Simulated && tee != evidence.KindTPM && tee != evidence.KindSample {
		Skip("the KBS of KBS_URL does not know the roots of simulated hardware")
	}
}

func longDigest(b binding) string {
	switch {
	case b.refusesLong != "":
		return "the guest refuses it and no container starts"
	case b.Unbound():
		return "released, as nothing is bound"
	}
	return "cut to the register, and released"
}

// verifies checks a pod's evidence with the suite's own verifier.
func verifies(ctx context.Context, g guest, raw []byte, register string) {
	GinkgoHelper()
	nonce := []byte(fmt.Sprintf("%032d", GinkgoRandomSeed()))
	got, err := g.Evidence(ctx, nonce)
	Expect(err).NotTo(HaveOccurred())
	suite.KeepEvidence(g.tee, got, register)
	options := evidence.Options{}
	if g.tee != evidence.KindSample {
		options.InitDataDigest = digest(raw)
	}
	if bed.Roots != "" {
		options.Roots, err = evidence.LoadRoots(bed.Roots)
		Expect(err).NotTo(HaveOccurred())
	}
	claims, err := evidence.Verify(g.tee, got, nonce, options)
	Expect(err).NotTo(HaveOccurred())
	if g.tee == evidence.KindSample {
		register = ""
	}
	suite.TellEvidence(claims, register)
	certified := g.tee != evidence.KindTPM && g.tee != evidence.KindSample
	class, _ := bed.Class(g.tee, false)
	Expect(claims.TestRoot).To(Equal(class.Simulated && certified || g.tee == evidence.KindSample))

	By("not for another nonce")
	_, err = evidence.Verify(g.tee, got, []byte("another nonce of thirty-two byte"), options)
	Expect(err).To(Or(MatchError(evidence.ErrNonce), MatchError(evidence.ErrReportData)))
	if options.InitDataDigest != nil {
		By("not for other init-data")
		other := options
		other.InitDataDigest = digest(oneByteChanged(raw))
		_, err = evidence.Verify(g.tee, got, nonce, other)
		Expect(err).To(MatchError(evidence.ErrInitData))
	}
	if class.Simulated && certified {
		By("not by what AMD and Intel certify")
		options.Roots = evidence.Roots{}
		_, err = evidence.Verify(g.tee, got, nonce, options)
		Expect(err).To(MatchError(evidence.ErrChain))
	}
}
