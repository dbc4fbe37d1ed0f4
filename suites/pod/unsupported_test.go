package pod_test

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// What a pod in a VM does not have although Kubernetes has it, and how that
// shows: some is refused, some is ignored without a word. The latter is here
// because a user should know, and because it must not change unnoticed.
var _ = Describe("what Kata with guest pull does not support", Label("pod"), func() {
	// The storage that Kata's shim sends for an emptyDir carries no size.
	It("a size limit of an emptyDir is ignored in the guest", proof.Of("POD-LIMITATION-001"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		const fill = "head -c 3000000 /dev/zero > /memory/file"
		small := mounted("/memory", emptyDirOf(corev1.StorageMediumMemory, "1Mi"))
		bed.Create(ctx, bed.Pod(ns, "near", ordinary, small))
		bed.Create(ctx, bed.Pod(ns, "p", small))
		bed.Ready(ctx, ns, "near")
		bed.Ready(ctx, ns, "p")
		Expect(shell(ctx, ns, "p", fill+"; stat -c %s /memory/file")).To(Equal("3000000\n"))
		By("control: on the node it is kept")
		Expect(fails(ctx, ns, "near", fill)).To(ContainSubstring("No space left on device"))
	}, SpecTimeout(limit))

	// With disable_guest_seccomp Kata's shim sends no seccomp profile.
	It("seccomp profiles are not applied", proof.Of("POD-LIMITATION-002"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		profile := secured(corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}})
		bed.Create(ctx, bed.Pod(ns, "near", ordinary, profile))
		bed.Create(ctx, bed.Pod(ns, "p", profile))
		bed.Create(ctx, bed.Pod(ns, "unconfined"))
		for _, name := range []string{"near", "p", "unconfined"} {
			bed.Ready(ctx, ns, name)
		}
		filters := func(name string) string { return status(ctx, ns, name, suite.Container, "1")["Seccomp_filters"] }
		Expect(filters("p")).To(And(MatchRegexp(`^\d+$`), Equal(filters("unconfined"))))
		By("control: on the node the profile is applied")
		Expect(filters("near")).NotTo(Equal(filters("unconfined")))
	}, SpecTimeout(limit))

	// There is nothing to propagate to: the guest has a copy.
	It("a bidirectional mount does not reach the node", proof.Of("POD-LIMITATION-003"), func(ctx SpecContext) {
		ns := bed.PrivilegedNamespace(ctx, "pod")
		both := corev1.MountPropagationBidirectional
		dir, writer := onNode(ctx, ns, "writer")
		start(ctx, ns, "p", beside(writer), secured(corev1.SecurityContext{Privileged: ref(true)}),
			mounted("/node", hostPath(dir, corev1.HostPathDirectory), func(m *corev1.VolumeMount) { m.MountPropagation = &both }))
		shell(ctx, ns, "p", "touch /node/guest")
		Expect(shell(ctx, ns, "writer", "ls -A /node")).To(BeEmpty())
	}, SpecTimeout(limit))

	It("user namespaces are refused: the runtime does not know them", proof.Of("POD-LIMITATION-004"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		bed.Create(ctx, bed.Pod(ns, "p", func(p *corev1.Pod) { p.Spec.HostUsers = ref(false) }))
		Expect(reported(ctx, ns, "p", "FailedCreatePodSandBox")).To(ContainSubstring("does not support user namespaces"))
		bed.NeverRan(ctx, ns, "p")

		By("control: without the demand it runs")
		start(ctx, ns, "q", func(p *corev1.Pod) { p.Spec.HostUsers = ref(true) })
	}, SpecTimeout(limit))

	It("recursively read-only mounts are refused: the runtime does not know them", proof.Of("POD-LIMITATION-005"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		mode := func(m corev1.RecursiveReadOnlyMode) func(*corev1.Pod) {
			return mounted("/dir", emptyDirOf("", ""), func(v *corev1.VolumeMount) { v.ReadOnly, v.RecursiveReadOnly = true, &m })
		}
		bed.Create(ctx, bed.Pod(ns, "p", mode(corev1.RecursiveReadOnlyEnabled)))
		Expect(reported(ctx, ns, "p", "Failed")).To(ContainSubstring("recursive read-only"))
		bed.NeverRan(ctx, ns, "p")

		By("control: read-only where possible is read-only")
		start(ctx, ns, "q", mode(corev1.RecursiveReadOnlyIfPossible))
		Expect(fails(ctx, ns, "q", "touch /dir/x")).To(ContainSubstring("Read-only file system"))
	}, SpecTimeout(limit))

	// Only containers' images are pulled in the guest. This one the node pulls,
	// and its files are copied as any directory of the node's: nothing that the
	// guest trusts has looked at them.
	It("an image for a volume comes from the node, not from the registry", proof.Of("POD-LIMITATION-006"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		const page = "usr/share/nginx/html"
		start(ctx, ns, "p", mounted("/image", corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: bed.Nginx}},
			func(m *corev1.VolumeMount) { m.SubPath = page }))
		Expect(digest(ctx, ns, "p", "/image/index.html")).To(Equal(digest(ctx, ns, "p", "/"+page+"/index.html")))
		Expect(fails(ctx, ns, "p", "touch /image/x")).To(ContainSubstring("Read-only file system"))
	}, SpecTimeout(limit))
})

// reported waits for the first event of a pod that has this reason, and
// returns its message.
func reported(ctx context.Context, ns, name, reason string) string {
	GinkgoHelper()
	event, err := bed.Pods.WaitEvent(ctx, ns, name, func(e string) bool { return strings.HasPrefix(e, reason+": ") })
	Expect(err).NotTo(HaveOccurred())
	return strings.TrimPrefix(event, reason+": ")
}
