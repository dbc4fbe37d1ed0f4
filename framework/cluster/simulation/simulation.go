// Package simulation gives the nodes of a cluster what TEE hardware and a CoCo
// installation would: the kata-cc runtimes with their shim, the pod VM daemon,
// the guest image, and a registry with the images that the suite needs.
//
// It builds those programs from this project's simulators/ by path and starts
// them as an operator would; it never imports them. It must not know what
// specs assert.
package simulation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/coco-e2e/coco-e2e/framework/cluster/node"
	"github.com/coco-e2e/coco-e2e/framework/guest"
	"github.com/coco-e2e/coco-e2e/framework/progress"
)

// DeployImage is the name under which the image that puts the simulated TEE on
// nodes is loaded.
const DeployImage = "coco-e2e.local/simulator:dev"

// KBSImage is the name under which the KBS simulator's image is loaded.
const KBSImage = "coco-e2e.local/kbs:dev"

// ProbeImage is the name under which the host probe's image is loaded.
const ProbeImage = "coco-e2e.local/hostprobe:dev"

// Image is a workload image that the run serves.
type Image struct {
	// Reference is the name without tag or digest, as users write it.
	Reference string `json:"reference"`
	// Digest of the manifest, "sha256:…".
	Digest string `json:"digest"`
	// Size of the layers in bytes.
	Size int64 `json:"size"`
}

// Pinned is the reference with the digest.
func (i Image) Pinned() string { return i.Reference + "@" + i.Digest }

// Builder builds what a simulated node needs into a cache.
type Builder struct {
	// Root is the root directory of a checkout of this project.
	Root string
	// Cache is the directory that keeps what was built.
	Cache string
	// Progress is told what goes on; nil is silent.
	Progress *progress.Log
}

// Parts is what Builder built; all paths are absolute.
type Parts struct {
	// NodePrograms becomes /opt/coco-sim of every node.
	NodePrograms string
	// Registry is the registry program of this machine.
	Registry string
	// Roots is the directory of the test roots that certify simulated
	// hardware; the part that verifiers need is in its PEM files.
	Roots string
	// Layout is the directory of images that the registry serves.
	Layout string
	// KBSArchive is the KBS simulator's image as an archive.
	KBSArchive string
	// ProbeArchive is the host probe's image as an archive.
	ProbeArchive string
	// Images by short name: "nginx".
	Images map[string]Image
}

// Build compiles the simulators and assembles the guest image and the workload
// images. What did not change is taken from Go's build cache or from earlier runs.
// img is nil where nodes run another image.
func (b *Builder) Build(ctx context.Context, img *node.Image) (*Parts, error) {
	p := &Parts{
		NodePrograms: filepath.Join(b.Cache, "opt"), Registry: filepath.Join(b.Cache, "bin", "registry"),
		Roots: filepath.Join(b.Cache, "roots"), Layout: filepath.Join(b.Cache, "images"), KBSArchive: filepath.Join(b.Cache, "kbs.tar"),
		ProbeArchive: filepath.Join(b.Cache, "hostprobe.tar"),
	}
	if err := b.Progress.Do("simulators: compiling", func() error { return b.compile(ctx, p) }); err != nil {
		return nil, err
	}
	return p, b.Progress.Do("simulators: guest image and workload images", func() error {
		pause, err := b.pause(ctx, img)
		if err != nil {
			return err
		}
		if err := guest.WriteImage(ctx, p.NodePrograms, p.Registry, pause); err != nil {
			return fmt.Errorf("guest image: %w", err)
		}
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return b.workloads(ctx, p) })
		g.Go(func() error { return b.roots(ctx, p) })
		g.Go(func() error {
			return b.run(ctx, p.Registry, "archive", "--out", p.KBSArchive, "--reference", KBSImage,
				"--binary", filepath.Join(b.Cache, "bin", "kbs")+":/usr/local/bin/kbs", "--entrypoint", "/usr/local/bin/kbs")
		})
		g.Go(func() error {
			return b.run(ctx, p.Registry, "archive", "--out", p.ProbeArchive, "--reference", ProbeImage,
				"--binary", filepath.Join(b.Cache, "bin", "hostprobe")+":/hostprobe", "--entrypoint", "/hostprobe")
		})
		return g.Wait()
	})
}

// pause is the sandbox's program: the node image's where there is one.
func (b *Builder) pause(ctx context.Context, img *node.Image) (string, error) {
	if img != nil {
		return filepath.Join(img.Bin, "pause"), nil
	}
	to := filepath.Join(b.Cache, "bin", "pause")
	return to, guest.Static(ctx, filepath.Join(b.Root, "framework/cluster/node/programs"), to, "./pause")
}

func (b *Builder) compile(ctx context.Context, p *Parts) error {
	if err := guest.Compile(ctx, b.Root, p.NodePrograms); err != nil {
		return err
	}
	for pkg, to := range map[string]string{
		"./simulators/shim/cmd":     filepath.Join(p.NodePrograms, "bin/containerd-shim-coco-sim-v2"),
		"./simulators/registry/cmd": p.Registry,
		"./simulators/deploy/cmd":   filepath.Join(b.Cache, "bin", "deploy"),
		"./simulators/kbs/cmd":      filepath.Join(b.Cache, "bin", "kbs"),
		"./framework/hostprobe/cmd": filepath.Join(b.Cache, "bin", "hostprobe"),
	} {
		if err := guest.Static(ctx, b.Root, to, pkg); err != nil {
			return err
		}
	}
	return nil
}

// DeployArchive makes the image that puts the simulated TEE on nodes, and
// returns the archive's path.
func (b *Builder) DeployArchive(ctx context.Context, p *Parts) (string, error) {
	archive := filepath.Join(b.Cache, "simulator.tar")
	err := b.Progress.Do("simulators: image for nodes", func() error {
		return b.run(ctx, p.Registry, "archive", "--out", archive, "--reference", DeployImage, "--entrypoint", "/deploy",
			"--binary", filepath.Join(b.Cache, "bin", "deploy")+":/deploy", "--binary", p.Registry+":/payload/bin/registry",
			"--binary", node.Busybox+":/payload/bin/busybox",
			"--tree", p.NodePrograms+":/payload/opt", "--tree", p.Roots+":/payload/roots", "--tree", p.Layout+":/payload/images")
	})
	return archive, err
}

func (b *Builder) run(ctx context.Context, argv ...string) error {
	_, err := b.output(ctx, argv...)
	return err
}

func (b *Builder) output(ctx context.Context, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &text
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, text.String())
	}
	return out.Bytes(), nil
}

// roots makes the test roots, once for all runs with this cache.
func (b *Builder) roots(ctx context.Context, p *Parts) error {
	if _, err := os.Stat(p.Roots); err == nil {
		return nil
	}
	fresh := p.Roots + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := b.run(ctx, filepath.Join(p.NodePrograms, guest.TEE), "make-roots", "--out", fresh); err != nil {
		return err
	}
	return os.Rename(fresh, p.Roots)
}

// workloads builds the images that pods of the suite run, unless the program
// that builds them is the one that built what is there.
func (b *Builder) workloads(ctx context.Context, p *Parts) error {
	program, err := os.ReadFile(p.Registry)
	if err != nil {
		return err
	}
	var list struct {
		Builder string           `json:"builder"`
		Images  map[string]Image `json:"images"`
	}
	key := fmt.Sprintf("%x", sha256.Sum256(program))
	record := p.Layout + ".json"
	if old, err := os.ReadFile(record); err == nil && json.Unmarshal(old, &list) == nil && list.Builder == key {
		p.Images = list.Images
		return nil
	}
	if err := os.RemoveAll(p.Layout); err != nil {
		return err
	}
	out, err := b.output(ctx, p.Registry, "build", "--out", p.Layout, "--debs-cache", filepath.Join(b.Cache, "debs"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return fmt.Errorf("registry build: %w: %s", err, out)
	}
	if list.Images["nginx"].Digest == "" {
		return errors.New("registry build: no image nginx in its answer")
	}
	p.Images, list.Builder = list.Images, key
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return os.WriteFile(record, text, 0o644)
}
