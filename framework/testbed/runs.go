package testbed

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/coco-e2e/coco-e2e/framework/cluster/existing"
	"github.com/coco-e2e/coco-e2e/framework/pod"
)

// RunLabel is on everything that a run makes on a cluster that was there, as far
// as it belongs to no namespace: its value is Handle.Run.
const RunLabel = "coco-e2e/run"

// newRun names a run.
func newRun() string {
	b := make([]byte, 5)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// clusterID is the same for one cluster by whatever way it is reached.
func clusterID(ctx context.Context, kube kubernetes.Interface) (string, error) {
	ns, err := kube.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("which cluster is it: %w", err)
	}
	return string(ns.UID), nil
}

// Run is one that made something on a cluster that was there.
type Run struct {
	ID         string
	Namespaces int
	// Since is when the oldest of it was made.
	Since time.Time
}

// Runs are the runs of which something is on the cluster of a kubeconfig, the
// oldest first.
func Runs(ctx context.Context, kubeconfig string) ([]Run, error) {
	pods, err := client(kubeconfig)
	if err != nil {
		return nil, err
	}
	namespaces, volumes, err := made(ctx, pods.Kube, "")
	if err != nil {
		return nil, err
	}
	byID := map[string]*Run{}
	add := func(m metav1.ObjectMeta, namespaces int) {
		id := m.Labels[RunLabel]
		r := byID[id]
		if r == nil {
			r = &Run{ID: id, Since: m.CreationTimestamp.Time}
			byID[id] = r
		}
		r.Namespaces += namespaces
		if m.CreationTimestamp.Time.Before(r.Since) {
			r.Since = m.CreationTimestamp.Time
		}
	}
	for _, n := range namespaces {
		add(n.ObjectMeta, 1)
	}
	for _, v := range volumes {
		add(v.ObjectMeta, 0)
	}
	var out []Run
	for _, r := range byID {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b Run) int { return a.Since.Compare(b.Since) })
	return out, nil
}

// DownRun removes what a run made on the cluster of a kubeconfig, without knowing
// more of it than its name. That nothing is there is an error.
func DownRun(ctx context.Context, kubeconfig, run string) error {
	pods, err := client(kubeconfig)
	if err != nil {
		return err
	}
	n, err := removeRun(ctx, pods, kubeconfig, run)
	if err == nil && n == 0 {
		err = fmt.Errorf("nothing on the cluster is labelled %s=%s", RunLabel, run)
	}
	return err
}

func client(kubeconfig string) (*pod.Client, error) {
	c, err := existing.Open(kubeconfig)
	if err != nil {
		return nil, err
	}
	return pod.NewClient(c.KubernetesRestConfig())
}

// made is what carries a run's label; run "" is any.
func made(ctx context.Context, kube kubernetes.Interface, run string) ([]corev1.Namespace, []corev1.PersistentVolume, error) {
	one := metav1.ListOptions{LabelSelector: RunLabel}
	if run != "" {
		one.LabelSelector += "=" + run
	}
	namespaces, err := kube.CoreV1().Namespaces().List(ctx, one)
	if err != nil {
		return nil, nil, fmt.Errorf("what runs made: %w", err)
	}
	volumes, err := kube.CoreV1().PersistentVolumes().List(ctx, one)
	if err != nil {
		return nil, nil, fmt.Errorf("what runs made: %w", err)
	}
	return namespaces.Items, volumes.Items, nil
}

// removeRun asks for the deletion of what a run made, and returns of how much.
func removeRun(ctx context.Context, pods *pod.Client, kubeconfig, run string) (int, error) {
	namespaces, volumes, err := made(ctx, pods.Kube, run)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, n := range namespaces {
		if strings.HasPrefix(n.Name, trusteePrefix+"-") {
			t := &Testbed{Handle: Handle{TrusteeNamespace: n.Name, Kubeconfig: kubeconfig}, Pods: pods}
			errs = append(errs, t.removeTrustee(ctx))
			continue
		}
		errs = append(errs, pods.DeleteNamespace(ctx, n.Name))
	}
	for _, v := range volumes {
		if err := pods.Kube.CoreV1().PersistentVolumes().Delete(ctx, v.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete volume %s: %w", v.Name, err))
		}
	}
	return len(namespaces) + len(volumes), errors.Join(errs...)
}

// downExisting removes what a run made on a cluster that stays.
func downExisting(ctx context.Context, h Handle) error {
	dir := filepath.Join(h.StateRoot, h.Name)
	pods, err := client(h.Kubeconfig)
	if err != nil {
		return fmt.Errorf("%w; with another kubeconfig: coco-e2e down --run %s; then, or if the cluster is no more, remove %s", err, h.Run, dir)
	}
	id, err := clusterID(ctx, pods.Kube)
	if err != nil {
		return fmt.Errorf("%w; if the cluster is no more, remove %s", err, dir)
	}
	if h.ClusterID != "" && id != h.ClusterID {
		return fmt.Errorf("%s leads to another cluster than when run %s made something there: with that cluster's, KUBECONFIG=… coco-e2e down --run %s; then, or if it is no more, remove %s",
			h.Kubeconfig, h.Run, h.Run, dir)
	}
	if h.Run != "" {
		if _, err := removeRun(ctx, pods, h.Kubeconfig, h.Run); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}
