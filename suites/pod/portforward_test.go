package pod_test

import (
	"context"
	"io"
	"net/http"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
)

// server is a pod that runs what its image is for.
func server(p *corev1.Pod) { p.Spec.Containers[0].Command = nil }

func get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

// containerd connects to 127.0.0.1 in the pod's network namespace on the node.
// The pods here run in that namespace. Behind a VM's own network nobody listens
// there, and Kata has no other way: kata-containers issues 1693 and 10843.
var _ = Describe("port-forward", Label("pod"), func() {
	It("reaches a server in the pod", proof.Of("POD-PORTFORWARD-001"), SpecTimeout(limit), func(ctx SpecContext) {
		if !bed.Simulated {
			Skip("Kata cannot forward ports into a VM: https://github.com/kata-containers/kata-containers/issues/1693")
		}
		ns := running(ctx, "web", server)
		shell(ctx, ns, "web", "head -c 1000000 /dev/urandom >/usr/share/nginx/html/big")
		addr, stop, err := bed.Pods.Forward(ctx, ns, "web", 80)
		Expect(err).NotTo(HaveOccurred())
		defer stop()
		Eventually(ctx, func() (string, error) { return get(ctx, "http://"+addr+"/") }).Should(ContainSubstring("Welcome to nginx"))
		big, err := get(ctx, "http://"+addr+"/big")
		Expect(err).NotTo(HaveOccurred())
		Expect(shell(ctx, ns, "web", "sha256sum </usr/share/nginx/html/big")).To(HavePrefix(sum([]byte(big))))
		By("a port that nobody listens on")
		closed, stopClosed, err := bed.Pods.Forward(ctx, ns, "web", 81)
		Expect(err).NotTo(HaveOccurred())
		defer stopClosed()
		_, err = get(ctx, "http://"+closed+"/")
		Expect(err).To(HaveOccurred())
	})
})
