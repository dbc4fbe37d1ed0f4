package pod_test

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
)

// resolver is a container's resolv.conf by keyword, the nameservers joined.
func resolver(ctx context.Context, ns, name string) map[string]string {
	GinkgoHelper()
	out := map[string]string{}
	for line := range strings.SplitSeq(shell(ctx, ns, name, "cat /etc/resolv.conf"), "\n") {
		if keyword, value, ok := strings.Cut(line, " "); ok && !strings.HasPrefix(line, "#") {
			out[keyword] = strings.TrimSpace(out[keyword] + " " + value)
		}
	}
	return out
}

func clusterIP(ctx context.Context, ns, name string) string {
	GinkgoHelper()
	s, err := bed.Pods.Kube.CoreV1().Services(ns).Get(ctx, name, metav1.GetOptions{})
	Expect(err).NotTo(HaveOccurred())
	return s.Spec.ClusterIP
}

var _ = Describe("DNS", Label("pod"), func() {
	It("is the cluster's: services and pods resolve", proof.Of("POD-DNS-001"), func(ctx SpecContext) {
		ns := running(ctx, "p", func(p *corev1.Pod) { p.Spec.DNSConfig = &corev1.PodDNSConfig{Searches: []string{"more.example"}} })
		Expect(resolver(ctx, ns, "p")).To(And(
			HaveKeyWithValue("nameserver", clusterIP(ctx, "kube-system", "kube-dns")),
			HaveKeyWithValue("search", HavePrefix(ns+".svc.cluster.local svc.cluster.local cluster.local")),
			HaveKeyWithValue("search", HaveSuffix(" more.example")),
			HaveKeyWithValue("options", "ndots:5")))

		kubernetes := clusterIP(ctx, metav1.NamespaceDefault, "kubernetes")
		for _, host := range []string{"kubernetes.default.svc.cluster.local", "kubernetes.default.svc", "kubernetes.default"} {
			// Anybody may ask the API server whether it lives.
			becomes(ctx, ns, "p", "curl -s -o /dev/null -w '%{http_code} %{remote_ip}' --cacert /var/run/secrets/kubernetes.io/serviceaccount/ca.crt https://"+host+"/livez",
				"200 "+kubernetes)
		}

		By("what is not there does not")
		Expect(fails(ctx, ns, "p", "curl -sS http://nobody.default.svc.cluster.local/")).To(ContainSubstring("Could not resolve host"))
	}, SpecTimeout(limit))

	It("a service leads to the pods behind it", proof.Of("POD-DNS-002"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		_, err := bed.Pods.Kube.CoreV1().Services(ns).Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "web"},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
		}, metav1.CreateOptions{})
		Expect(err).NotTo(HaveOccurred())
		bed.Create(ctx, bed.Pod(ns, "server", labelled("app", "web"), script("echo behind > /usr/share/nginx/html/who; exec nginx -g 'daemon off;'")))
		bed.Create(ctx, bed.Pod(ns, "client"))
		bed.Ready(ctx, ns, "server")
		bed.Ready(ctx, ns, "client")
		becomes(ctx, ns, "client", "curl -s http://web/who", "behind\n")
		becomes(ctx, ns, "server", "curl -s http://web/who", "behind\n") // itself
	}, SpecTimeout(limit))

	It("is what the pod says under policy None, and the node's under Default", proof.Of("POD-DNS-003"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		bed.Create(ctx, bed.Pod(ns, "none", func(p *corev1.Pod) {
			p.Spec.DNSPolicy = corev1.DNSNone
			p.Spec.DNSConfig = &corev1.PodDNSConfig{
				Nameservers: []string{"192.0.2.53", "192.0.2.54"}, Searches: []string{"one.example", "two.example"},
				Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: ref("2")}, {Name: "edns0"}},
			}
		}))
		byNode := func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSDefault }
		bed.Create(ctx, bed.Pod(ns, "default", byNode))
		bed.Create(ctx, bed.Pod(ns, "near", byNode, ordinary))
		bed.Ready(ctx, ns, "none")
		bed.Ready(ctx, ns, "default")
		bed.Ready(ctx, ns, "near")

		none := resolver(ctx, ns, "none")
		Expect(none).To(HaveKeyWithValue("nameserver", "192.0.2.53 192.0.2.54"))
		Expect(none).To(HaveKeyWithValue("search", "one.example two.example"))
		Expect(strings.Fields(none["options"])).To(ConsistOf("ndots:2", "edns0")) // in no particular order
		Expect(resolver(ctx, ns, "default")).To(Equal(resolver(ctx, ns, "near")))
		Expect(resolver(ctx, ns, "default")).NotTo(HaveKeyWithValue("nameserver", clusterIP(ctx, "kube-system", "kube-dns")))
	}, SpecTimeout(limit))
})
