package walkthrough_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation"
	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/framework/kbs"
	"github.com/coco-e2e/coco-e2e/framework/leak"
	"github.com/coco-e2e/coco-e2e/framework/measure"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/suite"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// The article's own numbers: the digest of its init-data file and PCR8 after
// the measurement, both printed there by openssl.
const (
	articleDigest = "bdc9a7390bb371258fb7fb8be5a8de5ced6a07dd077d1ce04ec26e06eaf68f60"
	articlePCR8   = "7aaf19294adabd752bf095e1f076baed85d4b088fa990cb575ad0f3e0569f292"
)

// articleRegister is what the platform's register would hold of the article's
// file: HOST_DATA has the digest itself, MRCONFIGID has 16 zero bytes after it.
var articleRegister = map[string]string{"PCR8": articlePCR8, "HOST_DATA": articleDigest, "MRCONFIGID": articleDigest + strings.Repeat("0", 32)}

// deploymentName is the article's.
const deploymentName = "nginx-cc"

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// deployment is what `kubectl create deployment nginx-cc --image=…` makes,
// with the runtime class and the annotation that the article adds to it.
func deployment(ns, image string, annotations map[string]string) *appsv1.Deployment {
	one, runtimeClass, grace := int32(1), bed.RuntimeClass, int64(1)
	labels := map[string]string{"app": deploymentName}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: deploymentName, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: annotations},
				Spec: corev1.PodSpec{
					RuntimeClassName: &runtimeClass, TerminationGracePeriodSeconds: &grace,
					Containers: []corev1.Container{{Name: container, Image: image}},
				},
			},
		},
	}
}

var _ = Describe("the article's walkthrough", Ordered, ContinueOnFailure, suite.OneKBS, Label("walkthrough"), func() {
	var (
		ns, name  string
		nonce     = randomHex(16)
		raw       []byte
		kbsClient *suite.KBS
		// What the pod may have, and where the KBS keeps it.
		secret, secretPath string

		exec      func(ctx context.Context, podName string, command string) (pod.Result, error)
		token     func(ctx context.Context, podName string) (kbs.Token, kbs.TEEKey)
		askStatus string
		binding   suite.Binding
		expected  string
	)

	BeforeAll(func(ctx SpecContext) {
		binding = suite.BindingOf(bed.TEE)
		ns = bed.Namespace(ctx, "walkthrough")
		secret, secretPath = leak.Secret(), suite.ResourcePath(ns, deploymentName)
		askStatus = resourceStatusCommand(secretPath)
		raw = document(articlePolicy(evidenceCommand(nonce), resourceCommand(secretPath), askStatus))
		exec = func(ctx context.Context, podName, command string) (pod.Result, error) {
			return bed.Pods.Exec(ctx, ns, podName, container, strings.Fields(command)...)
		}
		token = func(ctx context.Context, podName string) (kbs.Token, kbs.TEEKey) {
			GinkgoHelper()
			r, err := exec(ctx, podName, tokenCommand)
			Expect(pod.Classify(r, err)).To(pod.BeAllowed())
			tok, key, err := kbs.ParseTokenResponse([]byte(r.Stdout))
			Expect(err).NotTo(HaveOccurred(), "%s: the guest gave no token", pod.InconclusiveMark)
			suite.KeepToken(tok)
			return tok, key
		}

		expected = registerOf(binding, raw)
		kbsClient = bed.SharedKBS(ctx)
		if !bed.ExternalKBS.Given() { // one that was given appraises as it does; step 7 is for the run's own
			if !binding.Unbound() {
				Expect(kbsClient.SetReferenceValue(ctx, loggedAs(bed.TEE).reference, []string{articleRegister[binding.Name], expected})).To(Succeed())
			}
			Expect(kbsClient.SetAttestationPolicy(ctx, "default_cpu", string(manifests.Read("walkthrough/attestation-policy.rego")))).To(Succeed())
		}
		if !kbsClient.CanSetResourcePolicy() {
			return // step 8 says so
		}
		policy, err := manifests.Fill("walkthrough/resource-policy.rego", map[string]any{
			"Expected": map[string]string{"nginx-cc": expected},
		})
		Expect(err).NotTo(HaveOccurred())
		Expect(kbsClient.SetResourcePolicy(ctx, string(policy))).To(Succeed())
		Expect(kbsClient.SetResource(ctx, secretPath, []byte(secret))).To(Succeed())
	}, NodeTimeout(suite.DefaultSpecTimeout))

	It("1. the manifest: a Deployment with the runtime class, init-data in its annotation", proof.Of("INITDATA-MANIFEST-001"), func(ctx SpecContext) {
		d := deployment(ns, bed.Nginx, annotated(raw))
		made, err := bed.Pods.Kube.AppsV1().Deployments(ns).Create(ctx, d, metav1.CreateOptions{})
		Expect(err).NotTo(HaveOccurred())
		carried, err := initdata.DecodeAnnotation(made.Spec.Template.Annotations[initdata.AnnotationKey])
		Expect(err).NotTo(HaveOccurred())
		Expect(string(carried)).To(Equal(string(raw)), "the document is not what was authored: its digest would differ")
	}, NodeTimeout(suite.DefaultSpecTimeout))

	It("2. the pod becomes Ready, and the agent was called in the article's order", proof.Of("AGENT-LAUNCH-001"), func(ctx SpecContext) {
		wait, cancel := context.WithTimeout(ctx, suite.ReadyTimeout)
		defer cancel()
		p, err := bed.Pods.WaitReady(wait, ns, pod.Labelled("app", deploymentName))
		Expect(err).NotTo(HaveOccurred())
		name = p.Name
		if bed.NodeLogs == "" {
			Skip("the agent's log cannot be read on this platform: the order of its calls is not checked")
		}
		sequence := []string{
			"CreateSandbox", "GetGuestDetails", "CopyFile", "CreateContainer", "StartContainer", "WaitProcess",
			"CopyFile", "CreateContainer", "StartContainer", "StatsContainer",
		}
		Eventually(ctx, func() (string, error) {
			log, err := simulation.AgentLog(bed.NodeLogs, ns, name)
			if err != nil {
				return "", err
			}
			return missingStep(log, sequence)
		}).WithTimeout(30*time.Second).WithPolling(50*time.Millisecond).Should(BeEmpty(), "a step of the launch sequence is missing, or out of order")
	}, NodeTimeout(suite.DefaultSpecTimeout))

	It("3a. the arithmetic: the article's digest gives the article's PCR8", proof.Of("ATTEST-ARITHMETIC-001"), func(SpecContext) {
		digest, err := hex.DecodeString(articleDigest)
		Expect(err).NotTo(HaveOccurred())
		pcr8, err := measure.PCR8(digest)
		Expect(err).NotTo(HaveOccurred())
		Expect(hex.EncodeToString(pcr8)).To(Equal(articlePCR8))
	}, SpecTimeout(suite.DefaultSpecTimeout))

	It("3b. the register of the init-data, read from verified evidence, is the expected value", proof.Of("ATTEST-BINDING-001", "ATTEST-BINDING-002", "ATTEST-BINDING-003"), func(ctx SpecContext) {
		if bed.Binding().Unbound() {
			Skip("evidence of kind " + bed.TEE + " binds a pod to nothing: anybody can write it")
		}
		r, err := exec(ctx, name, evidenceCommand(nonce))
		Expect(pod.Classify(r, err)).To(pod.BeAllowed())
		suite.KeepEvidence(bed.TEE, []byte(r.Stdout), expected)
		claims, err := evidence.Verify(bed.TEE, []byte(r.Stdout), []byte(nonce), bed.Trusted(ns, name))
		Expect(err).NotTo(HaveOccurred())
		suite.TellEvidence(claims, expected)
		Expect(claims.InitData).To(Equal(expected), "%s", binding.Name)
		if binding.Name == "PCR8" {
			Expect(claims.PCR(8)).To(Equal(expected))
		}

		By("control: the same evidence does not answer another nonce")
		_, err = evidence.Verify(bed.TEE, []byte(r.Stdout), []byte(randomHex(16)), bed.Trusted(ns, name))
		Expect(err).To(Or(MatchError(evidence.ErrNonce), MatchError(evidence.ErrReportData)))
	}, NodeTimeout(suite.DefaultSpecTimeout))

	It("4a. exec whoami prints root", proof.Of("POLICY-EXEC-002"), func(ctx SpecContext) {
		r, err := exec(ctx, name, whoami)
		Expect(pod.Classify(r, err)).To(pod.BeAllowed())
		Expect(r).To(Equal(pod.Result{Stdout: "root\n"}))
	}, NodeTimeout(suite.DefaultSpecTimeout))

	It("4b. exec ls is refused with the article's message", proof.Of("POLICY-EXEC-001", "POLICY-DENIAL-001"), func(ctx SpecContext) {
		r, err := exec(ctx, name, "ls")
		d := pod.Classify(r, err)
		Expect(d).To(pod.BeRefusedBy("ExecProcessRequest"))
		Expect(d.Text).To(Or(
			ContainSubstring("error executing command in container: failed to exec in container: failed to start exec"),
			ContainSubstring("failed to handle message"), // runtime-rs
		))
		if bed.Simulated {
			Expect(d.Code).To(Equal("PermissionDenied"))
			Expect(d.Text).To(MatchRegexp(`failed to start exec "[0-9a-f]{64}": cannot enter container [0-9a-f]{64}, with err rpc error: code = PermissionDenied desc = "ExecProcessRequest is blocked by policy: "`))
		}
		By("control: the container still runs what the policy allows")
		r, err = exec(ctx, name, whoami)
		Expect(pod.Classify(r, err)).To(pod.BeAllowed())
		Expect(r.Stdout).To(Equal("root\n"))
	}, NodeTimeout(suite.DefaultSpecTimeout))

	It("5. an image that the policy does not list never starts", proof.Of("POLICY-IMAGE-001"), func(ctx SpecContext) {
		By("control: a pod with the listed image and the same init-data runs")
		bed.Create(ctx, confidentialPod(ns, "listed", bed.Nginx, annotated(raw)))
		bed.Create(ctx, confidentialPod(ns, "unlisted", bed.UnlistedImage, annotated(raw)))
		bed.Ready(ctx, ns, "listed")
		wait, cancel := context.WithTimeout(ctx, suite.ReadyTimeout)
		defer cancel()
		// One that starts will not be refused any more.
		event, err := bed.Pods.WaitEvent(wait, ns, "unlisted", func(e string) bool {
			return pod.ParseDenial(e).Outcome != pod.Inconclusive || strings.HasPrefix(e, "Started: ")
		})
		Expect(err).NotTo(HaveOccurred(), "%s: neither refused nor started; if the node cannot pull %s, set UNLISTED_IMAGE to one that it can",
			pod.InconclusiveMark, bed.UnlistedImage)
		Expect(pod.ParseDenial(event)).To(pod.BeRefusedBy("CreateContainerRequest"))
		bed.NeverRan(ctx, ns, "unlisted")
		for _, p := range []string{"listed", "unlisted"} {
			Expect(bed.Pods.Kube.CoreV1().Pods(ns).Delete(ctx, p, metav1.DeleteOptions{})).To(Succeed())
		}
	}, NodeTimeout(suite.DefaultSpecTimeout))

	It("6. a token request from inside the container answers with tee_keypair and token", proof.Of("ATTEST-TOKEN-001"), func(ctx SpecContext) {
		r, err := exec(ctx, name, tokenCommand)
		Expect(pod.Classify(r, err)).To(pod.BeAllowed())
		var answer map[string]json.RawMessage
		Expect(json.Unmarshal([]byte(r.Stdout), &answer)).To(Succeed(), "the answer is no JSON object (%d bytes)", len(r.Stdout))
		Expect(slices.Sorted(maps.Keys(answer))).To(Equal([]string{"tee_keypair", "token"}))
	}, NodeTimeout(suite.DefaultSpecTimeout))

	It("7. the KBS's log names the register, and beside it the two acceptable values", proof.Of("ATTEST-LOG-001"), func(ctx SpecContext) {
		if bed.ExternalKBS.URL != "" {
			Skip("the layout of a real Trustee's log differs between versions: the claims are asserted through the token instead")
		}
		if binding.Unbound() {
			Skip("evidence of kind " + bed.TEE + " has no register")
		}
		token(ctx, name)
		kbsPod, err := bed.Pods.WaitReady(ctx, bed.KBSNamespace, pod.Labelled("app", "kbs"))
		Expect(err).NotTo(HaveOccurred())
		Eventually(ctx, func() (string, error) {
			return bed.Pods.Logs(ctx, bed.KBSNamespace, kbsPod.Name, "kbs", 64<<20)
		}).WithTimeout(10 * time.Second).WithPolling(100 * time.Millisecond).Should(And(
			ContainSubstring(fmt.Sprintf(`%q: String(%q)`, loggedAs(bed.TEE).claim, expected)),
			MatchRegexp(`"%s": \[\s+"%s",\s+"%s",?\s+\]`, regexp.QuoteMeta(loggedAs(bed.TEE).reference), articleRegister[binding.Name], expected),
		))
	}, NodeTimeout(suite.DefaultSpecTimeout))

	Describe("8. the secret", func() {
		BeforeEach(func() {
			if !kbsClient.CanSetResourcePolicy() {
				Skip(suite.NoResourcePolicy)
			}
		})
		released := func(ctx context.Context, podName string) {
			GinkgoHelper()
			By("inside the pod: the data hub hands it out")
			r, err := exec(ctx, podName, resourceCommand(secretPath))
			Expect(pod.Classify(r, err)).To(pod.BeAllowed())
			// Compared as digests: a secret must not reach a report, not even in a failure.
			Expect(fingerprint(r.Stdout)).To(Equal(fingerprint(secret)), "the pod got something else than the secret")
			By("with the pod's token: the KBS releases it")
			tok, key := token(ctx, podName)
			got, err := kbsClient.GetResource(ctx, secretPath, tok, key)
			Expect(kbs.Classify(err)).To(HaveField("Kind", kbs.Released), "%v", err)
			Expect(fingerprint(string(got))).To(Equal(fingerprint(secret)))
		}
		refused := func(ctx context.Context, podName string) {
			GinkgoHelper()
			By("inside the pod: the data hub answers with an error, after it asked the KBS")
			before := kbsClient.Count(ctx)
			r, err := exec(ctx, podName, askStatus)
			Expect(pod.Classify(r, err)).To(pod.BeAllowed())
			Expect(r.Stdout).To(Equal("500"))
			after := kbsClient.Count(ctx)
			Expect(after.Since(before, suite.PolicyViolations)).To(BeNumerically(">", 0), "the KBS denied nothing: did the guest ask it?")
			Expect(after.Since(before, suite.PolicyApprovals)).To(BeZero(), "the KBS approved")
			By("with the pod's token: the KBS refuses, and says by which rule")
			tok, key := token(ctx, podName)
			counted := kbsClient.Count(ctx)
			_, err = kbsClient.GetResource(ctx, secretPath, tok, key)
			outcome := kbs.Classify(err)
			Expect(outcome.Kind).NotTo(Equal(kbs.Inconclusive), "%s: %v", pod.InconclusiveMark, err)
			Expect(outcome).To(And(HaveField("Kind", kbs.Refused), HaveField("Type", "PolicyDeny")), "%v", err)
			counted.Grew(ctx, map[string]int{suite.PolicyViolations: 1})
		}

		It("is released to the pod", proof.Of("RELEASE-RIGHT-001"), func(ctx SpecContext) {
			released(ctx, name)
		}, NodeTimeout(suite.DefaultSpecTimeout))

		It("is refused to the same pod with one byte of init-data changed", proof.Of("RELEASE-WRONG-001"), func(ctx SpecContext) {
			bed.Create(ctx, confidentialPod(ns, "changed", bed.Nginx, annotated(oneByteChanged(raw))))
			bed.Ready(ctx, ns, "changed")
			refused(ctx, "changed")
		}, NodeTimeout(suite.DefaultSpecTimeout))

		It("control: and is still released to the pod itself", proof.Of("RELEASE-RIGHT-001"), func(ctx SpecContext) {
			released(ctx, name)
		}, NodeTimeout(suite.DefaultSpecTimeout))

		It("is refused to the same pod with a permissive policy", proof.Of("RELEASE-WRONG-002"), func(ctx SpecContext) {
			bed.Create(ctx, confidentialPod(ns, "permissive", bed.Nginx, annotated(document(permissive))))
			bed.Ready(ctx, ns, "permissive")
			By("control: the policy is permissive: ls runs")
			r, err := exec(ctx, "permissive", "ls /")
			Expect(pod.Classify(r, err)).To(pod.BeAllowed())
			refused(ctx, "permissive")
		}, NodeTimeout(suite.DefaultSpecTimeout))

		It("control: and is released again", proof.Of("RELEASE-RIGHT-001"), func(ctx SpecContext) {
			released(ctx, name)
		}, NodeTimeout(suite.DefaultSpecTimeout))

		It("is bound to the pod, not to its node: on each of several nodes released to the pod, refused to the changed one", proof.Of("RELEASE-NODE-001"), Label("nodes"), func(ctx SpecContext) {
			nodes := bed.NodesOfClass(ctx, 2, 3)
			for i, n := range nodes {
				right, changed := fmt.Sprintf("right-%d", i), fmt.Sprintf("changed-%d", i)
				for name, document := range map[string][]byte{right: raw, changed: oneByteChanged(raw)} {
					p := confidentialPod(ns, name, bed.Nginx, annotated(document))
					p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: n.Labels[corev1.LabelHostname]}
					bed.Create(ctx, p)
				}
			}
			for i, n := range nodes {
				right, changed := fmt.Sprintf("right-%d", i), fmt.Sprintf("changed-%d", i)
				Expect(bed.Ready(ctx, ns, right).Spec.NodeName).To(Equal(n.Name))
				Expect(bed.Ready(ctx, ns, changed).Spec.NodeName).To(Equal(n.Name))
				By("on node " + n.Name)
				released(ctx, right)
				refused(ctx, changed)
			}
		}, NodeTimeout(suite.DefaultSpecTimeout))
	})
})

// The annotation of the article's time: base64 of the document, not compressed.
var _ = Describe("the article's own encoding", Label("walkthrough"), func() {
	It("is honoured where the platform still does: policy and measurement are the same", proof.Of("INITDATA-ANNOTATION-003"), func(ctx SpecContext) {
		if !bed.LegacyInitData {
			Skip("Kata 4.1 and later ignore " + initdata.LegacyAnnotationKey + ", and this platform has no switch for it")
		}
		nonce := randomHex(16)
		raw := document(articlePolicy(evidenceCommand(nonce)))
		ns := bed.Namespace(ctx, "legacy")
		bed.Create(ctx, confidentialPod(ns, "legacy", bed.Nginx, map[string]string{
			initdata.LegacyAnnotationKey: base64.StdEncoding.EncodeToString(raw),
		}))
		bed.Ready(ctx, ns, "legacy")
		r, err := bed.Pods.Exec(ctx, ns, "legacy", container, "ls")
		Expect(pod.Classify(r, err)).To(pod.BeRefusedBy("ExecProcessRequest"))
		By("control: whoami is allowed")
		r, err = bed.Pods.Exec(ctx, ns, "legacy", container, whoami)
		Expect(pod.Classify(r, err)).To(pod.BeAllowed())
		Expect(r.Stdout).To(Equal("root\n"))
		r, err = bed.Pods.Exec(ctx, ns, "legacy", container, strings.Fields(evidenceCommand(nonce))...)
		Expect(pod.Classify(r, err)).To(pod.BeAllowed())
		claims, err := evidence.Verify(bed.TEE, []byte(r.Stdout), []byte(nonce), bed.Trusted(ns, "legacy"))
		Expect(err).NotTo(HaveOccurred())
		if binding := suite.BindingOf(bed.TEE); !binding.Unbound() {
			Expect(claims.InitData).To(Equal(registerOf(binding, raw)))
		}
	}, NodeTimeout(suite.DefaultSpecTimeout))
})

func fingerprint(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// missingStep returns the first step of sequence that log does not have in
// order, or "". A step that the policy refused is an error.
func missingStep(log []simulation.RPC, sequence []string) (string, error) {
	at := 0
	for _, r := range log {
		if at == len(sequence) {
			break
		}
		if r.Method != sequence[at] {
			continue
		}
		if r.Decision != "allowed" {
			return "", fmt.Errorf("%s was %s: %s", r.Method, r.Decision, r.Code)
		}
		at++
	}
	if at == len(sequence) {
		return "", nil
	}
	return fmt.Sprintf("%s (after %s)", sequence[at], strings.Join(sequence[:at], ", ")), nil
}
