// Package kind provides Kubernetes clusters through kind (sigs.k8s.io/kind), as
// a library, on Docker, Podman or nerdctl.
//
// A cluster's nodes run kind's published node image or, where no registry can
// be reached, the image of package node. This package must not know what is
// installed on the cluster.
package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/e2e-framework/klient"
	"sigs.k8s.io/e2e-framework/support"
	kindcluster "sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/cluster/nodes"
	"sigs.k8s.io/kind/pkg/cluster/nodeutils"

	"github.com/coco-e2e/coco-e2e/framework/cluster"
	"github.com/coco-e2e/coco-e2e/framework/cluster/node"
	"github.com/coco-e2e/coco-e2e/framework/progress"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// Options say what a cluster is made of.
type Options struct {
	// Name of the cluster.
	Name string
	// Nodes is how many there are; 1 when 0. The first is the control plane.
	Nodes int
	// StateRoot is the directory with one folder per cluster.
	StateRoot string
	// Engine runs the nodes.
	Engine Engine
	// NodeImage is the image of the nodes as the engine names it. Empty: Own.
	NodeImage string
	// Own is the node image to use without NodeImage.
	Own *node.Image
	// Mounts are shown on every node.
	Mounts []cluster.Mount
	// Progress is told what goes on; nil is silent.
	Progress *progress.Log
}

// Cluster is one kind cluster. Its methods are for one goroutine at a time.
type Cluster struct {
	o     Options
	state state
	kind  *kindcluster.Provider
	nodes []nodes.Node
	cfg   *rest.Config
}

var _ cluster.Provider = (*Cluster)(nil)

// state is what another process needs in order to reach or to remove a cluster.
type state struct {
	Name   string `json:"name"`
	Engine Engine `json:"engine"`
	// DockerHost is DOCKER_HOST when the cluster was made.
	DockerHost string `json:"dockerHost,omitempty"`
	// Network says that kind's network was made for this cluster.
	Network bool `json:"network"`
}

// network is what kind calls the network that it makes for all its clusters.
const network = "kind"

// readyTimeout bounds the wait for the control plane.
const readyTimeout = 2 * time.Minute

// New returns a cluster that does not run yet.
func New(o Options) (*Cluster, error) {
	c := &Cluster{o: o, state: state{Name: o.Name, Engine: o.Engine, DockerHost: os.Getenv("DOCKER_HOST")}}
	if c.o.Nodes == 0 {
		c.o.Nodes = 1
	}
	if c.o.Name == "" || c.o.StateRoot == "" {
		return nil, errors.New("kind cluster: Options need a Name and a StateRoot")
	}
	var err error
	c.kind, err = o.Engine.provider(quiet{o.Progress})
	return c, err
}

// Open returns the running cluster called name whose state is below root.
func Open(root, name string) (*Cluster, error) {
	b, err := os.ReadFile(filepath.Join(root, name, stateFile))
	if err != nil {
		return nil, fmt.Errorf("no kind cluster %q: %w", name, err)
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%s: %w; remove the cluster with `make down`", filepath.Join(root, name, stateFile), err)
	}
	if s.DockerHost != "" {
		if err := os.Setenv("DOCKER_HOST", s.DockerHost); err != nil {
			return nil, err
		}
	}
	c, err := New(Options{Name: name, StateRoot: root, Engine: s.Engine})
	if err != nil {
		return nil, err
	}
	c.state = s
	c.nodes, err = c.kind.ListInternalNodes(name)
	return c, err
}

// stateFile is the name of the file that says that a cluster is kind's.
const stateFile = "kind.json"

// Is reports whether the cluster called name below root is kind's.
func Is(root, name string) bool {
	_, err := os.Stat(filepath.Join(root, name, stateFile))
	return err == nil
}

func (c *Cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.o.StateRoot, c.o.Name}, elem...)...)
}

// AddMount shows one more file or directory on every node; before Create only.
func (c *Cluster) AddMount(m cluster.Mount) { c.o.Mounts = append(c.o.Mounts, m) }

// Logs is a directory of this machine with one directory per node, called as
// the node, that shows the node's /var/log.
func (c *Cluster) Logs() string { return c.path("logs") }

// Create makes the cluster; it returns the path of a kubeconfig of its own. On
// error what was started stays, for ExportLogs; Destroy removes it.
func (c *Cluster) Create(ctx context.Context, _ ...string) (string, error) {
	if err := os.MkdirAll(c.o.StateRoot, 0o755); err != nil {
		return "", err
	}
	if err := os.Mkdir(c.path(), 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return "", fmt.Errorf("a cluster %q exists already (%s): remove it with `make down`", c.o.Name, c.path())
		}
		return "", err
	}
	_, err := c.o.Engine.run(ctx, nil, "network", "inspect", network)
	c.state.Network = err != nil
	if err := c.save(); err != nil {
		return "", err
	}
	image, own := c.o.NodeImage, c.o.NodeImage == ""
	if own {
		if c.o.Own == nil {
			return "", errors.New("kind cluster: Options name no node image")
		}
		if err := c.o.Progress.Do("kind: node image into "+string(c.o.Engine), func() (err error) {
			image, err = c.o.Engine.ownImage(ctx, c.o.Own)
			return err
		}); err != nil {
			return "", err
		}
	}
	config, err := c.config(own)
	if err != nil {
		return "", err
	}
	if err := c.o.Progress.Do(fmt.Sprintf("kind: create %d node(s) of %s", c.o.Nodes, image), func() error {
		return c.kind.Create(c.o.Name, kindcluster.CreateWithRawConfig(config), kindcluster.CreateWithNodeImage(image),
			kindcluster.CreateWithKubeconfigPath(c.GetKubeconfig()), kindcluster.CreateWithRetain(true), kindcluster.CreateWithWaitForReady(readyTimeout),
			kindcluster.CreateWithDisplayUsage(false), kindcluster.CreateWithDisplaySalutation(false))
	}); err != nil {
		return "", fmt.Errorf("kind: create cluster %s: %w", c.o.Name, err)
	}
	if c.nodes, err = c.kind.ListInternalNodes(c.o.Name); err != nil {
		return "", err
	}
	if own {
		if err := c.routePods(ctx); err != nil {
			return "", err
		}
	}
	return c.GetKubeconfig(), c.WaitForControlPlane(ctx, nil)
}

// config fills in kind's configuration file.
func (c *Cluster) config(own bool) ([]byte, error) {
	type nodeConfig struct {
		Role, Logs string
		Mounts     []cluster.Mount
	}
	var list []nodeConfig
	for i := range c.o.Nodes {
		role, name := "worker", c.o.Name+"-worker"
		switch {
		case i == 0:
			role, name = "control-plane", c.o.Name+"-control-plane"
		case i > 1:
			name = fmt.Sprintf("%s-worker%d", c.o.Name, i)
		}
		n := nodeConfig{Role: role, Logs: filepath.Join(c.Logs(), name), Mounts: c.o.Mounts}
		if err := os.MkdirAll(n.Logs, 0o755); err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return manifests.Fill("kind/cluster.yaml", map[string]any{"OwnImage": own, "CgroupV1": errors.Is(err, os.ErrNotExist), "Nodes": list})
}

// routePods tells each node where the other nodes' pods are: the published
// image's CNI does so itself. The package node's gives the node with index i
// 10.244.i.0/24; a node's index is in its name.
func (c *Cluster) routePods(ctx context.Context) error {
	for _, from := range c.nodes {
		for _, to := range c.nodes {
			if from.String() == to.String() {
				continue
			}
			ip, _, err := to.IP()
			if err != nil {
				return err
			}
			pods := fmt.Sprintf("10.244.%d.0/24", index(to.String()))
			if err := c.onNode(from).Exec(ctx, nil, nil, "ip", "route", "replace", pods, "via", ip); err != nil {
				return err
			}
		}
	}
	return nil
}

// index of a node by its name, as kind counts: x-control-plane, x-worker, x-worker2.
func index(name string) int {
	_, suffix, isWorker := strings.Cut(name[strings.LastIndex(name, "-")+1:], "worker")
	if !isWorker {
		return 0
	}
	if suffix == "" {
		return 1
	}
	n := 0
	_, _ = fmt.Sscanf(suffix, "%d", &n)
	return n
}

func (c *Cluster) save() error {
	b, err := json.Marshal(c.state)
	if err != nil {
		return err
	}
	return os.WriteFile(c.path(stateFile), b, 0o600)
}

// Destroy removes the cluster, and kind's network when it was made for it. It
// works on whatever is left of one and is no error where nothing is.
func (c *Cluster) Destroy(ctx context.Context) error {
	if _, err := os.Stat(c.path()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := c.kind.Delete(c.o.Name, c.GetKubeconfig()); err != nil {
		return fmt.Errorf("kind: delete cluster %s: %w", c.o.Name, err)
	}
	if c.state.Network {
		// Another cluster may use it by now; then it stays.
		_, _ = c.o.Engine.run(ctx, nil, "network", "rm", network)
	}
	return os.RemoveAll(c.path())
}

// Nodes returns the nodes.
func (c *Cluster) Nodes() []cluster.Node {
	var out []cluster.Node
	for _, n := range c.nodes {
		out = append(out, c.onNode(n))
	}
	return out
}

// LoadImageArchive imports a docker or OCI archive into every node's containerd.
func (c *Cluster) LoadImageArchive(ctx context.Context, archive string, _ ...string) error {
	g, _ := errgroup.WithContext(ctx)
	for _, n := range c.nodes {
		g.Go(func() error {
			f, err := os.Open(archive)
			if err != nil {
				return fmt.Errorf("load image archive: %w", err)
			}
			defer f.Close()
			return nodeutils.LoadImageArchive(n, f)
		})
	}
	return g.Wait()
}

// ExportLogs copies the nodes' logs to dest, one directory per node, and what
// kind collects into kind/ beside them.
func (c *Cluster) ExportLogs(_ context.Context, dest string) error {
	entries, err := os.ReadDir(c.Logs())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if err := cluster.CopyLogs(filepath.Join(c.Logs(), e.Name()), filepath.Join(dest, e.Name())); err != nil {
			return err
		}
	}
	// kind asks for programs that not every node image has; what there is gets
	// written all the same.
	_ = c.kind.CollectLogs(c.o.Name, filepath.Join(dest, "kind"))
	return nil
}

// quiet gives kind's warnings and errors to the progress log.
type quiet struct{ p *progress.Log }

// onNode reaches a node through the engine.
type onNode struct {
	c *Cluster
	n nodes.Node
}

func (c *Cluster) onNode(n nodes.Node) *onNode { return &onNode{c, n} }

func (n *onNode) Name() string { return n.n.String() }

func (n *onNode) Logs() string { return filepath.Join(n.c.Logs(), n.n.String()) }

func (n *onNode) Exec(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
	var out, stderr strings.Builder
	cmd := n.n.CommandContext(ctx, argv[0], argv[1:]...).SetStderr(&stderr).SetStdout(&out)
	if stdin != nil {
		cmd = cmd.SetStdin(stdin)
	}
	if stdout != nil {
		cmd = cmd.SetStdout(io.MultiWriter(stdout, &out))
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s on node %s: %w: %s", argv[0], n.Name(), err, strings.TrimSpace(out.String()+stderr.String()))
	}
	return nil
}

func (n *onNode) Start(ctx context.Context, log string, argv ...string) error {
	script := `log=$1; shift; mkdir -p "${log%/*}"; setsid "$@" >> "$log" 2>&1 < /dev/null &`
	return n.Exec(ctx, nil, nil, append([]string{"/bin/sh", "-c", script, "sh", log}, argv...)...)
}

// The rest of e2e-framework's interface.

// WithName sets the name before Create.
func (c *Cluster) WithName(name string) support.E2EClusterProvider { c.o.Name = name; return c }

// WithVersion does nothing: the image decides the version.
func (c *Cluster) WithVersion(string) support.E2EClusterProvider { return c }

// WithPath does nothing: kind is a library here.
func (c *Cluster) WithPath(string) support.E2EClusterProvider { return c }

// WithOpts applies opts.
func (c *Cluster) WithOpts(opts ...support.ClusterOpts) support.E2EClusterProvider {
	for _, o := range opts {
		o(c)
	}
	return c
}

// SetDefaults has nothing to set: New did.
func (c *Cluster) SetDefaults() support.E2EClusterProvider { return c }

// CreateWithConfig is refused: the configuration is manifests/kind/cluster.yaml.
func (c *Cluster) CreateWithConfig(context.Context, string) (string, error) {
	return "", errors.New("kind cluster: no other configuration file is read; set Options instead")
}

// GetKubeconfig is the path of the cluster's own kubeconfig.
func (c *Cluster) GetKubeconfig() string { return c.path("kubeconfig") }

// GenerateKubeconfig is GetKubeconfig: there is one, written by Create.
func (c *Cluster) GenerateKubeconfig(...string) (string, error) { return c.GetKubeconfig(), nil }

// GetKubectlContext is the context that kind names in the kubeconfig.
func (c *Cluster) GetKubectlContext() string { return "kind-" + c.o.Name }

// KubernetesRestConfig is the administrator's client configuration, nil before Create.
func (c *Cluster) KubernetesRestConfig() *rest.Config {
	if c.cfg == nil {
		cfg, err := clientcmd.BuildConfigFromFlags("", c.GetKubeconfig())
		if err != nil {
			return nil
		}
		cfg.QPS, cfg.Burst = 100, 200
		c.cfg = cfg
	}
	return c.cfg
}

// WaitForControlPlane returns when every node is Ready and pods can be created.
func (c *Cluster) WaitForControlPlane(ctx context.Context, _ klient.Client) error {
	var names []string
	for _, n := range c.nodes {
		names = append(names, n.String())
	}
	return cluster.WaitReady(ctx, c.KubernetesRestConfig(), names)
}

// LoadImage imports an image that the engine has into every node.
func (c *Cluster) LoadImage(ctx context.Context, image string, _ ...string) error {
	f, err := os.CreateTemp("", "coco-e2e-image-*.tar")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := f.Close(); err != nil {
		return err
	}
	if _, err := c.o.Engine.run(ctx, nil, "save", "--output", f.Name(), image); err != nil {
		return err
	}
	return c.LoadImageArchive(ctx, f.Name())
}
