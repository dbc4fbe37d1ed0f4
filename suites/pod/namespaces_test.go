package pod_test

import (
	"context"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
)

// processes are the command lines that a container's /proc shows, by process.
func processes(ctx context.Context, ns, name string) map[string]string {
	GinkgoHelper()
	const list = `for p in /proc/[0-9]*; do c=$(tr '\000' ' ' < $p/cmdline) && echo "${p#/proc/} $c"; done 2>/dev/null; true`
	out := map[string]string{}
	for line := range strings.SplitSeq(shell(ctx, ns, name, list), "\n") {
		if pid, command, ok := strings.Cut(line, " "); ok {
			out[pid] = strings.TrimSpace(command)
		}
	}
	return out
}

// processesWith waits until commands run in a container, which a shell may yet have
// to start when its pod is Ready already, and returns all that run there then.
func processesWith(ctx context.Context, ns, name string, commands ...any) map[string]string {
	GinkgoHelper()
	var all map[string]string
	Eventually(ctx, func() []string {
		all = processes(ctx, ns, name)
		return commandsOf(all)
	}).WithPolling(100 * time.Millisecond).Should(ContainElements(commands...))
	return all
}

// commandsOf are the distinct command lines of processes.
func commandsOf(processes map[string]string) (commands []string) {
	for _, command := range processes {
		commands = append(commands, command)
	}
	slices.Sort(commands)
	return slices.Compact(commands)
}

// in runs text in the shell of a named container and returns what it printed.
func in(ctx context.Context, ns, name, container, text string) string {
	GinkgoHelper()
	r, err := bed.Pods.Exec(ctx, ns, name, container, "sh", "-c", text)
	Expect(err).NotTo(HaveOccurred())
	Expect(r.ExitCode).To(BeZero(), "%s\n%+v", text, r)
	return r.Stdout
}

var _ = Describe("process namespaces", Label("pod"), func() {
	It("are each container's own", proof.Of("POD-NAMESPACE-001"), func(ctx SpecContext) {
		ns := running(ctx, "p", second("other", "sleep 4242"))
		all := processes(ctx, ns, "p")
		Expect(all).To(HaveKeyWithValue("1", "sleep infinity"))
		Expect(commandsOf(all)).NotTo(ContainElement("sleep 4242"))
	}, SpecTimeout(limit))

	It("are one where the pod shares it", proof.Of("POD-NAMESPACE-002"), func(ctx SpecContext) {
		ns := running(ctx, "p", second("other", "echo secret > /tmp/theirs; exec sleep 4242"), func(p *corev1.Pod) { p.Spec.ShareProcessNamespace = ref(true) })
		all := processesWith(ctx, ns, "p", "sleep infinity", "sleep 4242")
		Expect(all).To(HaveKeyWithValue("1", ContainSubstring("pause")))

		By("one container sees the other's files and can end it")
		theirs := ""
		for pid, command := range all {
			if command == "sleep 4242" {
				theirs = pid
			}
		}
		Expect(shell(ctx, ns, "p", "cat /proc/"+theirs+"/root/tmp/theirs")).To(Equal("secret\n"))
		shell(ctx, ns, "p", "kill -9 "+theirs)
		bed.WaitPod(ctx, ns, "p", "restart of the other container", func(p *corev1.Pod) (bool, error) {
			return slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
				return s.Name == "other" && s.RestartCount == 1 && s.LastTerminationState.Terminated != nil && s.LastTerminationState.Terminated.ExitCode == 137
			}), nil
		})
	}, SpecTimeout(limit))
})

var _ = Describe("a pod's containers", Label("pod"), func() {
	It("share host name, network and memory segments", proof.Of("POD-NAMESPACE-003"), func(ctx SpecContext) {
		ns := running(ctx, "p", second("server", "exec nginx -g 'daemon off;'"))
		becomes(ctx, ns, "p", "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1/", "200")
		shell(ctx, ns, "p", "echo hello > /dev/shm/greeting")
		Expect(in(ctx, ns, "p", "server", "cat /dev/shm/greeting")).To(Equal("hello\n"))
		for _, namespace := range []string{"uts", "ipc", "net"} {
			link := "readlink /proc/self/ns/" + namespace
			Expect(in(ctx, ns, "p", "server", link)).To(Equal(shell(ctx, ns, "p", link)), namespace)
		}

		By("not with another pod")
		start(ctx, ns, "q")
		Expect(shell(ctx, ns, "q", "ls -A /dev/shm")).To(BeEmpty())
		Expect(fails(ctx, ns, "q", "curl -sS http://127.0.0.1/")).To(ContainSubstring("Failed to connect"))
	}, SpecTimeout(limit))
})

var _ = Describe("host name", Label("pod"), func() {
	const read = "uname -n; cat /proc/sys/kernel/hostname /etc/hostname"

	It("is the pod's name, or what the pod says", proof.Of("POD-NAMESPACE-004"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		bed.Create(ctx, bed.Pod(ns, "p"))
		bed.Create(ctx, bed.Pod(ns, "named", func(p *corev1.Pod) { p.Spec.Hostname = "other" }))
		bed.Ready(ctx, ns, "p")
		bed.Ready(ctx, ns, "named")
		Expect(shell(ctx, ns, "p", read)).To(Equal("p\np\np\n"))
		Expect(shell(ctx, ns, "named", read)).To(Equal("other\nother\nother\n"))
		Expect(environment(ctx, ns, "named")).To(HaveKeyWithValue("HOSTNAME", "other"))
	}, SpecTimeout(limit))

	It("with a subdomain has a domain, that others can resolve", proof.Of("POD-NAMESPACE-005"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		_, err := bed.Pods.Kube.CoreV1().Services(ns).Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "sub"},
			Spec:       corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"app": "web"}},
		}, metav1.CreateOptions{})
		Expect(err).NotTo(HaveOccurred())
		domain := "sub." + ns + ".svc.cluster.local"
		member := func(p *corev1.Pod) {
			p.Labels = map[string]string{"app": "web"}
			p.Spec.Hostname, p.Spec.Subdomain = "host", "sub"
			p.Spec.Containers[0].Command = nil // nginx
		}
		bed.Create(ctx, bed.Pod(ns, "p", member))
		bed.Create(ctx, bed.Pod(ns, "full", member, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.SetHostnameAsFQDN = "full", ref(true) }))
		p := bed.Ready(ctx, ns, "p")
		bed.Ready(ctx, ns, "full")
		Expect(shell(ctx, ns, "p", "uname -n")).To(Equal("host\n"))
		Expect(shell(ctx, ns, "p", "cat /etc/hosts")).To(ContainSubstring("\n" + p.Status.PodIP + "\thost." + domain + "\thost\n"))
		Expect(shell(ctx, ns, "full", "uname -n")).To(Equal("full." + domain + "\n"))
		becomes(ctx, ns, "full", "curl -s -o /dev/null -w '%{http_code} %{remote_ip}' http://host."+domain+"/", "200 "+p.Status.PodIP)
	}, SpecTimeout(limit))

	It("/etc/hosts has the pod's aliases", proof.Of("POD-NAMESPACE-006"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		p := start(ctx, ns, "p", func(p *corev1.Pod) {
			p.Spec.HostAliases = []corev1.HostAlias{{IP: "127.0.0.1", Hostnames: []string{"me.example", "self.example"}}}
			p.Spec.Containers[0].Command = nil // nginx
		})
		hosts := shell(ctx, ns, "p", "cat /etc/hosts")
		Expect(hosts).To(HavePrefix("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"))
		Expect(hosts).To(ContainSubstring("\n" + p.Status.PodIP + "\tp\n"))
		Expect(hosts).To(HaveSuffix("\n127.0.0.1\tme.example\tself.example\n"))
		becomes(ctx, ns, "p", "curl -s -o /dev/null -w '%{http_code} %{remote_ip}' http://self.example/", "200 127.0.0.1")
	}, SpecTimeout(limit))
})

// A VM has no part in the node's namespaces: a pod that asks for them gets its
// guest's (Kata, docs/Limitations.md).
var _ = Describe("the node's namespaces", Label("pod"), func() {
	It("hostPID shows the guest's processes, not the node's", proof.Of("HOST-NAMESPACE-001"), func(ctx SpecContext) {
		ns := privileged(ctx, "p", second("other", "exec sleep 4242"), func(p *corev1.Pod) { p.Spec.HostPID = true })
		all := commandsOf(processesWith(ctx, ns, "p", "sleep infinity", "sleep 4242", ContainSubstring("pause")))
		Expect(all).NotTo(ContainElement(ContainSubstring("kubelet")))

		By("control: a pod on the node sees the kubelet")
		start(ctx, ns, "near", ordinary, func(p *corev1.Pod) { p.Spec.HostPID = true })
		Expect(commandsOf(processes(ctx, ns, "near"))).To(ContainElement(ContainSubstring("kubelet")))
	}, SpecTimeout(limit))

	It("hostIPC shares memory segments within the pod, not with the node", proof.Of("HOST-NAMESPACE-002"), func(ctx SpecContext) {
		ns := bed.PrivilegedNamespace(ctx, "pod")
		hostIPC := func(p *corev1.Pod) { p.Spec.HostIPC = true }
		near := start(ctx, ns, "near", ordinary, hostIPC, whereKataIs(ctx))
		DeferCleanup(func(ctx SpecContext) { shell(ctx, ns, "near", "rm /dev/shm/"+ns) }, NodeTimeout(20*time.Second))
		shell(ctx, ns, "near", "echo node > /dev/shm/"+ns)
		start(ctx, ns, "also-near", ordinary, hostIPC, beside(near))
		Expect(shell(ctx, ns, "also-near", "cat /dev/shm/"+ns)).To(Equal("node\n"), "control")

		start(ctx, ns, "p", hostIPC, beside(near), second("other", "sleep infinity"))
		Expect(shell(ctx, ns, "p", "ls -A /dev/shm; echo guest > /dev/shm/x")).To(BeEmpty())
		Expect(in(ctx, ns, "p", "other", "cat /dev/shm/x")).To(Equal("guest\n"))
	}, SpecTimeout(limit))

	// Kata names no network namespace for such a pod, and a guest is in none of
	// the node's. Here that leaves it without a network, and without an image.
	It("hostNetwork does not put the guest into the node's network", proof.Of("HOST-NAMESPACE-003"), func(ctx SpecContext) {
		if !bed.Simulated {
			Skip("what network a VM has that got no pod's is the platform's affair")
		}
		ns := bed.PrivilegedNamespace(ctx, "pod")
		hostNetwork := func(p *corev1.Pod) { p.Spec.HostNetwork = true }
		By("control: a pod on the node reaches the kubelet")
		start(ctx, ns, "near", ordinary, hostNetwork)
		Expect(shell(ctx, ns, "near", "curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1:10248/healthz")).To(Equal("200"))

		bed.Create(ctx, bed.Pod(ns, "p", hostNetwork))
		Expect(reported(ctx, ns, "p", "Failed")).To(And(HavePrefix("Error: failed to create containerd task: failed to create shim task: "), ContainSubstring("network is unreachable")))
		bed.NeverRan(ctx, ns, "p")
	}, SpecTimeout(limit))
})
