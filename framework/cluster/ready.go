package cluster

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// readyTimeout bounds WaitReady.
const readyTimeout = 2 * time.Minute

// WaitReady waits until the named nodes are Ready and the default
// ServiceAccount, which every pod needs, exists.
func WaitReady(ctx context.Context, cfg *rest.Config, nodes []string) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last := "nothing yet"
	for {
		now := notReady(ctx, client, nodes)
		if now == "" {
			return nil
		}
		if ctx.Err() == nil {
			last = now
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the cluster did not become Ready: %w; last seen: %s", ctx.Err(), last)
		}
	}
}

// notReady says what is missing, or nothing.
func notReady(ctx context.Context, client kubernetes.Interface, nodes []string) string {
	for _, name := range nodes {
		n, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if why := nodeNotReady(n); why != "" {
			return "node " + name + ": " + why
		}
	}
	if _, err := client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{}); err != nil {
		return "default ServiceAccount: " + err.Error()
	}
	return ""
}

func nodeNotReady(n *corev1.Node) string {
	for _, cond := range n.Status.Conditions {
		if cond.Type == corev1.NodeReady {
			if cond.Status == corev1.ConditionTrue {
				return ""
			}
			return "not Ready: " + cond.Message
		}
	}
	return "no Ready condition yet"
}
