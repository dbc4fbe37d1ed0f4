package pod_test

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
)

func hostPath(path string, kind corev1.HostPathType) corev1.VolumeSource {
	return corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind}}
}

// ordinary takes the pod out of its VM: it runs on the node itself.
func ordinary(p *corev1.Pod) { p.Spec.RuntimeClassName = nil }

// whereKataIs keeps a pod that needs no VM to the nodes that can make one.
func whereKataIs(ctx context.Context) func(*corev1.Pod) {
	GinkgoHelper()
	class, err := bed.Pods.Kube.NodeV1().RuntimeClasses().Get(ctx, bed.RuntimeClass, metav1.GetOptions{})
	Expect(err).NotTo(HaveOccurred())
	return func(p *corev1.Pod) {
		if class.Scheduling != nil {
			p.Spec.NodeSelector, p.Spec.Tolerations = class.Scheduling.NodeSelector, class.Scheduling.Tolerations
		}
	}
}

// beside puts a pod on the node of another.
func beside(other *corev1.Pod) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeName = other.Spec.NodeName }
}

// onNode makes a directory on a node and an ordinary pod that has it at /node,
// and that takes what is in it away at the end. It returns the directory's path
// and the pod.
func onNode(ctx context.Context, ns, name string) (dir string, writer *corev1.Pod) {
	GinkgoHelper()
	dir = "/var/tmp/" + ns
	writer = start(ctx, ns, name, ordinary, whereKataIs(ctx),
		mounted("/node", hostPath(dir, corev1.HostPathDirectoryOrCreate)), mounted("/var-tmp", hostPath("/var/tmp", corev1.HostPathDirectory)))
	DeferCleanup(func(ctx SpecContext) { shell(ctx, ns, name, "rm -r /var-tmp/"+ns) }, NodeTimeout(20*time.Second))
	return dir, writer
}

var _ = Describe("hostPath", Label("pod"), func() {
	// Without a shared file system Kata's shim copies what is there when the
	// container is made, and nothing after that.
	It("is a copy of what the node had when the container was made, in chunks of 1 MiB", proof.Of("HOST-PATH-001"), func(ctx SpecContext) {
		ns := bed.PrivilegedNamespace(ctx, "pod")
		dir, writer := onNode(ctx, ns, "writer")
		// All of sub belongs to one: a copy's owner becomes the directory's above
		// it, too (Kata src/agent/src/rpc.rs, do_copy_file).
		shell(ctx, ns, "writer", `cd /node && mkdir -p sub/deep && echo before > changes && echo x > sub/deep/file && chown -R 12:34 sub && chmod 2773 sub/deep
			ln -s sub/deep/file link && : > empty && chmod 4666 empty
			head -c 1048576 /dev/urandom > chunk && head -c 1048577 /dev/urandom > more && head -c 2621440 /dev/urandom > chunks`)
		list := "cd /node && stat -c '%n %a %u:%g %F' * sub/deep sub/deep/file link && sha256sum chunk more chunks empty sub/deep/file && readlink link"
		want := shell(ctx, ns, "writer", list)

		start(ctx, ns, "p", beside(writer), mounted("/node", hostPath(dir, corev1.HostPathDirectory)), mounted("/one", hostPath(dir+"/chunks", corev1.HostPathFile)))
		Expect(shell(ctx, ns, "p", list)).To(Equal(want))
		Expect(digest(ctx, ns, "p", "/one")).To(Equal(digest(ctx, ns, "writer", "/node/chunks")))
		Expect(facts(ctx, ns, "p", "/one")).To(HaveSuffix(" 2621440"))

		By("what the node changes later does not reach the guest")
		shell(ctx, ns, "writer", "echo after > /node/changes; echo new > /node/added")
		start(ctx, ns, "later", beside(writer), mounted("/node", hostPath(dir, corev1.HostPathDirectory)))
		Expect(shell(ctx, ns, "later", "cat /node/changes /node/added")).To(Equal("after\nnew\n"), "control: a pod made after it has the change")
		Expect(shell(ctx, ns, "p", "cat /node/changes; ls /node")).To(And(HavePrefix("before\n"), Not(ContainSubstring("added"))))

		By("what the guest writes does not reach the node")
		shell(ctx, ns, "p", "echo guest > /node/changes; touch /node/theirs; rm /node/chunk")
		Expect(shell(ctx, ns, "writer", "cat /node/changes; ls /node")).
			To(And(HavePrefix("after\n"), Not(ContainSubstring("theirs")), ContainSubstring("\nchunk\n")))
	}, SpecTimeout(limit))

	It("a device is the guest's own of that name", proof.Of("HOST-PATH-002"), func(ctx SpecContext) {
		ns := privileged(ctx, "p", mounted("/dev/nothing", hostPath("/dev/null", corev1.HostPathCharDev)))
		Expect(shell(ctx, ns, "p", "stat -c '%F %t:%T' /dev/nothing; echo x > /dev/nothing; wc -c < /dev/nothing")).
			To(Equal("character special file 1:3\n0\n"))
	}, SpecTimeout(limit))

	// A socket can be neither copied nor shared. Its mount goes to the guest
	// unchanged, and there is no such file.
	It("a socket of the node is out of reach", proof.Of("HOST-PATH-003"), func(ctx SpecContext) {
		ns := bed.PrivilegedNamespace(ctx, "pod")
		const socket = "/run/containerd/containerd.sock"
		By("control: a pod on the node gets it")
		start(ctx, ns, "near", ordinary, mounted("/socket", hostPath(socket, corev1.HostPathSocket)))
		Expect(strings.TrimSpace(shell(ctx, ns, "near", "stat -c %F /socket"))).To(Equal("socket"))

		bed.Create(ctx, bed.Pod(ns, "p", mounted("/socket", hostPath(socket, corev1.HostPathSocket))))
		Expect(reported(ctx, ns, "p", "Failed")).To(And(HavePrefix("Error: failed to create containerd task: failed to create shim task: "), ContainSubstring(socket)))
		bed.NeverRan(ctx, ns, "p")
	}, SpecTimeout(limit))

	// The same for whatever else the kubelet mounts on the node.
	It("a persistent volume of the node's keeps nothing that the guest writes", proof.Of("HOST-PATH-004"), func(ctx SpecContext) {
		ns := bed.PrivilegedNamespace(ctx, "pod")
		dir, writer := onNode(ctx, ns, "writer")
		shell(ctx, ns, "writer", "echo node > /node/file")
		claim(ctx, ns, "data", dir)
		data := mounted("/data", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}})

		start(ctx, ns, "p", beside(writer), data)
		Expect(shell(ctx, ns, "p", "cat /data/file; echo guest > /data/file; touch /data/more; ls /data")).To(Equal("node\nfile\nmore\n"))
		Expect(shell(ctx, ns, "writer", "cat /node/file; ls /node")).To(Equal("node\nfile\n"))
		By("control: a pod on the node writes to it")
		start(ctx, ns, "near", beside(writer), data, ordinary)
		shell(ctx, ns, "near", "touch /data/kept")
		Expect(shell(ctx, ns, "writer", "ls /node")).To(Equal("file\nkept\n"))
	}, SpecTimeout(limit))
})

// claim makes a claim of the namespace's and the volume for it, a directory of
// the node, which goes with the spec.
func claim(ctx context.Context, ns, name, dir string) {
	GinkgoHelper()
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}
	access := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	core := bed.Pods.Kube.CoreV1()
	volume, err := core.PersistentVolumes().Create(ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: ns + "-" + name, Labels: bed.Pods.Labels},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: access, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}},
			ClaimRef:               &corev1.ObjectReference{Namespace: ns, Name: name},
		},
	}, metav1.CreateOptions{})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func(ctx SpecContext) error {
		return core.PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{})
	}, NodeTimeout(20*time.Second))
	_, err = core.PersistentVolumeClaims(ns).Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: access, Resources: corev1.VolumeResourceRequirements{Requests: size}, StorageClassName: ref(""), VolumeName: volume.Name,
		},
	}, metav1.CreateOptions{})
	Expect(err).NotTo(HaveOccurred())
}
