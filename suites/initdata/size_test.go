package initdata_test

import (
	"encoding/base64"
	"fmt"
	"sort"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation"
	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// kubernetesLimit is what Kubernetes takes in all of an object's annotations,
// keys and values together (k8s.io/apimachinery TotalAnnotationSizeLimitB).
const kubernetesLimit = 262144

// encoding is one way to put init-data into an annotation.
type encoding struct {
	key    string
	encode func(raw string) string
}

func compressed() encoding { return encoding{annotationKey, value} }

func plain() encoding {
	return encoding{legacyKey, func(raw string) string { return base64Of([]byte(raw)) }}
}

// room is how long the annotation's value can be: base64 comes in fours.
func (e encoding) room() int { return (kubernetesLimit - len(e.key)) / 4 * 4 }

// filled gives pod an annotation more, so that all together have total bytes.
func filled(total int) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		used := len("x")
		for k, v := range p.Annotations {
			used += len(k) + len(v)
		}
		if used <= total {
			annotated("x", strings.Repeat("x", total-used))(p)
		}
	}
}

// guess finds the largest n whose length does not exceed room. Length is close
// to linear in n, and dear to find out.
func guess(length func(n int) int, room int) int {
	GinkgoHelper()
	const first, second, around = 200, 400, 64
	base := length(first)
	each := float64(length(second)-base) / (second - first)
	low := max(0, first+int(float64(room-base)/each)-around)
	n := sort.Search(2*around, func(i int) bool { return length(low+i) > room })
	Expect(n).To(And(BeNumerically(">", 0), BeNumerically("<", 2*around)), "the length is not linear")
	return low + n - 1
}

// largest is the document with the most containers in its policy that fits,
// filled up with a comment to the annotation's last four characters. Hex digits
// hardly compress, so every few of them make the value longer.
func largest(e encoding, commands ...string) string {
	GinkgoHelper()
	doc := func(containers int) string { return document(generated(containers, commands...)) }
	n := guess(func(n int) int { return len(e.encode(doc(n))) }, e.room())
	raw := doc(n)
	var digits strings.Builder
	for i := 0; digits.Len() < 1<<11; i++ {
		digits.WriteString(fingerprint(fmt.Sprint("filler", i)))
	}
	with := func(i int) string { return raw + "# " + digits.String()[:i] + "\n" }
	i := sort.Search(digits.Len(), func(i int) bool { return len(e.encode(with(i))) > e.room() }) - 1
	Expect(e.encode(with(i))).To(HaveLen(e.room()), "the document does not fill the annotation")
	return with(i)
}

var _ = Describe("the size of init-data", Label("init-data", "size"), func() {
	// runs starts the pod, has its policy decide and its evidence compared, and
	// reports the figures.
	runs := func(ctx SpecContext, e encoding, raw string, nonce string, edits ...func(*corev1.Pod)) {
		GinkgoHelper()
		ns := bed.Namespace(ctx, "size")
		p := bed.Pod(ns, "p", append([]func(*corev1.Pod){annotated(e.key, e.encode(raw))}, edits...)...)
		if total := size(p.Annotations); total == kubernetesLimit {
			By("control: with one byte more the API server refuses it")
			over := p.DeepCopy()
			if v, ok := over.Annotations["x"]; ok {
				over.Annotations["x"] = v + "x"
			} else {
				over.Annotations["x"] = ""
			}
			Expect(size(over.Annotations)).To(Equal(kubernetesLimit + 1))
			_, err := bed.Pods.Kube.CoreV1().Pods(ns).Create(ctx, over, metav1.CreateOptions{})
			Expect(err).To(MatchError(apierrors.IsInvalid, "IsInvalid"))
			Expect(err).To(MatchError(ContainSubstring("may not be more than 262144 bytes")))
		}
		created := time.Now()
		bed.Create(ctx, p)
		bed.Ready(ctx, ns, "p")
		ready := time.Now()

		By("the policy decides, by what stands at its end")
		r, d := exec(ctx, ns, "p", "whoami")
		Expect(d).To(pod.BeAllowed())
		Expect(r.Stdout).To(Equal("root\n"))
		_, d = exec(ctx, ns, "p", "ls")
		Expect(d).To(pod.BeRefusedBy("ExecProcessRequest"))
		boundTo(ctx, ns, "p", nonce, raw)

		figures := fmt.Sprintf("document %d bytes, gzip %d, annotation %d characters, all annotations %d of %d; created to Ready %.1f s",
			len(raw), base64.StdEncoding.DecodedLen(len(value(raw))), len(p.Annotations[e.key]), size(p.Annotations), kubernetesLimit, ready.Sub(created).Seconds())
		if bed.NodeLogs != "" {
			asked, err := simulation.CreateVMTime(bed.NodeLogs, ns, "p")
			Expect(err).NotTo(HaveOccurred())
			figures += fmt.Sprintf(", CreateVM to Ready %.1f s", ready.Sub(asked).Seconds())
		}
		AddReportEntry("init-data size", figures)
	}

	It("of genpolicy's usual policy: 60 kB, compressed", proof.Of("POLICY-EXEC-001", "INITDATA-SIZE-001"), func(ctx SpecContext) {
		nonce := newNonce()
		runs(ctx, compressed(), document(generated(1, "whoami", evidenceOf(nonce))), nonce)
	}, NodeTimeout(suite.DefaultSpecTimeout))

	It("of genpolicy's usual policy: 60 kB, plain", proof.Of("INITDATA-SIZE-004"), func(ctx SpecContext) {
		needsLegacy()
		nonce := newNonce()
		runs(ctx, plain(), document(generated(1, "whoami", evidenceOf(nonce))), nonce)
	}, NodeTimeout(suite.DefaultSpecTimeout))

	It("at the edge of what Kubernetes takes, compressed; a byte more is refused", proof.Of("INITDATA-SIZE-002"), func(ctx SpecContext) {
		nonce := newNonce()
		raw := largest(compressed(), "whoami", evidenceOf(nonce))
		runs(ctx, compressed(), raw, nonce, filled(kubernetesLimit))
	}, NodeTimeout(suite.DefaultSpecTimeout))

	It("at the edge of what Kubernetes takes, plain; a byte more is refused", proof.Of("INITDATA-SIZE-004"), func(ctx SpecContext) {
		needsLegacy()
		nonce := newNonce()
		raw := largest(plain(), "whoami", evidenceOf(nonce))
		runs(ctx, plain(), raw, nonce, filled(kubernetesLimit))
	}, NodeTimeout(suite.DefaultSpecTimeout))
})

func needsLegacy() {
	if !bed.LegacyInitData {
		Skip("Kata 4.1 and later ignore " + legacyKey + ", and this platform has no switch for it")
	}
}

func size(annotations map[string]string) int {
	n := 0
	for k, v := range annotations {
		n += len(k) + len(v)
	}
	return n
}
