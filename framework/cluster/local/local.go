// Package local provides a one-node Kubernetes cluster without a container
// engine: runc starts the node image in namespaces of its own and kubeadm
// makes it a cluster.
//
// All that a cluster is lives in its state directory, in its namespaces and in
// one veth pair. Every mount is made inside the node's mount namespace, so
// killing the node's first process takes away the processes, the mounts and
// both ends of the network at once; that is also how a crashed run is cleaned.
//
// This package must not know what is installed on the cluster.
package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/e2e-framework/klient"
	"sigs.k8s.io/e2e-framework/support"

	"github.com/coco-e2e/coco-e2e/framework/cluster"
	"github.com/coco-e2e/coco-e2e/framework/cluster/node"
	"github.com/coco-e2e/coco-e2e/framework/progress"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// DefaultName is the cluster's name when none is given.
const DefaultName = "coco-e2e"

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// Options say where a cluster's parts come from.
type Options struct {
	// Name of the cluster and of its node; DefaultName when empty.
	Name string
	// StateRoot is the directory with one folder per cluster.
	StateRoot string
	// Image is the node image that the node runs.
	Image *node.Image
	// Mounts are shown on the node.
	Mounts []cluster.Mount
	// Progress is told what goes on; nil is silent.
	Progress *progress.Log
}

// Cluster is one local cluster. Its methods are for one goroutine at a time.
type Cluster struct {
	o     Options
	state state
	cfg   *rest.Config
}

var (
	_ cluster.Provider                          = (*Cluster)(nil)
	_ support.E2EClusterProviderWithImageLoader = (*Cluster)(nil)
)

// state is what another process needs in order to reach or to remove a cluster.
type state struct {
	Name      string `json:"name"`
	Gateway   string `json:"gateway"`
	NodeIP    string `json:"nodeIP"`
	Interface string `json:"interface"`
	PID       int    `json:"pid"`
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

// Gateway is this machine's address on the link to the node, known after Reserve.
func (c *Cluster) Gateway() string { return c.state.Gateway }

// NodeIP is the node's address, known after Reserve.
func (c *Cluster) NodeIP() string { return c.state.NodeIP }

// PID is the node's first process as this machine numbers it.
func (c *Cluster) PID() int { return c.state.PID }

// AddMount shows one more file or directory on the node; before Create only.
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
	gateway, nodeIP, err := freeSubnet()
	if err != nil {
		return err
	}
	c.state = state{Name: c.o.Name, Gateway: gateway, NodeIP: nodeIP, Interface: interfaceName(c.o.Name)}
	return c.save()
}

func (c *Cluster) save() error {
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

// Create starts the node and makes it a cluster; it returns the path of a
// kubeconfig of its own when the node is Ready and pods can be created. On
// error what was started stays, for ExportLogs; Destroy removes it.
func (c *Cluster) Create(ctx context.Context, _ ...string) (string, error) {
	if c.o.Image == nil {
		return "", errors.New("local cluster: Options.Image is nil: build one with node.Builder")
	}
	if c.state.Gateway == "" {
		if err := c.Reserve(); err != nil {
			return "", err
		}
	}
	if err := c.o.Progress.Do("node: start", func() error { return c.startNode(ctx) }); err != nil {
		return "", fmt.Errorf("start node %s: %w", c.o.Name, err)
	}
	if err := c.o.Progress.Do("node: kubeadm init", func() error { return c.kubeadm(ctx) }); err != nil {
		return "", err
	}
	if err := c.o.Progress.Do("node: Ready", func() error { return c.waitReady(ctx) }); err != nil {
		return "", err
	}
	return c.GetKubeconfig(), nil
}

func (c *Cluster) startNode(ctx context.Context) error {
	if err := c.layOut(); err != nil {
		return err
	}
	console, err := os.Create(c.path("console.log"))
	if err != nil {
		return err
	}
	defer console.Close()
	pidFile := c.path("init.pid")
	create := c.runc(ctx, "create", "--bundle", c.path("bundle"), "--pid-file", pidFile, c.o.Name)
	create.Stdout, create.Stderr = console, console
	if err := create.Run(); err != nil {
		return fmt.Errorf("runc create: %w: %s", err, lastOf(c.path("console.log")))
	}
	if c.state.PID, err = readPID(pidFile); err != nil {
		return err
	}
	if err := c.save(); err != nil {
		return err
	}
	if err := c.link(); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	if out, err := c.runc(ctx, "start", c.o.Name).CombinedOutput(); err != nil {
		return fmt.Errorf("runc start: %w: %s", err, out)
	}
	return nil
}

func (c *Cluster) kubeadm(ctx context.Context) error {
	config, err := manifests.Fill("node/kubeadm.yaml", map[string]string{
		"NodeIP": c.state.NodeIP, "NodeName": c.o.Name, "Name": c.o.Name, "Version": node.KubernetesVersion,
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.path("etc/kubeadm.yaml"), config, 0o600); err != nil {
		return err
	}
	logFile, err := os.Create(c.path("var/log/kubeadm.log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	n := &onNode{c}
	if err := n.Exec(ctx, nil, logFile, "kubeadm", "init", "--config", "/etc/kubeadm.yaml"); err != nil {
		return fmt.Errorf("kubeadm init on %s: %w\nlogs: %s", c.o.Name, err, c.path("var/log"))
	}
	admin, err := os.ReadFile(c.path("etc/kubernetes/admin.conf"))
	if err != nil {
		return fmt.Errorf("kubeadm left no admin.conf: %w", err)
	}
	return os.WriteFile(c.GetKubeconfig(), admin, 0o600)
}

// waitReady waits until the node is Ready and the default ServiceAccount, which
// every pod needs, exists.
func (c *Cluster) waitReady(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(c.KubernetesRestConfig())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	last := "nothing yet"
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		if last = notReady(ctx, client, c.o.Name); last == "" {
			tick.Stop()
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return fmt.Errorf("node %s did not become Ready: %w; last seen: %s; logs: %s", c.o.Name, ctx.Err(), last, c.path("var/log"))
		}
	}
}

func notReady(ctx context.Context, client kubernetes.Interface, name string) string {
	n, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	ready := false
	for _, cond := range n.Status.Conditions {
		if cond.Type == "Ready" && cond.Status == "True" {
			ready = true
		} else if cond.Type == "Ready" {
			return "not Ready: " + cond.Message
		}
	}
	if !ready {
		return "no Ready condition yet"
	}
	if _, err := client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{}); err != nil {
		return "default ServiceAccount: " + err.Error()
	}
	return ""
}

// Destroy removes the cluster and everything that it made on this machine. It
// works on whatever is left of one and is no error where nothing is.
func (c *Cluster) Destroy(ctx context.Context) error {
	if _, err := os.Stat(c.path()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var errs []error
	if _, err := os.Stat(c.path("runc", c.o.Name)); err == nil {
		if out, err := c.runc(ctx, "delete", "--force", c.o.Name).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("runc delete: %w: %s", err, out))
		}
	}
	errs = append(errs, unlink(interfaceName(c.o.Name)), removeCgroups(cgroupName(c.o.Name)))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(c.path())
}

// runc returns a runc command on this cluster's own runc state.
func (c *Cluster) runc(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "runc", append([]string{"--root", c.path("runc")}, args...)...)
}

// Nodes returns the one node.
func (c *Cluster) Nodes() []cluster.Node { return []cluster.Node{&onNode{c}} }

// onNode reaches the node through runc.
type onNode struct{ c *Cluster }

func (n *onNode) Name() string { return n.c.o.Name }

func (n *onNode) Logs() string { return n.c.path("var/log") }

func (n *onNode) Exec(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
	var out bytes.Buffer
	cmd := n.c.runc(ctx, append([]string{"exec", n.c.o.Name}, argv...)...)
	cmd.Stdin, cmd.Stderr = stdin, &out
	cmd.Stdout = &out
	if stdout != nil {
		cmd.Stdout = io.MultiWriter(stdout, &out)
	}
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(out.String())
		if len(text) > 2000 {
			text = "…" + text[len(text)-2000:]
		}
		return fmt.Errorf("%s on node %s: %w: %s", argv[0], n.c.o.Name, err, text)
	}
	return nil
}

func (n *onNode) Start(ctx context.Context, log string, argv ...string) error {
	script := `log=$1; shift; mkdir -p "${log%/*}"; exec "$@" >> "$log" 2>&1 < /dev/null`
	args := append([]string{"exec", "--detach", n.c.o.Name, "/bin/sh", "-c", script, "sh", log}, argv...)
	cmd := n.c.runc(ctx, args...)
	// A detached command keeps the caller's streams: it must get none of ours.
	console, err := os.OpenFile(n.c.path("console.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer console.Close()
	cmd.Stdout, cmd.Stderr = console, console
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("start %s on node %s: %w", argv[0], n.c.o.Name, err)
	}
	return nil
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

// ExportLogs copies the node's logs to dest.
func (c *Cluster) ExportLogs(_ context.Context, dest string) error {
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return err
	}
	return copyLogs(c.path("var/log"), dest)
}

// LoadImage is refused: there is no engine on this machine to take images from.
func (c *Cluster) LoadImage(_ context.Context, image string, _ ...string) error {
	return fmt.Errorf("load image %s: the local provider takes archives only (docker or OCI tar): use LoadImageArchive", image)
}

// LoadImageArchive imports a docker or OCI archive, as `docker save` writes it,
// into the node's containerd.
func (c *Cluster) LoadImageArchive(ctx context.Context, archive string, _ ...string) error {
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("load image archive: %w", err)
	}
	defer f.Close()
	return (&onNode{c}).Exec(ctx, f, nil, "ctr", "--namespace", "k8s.io", "images", "import", "--snapshotter", "overlayfs", "-")
}
