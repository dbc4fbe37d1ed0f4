package pod_test

import (
	"context"
	"encoding/json"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
)

// summary is what of the kubelet's stats summary matters here.
type summary struct {
	Pods []podStats `json:"pods"`
}

type podStats struct {
	PodRef struct {
		Name, Namespace string
	} `json:"podRef"`
	Containers []containerStats `json:"containers"`
}

type containerStats struct {
	Name   string `json:"name"`
	Memory struct {
		WorkingSetBytes, UsageBytes, AvailableBytes uint64
	} `json:"memory"`
	CPU struct {
		UsageNanoCores, UsageCoreNanoSeconds uint64
	} `json:"cpu"`
}

// statsOf asks the pod's kubelet for its containers' statistics.
func statsOf(ctx context.Context, node, ns, name string) (map[string]containerStats, error) {
	b, err := bed.Pods.Kube.CoreV1().RESTClient().Get().Resource("nodes").Name(node).SubResource("proxy").Suffix("stats/summary").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	var s summary
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, err
	}
	out := map[string]containerStats{}
	for _, p := range s.Pods {
		if p.PodRef.Namespace == ns && p.PodRef.Name == name {
			for _, c := range p.Containers {
				out[c.Name] = c
			}
		}
	}
	return out, nil
}

var _ = Describe("statistics", Label("pod"), func() {
	It("the kubelet's summary has what each container uses in its guest", proof.Of("POD-STATS-001"), SpecTimeout(limit), func(ctx SpecContext) {
		// One computes, the other holds memory.
		ns := running(ctx, "stats", script("while :; do :; done"), limits("500m", "128Mi"), second("holder", "x=$(head -c 40000000 /dev/zero | tr '\\0' x); sleep infinity"))
		node := bed.Ready(ctx, ns, "stats").Spec.NodeName
		if _, err := statsOf(ctx, node, ns, "stats"); apierrors.IsForbidden(err) {
			Skip("the kubelets may not be asked: manifests/existing/statistics.yaml grants it")
		}
		var s map[string]containerStats
		Eventually(ctx, func(g Gomega) {
			var err error
			s, err = statsOf(ctx, node, ns, "stats")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(s).To(HaveLen(2))
			g.Expect(s["main"].CPU.UsageNanoCores).To(BeNumerically(">", s["holder"].CPU.UsageNanoCores))
			g.Expect(s["holder"].Memory.WorkingSetBytes).To(BeNumerically(">", 40_000_000))
		}).WithPolling(500 * time.Millisecond).Should(Succeed())
		By("cpu: at most the limit, give or take how it is measured")
		Expect(s["main"].CPU.UsageNanoCores).To(BeNumerically("<", 700_000_000))
		Expect(s["main"].CPU.UsageCoreNanoSeconds).To(BeNumerically(">", 100_000_000))
		By("memory: more for the one that holds some; what is left of the other's limit")
		main := s["main"].Memory
		Expect(main.WorkingSetBytes).To(And(BeNumerically(">", 0), BeNumerically("<", 20_000_000)))
		Expect(main.AvailableBytes + main.WorkingSetBytes).To(Equal(uint64(128 << 20)))
	})
})
