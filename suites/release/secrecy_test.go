package release_test

import (
	"fmt"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation"
	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/leak"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

var _ = Describe("a released secret", suite.OneKBS, Label("secrecy"), func() {
	It("is in no event, no log, and nothing that Kubernetes knows", proof.Of("RELEASE-SECRECY-001"), SpecTimeout(limit), func(ctx SpecContext) {
		s := newSubject(ctx, bed.KBS(ctx))
		s.control(ctx)
		status, content := s.resource(ctx, s.path)
		Expect(status).To(Equal("200"))
		Expect(fingerprint(content)).To(Equal(fingerprint(s.secret)))
		Expect(s.k.SetResourcePolicy(ctx, "package policy\nimport rego.v1\ndefault allow := false\n")).To(Succeed())
		deniesResource(ctx, s.k, s, text(s.raw), s.path)

		dir := GinkgoT().TempDir()
		keep := func(name string, what any) {
			Expect(os.WriteFile(filepath.Join(dir, name), fmt.Append(nil, what), 0o600)).To(Succeed())
		}
		events, err := bed.Pods.Events(ctx, s.ns, s.name)
		Expect(err).NotTo(HaveOccurred())
		Expect(events).NotTo(BeEmpty())
		keep("events", events)
		pods, err := bed.Pods.Kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		Expect(err).NotTo(HaveOccurred())
		keep("pods", pods.String())
		if s.k.Namespace != "" {
			list, err := bed.Pods.Kube.CoreV1().Pods(s.k.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=kbs"})
			Expect(err).NotTo(HaveOccurred())
			log, err := bed.Pods.Logs(ctx, s.k.Namespace, list.Items[0].Name, "kbs", 64<<20)
			Expect(err).NotTo(HaveOccurred())
			Expect(log).To(ContainSubstring("PolicyDeny"))
			keep("kbs.log", log)
		}
		looked := []string{dir}
		if bed.NodeLogs != "" {
			guests, err := filepath.Glob(simulation.GuestLogs(bed.NodeLogs, s.ns, s.name))
			Expect(err).NotTo(HaveOccurred())
			Expect(guests).To(HaveLen(1))
			looked = append(looked, guests...)
		}
		for _, d := range looked {
			found, err := leak.Search(d, s.secret)
			Expect(err).NotTo(HaveOccurred())
			Expect(found).To(BeEmpty())
		}
		By("control: it would be found")
		keep("control", "x"+s.secret)
		found, err := leak.Search(dir, s.secret)
		Expect(err).NotTo(HaveOccurred())
		Expect(found).To(HaveLen(1))
	})
})
