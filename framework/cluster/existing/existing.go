// Package existing uses a cluster that is there already: it provisions nothing
// and takes nothing away but what a run made. What the cluster offers is detected
// from Kubernetes' API alone.
//
// It must not know nodes from outside, nor what specs assert.
package existing

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/e2e-framework/klient"
	"sigs.k8s.io/e2e-framework/support"

	"github.com/coco-e2e/coco-e2e/framework/cluster"
)

// Cluster is one that was given.
type Cluster struct {
	kubeconfig string
	cfg        *rest.Config
}

var _ cluster.Provider = (*Cluster)(nil)

// Open takes the cluster of a kubeconfig; "" is the one that this process runs in.
func Open(kubeconfig string) (*Cluster, error) {
	cfg, err := RESTConfig(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("KUBECONFIG=%s: %w", kubeconfig, err)
	}
	return &Cluster{kubeconfig: kubeconfig, cfg: cfg}, nil
}

// RESTConfig is how to talk to the cluster of a kubeconfig; "" is the one that
// this process runs in, by its ServiceAccount.
func RESTConfig(kubeconfig string) (*rest.Config, error) {
	var cfg *rest.Config
	var err error
	if kubeconfig == "" {
		cfg, err = rest.InClusterConfig()
	} else {
		cfg, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = 100, 200
	return cfg, nil
}

// KubernetesRestConfig is the given kubeconfig's.
func (c *Cluster) KubernetesRestConfig() *rest.Config { return c.cfg }

// GetKubeconfig is the given path.
func (c *Cluster) GetKubeconfig() string { return c.kubeconfig }

// GenerateKubeconfig is GetKubeconfig.
func (c *Cluster) GenerateKubeconfig(...string) (string, error) { return c.kubeconfig, nil }

// Nodes are none: they cannot be reached past Kubernetes.
func (c *Cluster) Nodes() []cluster.Node { return nil }

// Logs are none.
func (c *Cluster) Logs() string { return "" }

// ExportLogs has none to export.
func (c *Cluster) ExportLogs(context.Context, string) error { return nil }

// Create uses what is there.
func (c *Cluster) Create(context.Context, ...string) (string, error) { return c.kubeconfig, nil }

// Destroy leaves what is there.
func (c *Cluster) Destroy(context.Context) error { return nil }

// LoadImage is refused: the cluster pulls images itself.
func (c *Cluster) LoadImage(context.Context, string, ...string) error { return errNoLoad }

// LoadImageArchive is refused: the cluster pulls images itself.
func (c *Cluster) LoadImageArchive(context.Context, string, ...string) error { return errNoLoad }

var errNoLoad = errors.New("an existing cluster pulls its images itself: put the image into a registry that it reaches")

// The rest of e2e-framework's interface has nothing to do.

// WithName does nothing.
func (c *Cluster) WithName(string) support.E2EClusterProvider { return c }

// WithVersion does nothing.
func (c *Cluster) WithVersion(string) support.E2EClusterProvider { return c }

// WithPath does nothing.
func (c *Cluster) WithPath(string) support.E2EClusterProvider { return c }

// WithOpts does nothing.
func (c *Cluster) WithOpts(...support.ClusterOpts) support.E2EClusterProvider { return c }

// SetDefaults does nothing.
func (c *Cluster) SetDefaults() support.E2EClusterProvider { return c }

// CreateWithConfig is refused.
func (c *Cluster) CreateWithConfig(context.Context, string) (string, error) {
	return "", errors.New("an existing cluster has no configuration to be made with")
}

// GetKubectlContext is the kubeconfig's own.
func (c *Cluster) GetKubectlContext() string { return "" }

// WaitForControlPlane asks once: the cluster is there or it is not.
func (c *Cluster) WaitForControlPlane(context.Context, klient.Client) error { return nil }
