// Package local provides a Kubernetes cluster without a container engine: runc
// starts the node image in namespaces of its own, once per node, and kubeadm
// makes the nodes a cluster.
//
// All that a cluster is lives in its state directory, in its namespaces and in
// one veth pair. Every mount is made inside a node's mount namespace, so
// killing the nodes' first processes takes away the processes, the mounts and
// both ends of the network at once; that is also how a crashed run is cleaned.
//
// This package must not know what is installed on the cluster.
package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/e2e-framework/klient"
	"sigs.k8s.io/e2e-framework/support"

	"github.com/coco-e2e/coco-e2e/framework/cluster"
	"github.com/coco-e2e/coco-e2e/framework/cluster/node"
	"github.com/coco-e2e/coco-e2e/framework/progress"
)

// DefaultName is the cluster's name when none is given.
const DefaultName = "coco-e2e"

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// Options say where a cluster's parts come from.
type Options struct {
	// Name of the cluster and of its control plane, which runs pods too;
	// DefaultName when empty. Workers are called <name>-worker, <name>-worker2 and so on.
	Name string
	// StateRoot is the directory with one folder per cluster.
	StateRoot string
	// Nodes is how many nodes there are, 1 to 6; 1 when 0.
	Nodes int
	// Image is the node image that the nodes run.
	Image *node.Image
	// Mounts are shown on every node.
	Mounts []cluster.Mount
	// Progress is told what goes on; nil is silent.
	Progress *progress.Log
}

// Cluster is one local cluster. Its methods are for one goroutine at a time.
type Cluster struct {
	o        Options
	state    state
	machines []*machine
	cfg      *rest.Config
}

var (
	_ cluster.Provider                          = (*Cluster)(nil)
	_ support.E2EClusterProviderWithImageLoader = (*Cluster)(nil)
)

// state is what another process needs in order to reach or to remove a cluster.
type state struct {
	Name string `json:"name"`
	addresses
	Nodes []machineState `json:"nodes"`
}

// New returns a cluster that does not run yet. Its addresses are chosen now, so
// that what is installed on it can be told of them before it starts.
func New(o Options) (*Cluster, error) {
	c := &Cluster{o: o}
	if c.o.Name == "" {
		c.o.Name = DefaultName
	}
	if !validName.MatchString(c.o.Name) {
		return nil, fmt.Errorf("cluster name %q: use up to 40 of a-z, 0-9 and -, starting and ending with a letter or digit", c.o.Name)
	}
	if c.o.StateRoot == "" {
		return nil, errors.New("local cluster: Options.StateRoot is empty: name the directory that keeps clusters' state")
	}
	if c.o.Nodes == 0 {
		c.o.Nodes = 1
	}
	if c.o.Nodes < 1 || c.o.Nodes > 1+maxWorkers {
		return nil, fmt.Errorf("local cluster with %d nodes: use 1 to %d", c.o.Nodes, 1+maxWorkers)
	}
	return c, nil
}

// Open returns the running cluster called name whose state is below root.
func Open(root, name string) (*Cluster, error) {
	c, err := New(Options{Name: name, StateRoot: root})
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(c.path("state.json"))
	if err != nil {
		return nil, fmt.Errorf("no local cluster %q: %w", c.o.Name, err)
	}
	if err := json.Unmarshal(b, &c.state); err != nil {
		return nil, fmt.Errorf("%s: %w; remove the cluster with `make down`", c.path("state.json"), err)
	}
	for i, m := range c.state.Nodes {
		c.machines = append(c.machines, &machine{c: c, index: i, state: m})
	}
	return c, nil
}

// List returns the names of the clusters whose state is below root, running or not.
func List(root string) ([]string, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && validName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (c *Cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.o.StateRoot, c.o.Name}, elem...)...)
}

// Gateway is this machine's address on the link to the nodes, known after Reserve.
func (c *Cluster) Gateway() string { return c.state.gateway().String() }

// PID is the control plane's first process as this machine numbers it.
func (c *Cluster) PID() int { return c.machines[0].state.PID }

// Logs is a directory of this machine with one directory per node, called as
// the node, that shows the node's /var/log.
func (c *Cluster) Logs() string { return c.path("logs") }

// AddMount shows one more file or directory on every node; before Create only.
func (c *Cluster) AddMount(m cluster.Mount) { c.o.Mounts = append(c.o.Mounts, m) }

// Reserve makes the state directory and chooses the cluster's addresses. A
// cluster of that name that still exists is an error.
func (c *Cluster) Reserve() error {
	if err := os.MkdirAll(c.o.StateRoot, 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(c.path(), 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("a local cluster %q exists already (%s): use it with KEEP, or remove it with `make down`", c.o.Name, c.path())
		}
		return err
	}
	free, err := freeAddresses()
	if err != nil {
		return err
	}
	c.state = state{Name: c.o.Name, addresses: free}
	c.machines = nil
	for i := range c.o.Nodes {
		name := c.o.Name
		if i > 0 {
			name += "-worker"
		}
		if i > 1 {
			name += strconv.Itoa(i)
		}
		c.machines = append(c.machines, &machine{c: c, index: i, state: machineState{Name: name}})
	}
	for _, d := range []string{"runc", "logs"} {
		if err := os.Mkdir(c.path(d), 0o755); err != nil {
			return err
		}
	}
	return c.save()
}

func (c *Cluster) save() error {
	c.state.Nodes = nil
	for _, m := range c.machines {
		c.state.Nodes = append(c.state.Nodes, m.state)
	}
	b, err := json.Marshal(c.state)
	if err != nil {
		return err
	}
	tmp := c.path("state.json.tmp")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, c.path("state.json"))
}

// Create starts the nodes and makes them a cluster; it returns the path of a
// kubeconfig of its own when all nodes are Ready and pods can be created. On
// error what was started stays, for ExportLogs; Destroy removes it.
func (c *Cluster) Create(ctx context.Context, _ ...string) (string, error) {
	if c.o.Image == nil {
		return "", errors.New("local cluster: Options.Image is nil: build one with node.Builder")
	}
	if len(c.machines) == 0 {
		if err := c.Reserve(); err != nil {
			return "", err
		}
	}
	if err := c.o.Progress.Do("nodes: start", func() error { return c.startNodes(ctx) }); err != nil {
		return "", err
	}
	token, err := bootstrapToken()
	if err != nil {
		return "", err
	}
	if err := c.o.Progress.Do("nodes: kubeadm init", func() error { return c.initialise(ctx, token) }); err != nil {
		return "", err
	}
	if workers := c.machines[1:]; len(workers) > 0 {
		if err := c.o.Progress.Do("nodes: kubeadm join", func() error { return c.join(ctx, workers, token) }); err != nil {
			return "", err
		}
	}
	if err := c.o.Progress.Do("nodes: Ready", func() error { return c.waitReady(ctx) }); err != nil {
		return "", err
	}
	return c.GetKubeconfig(), nil
}

// startNodes starts every node, the control plane first: it joins the others
// to this machine.
func (c *Cluster) startNodes(ctx context.Context) error {
	for _, m := range c.machines {
		if err := m.create(ctx); err != nil {
			return fmt.Errorf("start node %s: %w", m.state.Name, err)
		}
		if err := os.Symlink(m.Logs(), filepath.Join(c.Logs(), m.state.Name)); err != nil {
			return err
		}
		if err := c.save(); err != nil {
			return err
		}
		link := c.linkControlPlane
		if m.index > 0 {
			link = func() error { return c.linkWorker(m) }
		}
		if err := link(); err != nil {
			return fmt.Errorf("network of node %s: %w", m.state.Name, err)
		}
		if err := m.start(ctx); err != nil {
			return fmt.Errorf("start node %s: %w", m.state.Name, err)
		}
	}
	return nil
}

// waitReady waits until every node is Ready and pods can be created.
func (c *Cluster) waitReady(ctx context.Context) error {
	var names []string
	for _, m := range c.machines {
		names = append(names, m.state.Name)
	}
	if err := cluster.WaitReady(ctx, c.KubernetesRestConfig(), names); err != nil {
		return fmt.Errorf("%w; logs: %s", err, c.Logs())
	}
	return nil
}

// Destroy removes the cluster and everything that it made on this machine. It
// works on whatever is left of one and is no error where nothing is.
func (c *Cluster) Destroy(ctx context.Context) error {
	if _, err := os.Stat(c.path()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, name := range c.created() {
		errs = append(errs, (&machine{c: c, state: machineState{Name: name}}).delete(ctx))
	}
	errs = append(errs, unlink(interfaceName(c.o.Name)), removeCgroups(cgroupName(c.o.Name)))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(c.path())
}

// created are the names of the nodes that runc knows, whatever the state says.
func (c *Cluster) created() []string {
	entries, err := os.ReadDir(c.path("runc"))
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Nodes returns the nodes, the control plane first.
func (c *Cluster) Nodes() []cluster.Node {
	var nodes []cluster.Node
	for _, m := range c.machines {
		nodes = append(nodes, m)
	}
	return nodes
}

// The rest of e2e-framework's interface.

// WithName sets the name before Create.
func (c *Cluster) WithName(name string) support.E2EClusterProvider { c.o.Name = name; return c }

// WithVersion does nothing: the image decides the version.
func (c *Cluster) WithVersion(string) support.E2EClusterProvider { return c }

// WithPath does nothing: runc is taken from PATH.
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

// CreateWithConfig is refused: a local cluster has no configuration file.
func (c *Cluster) CreateWithConfig(context.Context, string) (string, error) {
	return "", errors.New("local cluster: no configuration file is read; set Options instead")
}

// GetKubeconfig is the path of the cluster's own kubeconfig.
func (c *Cluster) GetKubeconfig() string { return c.path("kubeconfig") }

// GenerateKubeconfig is GetKubeconfig: there is one, written by Create.
func (c *Cluster) GenerateKubeconfig(...string) (string, error) { return c.GetKubeconfig(), nil }

// GetKubectlContext is the context that kubeadm names in the kubeconfig.
func (c *Cluster) GetKubectlContext() string { return "kubernetes-admin@" + c.o.Name }

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

// WaitForControlPlane returns when the node is Ready.
func (c *Cluster) WaitForControlPlane(ctx context.Context, _ klient.Client) error {
	return c.waitReady(ctx)
}

// ExportLogs copies the nodes' logs to dest, one directory per node.
func (c *Cluster) ExportLogs(_ context.Context, dest string) error {
	var errs []error
	for _, m := range c.machines {
		errs = append(errs, cluster.CopyLogs(m.Logs(), filepath.Join(dest, m.state.Name)))
	}
	return errors.Join(errs...)
}

// LoadImage is refused: there is no engine on this machine to take images from.
func (c *Cluster) LoadImage(_ context.Context, image string, _ ...string) error {
	return fmt.Errorf("load image %s: the local provider takes archives only (docker or OCI tar): use LoadImageArchive", image)
}

// LoadImageArchive imports a docker or OCI archive, as `docker save` writes it,
// into every node's containerd.
func (c *Cluster) LoadImageArchive(ctx context.Context, archive string, _ ...string) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range c.machines {
		g.Go(func() error {
			f, err := os.Open(archive)
			if err != nil {
				return fmt.Errorf("load image archive: %w", err)
			}
			defer f.Close()
			return m.Exec(ctx, f, nil, "ctr", "--namespace", "k8s.io", "images", "import", "--snapshotter", "overlayfs", "-")
		})
	}
	return g.Wait()
}
