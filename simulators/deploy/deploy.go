// Package deploy puts the simulated TEE on the node that it runs on, from a
// privileged pod, and takes it away again: what kata-deploy does for Kata.
//
// It puts the simulators' programs, their configuration and containerd's
// beside what the node has, restarts containerd, and keeps the registry and the
// pod VM daemon running. It must not know Kubernetes: a DaemonSet starts it
// everywhere (manifests/simulator/daemonset.yaml).
package deploy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation/config"
)

// Options are where things are, in the pod.
type Options struct {
	// Payload is the directory with opt/ (for the node's /opt/coco-sim), roots/,
	// bin/registry and images/.
	Payload string
	// Host is where the pod sees the node's root.
	Host string
	// Address is the node's, on which the registry listens for its guests.
	Address string
	// Kata says that the node has Kata's shim and is to use it.
	Kata bool
	// Log is told what goes on.
	Log *slog.Logger
}

// registryPort is where each node's registry listens.
const registryPort = "5000"

// stopTimeout is how long the daemons may take to end.
const stopTimeout = 10 * time.Second

// Where things are on a node.
const (
	programs   = config.Programs
	configDir  = config.Dir
	mainConfig = "etc/containerd/config.toml"
)

// dropInImport is what containerd's own configuration must have.
const dropInImport = `imports = ["/etc/containerd/conf.d/*.toml"]`

func (o Options) host(elem ...string) string {
	return filepath.Join(append([]string{o.Host}, elem...)...)
}

// Run puts the simulated TEE on the node and keeps it there until ctx ends;
// then, and when it cannot be put there, it takes it away.
func Run(ctx context.Context, o Options) (err error) {
	defer func() { err = errors.Join(err, o.remove()) }()
	if err := o.install(); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	failed := make(chan error, 2)
	for name, argv := range map[string][]string{
		"registry": {filepath.Join(o.Payload, "bin/registry"), "serve", "--addr", net.JoinHostPort(o.Address, registryPort), "--layout", filepath.Join(o.Payload, "images"), "--upstream"},
		// podvm works on the node's mounts and network namespaces.
		"podvm": {filepath.Join(o.Payload, "bin/busybox"), "nsenter", "-t", "1", "-m", "-u", "-i", "-n", "--", programs + "/bin/podvm", "--config", config.PodVM},
	} {
		cmd := exec.Command(argv[0], argv[1:]...)
		log, err := os.OpenFile(o.host("var/log", name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		defer log.Close()
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		ended := make(chan struct{})
		go func() {
			failed <- fmt.Errorf("%s ended: %w; see /var/log/%s.log on the node", name, cmd.Wait(), name)
			close(ended)
		}()
		defer func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-ended:
			case <-time.After(stopTimeout):
				_ = cmd.Process.Kill()
			}
		}()
	}
	o.Log.Info("installed", "registry", o.mirror())
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

func (o Options) mirror() string { return "http://" + net.JoinHostPort(o.Address, registryPort) }

// install puts the files on the node and has containerd read them.
func (o Options) install() error {
	if err := copyTree(filepath.Join(o.Payload, "opt"), o.host(programs)); err != nil {
		return fmt.Errorf("programs: %w", err)
	}
	if err := copyTree(filepath.Join(o.Payload, "roots"), o.host(config.Roots)); err != nil {
		return fmt.Errorf("test roots: %w", err)
	}
	files, err := config.Files(o.mirror(), o.Kata)
	if err != nil {
		return err
	}
	for to, text := range files {
		if err := writeFile(o.host(to), text); err != nil {
			return err
		}
	}
	if err := o.importDropIns(); err != nil {
		return err
	}
	return o.restartContainerd()
}

// importDropIns has containerd's configuration read the directory of drop-ins.
// The line goes before every table, where TOML wants top-level keys.
func (o Options) importDropIns() error {
	text, err := os.ReadFile(o.host(mainConfig))
	if err != nil {
		return fmt.Errorf("containerd's configuration: %w", err)
	}
	switch {
	case strings.Contains(string(text), "/etc/containerd/conf.d/*.toml"):
		return nil
	case hasImports(string(text)):
		return fmt.Errorf("/%s has imports of its own: add \"/etc/containerd/conf.d/*.toml\" to them", mainConfig)
	}
	return writeFile(o.host(mainConfig), append([]byte(dropInImport+" # coco-sim\n"), text...))
}

func hasImports(config string) bool {
	for _, line := range strings.Split(config, "\n") {
		if name, _, ok := strings.Cut(line, "="); ok && strings.TrimSpace(name) == "imports" {
			return true
		}
	}
	return false
}

// remove takes away what install put there; nothing that is missing is an error.
func (o Options) remove() error {
	err := errors.Join(o.removeFiles(), o.restartContainerd())
	o.Log.Info("removed")
	return err
}

func (o Options) removeFiles() error {
	var errs []error
	for _, p := range []string{programs, configDir, config.Containerd, config.Hosts, "run/peerpod", "run/coco-sim"} {
		errs = append(errs, os.RemoveAll(o.host(p)))
	}
	text, err := os.ReadFile(o.host(mainConfig))
	if err == nil {
		if rest, was := strings.CutPrefix(string(text), dropInImport+" # coco-sim\n"); was {
			err = writeFile(o.host(mainConfig), []byte(rest))
		}
	}
	return errors.Join(append(errs, err)...)
}

// restartContainerd has the node's supervisor start containerd anew, and waits
// until it serves. Containers go on.
func (o Options) restartContainerd() error {
	pid, err := o.containerd()
	if err != nil {
		return err
	}
	if _, err := os.Stat(o.host("run/systemd/system")); err == nil {
		out, err := exec.Command(filepath.Join(o.Payload, "bin/busybox"), "nsenter", "-t", "1", "-m", "--", "systemctl", "restart", "containerd").CombinedOutput()
		if err != nil {
			return fmt.Errorf("systemctl restart containerd: %w: %s", err, out)
		}
	} else if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop containerd: %w", err)
	}
	return o.waitContainerd(pid)
}

// waitContainerd waits for another containerd than old to take connections.
func (o Options) waitContainerd(old int) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if pid, err := o.containerd(); err == nil && pid != old {
			if c, err := net.Dial("unix", o.host("run/containerd/containerd.sock")); err == nil {
				return c.Close()
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New("containerd did not come back within a minute: see its log on the node")
		}
	}
}

// containerd is the node's, by its executable's name: the pod sees the node's processes.
func (o Options) containerd() (int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return 0, err
	}
	for _, p := range dirs {
		name, err := os.ReadFile(p)
		if err != nil || strings.TrimSpace(string(name)) != "containerd" {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(p, "/proc/%d/comm", &pid); err == nil {
			return pid, nil
		}
	}
	return 0, errors.New("no containerd runs on this node: only nodes with containerd can have the simulated TEE")
}

// writeFile writes a file in the place of another, whole or not at all.
func writeFile(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".coco-sim"
	if err := os.WriteFile(tmp, text, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// copyTree copies directories, files and symbolic links, with permissions.
// What runs from the old files goes on: they are replaced, not written into.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return os.MkdirAll(target, 0o755)
		case d.Type()&fs.ModeSymlink != 0:
			l, err := os.Readlink(p)
			if err != nil {
				return err
			}
			_ = os.Remove(target)
			return os.Symlink(l, target)
		case !d.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if err := writeFile(target, text); err != nil {
			return err
		}
		return os.Chmod(target, info.Mode().Perm())
	})
}
