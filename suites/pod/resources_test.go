package pod_test

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// resized changes the limits of a running pod's first container.
func resized(ctx context.Context, ns, name, cpu, memory string) {
	GinkgoHelper()
	patch := `{"spec":{"containers":[{"name":"` + suite.Container + `","resources":{"limits":{"cpu":"` + cpu + `","memory":"` + memory + `"}}}]}}`
	_, err := bed.Pods.Kube.CoreV1().Pods(ns).Patch(ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize")
	Expect(err).NotTo(HaveOccurred())
}

var _ = Describe("resources", Label("pod"), func() {
	It("limits can be changed while the container runs", proof.Of("POD-RESOURCE-001"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		before := start(ctx, ns, "p", limits("250m", "96Mi"), modest)
		const read = `if [ -e /sys/fs/cgroup/memory.max ]; then cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max
			else cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes; echo $(cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us); fi`
		Expect(shell(ctx, ns, "p", read)).To(Equal("100663296\n25000 100000\n"))

		resized(ctx, ns, "p", "500m", "128Mi")
		becomes(ctx, ns, "p", read, "134217728\n50000 100000\n")

		By("the container is still the one that it was, and Kubernetes knows its new limits")
		after := bed.WaitPod(ctx, ns, "p", "new limits in the status", func(p *corev1.Pod) (bool, error) {
			r := p.Status.ContainerStatuses[0].Resources
			return r != nil && r.Limits.Memory().Cmp(resource.MustParse("128Mi")) == 0 && r.Limits.Cpu().Cmp(resource.MustParse("500m")) == 0, nil
		})
		Expect(after.Status.ContainerStatuses[0].ContainerID).To(Equal(before.Status.ContainerStatuses[0].ContainerID))
		Expect(after.Status.ContainerStatuses[0].RestartCount).To(BeZero())
	}, SpecTimeout(limit))

	It("who asked for nothing is killed first when memory is short", proof.Of("POD-RESOURCE-002"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		bed.Create(ctx, bed.Pod(ns, "besteffort"))
		bed.Create(ctx, bed.Pod(ns, "burstable", modest))
		bed.Create(ctx, bed.Pod(ns, "guaranteed", limits("10m", "64Mi")))
		score := func(name string) string {
			bed.Ready(ctx, ns, name)
			return strings.TrimSpace(shell(ctx, ns, name, "cat /proc/1/oom_score_adj"))
		}
		Expect(score("besteffort")).To(Equal("1000"))
		// Less by the share of the node's memory that it asked for, but no less than 2.
		Expect(score("burstable")).To(MatchRegexp(`^\d{1,3}$`))
		if !bed.Simulated { // where an unprivileged node cannot lower it
			Expect(score("guaranteed")).To(Equal("-997"))
		}
	}, SpecTimeout(limit))
})
