package release_test

import (
	"context"
	"crypto/ecdsa"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/leak"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/sealedsecret"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// sealing is a KBS with a secret and the public half of a sealing key.
type sealing struct {
	k                *suite.KBS
	key              *ecdsa.PrivateKey
	ns, path, secret string
}

func newSealing(ctx context.Context) *sealing {
	GinkgoHelper()
	s := &sealing{k: bed.KBS(ctx), key: newKey(), ns: bed.Namespace(ctx, "sealed"), secret: leak.Secret()}
	s.path = suite.ResourcePath(s.ns, "secret")
	public, err := sealedsecret.PublicKey(s.key)
	Expect(err).NotTo(HaveOccurred())
	Expect(s.k.SetResource(ctx, s.path, []byte(s.secret))).To(Succeed())
	Expect(s.k.SetResource(ctx, suite.ResourcePath(s.ns, "key"), public)).To(Succeed())
	Expect(s.k.SetResourcePolicy(ctx, allowAll)).To(Succeed())
	return s
}

// seal seals the secret with a key, for the key that the KBS has.
func (s *sealing) seal(key *ecdsa.PrivateKey) string {
	GinkgoHelper()
	sealed, err := sealedsecret.Seal(sealedsecret.Vault("kbs:///"+s.path), key, "kbs:///"+suite.ResourcePath(s.ns, "key"))
	Expect(err).NotTo(HaveOccurred())
	return sealed
}

// run makes a pod with sealed secrets in variables, and of files below a path.
func (s *sealing) run(ctx context.Context, name string, env, files map[string]string, mount string) {
	GinkgoHelper()
	_, err := bed.Pods.Kube.CoreV1().Secrets(s.ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: files}, metav1.CreateOptions{})
	Expect(err).NotTo(HaveOccurred())
	confidential(ctx, s.ns, name, bed.RuntimeClass, document("sha256", s.k.URL, s.ns), func(p *corev1.Pod) {
		c := &p.Spec.Containers[0]
		for variable, value := range env {
			c.Env = append(c.Env, corev1.EnvVar{Name: variable, Value: value})
		}
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "sealed", MountPath: mount})
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "sealed", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}})
	})
	bed.Ready(ctx, s.ns, name)
}

// sum is the SHA-256 of what a command of the container prints. Environments of
// execs are not the container's, so that its first process's is read.
func (s *sealing) sum(ctx context.Context, name, command string) string {
	GinkgoHelper()
	r, err := bed.Pods.Exec(ctx, s.ns, name, suite.Container, "sh", "-c", command+" | sha256sum")
	Expect(pod.Classify(r, err)).To(pod.BeAllowed())
	return strings.Fields(r.Stdout)[0]
}

// variable prints a variable of the container's first process.
func variable(name string) string {
	return `tr '\0' '\n' </proc/1/environ | sed -n 's/^` + name + `=//p' | tr -d '\n'`
}

var _ = Describe("sealed secrets", suite.OneKBS, Label("sealed"), func() {
	It("in environment and volumes are the secret inside the guest, and sealed outside", proof.Of("RELEASE-SEALED-001"), SpecTimeout(limit), func(ctx SpecContext) {
		s := newSealing(ctx)
		sealed := s.seal(s.key)
		s.run(ctx, "sealed", map[string]string{"SECRET": sealed, "PLAIN": "plain"}, map[string]string{"secret": sealed, "plain": "plain"}, "/sealed/here")
		Expect(s.sum(ctx, "sealed", variable("SECRET"))).To(Equal(fingerprint(s.secret)))
		Expect(s.sum(ctx, "sealed", variable("PLAIN"))).To(Equal(fingerprint("plain")))
		Expect(s.sum(ctx, "sealed", "cat /sealed/here/secret")).To(Equal(fingerprint(s.secret)))
		Expect(s.sum(ctx, "sealed", "cat /sealed/here/plain")).To(Equal(fingerprint("plain")))
		p, err := bed.Pods.Kube.CoreV1().Pods(s.ns).Get(ctx, "sealed", metav1.GetOptions{})
		Expect(err).NotTo(HaveOccurred())
		Expect(p.String()).NotTo(ContainSubstring(s.secret))
	})

	It("that another key signed, or that the KBS denies, stay sealed", proof.Of("RELEASE-SEALED-002"), SpecTimeout(limit), func(ctx SpecContext) {
		s := newSealing(ctx)
		forged := s.seal(newKey())
		s.run(ctx, "forged", map[string]string{"FORGED": forged, "RIGHT": s.seal(s.key)}, map[string]string{"secret": forged}, "/sealed")
		Expect(s.sum(ctx, "forged", variable("FORGED"))).To(Equal(fingerprint(forged)))
		Expect(s.sum(ctx, "forged", "cat /sealed/secret")).To(Equal(fingerprint(forged)))
		By("control: the one that the right key signed is open, in the same pod")
		Expect(s.sum(ctx, "forged", variable("RIGHT"))).To(Equal(fingerprint(s.secret)))

		By("denied by the KBS")
		Expect(s.k.SetResourcePolicy(ctx, "package policy\nimport rego.v1\ndefault allow := false\n")).To(Succeed())
		sealed := s.seal(s.key)
		counted := s.k.Count(ctx)
		s.run(ctx, "denied", map[string]string{"SECRET": sealed}, map[string]string{"secret": sealed}, "/elsewhere")
		Expect(s.sum(ctx, "denied", variable("SECRET"))).To(Equal(fingerprint(sealed)))
		Expect(s.k.Count(ctx).Since(counted, suite.PolicyViolations)).To(BeNumerically(">", 0))
		By("in a volume that is not below /sealed it stays as it is")
		Expect(s.sum(ctx, "denied", "cat /elsewhere/secret")).To(Equal(fingerprint(sealed)))
	})
})
