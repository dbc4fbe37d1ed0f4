package initdata_test

import (
	"encoding/hex"
	"encoding/json"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

var _ = Describe("init-data in a form that Kata takes", Label("init-data"), func() {
	DescribeTable("runs, bound to the document's raw bytes", func(ctx SpecContext, raw func() string, annotation func(raw string) string) {
		ns := bed.Namespace(ctx, "good-initdata")
		text := raw()
		start(ctx, ns, "p", annotation(text))
		bed.Ready(ctx, ns, "p")
		boundTo(ctx, ns, "p", newNonce(), text)
	},
		Entry("base64 on several lines", proof.Of("INITDATA-ENCODING-001"), NodeTimeout(suite.DefaultSpecTimeout),
			func() string { return document(permissive) },
			func(raw string) string {
				v := encoded(raw)
				return v[:60] + "\n" + v[60:100] + "\r\n" + v[100:] + "\n"
			}),
		Entry("gzip of several members", proof.Of("INITDATA-ENCODING-001"), NodeTimeout(suite.DefaultSpecTimeout),
			func() string { return document(permissive) },
			func(raw string) string { return encoded(raw[:25], raw[25:]) }),
		Entry("a document as long as CreateVM can carry", proof.Of("INITDATA-SIZE-003"), NodeTimeout(suite.DefaultSpecTimeout),
			func() string { return longest(0) },
			func(raw string) string { return encoded(raw) }),
		Entry("lines that end as on Windows, a byte order mark of a file's, a file that the guest does not know", proof.Of("INITDATA-DIGEST-001"), NodeTimeout(suite.DefaultSpecTimeout),
			func() string {
				return strings.ReplaceAll(document(permissive)+"\"notes.txt\" = '\ufeffnotes'\n", "\n", "\r\n")
			},
			func(raw string) string { return value(raw) }),
	)

	It("an empty annotation is no init-data: the guest's own policy holds, and nothing is measured", proof.Of("POLICY-BOOT-001", "INITDATA-NONE-001"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "no-initdata")
		start(ctx, ns, "empty", "")
		bed.Create(ctx, bed.Pod(ns, "none"))
		for _, name := range []string{"empty", "none"} {
			bed.Ready(ctx, ns, name)
			if !bed.Simulated {
				continue // another platform's own policy, and what it measures without init-data, are its own
			}
			nonce := newNonce()
			r, d := exec(ctx, ns, name, evidenceOf(nonce))
			Expect(d).To(pod.BeAllowed())
			claims, err := evidence.Verify(bed.TEE, []byte(r.Stdout), []byte(nonce), bed.Trusted(ns, name))
			Expect(err).NotTo(HaveOccurred())
			if !suite.BindingOf(bed.TEE).Unbound() {
				Expect(claims.InitData).To(MatchRegexp("^(0{64}|0{96})$"), "the register holds something")
			}
		}
	}, NodeTimeout(suite.DefaultSpecTimeout))

	It("a trailing newline more is another document: each pod's evidence binds it to its own", proof.Of("INITDATA-DIGEST-001"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "newline")
		one := document(permissive)
		two := one + "\n"
		start(ctx, ns, "one", value(one))
		start(ctx, ns, "two", value(two))
		nonce := newNonce()
		for name, raws := range map[string]struct{ own, other string }{"one": {one, two}, "two": {two, one}} {
			bed.Ready(ctx, ns, name)
			boundTo(ctx, ns, name, nonce, raws.own)
			r, d := exec(ctx, ns, name, evidenceOf(nonce))
			Expect(d).To(pod.BeAllowed())
			o := bed.Trusted(ns, name)
			o.InitDataDigest = digestOf(raws.other)
			_, err := evidence.Verify(bed.TEE, []byte(r.Stdout), []byte(nonce), o)
			Expect(err).To(MatchError(evidence.ErrInitData), "pod %s passes for the other", name)
		}
	}, NodeTimeout(suite.DefaultSpecTimeout))
})

// maxDocument is 4 MiB, what a ttrpc message holds, less 64 KiB for the rest of
// the message.
const maxDocument = 4<<20 - 64<<10

// longest is a document of so many bytes, and some more.
func longest(more int) string {
	raw := document(permissive)
	return raw + strings.Repeat("#", maxDocument+more-len(raw)-1) + "\n"
}

var _ = Describe("the init-data annotation", Label("init-data"), func() {
	It("counts when the pod starts: changed later, it loosens nothing", proof.Of("INITDATA-ANNOTATION-001"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "changed")
		nonce := newNonce()
		raw := document(strict("whoami", evidenceOf(nonce)))
		start(ctx, ns, "p", value(raw))
		bed.Ready(ctx, ns, "p")
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{annotationKey: value(document(permissive))}}})
		Expect(err).NotTo(HaveOccurred())
		_, err = bed.Pods.Kube.CoreV1().Pods(ns).Patch(ctx, "p", types.MergePatchType, patch, metav1.PatchOptions{})
		Expect(err).NotTo(HaveOccurred())
		_, d := exec(ctx, ns, "p", "ls")
		Expect(d).To(pod.BeRefusedBy("ExecProcessRequest"))
		boundTo(ctx, ns, "p", nonce, raw)
	}, NodeTimeout(suite.DefaultSpecTimeout))

	// Kata's shim takes it out of every OCI spec: a policy would otherwise have
	// to describe itself.
	It("is not among the annotations that the guest's policy judges", proof.Of("INITDATA-ANNOTATION-002"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "unseen")
		start(ctx, ns, "unseen", value(document(blind(annotationKey))))
		const seen = "io.kubernetes.cri.sandbox-name"
		start(ctx, ns, "control", value(document(blind(seen))))
		bed.Ready(ctx, ns, "unseen")
		By("control: the same policy finds an annotation that is there")
		event, err := bed.Pods.WaitEvent(ctx, ns, "control", func(e string) bool { return pod.ParseDenial(e).Outcome != pod.Inconclusive })
		Expect(err).NotTo(HaveOccurred(), pod.InconclusiveMark)
		Expect(pod.ParseDenial(event)).To(pod.BeRefusedBy("CreateContainerRequest"))
		bed.NeverRan(ctx, ns, "control")
	}, NodeTimeout(suite.DefaultSpecTimeout))

	It("of older Kata is taken where the platform has it switched on, and ignored elsewhere", proof.Of("INITDATA-ANNOTATION-003"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "legacy")
		nonce := newNonce()
		raw := document(strict("whoami", evidenceOf(nonce)))
		bed.Create(ctx, bed.Pod(ns, "p", annotated(legacyKey, base64Of([]byte(raw)))))
		bed.Ready(ctx, ns, "p")
		_, d := exec(ctx, ns, "p", "ls")
		if !bed.LegacyInitData {
			Expect(d).To(pod.BeAllowed(), "the guest's own policy holds")
			return
		}
		Expect(d).To(pod.BeRefusedBy("ExecProcessRequest"))
		boundTo(ctx, ns, "p", nonce, raw)
	}, NodeTimeout(suite.DefaultSpecTimeout))
})

func digestOf(raw string) []byte {
	GinkgoHelper()
	b, err := hex.DecodeString(fingerprint(raw))
	Expect(err).NotTo(HaveOccurred())
	return b
}
