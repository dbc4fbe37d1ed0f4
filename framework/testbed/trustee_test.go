package testbed

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
)

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "ns", Name: name} }

func TestKBSService(t *testing.T) {
	port := corev1.ServicePort{Port: 8080, TargetPort: intstr.FromString("http")}
	spec := corev1.ServiceSpec{Selector: map[string]string{"app": "kbs"}, Ports: []corev1.ServicePort{port}}
	kube := fake.NewClientset(&corev1.Service{ObjectMeta: named("trustee-rvps"), Spec: spec}, &corev1.Service{ObjectMeta: named("trustee-kbs"), Spec: spec})
	s, p, err := kbsService(t.Context(), kube, "ns")
	if err != nil || s.Name != "trustee-kbs" {
		t.Fatalf("%v %v", s, err)
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "metrics", ContainerPort: 9000}, {Name: "http", ContainerPort: 8081}}}}}}
	if got := containerPort(pod, p); got != 8081 {
		t.Errorf("named port: %d", got)
	}
	if got := containerPort(pod, corev1.ServicePort{Port: 80, TargetPort: intstr.FromInt32(8082)}); got != 8082 {
		t.Errorf("numbered port: %d", got)
	}
	if got := containerPort(pod, corev1.ServicePort{Port: 80}); got != 80 {
		t.Errorf("no target port: %d", got)
	}
	if _, _, err := kbsService(t.Context(), fake.NewClientset(&corev1.Service{ObjectMeta: named("other"), Spec: spec}), "ns"); err == nil || !strings.Contains(err.Error(), `but ["other"]`) {
		t.Error(err)
	}
}

func TestChartedKBS(t *testing.T) {
	labels := map[string]string{"helm.sh/chart": "trustee-0.15.0", "app.kubernetes.io/version": "v0.15.0"}
	p := &corev1.Pod{
		Spec:   corev1.PodSpec{Containers: []corev1.Container{{Name: "proxy", Image: "envoy:1"}, {Name: "kbs", Image: "ghcr.io/a/kbs:v0.15.0"}}},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "proxy", ImageID: "envoy@sha256:bb"}, {Name: "kbs", ImageID: "ghcr.io/a/kbs@sha256:aa"}}},
	}
	for name, c := range map[string]struct {
		service, pod map[string]string
		want         ChartedKBS
	}{
		"the pod says":     {nil, labels, ChartedKBS{"trustee-0.15.0", "v0.15.0", "ghcr.io/a/kbs:v0.15.0@sha256:aa"}},
		"the service says": {labels, nil, ChartedKBS{"trustee-0.15.0", "v0.15.0", "ghcr.io/a/kbs:v0.15.0@sha256:aa"}},
		"nobody says":      {nil, nil, ChartedKBS{"", "", "ghcr.io/a/kbs:v0.15.0@sha256:aa"}},
	} {
		p.Labels = c.pod
		if got := chartedKBS(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Labels: c.service}}, p); got != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	p.Spec.Containers[1].Image = "ghcr.io/a/kbs@sha256:cc"
	if got := chartedKBS(&corev1.Service{}, p); got.Image != "ghcr.io/a/kbs@sha256:cc" {
		t.Errorf("an image by digest: %+v", got)
	}
}

func TestAdminToken(t *testing.T) {
	kube := fake.NewClientset(&corev1.Secret{ObjectMeta: named("x")}, &corev1.Secret{ObjectMeta: named("bootstrap-user-keys"), Data: map[string][]byte{"KBS_ADMIN_TOKEN": []byte("abc\n")}})
	if token, err := adminToken(t.Context(), kube, "ns"); err != nil || token != "abc" {
		t.Errorf("%q %v", token, err)
	}
	if _, err := adminToken(t.Context(), fake.NewClientset(), "ns"); err == nil || !strings.Contains(err.Error(), "KBS_ADMIN_TOKEN in namespace ns") {
		t.Error(err)
	}
}

func TestChartFromEnvironment(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		env  map[string]string
		want string
	}{
		"a chart":         {map[string]string{"KBS_CHART": dir}, ""},
		"with values":     {map[string]string{"KBS_CHART": dir, "KBS_VALUES": dir}, ""},
		"not there":       {map[string]string{"KBS_CHART": dir + "/none"}, "KBS_CHART: stat"},
		"values alone":    {map[string]string{"KBS_VALUES": dir}, "KBS_VALUES means something with KBS_CHART only"},
		"beside a given":  {map[string]string{"KBS_CHART": dir, "KBS_URL": "http://x"}, "contradicts KBS_URL"},
		"to be kept":      {map[string]string{"KBS_CHART": dir, "KEEP": "1"}, "cannot be kept"},
		"beside the sim.": {map[string]string{"KBS_CHART": dir, "KBS": "sim"}, "contradicts KBS_URL and KBS=sim"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, v := range []string{"KBS", "KBS_URL", "KBS_CHART", "KBS_VALUES", "KEEP"} {
				t.Setenv(v, c.env[v])
			}
			k, err := kbsFromEnvironment()
			if c.want == "" && (err != nil || k.Chart != dir) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%+v %v, want %q", k, err, c.want)
			}
		})
	}
}
