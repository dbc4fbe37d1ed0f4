package pod_test

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// environment is what the container's first process was started with.
func environment(ctx context.Context, ns, name string) map[string]string {
	GinkgoHelper()
	env := map[string]string{}
	for variable := range strings.SplitSeq(shell(ctx, ns, name, "cat /proc/1/environ"), "\x00") {
		if key, value, ok := strings.Cut(variable, "="); ok {
			Expect(env).NotTo(HaveKey(key), "set twice")
			env[key] = value
		}
	}
	return env
}

// with sets variables of the pod's first container.
func with(env ...corev1.EnvVar) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Env = append(p.Spec.Containers[0].Env, env...) }
}

func plain(name, value string) corev1.EnvVar { return corev1.EnvVar{Name: name, Value: value} }

func fromField(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: field(path)}}
}

func fromResource(name, of, divisor string) corev1.EnvVar {
	selector := &corev1.ResourceFieldSelector{Resource: of}
	if divisor != "" {
		selector.Divisor = resource.MustParse(divisor)
	}
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: selector}}
}

func named(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }

var _ = Describe("environment", Label("pod"), func() {
	It("has what the pod's fields and its limits say", proof.Of("POD-ENV-001"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		p := start(ctx, ns, "p", labelled("tier", "front"), func(p *corev1.Pod) {
			p.Annotations = map[string]string{"example.com/note": "two words"}
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{
				Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
			}
		}, with(
			fromField("NAME", "metadata.name"), fromField("NAMESPACE", "metadata.namespace"), fromField("UID_", "metadata.uid"),
			fromField("LABEL", "metadata.labels['tier']"), fromField("ANNOTATION", "metadata.annotations['example.com/note']"),
			fromField("NODE", "spec.nodeName"), fromField("ACCOUNT", "spec.serviceAccountName"),
			fromField("HOST_IP", "status.hostIP"), fromField("POD_IP", "status.podIP"), fromField("POD_IPS", "status.podIPs"),
			fromResource("CPU_LIMIT", "limits.cpu", ""), fromResource("CPU_LIMIT_MILLI", "limits.cpu", "1m"),
			fromResource("CPU_REQUEST", "requests.cpu", "1m"),
			fromResource("MEMORY_LIMIT", "limits.memory", ""), fromResource("MEMORY_REQUEST_MI", "requests.memory", "1Mi"),
		))

		env := environment(ctx, ns, "p")
		for name, value := range map[string]string{
			"NAME": "p", "NAMESPACE": ns, "UID_": string(p.UID), "LABEL": "front", "ANNOTATION": "two words",
			"NODE": p.Spec.NodeName, "ACCOUNT": "default",
			"HOST_IP": p.Status.HostIP, "POD_IP": p.Status.PodIP, "POD_IPS": p.Status.PodIP,
			"CPU_LIMIT": "2", "CPU_LIMIT_MILLI": "1500", "CPU_REQUEST": "10", // cores are rounded up
			"MEMORY_LIMIT": "134217728", "MEMORY_REQUEST_MI": "32",
			"HOSTNAME": "p",
		} {
			Expect(env).To(HaveKeyWithValue(name, value))
		}
		Expect(env).To(HaveKey("PATH"), "the image's")

		By("the pod's address is the one that the guest has")
		Expect(shell(ctx, ns, "p", "cat /proc/net/fib_trie")).To(ContainSubstring("|-- " + env["POD_IP"] + "\n"))

		By("an exec session has the same")
		session := shell(ctx, ns, "p", "env")
		for name, value := range env {
			Expect("\n" + session).To(ContainSubstring("\n" + name + "=" + value + "\n"))
		}
	}, SpecTimeout(limit))

	It("comes from ConfigMaps and Secrets, by key and whole, and refers to itself", proof.Of("POD-ENV-002"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		configMap(ctx, ns, "settings", map[string]string{"level": "debug", "text": "two\nlines, \"quoted\" $HOME ünï"}, nil)
		key := sum(random(8))
		secret(ctx, ns, "keys", map[string][]byte{"key": []byte(key)})
		start(ctx, ns, "p", func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{
				{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: named("settings")}},
				{Prefix: "S_", SecretRef: &corev1.SecretEnvSource{LocalObjectReference: named("keys")}},
				{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: named("nowhere"), Optional: ref(true)}},
			}
			// The shell shows its arguments, then waits.
			p.Spec.Containers[0].Command = []string{"sh", "-c", `echo "$0" "$1" > /tmp/arguments; sleep infinity & wait`, "$(URL)"}
			p.Spec.Containers[0].Args = []string{"$$(URL)"}
		}, with(
			corev1.EnvVar{Name: "LEVEL", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: named("settings"), Key: "level"}}},
			corev1.EnvVar{Name: "KEY", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: named("keys"), Key: "key"}}},
			corev1.EnvVar{Name: "MISSING", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: named("keys"), Key: "no", Optional: ref(true)}}},
			plain("PORT", "8080"), plain("URL", "http://$(LEVEL):$(PORT)"), plain("ESCAPED", "$$(PORT)"), plain("LATER", "$(AFTERWARDS)"), plain("AFTERWARDS", "x"), plain("EMPTY", ""),
		))

		env := environment(ctx, ns, "p")
		for name, value := range map[string]string{
			"level": "debug", "text": "two\nlines, \"quoted\" $HOME ünï", "LEVEL": "debug", "URL": "http://debug:8080",
			"ESCAPED": "$(PORT)", "LATER": "$(AFTERWARDS)", "EMPTY": "",
		} {
			Expect(env).To(HaveKeyWithValue(name, value))
		}
		Expect(sum([]byte(env["S_key"]))).To(Equal(sum([]byte(key))))
		Expect(sum([]byte(env["KEY"]))).To(Equal(sum([]byte(key))))
		Expect(env).NotTo(HaveKey("MISSING"))

		By("in the command and its arguments")
		Expect(shell(ctx, ns, "p", "cat /tmp/arguments")).To(Equal("http://debug:8080 $(URL)\n"))
	}, SpecTimeout(limit))

	It("a key that is missing keeps the container from starting until it is there", proof.Of("POD-ENV-003"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		configMap(ctx, ns, "settings", map[string]string{"other": "x"}, nil)
		bed.Create(ctx, bed.Pod(ns, "p", with(corev1.EnvVar{Name: "LEVEL", ValueFrom: &corev1.EnvVarSource{
			ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: named("settings"), Key: "level"},
		}})))
		p := bed.WaitPod(ctx, ns, "p", "CreateContainerConfigError", func(p *corev1.Pod) (bool, error) {
			return waiting(p).Reason == "CreateContainerConfigError", nil
		})
		Expect(waiting(p).Message).To(ContainSubstring("couldn't find key level in ConfigMap " + ns + "/settings"))
		bed.NeverRan(ctx, ns, "p")

		By("control: with the key it starts")
		_, err := bed.Pods.Kube.CoreV1().ConfigMaps(ns).Update(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{"level": "info"},
		}, metav1.UpdateOptions{})
		Expect(err).NotTo(HaveOccurred())
		bed.WaitPod(ctx, ns, "p", "a running container", func(p *corev1.Pod) (bool, error) {
			return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Running != nil, nil
		})
		Expect(environment(ctx, ns, "p")).To(HaveKeyWithValue("LEVEL", "info"))
	}, SpecTimeout(limit))

	It("names the services of the namespace, unless links are off", proof.Of("POD-ENV-004"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		service, err := bed.Pods.Kube.CoreV1().Services(ns).Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "web-svc"},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 8080}}},
		}, metav1.CreateOptions{})
		Expect(err).NotTo(HaveOccurred())
		ip := service.Spec.ClusterIP
		bed.Create(ctx, bed.Pod(ns, "linked"))
		bed.Create(ctx, bed.Pod(ns, "unlinked", func(p *corev1.Pod) { p.Spec.EnableServiceLinks = ref(false) }))
		bed.Ready(ctx, ns, "linked")
		bed.Ready(ctx, ns, "unlinked")

		env := environment(ctx, ns, "linked")
		for name, value := range map[string]string{
			"WEB_SVC_SERVICE_HOST": ip, "WEB_SVC_SERVICE_PORT": "8080", "WEB_SVC_SERVICE_PORT_HTTP": "8080",
			"WEB_SVC_PORT": "tcp://" + ip + ":8080", "WEB_SVC_PORT_8080_TCP": "tcp://" + ip + ":8080",
			"WEB_SVC_PORT_8080_TCP_PROTO": "tcp", "WEB_SVC_PORT_8080_TCP_PORT": "8080", "WEB_SVC_PORT_8080_TCP_ADDR": ip,
		} {
			Expect(env).To(HaveKeyWithValue(name, value))
		}
		Expect(env).To(HaveKeyWithValue("KUBERNETES_SERVICE_PORT", "443"))

		env = environment(ctx, ns, "unlinked")
		Expect(env).To(HaveKeyWithValue("KUBERNETES_SERVICE_PORT", "443"), "the API server is always there")
		for name := range env {
			Expect(name).NotTo(HavePrefix("WEB_SVC_"))
		}
	}, SpecTimeout(limit))

	It("the working directory is the pod's, else the image's", proof.Of("POD-ENV-005"), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "pod")
		start(ctx, ns, "p", func(p *corev1.Pod) {
			p.Spec.Containers[0].WorkingDir = "/usr/share/nginx"
			p.Spec.Containers = append(p.Spec.Containers, container("usual", "sleep infinity"))
		})
		Expect(shell(ctx, ns, "p", "pwd; readlink /proc/1/cwd")).To(Equal("/usr/share/nginx\n/usr/share/nginx\n"))
		r, err := bed.Pods.Exec(ctx, ns, "p", "usual", "pwd")
		Expect(err).NotTo(HaveOccurred())
		Expect(r.Stdout).To(Equal("/\n"))
	}, SpecTimeout(limit))
})

// waiting is why the pod's first container waits; empty when it does not.
func waiting(p *corev1.Pod) corev1.ContainerStateWaiting {
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == suite.Container && s.State.Waiting != nil {
			return *s.State.Waiting
		}
	}
	return corev1.ContainerStateWaiting{}
}
