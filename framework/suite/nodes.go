package suite

import (
	"context"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coco-e2e/coco-e2e/framework/cluster/existing"
)

// NodesOfClass are nodes that take pods of the testbed's RuntimeClass, at most
// so many. It skips the spec where there are fewer than it needs.
func (b *Bed) NodesOfClass(ctx context.Context, atLeast, atMost int) []corev1.Node {
	GinkgoHelper()
	rc, err := b.Pods.Kube.NodeV1().RuntimeClasses().Get(ctx, b.RuntimeClass, metav1.GetOptions{})
	Expect(err).NotTo(HaveOccurred())
	all, err := b.Pods.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	Expect(err).NotTo(HaveOccurred())
	var nodes []corev1.Node
	for _, n := range all.Items {
		if existing.Takes(&n, rc) && len(nodes) < atMost {
			nodes = append(nodes, n)
		}
	}
	if len(nodes) < atLeast {
		Skip(fmt.Sprintf("%d of the cluster's %d nodes take pods of RuntimeClass %s, and the spec needs %d (of a cluster that is made here, NODES says how many)",
			len(nodes), len(all.Items), b.RuntimeClass, atLeast))
	}
	return nodes
}
