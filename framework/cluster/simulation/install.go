package simulation

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/coco-e2e/coco-e2e/framework/cluster"
	"github.com/coco-e2e/coco-e2e/framework/cluster/local"
	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation/config"
	"github.com/coco-e2e/coco-e2e/framework/guest"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// registryPort is where the registry listens, on the link to the node only.
const registryPort = 5000

// Prepare writes the node's configuration into dir and shows it, with the
// programs, to a local cluster that does not run yet.
func (p *Parts) Prepare(c *local.Cluster, dir string, shim Shim) error {
	programs := filepath.Join(dir, "opt")
	if err := guest.Snapshot(p.NodePrograms, programs); err != nil {
		return fmt.Errorf("simulator programs: %w", err)
	}
	files, err := config.Files(p.mirror(c), shim.Kata != "")
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "root")
	for name, text := range files {
		target := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, text, 0o644); err != nil {
			return err
		}
	}
	if err := os.CopyFS(filepath.Join(root, config.Roots), os.DirFS(p.Roots)); err != nil {
		return fmt.Errorf("test roots: %w", err)
	}
	if err := AddShim(c, filepath.Join(dir, "kata"), shim); err != nil {
		return err
	}
	c.AddMount(cluster.Mount{Source: programs, Target: config.Programs})
	for _, d := range []string{config.Dir, filepath.Dir(config.Containerd), filepath.Dir(filepath.Dir(config.Hosts))} {
		c.AddMount(cluster.Mount{Source: filepath.Join(root, d), Target: d})
	}
	return nil
}

func (p *Parts) mirror(c *local.Cluster) string {
	return "http://" + net.JoinHostPort(c.Gateway(), strconv.Itoa(registryPort))
}

// StartNodes starts what runs beside the kubelets: the registry, on this
// machine but in the control plane's PID namespace so that it ends with it,
// and podvm on every node. It returns when all serve.
func (p *Parts) StartNodes(ctx context.Context, c *local.Cluster, shim Shim) error {
	if err := p.startRegistry(ctx, c, filepath.Join(c.Nodes()[0].Logs(), "registry.log")); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range c.Nodes() {
		g.Go(func() error { return startNode(ctx, n, shim) })
	}
	return g.Wait()
}

func startNode(ctx context.Context, n cluster.Node, shim Shim) error {
	if err := shim.startSyslog(ctx, n); err != nil {
		return err
	}
	if err := n.Start(ctx, "/var/log/podvm.log", config.Programs+"/bin/podvm", "--config", config.PodVM); err != nil {
		return err
	}
	classes, err := config.Classes()
	if err != nil {
		return err
	}
	sockets := ""
	for _, c := range classes {
		sockets += " " + c.Socket
	}
	check := fmt.Sprintf(`i=0; for s in%s; do while [ ! -S $s ]; do i=$((i+1)); [ $i -lt 500 ] || { tail -n 5 /var/log/podvm.log; exit 1; }; usleep 20000; done; done`, sockets)
	if err := n.Exec(ctx, nil, nil, "/bin/sh", "-c", check); err != nil {
		return fmt.Errorf("podvm on node %s did not serve%s within 10 s: %w", n.Name(), sockets, err)
	}
	return nil
}

func (p *Parts) startRegistry(ctx context.Context, c *local.Cluster, logPath string) error {
	addr := net.JoinHostPort(c.Gateway(), strconv.Itoa(registryPort))
	log, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("nsenter", "--target", strconv.Itoa(c.PID()), "--pid", "--",
		p.Registry, "serve", "--addr", addr, "--layout", p.Layout, "--upstream")
	cmd.Stdout, cmd.Stderr = log, log
	// A Ctrl-C at the terminal is for the suite, which then stops the node.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v2/", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			tick.Stop()
			return nil
		}
		select {
		case <-tick.C:
		case err := <-exited:
			return fmt.Errorf("registry ended at once: %v; see %s", err, logPath)
		case <-ctx.Done():
			return fmt.Errorf("registry does not answer on %s: %w; see %s", addr, ctx.Err(), logPath)
		}
	}
}

// CreateRuntimeClasses registers the simulated TEE's RuntimeClasses with Kubernetes.
func CreateRuntimeClasses(ctx context.Context, kube kubernetes.Interface) error {
	classes, err := config.Classes()
	if err != nil {
		return err
	}
	for _, c := range classes {
		text, err := manifests.Fill("simulator/runtimeclass.yaml", c)
		if err != nil {
			return err
		}
		var rc nodev1.RuntimeClass
		if err := yaml.UnmarshalStrict(text, &rc); err != nil {
			return fmt.Errorf("manifests/simulator/runtimeclass.yaml: %w", err)
		}
		_, err = kube.NodeV1().RuntimeClasses().Create(ctx, &rc, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create RuntimeClass %s: %w", rc.Name, err)
		}
	}
	return nil
}
