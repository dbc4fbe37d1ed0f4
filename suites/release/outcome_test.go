package release_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/coco-e2e/coco-e2e/framework/kbs"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/suite"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// Resource policies of manifests/kbs/policies.
var (
	allowAll  = string(manifests.Read("kbs/policies/allow-all.rego"))
	affirming = string(manifests.Read("kbs/policies/affirming.rego"))
	// notSample is Trustee's default.
	notSample = string(manifests.Read("kbs/policies/default.rego"))
)

// forRegister is a resource policy that asks for the register that init-data is
// bound to.
func forRegister(value string) string {
	return fmt.Sprintf(`package policy
import rego.v1
default allow := false
allow if {
	data.plugin == "resource"
	input.submods.cpu0["ear.veraison.annotated-evidence"].init_data == %q
}
`, value)
}

// forDocument is a resource policy that asks for init-data that was presented
// and verified.
const forDocument = `package policy
import rego.v1
default allow := false
allow if {
	data.plugin == "resource"
	input.submods.cpu0["ear.veraison.annotated-evidence"].init_data_claims["aa.toml"]
}
`

// text is a pointer to a document as a handshake presents it.
func text(raw []byte) *string {
	s := string(raw)
	return &s
}

// fingerprint stands for a secret, which must not reach a report, not even in a
// failure.
func fingerprint(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// attested performs the handshake, which has to succeed.
func attested(ctx context.Context, k *suite.KBS, a kbs.Attester, presented *string) (kbs.Token, kbs.TEEKey) {
	GinkgoHelper()
	token, key, err := k.Handshake(ctx, a, presented)
	Expect(kbs.Classify(err)).To(HaveField("Kind", kbs.Released), "%v", err)
	return token, key
}

// appraisal is what the KBS says of a TEE that it attested.
func appraisal(token kbs.Token) *kbs.Appraisal {
	GinkgoHelper()
	claims, err := kbs.ParseToken(token, kbs.VerifyOptions{})
	Expect(err).NotTo(HaveOccurred())
	Expect(claims.CPU()).NotTo(BeNil())
	return claims.CPU()
}

// releases asserts that a handshake presenting init-data gets the secret.
func releases(ctx context.Context, k *suite.KBS, a kbs.Attester, presented *string, path, secret string) {
	GinkgoHelper()
	token, key := attested(ctx, k, a, presented)
	got, err := k.GetResource(ctx, path, token, key)
	Expect(kbs.Classify(err)).To(HaveField("Kind", kbs.Released), "%v", err)
	Expect(fingerprint(string(got))).To(Equal(fingerprint(secret)), "the KBS released something else than the secret")
}

// refusesEvidence asserts that the handshake ends with the KBS's verdict on the
// evidence.
func refusesEvidence(ctx context.Context, k *suite.KBS, a kbs.Attester, presented *string) {
	GinkgoHelper()
	counted := k.Count(ctx)
	_, _, err := k.Handshake(ctx, a, presented)
	refused(err, kbs.TypeAttestationError)
	counted.Grew(ctx, map[string]int{suite.AttestationFailures: 1})
}

// deniesResource asserts that a TEE which is attested does not get the resource,
// by the resource policy.
func deniesResource(ctx context.Context, k *suite.KBS, a kbs.Attester, presented *string, path string) {
	GinkgoHelper()
	token, key := attested(ctx, k, a, presented)
	counted := k.Count(ctx)
	_, err := k.GetResource(ctx, path, token, key)
	refused(err, kbs.TypePolicyDeny)
	counted.Grew(ctx, map[string]int{suite.PolicyViolations: 1})
}

// refusedInside asserts that the guest asks the KBS for a resource and gets none, by verdicts that the KBS counts: a guest
// whose agents are dead gets none either. How often it asks is its own affair. What the guest answered is returned.
func refusedInside(ctx context.Context, k *suite.KBS, g guest, path string, verdicts ...string) string {
	GinkgoHelper()
	before := k.Count(ctx)
	status, content := g.resource(ctx, path)
	Expect(status).To(Equal("500"))
	after, counted := k.Count(ctx), 0
	for _, counter := range verdicts {
		counted += after.Since(before, counter)
	}
	Expect(counted).To(BeNumerically(">", 0), "the KBS counted none of %v: did the guest ask it?", verdicts)
	Expect(after.Since(before, suite.PolicyApprovals)).To(BeZero(), "the KBS approved")
	return content
}

// refusedToken asserts that the KBS refuses a resource to the token that the guest's own agent got, by a type.
func refusedToken(ctx context.Context, k *suite.KBS, g guest, path, kind string, counts map[string]int) {
	GinkgoHelper()
	token, key := g.token(ctx)
	counted := k.Count(ctx)
	_, err := k.GetResource(ctx, path, token, key)
	refused(err, kind)
	counted.Grew(ctx, counts)
}

// refused asserts that err is the KBS's verdict of a type: a KBS that is out of
// reach has none.
func refused(err error, kind string) {
	GinkgoHelper()
	outcome := kbs.Classify(err)
	Expect(outcome.Kind).NotTo(Equal(kbs.Inconclusive), "%s: %v", pod.InconclusiveMark, err)
	Expect(outcome).To(And(HaveField("Kind", kbs.Refused), HaveField("Type", kind)), "%v", err)
}
