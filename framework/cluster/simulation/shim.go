package simulation

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/coco-e2e/coco-e2e/framework/cluster"
	"github.com/coco-e2e/coco-e2e/framework/cluster/node"
	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation/config"
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
	c.AddMount(cluster.Mount{Source: dir, Target: config.Kata})
	return nil
}

// layOut puts Kata's shim and its configuration for each class into dir, which
// nodes see as /opt/kata.
func (s Shim) layOut(dir string) error {
	classes, err := config.Classes()
	if err != nil {
		return err
	}
	in := func(onNode string) string { return filepath.Join(dir, strings.TrimPrefix(onNode, config.Kata)) }
	shim := in(config.KataShim)
	if err := os.MkdirAll(filepath.Dir(shim), 0o755); err != nil {
		return err
	}
	if err := node.CopyFile(s.Kata, shim); err != nil {
		return fmt.Errorf("KATA_SHIM: %w", err)
	}
	if err := os.Chmod(shim, 0o755); err != nil {
		return err
	}
	for _, c := range classes {
		text, err := s.kataConfig(c)
		if err != nil {
			return err
		}
		target := in(config.KataConfig(c))
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// hypervisorSocket is the setting by which a configuration file of Kata's
// chooses the kind of VM.
var hypervisorSocket = regexp.MustCompile(`(?m)^(\s*remote_hypervisor_socket\s*=).*$`)

// kataConfig is the configuration of Kata's shim for a class: the user's own
// with that class's socket, or ours.
func (s Shim) kataConfig(c config.Class) ([]byte, error) {
	if s.KataConfig == "" {
		return manifests.Fill("simulator/configuration-remote.toml", map[string]any{"Class": c})
	}
	text, err := os.ReadFile(s.KataConfig)
	if err != nil {
		return nil, fmt.Errorf("KATA_CONFIG: %w", err)
	}
	if !hypervisorSocket.Match(text) {
		return nil, fmt.Errorf("KATA_CONFIG=%s: hypervisor.remote.remote_hypervisor_socket is missing: set it to any path, the run puts in podvm's", s.KataConfig)
	}
	return hypervisorSocket.ReplaceAll(text, []byte(`${1} "`+c.Socket+`"`)), nil
}
