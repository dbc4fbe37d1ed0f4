package pod_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// mounted gives every container of the pod a volume at a path.
func mounted(path string, source corev1.VolumeSource, edits ...func(*corev1.VolumeMount)) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		name := fmt.Sprintf("volume-%d", len(p.Spec.Volumes))
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
		mount := corev1.VolumeMount{Name: name, MountPath: path}
		for _, edit := range edits {
			edit(&mount)
		}
		for i := range p.Spec.Containers {
			p.Spec.Containers[i].VolumeMounts = append(p.Spec.Containers[i].VolumeMounts, mount)
		}
	}
}

// start creates a pod in ns and waits until it is Ready.
func start(ctx context.Context, ns, name string, edits ...func(*corev1.Pod)) *corev1.Pod {
	GinkgoHelper()
	bed.Create(ctx, bed.Pod(ns, name, edits...))
	return bed.Ready(ctx, ns, name)
}

// fails runs text in the shell of a pod's first container, expects it to end
// with an error and returns what it wrote to stderr.
func fails(ctx context.Context, ns, name, text string) string {
	GinkgoHelper()
	r, err := bed.Pods.Exec(ctx, ns, name, suite.Container, "sh", "-c", text)
	Expect(err).NotTo(HaveOccurred())
	Expect(r.ExitCode).NotTo(BeZero(), "%s\n%+v", text, r)
	return r.Stderr
}

func configMap(ctx context.Context, ns, name string, data map[string]string, binary map[string][]byte) {
	GinkgoHelper()
	_, err := bed.Pods.Kube.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data, BinaryData: binary,
	}, metav1.CreateOptions{})
	Expect(err).NotTo(HaveOccurred())
}

func secret(ctx context.Context, ns, name string, data map[string][]byte) {
	GinkgoHelper()
	_, err := bed.Pods.Kube.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data,
	}, metav1.CreateOptions{})
	Expect(err).NotTo(HaveOccurred())
}

func fromConfigMap(name string, mode *int32, items ...corev1.KeyToPath) corev1.VolumeSource {
	return corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, DefaultMode: mode, Items: items,
	}}
}

func fromSecret(name string, mode *int32) corev1.VolumeSource {
	return corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name, DefaultMode: mode}}
}

func ref[T any](v T) *T { return &v }

func field(path string) *corev1.ObjectFieldSelector {
	return &corev1.ObjectFieldSelector{FieldPath: path}
}

// digest is the SHA-256 of a container's file.
func digest(ctx context.Context, ns, name, path string) string {
	GinkgoHelper()
	return strings.Fields(shell(ctx, ns, name, "sha256sum "+path))[0]
}

// facts are permissions, owner and size of what is at a path, links followed.
func facts(ctx context.Context, ns, name, path string) string {
	GinkgoHelper()
	return strings.TrimSpace(shell(ctx, ns, name, "stat -L -c '%a %u:%g %s' "+path))
}

// nudge has the kubelet look at a pod now, and so at the versions of its
// volumes, which it otherwise does every minute or so
// (kubernetes.io, "Configure a Pod to Use a ConfigMap": "updating one of the
// Pod's annotations").
func nudge(ctx context.Context, ns, name string) {
	GinkgoHelper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{"example.com/nudge":"%d"}}}`, time.Now().UnixNano())
	_, err := bed.Pods.Kube.CoreV1().Pods(ns).Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	Expect(err).NotTo(HaveOccurred())
}

// becomes waits until the command prints text.
func becomes(ctx context.Context, ns, name, command, text string) {
	GinkgoHelper()
	becomesAfter(ctx, func() {}, ns, name, command, text)
}

// becomesInTime is becomes for what the kubelet has to see first.
func becomesInTime(ctx context.Context, ns, name, command, text string) {
	GinkgoHelper()
	// A nudge may come too early, before the kubelet knows of the new version.
	becomesAfter(ctx, func() { nudge(ctx, ns, name) }, ns, name, command, text)
}

func becomesAfter(ctx context.Context, each func(), ns, name, command, text string) {
	GinkgoHelper()
	Eventually(ctx, func(g Gomega) {
		each()
		r, err := bed.Pods.Exec(ctx, ns, name, suite.Container, "sh", "-c", command)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(r.Stdout).To(Equal(text), r.Stderr)
	}).WithPolling(500 * time.Millisecond).Should(Succeed())
}

var _ = Describe("volumes that the kubelet writes", Label("pod"), func() {
	It("a ConfigMap's files have their contents and modes, and cannot be changed", proof.Of("POD-VOLUME-001"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		blob := random(3000)
		configMap(ctx, ns, "settings", map[string]string{"plain": "value\n", "private": "mine\n", "empty": ""}, map[string][]byte{"blob": blob})
		start(ctx, ns, "p",
			mounted("/all", fromConfigMap("settings", ref[int32](0o640))),
			mounted("/some", fromConfigMap("settings", nil,
				corev1.KeyToPath{Key: "plain", Path: "below/two/levels"},
				corev1.KeyToPath{Key: "private", Path: "private", Mode: ref[int32](0o400)})))

		Expect(shell(ctx, ns, "p", "cat /all/plain")).To(Equal("value\n"))
		Expect(digest(ctx, ns, "p", "/all/blob")).To(Equal(sum(blob)))
		Expect(facts(ctx, ns, "p", "/all/blob")).To(Equal("640 0:0 3000"))
		Expect(facts(ctx, ns, "p", "/all/empty")).To(Equal("640 0:0 0"))
		Expect(shell(ctx, ns, "p", "ls /all")).To(Equal("blob\nempty\nplain\nprivate\n"))

		By("items chosen one by one")
		Expect(shell(ctx, ns, "p", "cat /some/below/two/levels")).To(Equal("value\n"))
		Expect(facts(ctx, ns, "p", "/some/below/two/levels")).To(Equal("644 0:0 6"))
		Expect(facts(ctx, ns, "p", "/some/private")).To(Equal("400 0:0 5"))
		Expect(shell(ctx, ns, "p", "ls /some")).To(Equal("below\nprivate\n"))

		By("read-only")
		Expect(fails(ctx, ns, "p", "echo changed > /all/plain")).To(ContainSubstring("Read-only file system"))
		Expect(fails(ctx, ns, "p", "rm /all/..data")).To(ContainSubstring("Read-only file system"))
		Expect(shell(ctx, ns, "p", "cat /all/plain")).To(Equal("value\n"))
	}, SpecTimeout(limit))

	It("a ConfigMap as large as Kubernetes allows arrives whole", proof.Of("POD-VOLUME-002"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		large := random(corev1.MaxSecretSize) // the ConfigMap's limit too: one full chunk
		configMap(ctx, ns, "large", nil, map[string][]byte{"blob": large})
		start(ctx, ns, "p", mounted("/large", fromConfigMap("large", nil)))
		Expect(facts(ctx, ns, "p", "/large/blob")).To(Equal("644 0:0 1048576"))
		Expect(digest(ctx, ns, "p", "/large/blob")).To(Equal(sum(large)))
	}, SpecTimeout(limit))

	It("a Secret is for the pod's group only", proof.Of("POD-VOLUME-003"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		key := random(64)
		secret(ctx, ns, "key", map[string][]byte{"key": key})
		start(ctx, ns, "p", mounted("/secret", fromSecret("key", ref[int32](0o400))), func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ref[int64](1000), RunAsGroup: ref[int64](1001), FSGroup: ref[int64](2000)}
			stranger := container("stranger", "sleep infinity")
			stranger.VolumeMounts = p.Spec.Containers[0].VolumeMounts
			p.Spec.Containers = append(p.Spec.Containers, stranger)
		})

		// The kubelet adds the group's permission to 0400.
		Expect(facts(ctx, ns, "p", "/secret/key")).To(Equal("440 0:2000 64"))
		Expect(digest(ctx, ns, "p", "/secret/key")).To(Equal(sum(key)))

		By("every container has a copy of its own")
		r, err := bed.Pods.Exec(ctx, ns, "p", "stranger", "sha256sum", "/secret/key")
		Expect(err).NotTo(HaveOccurred())
		Expect(r.Stdout).To(HavePrefix(sum(key)))
		r, err = bed.Pods.Exec(ctx, ns, "p", "stranger", "sh", "-c", "chmod 644 /secret/key")
		Expect(err).NotTo(HaveOccurred())
		Expect(r.ExitCode).NotTo(BeZero())
	}, SpecTimeout(limit))

	It("another user of another group cannot read a Secret of mode 0400; root can", proof.Of("POD-VOLUME-004"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		secret(ctx, ns, "key", map[string][]byte{"key": []byte("k")})
		start(ctx, ns, "p", mounted("/secret", fromSecret("key", ref[int32](0o400))), func(p *corev1.Pod) {
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsUser: ref[int64](1000), RunAsGroup: ref[int64](1000)}
			root := container("root", "sleep infinity")
			root.VolumeMounts = p.Spec.Containers[0].VolumeMounts
			p.Spec.Containers = append(p.Spec.Containers, root)
		})
		Expect(fails(ctx, ns, "p", "cat /secret/key")).To(ContainSubstring("Permission denied"))
		r, err := bed.Pods.Exec(ctx, ns, "p", "root", "stat", "-L", "-c", "%a %u:%g %s", "/secret/key")
		Expect(err).NotTo(HaveOccurred())
		Expect(r.Stdout).To(Equal("400 0:0 1\n"))
	}, SpecTimeout(limit))

	It("one projected volume holds a token, a ConfigMap's file and the pod's own data", proof.Of("POD-VOLUME-005"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		configMap(ctx, ns, "settings", map[string]string{"a": "one"}, nil)
		p := start(ctx, ns, "p", labelled("tier", "front"), mounted("/all", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "somebody.example"}},
				{ConfigMap: &corev1.ConfigMapProjection{
					LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}, Items: []corev1.KeyToPath{{Key: "a", Path: "etc/a"}},
				}},
				{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
					{Path: "labels", FieldRef: field("metadata.labels")},
					{Path: "uid", FieldRef: field("metadata.uid"), Mode: ref[int32](0o444)},
				}}},
			},
		}}))

		Expect(shell(ctx, ns, "p", "cat /all/etc/a")).To(Equal("one"))
		Expect(shell(ctx, ns, "p", "cat /all/labels")).To(Equal(`tier="front"`))
		Expect(shell(ctx, ns, "p", "cat /all/uid")).To(Equal(string(p.UID)))
		Expect(facts(ctx, ns, "p", "/all/uid")).To(HavePrefix("444 "))

		By("the token is for whom it was asked, and not for the API server")
		status := func(token string) string {
			return shell(ctx, ns, "p", `curl -s -o /dev/null -w '%{http_code}' --cacert /var/run/secrets/kubernetes.io/serviceaccount/ca.crt `+
				`-H "Authorization: Bearer $(cat `+token+`)" https://kubernetes.default.svc/api/v1/nodes`)
		}
		Expect(status("/all/token")).To(Equal("401"))
		By("control: the pod's usual token is known to the API server, which permits it nothing")
		Expect(status("/var/run/secrets/kubernetes.io/serviceaccount/token")).To(Equal("403"))
	}, SpecTimeout(limit))

	It("a change of a ConfigMap or a Secret reaches the running container, but no subPath", proof.Of("POD-VOLUME-006"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		configMap(ctx, ns, "settings", map[string]string{"changed": "old", "dropped": "x"}, nil)
		secret(ctx, ns, "key", map[string][]byte{"key": []byte("first")})
		p := start(ctx, ns, "p",
			mounted("/etc/settings", fromConfigMap("settings", nil)),
			mounted("/etc/key", fromSecret("key", nil)),
			mounted("/etc/one", fromConfigMap("settings", nil), func(m *corev1.VolumeMount) { m.SubPath = "changed" }))
		Expect(shell(ctx, ns, "p", "cat /etc/settings/changed /etc/one /etc/key/key")).To(Equal("oldoldfirst"))
		Expect(shell(ctx, ns, "p", "stat -c %F /etc/one")).To(Equal("regular file\n"), "a subPath is the file itself")

		_, err := bed.Pods.Kube.CoreV1().ConfigMaps(ns).Update(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{"changed": "new", "added": "fresh"},
		}, metav1.UpdateOptions{})
		Expect(err).NotTo(HaveOccurred())
		_, err = bed.Pods.Kube.CoreV1().Secrets(ns).Update(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "key"}, Data: map[string][]byte{"key": []byte("second")},
		}, metav1.UpdateOptions{})
		Expect(err).NotTo(HaveOccurred())

		becomesInTime(ctx, ns, "p", "cat /etc/settings/changed /etc/settings/added; echo; cat /etc/key/key", "newfresh\nsecond")
		Expect(shell(ctx, ns, "p", "cat /etc/one")).To(Equal("old"), "Kubernetes does not update subPaths")

		// Nothing is removed from the guest, but the link leads to the new version, which has no such key.
		Expect(fails(ctx, ns, "p", "cat /etc/settings/dropped")).To(ContainSubstring("No such file"))

		By("the container is still the one that it was")
		now := bed.Ready(ctx, ns, "p")
		Expect(now.Status.ContainerStatuses[0].ContainerID).To(Equal(p.Status.ContainerStatuses[0].ContainerID))
	}, SpecTimeout(limit))

	It("downward volumes follow the pod's labels and annotations", proof.Of("POD-VOLUME-007"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		start(ctx, ns, "p", labelled("tier", "front"), limits("1500m", "64Mi"), modest, mounted("/pod", corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
			Items: []corev1.DownwardAPIVolumeFile{
				{Path: "labels", FieldRef: field("metadata.labels")},
				{Path: "note", FieldRef: field("metadata.annotations['example.com/note']")},
				{Path: "name", FieldRef: field("metadata.name")},
				{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: suite.Container, Resource: "limits.cpu", Divisor: resource.MustParse("1m")}},
				{Path: "memory", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: suite.Container, Resource: "limits.memory"}},
			},
		}}))
		Expect(shell(ctx, ns, "p", "cd /pod; cat name; echo; cat labels; echo; cat note; cat cpu; echo; cat memory")).
			To(Equal("p\ntier=\"front\"\n1500\n67108864"))

		patch := `{"metadata":{"labels":{"tier":"back","zone":"b"},"annotations":{"example.com/note":"hello"}}}`
		_, err := bed.Pods.Kube.CoreV1().Pods(ns).Patch(ctx, "p", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		Expect(err).NotTo(HaveOccurred())
		becomesInTime(ctx, ns, "p", "cd /pod; cat labels; echo; cat note", "tier=\"back\"\nzone=\"b\"\nhello")
	}, SpecTimeout(limit))
})

func labelled(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		labels := map[string]string{key: value}
		maps.Copy(labels, p.Labels)
		p.Labels = labels
	}
}

// modest asks for little, where else the limits would be asked for.
func modest(p *corev1.Pod) {
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi")}
}

func emptyDirOf(medium corev1.StorageMedium, size string) corev1.VolumeSource {
	source := &corev1.EmptyDirVolumeSource{Medium: medium}
	if size != "" {
		source.SizeLimit = ref(resource.MustParse(size))
	}
	return corev1.VolumeSource{EmptyDir: source}
}

// fileSystem is the type of the file system that is mounted at a path.
func fileSystem(ctx context.Context, ns, name, path string) string {
	GinkgoHelper()
	for line := range strings.SplitSeq(shell(ctx, ns, name, "cat /proc/mounts"), "\n") {
		if f := strings.Fields(line); len(f) > 2 && f[1] == path {
			return f[2]
		}
	}
	Fail(path + " is no mount point")
	return ""
}

var _ = Describe("emptyDir", Label("pod"), func() {
	It("containers share it, on disk and in memory", proof.Of("POD-VOLUME-008"), func(ctx SpecContext) {
		ns := running(ctx, "p",
			second("other", "until [ -e /disk/hello ]; do sleep 0.1; done; cat /disk/hello > /memory/answer; sleep infinity"),
			mounted("/disk", emptyDirOf("", "")), mounted("/memory", emptyDirOf(corev1.StorageMediumMemory, "")))
		Expect(facts(ctx, ns, "p", "/disk")).To(HavePrefix("777 0:0"))
		Expect(facts(ctx, ns, "p", "/memory")).To(HavePrefix("1777 0:0"))
		Expect(fileSystem(ctx, ns, "p", "/memory")).To(Equal("tmpfs"))
		shell(ctx, ns, "p", "echo hello > /disk/.h; mv /disk/.h /disk/hello")
		becomes(ctx, ns, "p", "cat /memory/answer", "hello\n")
	}, SpecTimeout(limit))

	It("belongs to fsGroup, and what is made in it too", proof.Of("POD-VOLUME-009"), func(ctx SpecContext) {
		ns := running(ctx, "p", mounted("/disk", emptyDirOf("", "")), mounted("/memory", emptyDirOf(corev1.StorageMediumMemory, "")), func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ref[int64](1000), RunAsGroup: ref[int64](1001), FSGroup: ref[int64](2000)}
		})
		for _, dir := range []string{"/disk", "/memory"} {
			Expect(shell(ctx, ns, "p", "stat -c '%g %A' "+dir)).To(MatchRegexp(`^2000 drwxrws`), dir)
			Expect(shell(ctx, ns, "p", "echo x > "+dir+"/f; stat -c %u:%g "+dir+"/f")).To(Equal("1000:2000\n"), dir)
		}
	}, SpecTimeout(limit))

	It("outlives a container, and not the pod", proof.Of("POD-VOLUME-010"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		bed.Create(ctx, bed.Pod(ns, "p", mounted("/disk", emptyDirOf("", "")),
			script("[ -e /disk/found ] || { touch /disk/found /tmp/lost; exit 0; }; sleep infinity")))
		bed.WaitPod(ctx, ns, "p", "second start", func(p *corev1.Pod) (bool, error) {
			s := p.Status.ContainerStatuses
			return len(s) == 1 && s[0].RestartCount == 1 && s[0].State.Running != nil, nil
		})
		Expect(shell(ctx, ns, "p", "ls /disk; ls -A /tmp")).To(Equal("found\n"))

		By("a pod of the same name finds an empty one")
		Expect(bed.Pods.Kube.CoreV1().Pods(ns).Delete(ctx, "p", metav1.DeleteOptions{})).To(Succeed())
		gone(ctx, ns, "p")
		start(ctx, ns, "p", mounted("/disk", emptyDirOf("", "")))
		Expect(shell(ctx, ns, "p", "ls -A /disk")).To(BeEmpty())
	}, SpecTimeout(limit))
})
