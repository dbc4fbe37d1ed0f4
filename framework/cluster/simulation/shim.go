package simulation

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/coco-e2e/coco-e2e/framework/cluster"
	"github.com/coco-e2e/coco-e2e/framework/cluster/node"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// Shim is the containerd shim that joins kubelet and containerd to podvm. Its
// zero value is the simulator's own.
type Shim struct {
	// Kata is the path on this machine of a containerd-shim-kata-v2 (Kata's Go
	// runtime, 4.1) that takes the own shim's place. Empty: the own one.
	Kata string
	// KataConfig is the path on this machine of its configuration file. Empty:
	// manifests/simulator/configuration-remote.toml.
	KataConfig string
}

// Name is "kata" or "coco-sim".
func (s Shim) Name() string {
	if s.Kata != "" {
		return "kata"
	}
	return "coco-sim"
}

// Where Kata's shim and its configuration are on a node: as kata-deploy puts them.
const (
	kataDir    = "/opt/kata"
	kataShim   = "bin/containerd-shim-kata-v2"
	kataConfig = "share/defaults/kata-containers/configuration-remote.toml"
)

// runtimeSettings fill containerd's configuration of the runtime.
func (s Shim) runtimeSettings() map[string]string {
	if s.Kata == "" {
		return map[string]string{
			"RuntimeType": "io.containerd.coco-sim.v2", "ShimPath": "/opt/coco-sim/bin/containerd-shim-coco-sim-v2", "ShimConfig": "/etc/coco-sim/shim.toml",
		}
	}
	return map[string]string{
		"RuntimeType": "io.containerd.kata-remote.v2", "ShimPath": filepath.Join(kataDir, kataShim), "ShimConfig": filepath.Join(kataDir, kataConfig),
	}
}

// Check says what keeps Kata's shim from running on a node whose root is
// nodeRoot: no program, no configuration, or a library that a node lacks.
func (s Shim) Check(nodeRoot string) error {
	if s.Kata == "" {
		return nil
	}
	if s.KataConfig != "" {
		if _, err := os.Stat(s.KataConfig); err != nil {
			return fmt.Errorf("KATA_CONFIG: %w; name a configuration-remote.toml, or leave it out for the one that the run fills in", err)
		}
	}
	f, err := elf.Open(s.Kata)
	if err != nil {
		return fmt.Errorf("KATA_SHIM=%s: %w; name the containerd-shim-kata-v2 of a Kata release", s.Kata, err)
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("KATA_SHIM=%s: %w", s.Kata, err)
	}
	var missing []string
	for _, l := range libraries {
		found, err := hasLibrary(nodeRoot, l)
		if err != nil {
			return err
		}
		if !found {
			missing = append(missing, l)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("KATA_SHIM=%s needs %v, which nodes do not have; take a build with CGO_ENABLED=0", s.Kata, missing)
	}
	return nil
}

var errFound = errors.New("found")

// hasLibrary looks for a shared library in a root's library directories.
func hasLibrary(root, name string) (bool, error) {
	for _, dir := range []string{"lib", "lib64", "usr/lib", "usr/lib64"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.Name() == name {
				return errFound
			}
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return err
		})
		if errors.Is(err, errFound) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// startSyslog gives a node a /dev/log that has none: without one Kata's shim
// fails every pod.
func (s Shim) startSyslog(ctx context.Context, n cluster.Node) error {
	if s.Kata == "" {
		return nil
	}
	return n.Start(ctx, "/var/log/syslogd.log", "/bin/sh", "-c", "[ -S /dev/log ] || exec busybox syslogd -n -O /var/log/syslog")
}

// Mounter is a cluster that does not run yet.
type Mounter interface{ AddMount(cluster.Mount) }

// AddShim shows nodes Kata's shim, laid out in dir, where it is wanted.
func AddShim(c Mounter, dir string, shim Shim) error {
	if shim.Kata == "" {
		return nil
	}
	if err := shim.layOut(dir); err != nil {
		return err
	}
	c.AddMount(cluster.Mount{Source: dir, Target: kataDir})
	return nil
}

// layOut puts Kata's shim and its configuration into dir, which nodes see as
// /opt/kata.
func (s Shim) layOut(dir string) error {
	for _, p := range []string{kataShim, kataConfig} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, p)), 0o755); err != nil {
			return err
		}
	}
	shim := filepath.Join(dir, kataShim)
	if err := node.CopyFile(s.Kata, shim); err != nil {
		return fmt.Errorf("KATA_SHIM: %w", err)
	}
	if err := os.Chmod(shim, 0o755); err != nil {
		return err
	}
	text, err := manifests.Fill("simulator/configuration-remote.toml", map[string]string{"HypervisorSocket": hypervisorSocket})
	if s.KataConfig != "" {
		text, err = os.ReadFile(s.KataConfig)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, kataConfig), text, 0o644)
}
