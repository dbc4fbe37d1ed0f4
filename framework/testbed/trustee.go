package testbed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// What Trustee's Helm chart (deployment/helm-chart of its repository) makes.
const (
	trusteeRelease = "trustee"
	// trusteePrefix begins the name of the namespace.
	trusteePrefix = "coco-trustee"
	// adminTokenKey is the key of the Secret with an administrator's token, which
	// the chart's bootstrap job makes.
	adminTokenKey = "KBS_ADMIN_TOKEN"
)

// ChartedKBS is the KBS that Trustee's chart has installed.
type ChartedKBS struct {
	// Chart is the chart's name and version, Version the KBS's, "" where labels do not tell.
	Chart   string `json:"chart"`
	Version string `json:"version"`
	Image   string `json:"image"`
}

// chartedKBS reads what Helm's conventional labels and the pod say.
func chartedKBS(s *corev1.Service, p *corev1.Pod) ChartedKBS {
	label := func(name string) string { return cmp.Or(p.Labels[name], s.Labels[name]) }
	c := ChartedKBS{Chart: label("helm.sh/chart"), Version: label("app.kubernetes.io/version")}
	if len(p.Spec.Containers) > 0 {
		i := max(0, slices.IndexFunc(p.Spec.Containers, func(c corev1.Container) bool { return strings.Contains(c.Name, "kbs") }))
		c.Image = p.Spec.Containers[i].Image
		for _, status := range p.Status.ContainerStatuses {
			// The digest that runs, which a tag alone does not say.
			if _, digest, ok := strings.Cut(status.ImageID, "@"); ok && status.Name == p.Spec.Containers[i].Name && !strings.Contains(c.Image, "@") {
				c.Image += "@" + digest
			}
		}
	}
	return c
}

// deployTrustee installs Trustee's chart from o.KBS.Chart with helm, in a
// namespace of its own, and reaches its KBS through a forwarded port that lasts
// as long as this process.
func (t *Testbed) deployTrustee(ctx context.Context, o Options) error {
	helm, err := exec.LookPath("helm")
	if err != nil {
		return errors.New("KBS_CHART needs the program helm in PATH: https://helm.sh/docs/intro/install/")
	}
	if t.TrusteeNamespace, err = t.Pods.NamespaceLabelled(ctx, trusteePrefix, map[string]string{pod.Enforce: pod.Privileged}); err != nil {
		return err
	}
	if err := t.save(); err != nil { // so that Down knows the namespace
		return err
	}
	values := filepath.Join(t.StateRoot, t.Name, "trustee-values.yaml")
	if err := os.WriteFile(values, manifests.Read("kbs/trustee-values.yaml"), 0o600); err != nil {
		return err
	}
	args := []string{"install", trusteeRelease, o.KBS.Chart, "--namespace", t.TrusteeNamespace, "--values", values, "--wait", "--wait-for-jobs", "--timeout", "5m"}
	if o.KBS.ChartValues != "" {
		args = append(args, "--values", o.KBS.ChartValues)
	}
	if err := t.helm(ctx, helm, args...); err != nil {
		return errors.Join(err, t.unready(ctx))
	}
	service, port, err := kbsService(ctx, t.Pods.Kube, t.TrusteeNamespace)
	if err != nil {
		return err
	}
	token, err := adminToken(ctx, t.Pods.Kube, t.TrusteeNamespace)
	if err != nil {
		return err
	}
	p, err := t.Pods.WaitReady(ctx, t.TrusteeNamespace, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(service.Spec.Selector).String()})
	if err != nil {
		return fmt.Errorf("the chart's KBS: %w", err)
	}
	// The forwarding lasts as long as the process: the run's.
	address, _, err := t.Pods.Forward(context.WithoutCancel(ctx), t.TrusteeNamespace, p.Name, containerPort(p, port))
	if err != nil {
		return err
	}
	t.ExternalKBS = ExternalKBS{
		URL: fmt.Sprintf("http://%s.%s.svc.cluster.local:%d", service.Name, t.TrusteeNamespace, port.Port), AdminURL: "http://" + address, AdminToken: token,
		Chart: o.KBS.Chart, ChartValues: o.KBS.ChartValues,
	}
	t.KBSURL, t.Trustee = t.ExternalKBS.URL, chartedKBS(service, p)
	return nil
}

func (t *Testbed) helm(ctx context.Context, helm string, args ...string) error {
	if t.Kubeconfig != "" {
		args = append(args, "--kubeconfig", t.Kubeconfig)
	}
	if out, err := exec.CommandContext(ctx, helm, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("helm %s: %w\n%s", args[0], err, out)
	}
	return nil
}

// unready says which of the chart's pods are not ready, and why: helm only says
// that it waited too long. It is nil if all are.
func (t *Testbed) unready(ctx context.Context) error {
	list, err := t.Pods.Kube.CoreV1().Pods(t.TrusteeNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range list.Items {
		for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			if w := c.State.Waiting; w != nil {
				errs = append(errs, fmt.Errorf("container %s of pod %s waits: %s: %s", c.Name, p.Name, w.Reason, w.Message))
			}
		}
		if p.Status.Phase == corev1.PodPending && len(p.Status.ContainerStatuses) == 0 {
			for _, condition := range p.Status.Conditions {
				if condition.Status == corev1.ConditionFalse {
					errs = append(errs, fmt.Errorf("pod %s: %s: %s", p.Name, condition.Reason, condition.Message))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// removeTrustee uninstalls the chart, which has objects outside its namespace.
func (t *Testbed) removeTrustee(ctx context.Context) error {
	helm, err := exec.LookPath("helm")
	if err == nil {
		err = t.helm(ctx, helm, "uninstall", trusteeRelease, "--namespace", t.TrusteeNamespace, "--ignore-not-found")
	}
	return errors.Join(err, t.Pods.DeleteNamespace(ctx, t.TrusteeNamespace))
}

// kbsService is the chart's Service of the KBS: the one with kbs in its name and
// an http port.
func kbsService(ctx context.Context, kube kubernetes.Interface, ns string) (*corev1.Service, corev1.ServicePort, error) {
	list, err := kube.CoreV1().Services(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, corev1.ServicePort{}, fmt.Errorf("services of the chart: %w", err)
	}
	var names []string
	for i, s := range list.Items {
		names = append(names, s.Name)
		if strings.Contains(s.Name, "kbs") && len(s.Spec.Selector) > 0 && len(s.Spec.Ports) > 0 {
			return &list.Items[i], s.Spec.Ports[0], nil
		}
	}
	return nil, corev1.ServicePort{}, fmt.Errorf("the chart made no Service with kbs in its name in namespace %s, but %q: is KBS_CHART Trustee's chart?", ns, names)
}

// containerPort is the pod's port that a service's leads to.
func containerPort(p *corev1.Pod, port corev1.ServicePort) int {
	if n := port.TargetPort.IntValue(); n > 0 {
		return n
	}
	for _, c := range p.Spec.Containers {
		if i := slices.IndexFunc(c.Ports, func(q corev1.ContainerPort) bool { return q.Name == port.TargetPort.StrVal }); i >= 0 {
			return int(c.Ports[i].ContainerPort)
		}
	}
	return int(port.Port)
}

// adminToken is the token that the chart's bootstrap job has made.
func adminToken(ctx context.Context, kube kubernetes.Interface, ns string) (string, error) {
	list, err := kube.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", fmt.Errorf("secrets of the chart: %w", err)
	}
	for _, s := range list.Items {
		if token := strings.TrimSpace(string(s.Data[adminTokenKey])); token != "" {
			return token, nil
		}
	}
	return "", fmt.Errorf("the chart made no Secret with the key %s in namespace %s: administration cannot be done; KBS_VALUES may change how it makes keys", adminTokenKey, ns)
}
