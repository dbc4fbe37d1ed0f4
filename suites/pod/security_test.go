package pod_test

import (
	"context"
	"slices"
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// Capability sets as /proc/<pid>/status shows them, by the numbers of
// linux/capability.h.
const (
	// usual is what containerd gives: chown dac_override fowner fsetid kill
	// setgid setuid setpcap net_bind_service net_raw sys_chroot mknod audit_write
	// setfcap.
	usual          = "00000000a80425fb"
	none           = "0000000000000000"
	netBindService = "0000000000000400"
	netAdmin       = "0000000000001000"
	sysAdminBit    = 21
)

// status is /proc/<process>/status in a container, by field, blanks made one.
// The process "self" is an exec session's.
func status(ctx context.Context, ns, name, container, process string) map[string]string {
	GinkgoHelper()
	fields := map[string]string{}
	for line := range strings.SplitSeq(in(ctx, ns, name, container, "cat /proc/"+process+"/status"), "\n") {
		if key, value, ok := strings.Cut(line, ":"); ok {
			fields[key] = strings.Join(strings.Fields(value), " ")
		}
	}
	return fields
}

// secured sets the security context of the pod's first container.
func secured(c corev1.SecurityContext) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext = &c }
}

// also gives the pod one more idle container, with a security context.
func also(name string, c corev1.SecurityContext) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		second(name, "sleep infinity")(p)
		p.Spec.Containers[len(p.Spec.Containers)-1].SecurityContext = &c
	}
}

func capabilities(add, drop string) *corev1.Capabilities {
	c := &corev1.Capabilities{}
	for name := range strings.FieldsSeq(add) {
		c.Add = append(c.Add, corev1.Capability(name))
	}
	for name := range strings.FieldsSeq(drop) {
		c.Drop = append(c.Drop, corev1.Capability(name))
	}
	return c
}

var _ = Describe("users and groups", Label("pod"), func() {
	It("are the pod's, then the container's", proof.Of("POD-SECURITY-001"), func(ctx SpecContext) {
		ns := running(ctx, "p", func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{
				RunAsUser: ref[int64](1000), RunAsGroup: ref[int64](1001), FSGroup: ref[int64](2000), SupplementalGroups: []int64{3000},
			}
		}, also("other", corev1.SecurityContext{RunAsUser: ref[int64](1234), RunAsGroup: ref[int64](0)}))
		ids := func(uid, gid, groups string) OmegaMatcher {
			four := func(id string) string { return strings.Join([]string{id, id, id, id}, " ") } // real, effective, saved, file system
			return And(HaveKeyWithValue("Uid", four(uid)), HaveKeyWithValue("Gid", four(gid)), HaveKeyWithValue("Groups", groups))
		}
		first := status(ctx, ns, "p", suite.Container, "1")
		Expect(first).To(ids("1000", "1001", "1001 2000 3000"))
		Expect(status(ctx, ns, "p", "other", "1")).To(ids("1234", "0", "0 2000 3000"))

		By("an exec session has them too")
		Expect(shell(ctx, ns, "p", "id -u; id -g; id -G")).To(Equal("1000\n1001\n1001 2000 3000\n"))

		By("and none of root's rights")
		Expect(fails(ctx, ns, "p", "echo x > /file")).To(ContainSubstring("Permission denied"))
		Expect(first).To(And(HaveKeyWithValue("CapEff", none), HaveKeyWithValue("CapBnd", usual)))
	}, SpecTimeout(limit))

	It("a pod that must not be root's does not run an image that is", proof.Of("POD-SECURITY-002"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		bed.Create(ctx, bed.Pod(ns, "p", secured(corev1.SecurityContext{RunAsNonRoot: ref(true)})))
		p := bed.WaitPod(ctx, ns, "p", "CreateContainerConfigError", func(p *corev1.Pod) (bool, error) {
			return waiting(p).Reason == "CreateContainerConfigError", nil
		})
		Expect(waiting(p).Message).To(HavePrefix("container has runAsNonRoot and image will run as root"))
		bed.NeverRan(ctx, ns, "p")

		By("control: as another user it runs")
		start(ctx, ns, "q", secured(corev1.SecurityContext{RunAsNonRoot: ref(true), RunAsUser: ref[int64](1000)}))
		Expect(shell(ctx, ns, "q", "id -u")).To(Equal("1000\n"))
	}, SpecTimeout(limit))
})

var _ = Describe("capabilities", Label("pod"), func() {
	It("are the usual ones, less what is dropped, and what is added", proof.Of("POD-SECURITY-003"), func(ctx SpecContext) {
		ns := privileged(ctx, "p",
			also("dropped", corev1.SecurityContext{Capabilities: capabilities("", "ALL")}),
			also("one", corev1.SecurityContext{Capabilities: capabilities("NET_BIND_SERVICE", "ALL")}),
			also("added", corev1.SecurityContext{Capabilities: capabilities("NET_ADMIN", "ALL")}),
			also("fewer", corev1.SecurityContext{Capabilities: capabilities("", "NET_RAW MKNOD")}))
		for name, want := range map[string]string{
			suite.Container: usual, "dropped": none, "one": netBindService, "added": netAdmin, "fewer": "00000000a00405fb",
		} {
			sets := And(
				HaveKeyWithValue("CapEff", want), HaveKeyWithValue("CapPrm", want), HaveKeyWithValue("CapBnd", want),
				HaveKeyWithValue("CapInh", none), HaveKeyWithValue("CapAmb", none))
			Expect(status(ctx, ns, "p", name, "1")).To(sets, name)
			// An ExecProcess carries none; the agent takes the container's.
			Expect(status(ctx, ns, "p", name, "self")).To(HaveKeyWithValue("CapEff", want), "exec in %s", name)
		}

		By("root without them is bound by permissions")
		r, err := bed.Pods.Exec(ctx, ns, "p", "dropped", "chown", "1:1", "/etc/nginx")
		Expect(err).NotTo(HaveOccurred())
		Expect(r.ExitCode).To(Equal(1))
		Expect(r.Stderr).To(ContainSubstring("Operation not permitted"))
		By("control: with them it is not")
		shell(ctx, ns, "p", "chown 1:1 /etc/nginx")
	}, SpecTimeout(limit))

	It("a privileged container has more of them, and nothing hidden, in its guest", proof.Of("POD-SECURITY-004"), func(ctx SpecContext) {
		ns := privileged(ctx, "p", secured(corev1.SecurityContext{Privileged: ref(true)}), also("ordinary", corev1.SecurityContext{}))
		has := func(container string) uint64 {
			mask, err := strconv.ParseUint(status(ctx, ns, "p", container, "1")["CapEff"], 16, 64)
			Expect(err).NotTo(HaveOccurred())
			return mask
		}
		more, normal := has(suite.Container), has("ordinary")
		Expect(more & normal).To(Equal(normal))
		Expect(more & (1 << sysAdminBit)).NotTo(BeZero())
		Expect(normal & (1 << sysAdminBit)).To(BeZero())

		options := func(container, path string) string {
			r, err := bed.Pods.Exec(ctx, ns, "p", container, "cat", "/proc/mounts")
			Expect(err).NotTo(HaveOccurred())
			for line := range strings.SplitSeq(r.Stdout, "\n") {
				if f := strings.Fields(line); len(f) > 3 && f[1] == path {
					return f[3]
				}
			}
			return ""
		}
		if !bed.Simulated { // whose kernel is the node's
			Expect(options(suite.Container, "/sys")).To(HavePrefix("rw"))
		}
		Expect(options("ordinary", "/sys")).To(HavePrefix("ro"))
		Expect(options(suite.Container, "/proc/keys")).To(BeEmpty(), "no mask")
		Expect(options("ordinary", "/proc/keys")).NotTo(BeEmpty())

		By("the node's devices are not in it (privileged_without_host_devices)")
		devices := strings.Fields(shell(ctx, ns, "p", "ls /dev"))
		Expect(devices).To(Equal(strings.Fields(in(ctx, ns, "p", "ordinary", "ls /dev"))))
		Expect(slices.DeleteFunc(devices, func(name string) bool { return name == "core" })).To(Equal(strings.Fields(
			"fd full mqueue null ptmx pts random shm stderr stdin stdout termination-log tty urandom zero")))
	}, SpecTimeout(limit))
})

var _ = Describe("restrictions", Label("pod"), func() {
	It("a read-only root is read-only, and volumes are not", proof.Of("POD-SECURITY-005"), func(ctx SpecContext) {
		ns := running(ctx, "p", secured(corev1.SecurityContext{ReadOnlyRootFilesystem: ref(true)}), also("ordinary", corev1.SecurityContext{}),
			mounted("/tmp", emptyDirOf("", "")))
		for _, path := range []string{"/file", "/etc/nginx/file", "/etc/resolv.conf", "/etc/hostname"} {
			Expect(fails(ctx, ns, "p", "echo x >> "+path)).To(ContainSubstring("Read-only file system"), path)
		}
		shell(ctx, ns, "p", "echo x > /tmp/file; echo x > /dev/shm/file; echo x > /dev/termination-log")
		By("control: beside it, in a container without the restriction")
		r, err := bed.Pods.Exec(ctx, ns, "p", "ordinary", "sh", "-ec", "echo x > /file; echo '# x' >> /etc/resolv.conf; echo x >> /etc/hostname")
		Expect(err).NotTo(HaveOccurred())
		Expect(r.ExitCode).To(BeZero(), r.Stderr)
	}, SpecTimeout(limit))

	// The ExecProcess that Kata's shim sends never carries no_new_privileges.
	It("no new privileges for the container, but for exec sessions as ever", proof.Of("POD-SECURITY-006"), func(ctx SpecContext) {
		ns := running(ctx, "p", secured(corev1.SecurityContext{AllowPrivilegeEscalation: ref(false)}), also("ordinary", corev1.SecurityContext{}))
		Expect(status(ctx, ns, "p", suite.Container, "1")).To(HaveKeyWithValue("NoNewPrivs", "1"))
		Expect(status(ctx, ns, "p", "ordinary", "1")).To(HaveKeyWithValue("NoNewPrivs", "0"))
		Expect(status(ctx, ns, "p", suite.Container, "self")).To(HaveKeyWithValue("NoNewPrivs", "0"))
	}, SpecTimeout(limit))

	It("sensitive files of /proc and /sys are masked or read-only", proof.Of("POD-SECURITY-007"), func(ctx SpecContext) {
		ns := running(ctx, "p")
		mounts := shell(ctx, ns, "p", "cat /proc/mounts")
		for _, path := range []string{"/proc/keys", "/proc/timer_list"} {
			Expect(mounts).To(ContainSubstring(" " + path + " "))
			Expect(shell(ctx, ns, "p", "stat -c '%t:%T' "+path)).To(Equal("1:3\n"), "%s is /dev/null", path)
		}
		for _, path := range []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"} {
			Expect(mounts).To(MatchRegexp(`(?m)^proc %s proc ro,`, path))
		}
		Expect(shell(ctx, ns, "p", "ls -A /sys/firmware")).To(BeEmpty())
		Expect(fails(ctx, ns, "p", "echo 1 > /proc/sys/kernel/shm_rmid_forced")).To(ContainSubstring("Read-only file system"))
		Expect(mounts).To(MatchRegexp(`(?m)^\S+ /sys/fs/cgroup\S* cgroup2? ro,`))
		Expect(mounts).NotTo(MatchRegexp(`(?m)^\S+ /sys/fs/cgroup\S* cgroup2? rw,`))
	}, SpecTimeout(limit))

	It("safe sysctls are the pod's own", proof.Of("POD-SECURITY-008"), func(ctx SpecContext) {
		ns := bed.PrivilegedNamespace(ctx, "pod")
		bed.Create(ctx, bed.Pod(ns, "plain"))
		start(ctx, ns, "p", sysctls("kernel.shm_rmid_forced", "1", "net.ipv4.ip_unprivileged_port_start", "80", "net.ipv4.tcp_syncookies", "0"),
			second("other", "sleep infinity"))
		bed.Ready(ctx, ns, "plain")
		read := "cd /proc/sys; cat kernel/shm_rmid_forced net/ipv4/ip_unprivileged_port_start net/ipv4/tcp_syncookies"
		Expect(shell(ctx, ns, "p", read)).To(Equal("1\n80\n0\n"))
		r, err := bed.Pods.Exec(ctx, ns, "p", "other", "sh", "-c", read)
		Expect(err).NotTo(HaveOccurred())
		Expect(r.Stdout).To(Equal("1\n80\n0\n"), "the same in the other container")
		By("control: a pod that sets none has others")
		Expect(shell(ctx, ns, "plain", read)).To(HavePrefix("0\n"))
		Expect(shell(ctx, ns, "plain", read)).To(HaveSuffix("\n1\n"))

		By("others are the kubelet's to refuse")
		bed.Create(ctx, bed.Pod(ns, "unsafe", sysctls("kernel.msgmax", "65536")))
		p := bed.WaitPod(ctx, ns, "unsafe", "failure", func(p *corev1.Pod) (bool, error) { return p.Status.Phase == corev1.PodFailed, nil })
		Expect(p.Status.Reason).To(Equal("SysctlForbidden"))
		bed.NeverRan(ctx, ns, "unsafe")
	}, SpecTimeout(limit))
})

// sysctls sets kernel parameters of the pod: names and values in turn.
func sysctls(pairs ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{}
		for i := 0; i+1 < len(pairs); i += 2 {
			p.Spec.SecurityContext.Sysctls = append(p.Spec.SecurityContext.Sysctls, corev1.Sysctl{Name: pairs[i], Value: pairs[i+1]})
		}
	}
}
