package simulation

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/e2e-framework/klient/decoder"
	"sigs.k8s.io/e2e-framework/klient/k8s/resources"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/coco-e2e/coco-e2e/framework/cluster"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// DeployNamespace is the namespace of the DaemonSet that Deploy creates.
const DeployNamespace = "coco-sim"

// deployTimeout bounds putting the simulated TEE on the nodes.
const deployTimeout = 2 * time.Minute

// Deploy puts the simulated TEE on every node of a running cluster with a
// DaemonSet, and returns when it serves everywhere. archive is the image that
// Builder.DeployArchive made.
func Deploy(ctx context.Context, c cluster.Provider, archive string, shim Shim) error {
	ctx, cancel := context.WithTimeout(ctx, deployTimeout)
	defer cancel()
	if err := c.LoadImageArchive(ctx, archive); err != nil {
		return err
	}
	for _, n := range c.Nodes() {
		if err := shim.startSyslog(ctx, n); err != nil {
			return err
		}
	}
	text, err := manifests.Fill("simulator/daemonset.yaml", map[string]any{"Namespace": DeployNamespace, "Image": DeployImage, "Kata": shim.Kata != ""})
	if err != nil {
		return err
	}
	res, err := resources.New(c.KubernetesRestConfig())
	if err != nil {
		return err
	}
	if err := decoder.DecodeEach(ctx, bytes.NewReader(text), decoder.CreateHandler(res)); err != nil {
		return fmt.Errorf("apply manifests/simulator/daemonset.yaml: %w", err)
	}
	kube, err := kubernetes.NewForConfig(c.KubernetesRestConfig())
	if err != nil {
		return err
	}
	return waitDaemonSet(ctx, kube, len(c.Nodes()))
}

// waitDaemonSet waits until the DaemonSet is ready on so many nodes.
func waitDaemonSet(ctx context.Context, kube kubernetes.Interface, nodes int) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	last := "no status yet"
	for {
		// While containerd restarts, the API server may not answer.
		d, err := kube.AppsV1().DaemonSets(DeployNamespace).Get(ctx, "coco-sim", metav1.GetOptions{})
		switch {
		case err != nil:
			last = err.Error()
		case ready(d, nodes):
			return nil
		default:
			last = fmt.Sprintf("ready on %d of %d nodes", d.Status.NumberReady, nodes)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("DaemonSet %s/coco-sim: %w; last seen: %s", DeployNamespace, ctx.Err(), last)
		}
	}
}

func ready(d *appsv1.DaemonSet, nodes int) bool {
	return d.Status.ObservedGeneration == d.Generation && int(d.Status.NumberReady) == nodes
}
